"""The weights that a fresh model begins with; any range of any parameter can be made by itself.

So a rank under ZeRO makes its own part and no other, and the model is the same for any number of ranks and any stage.

Matrices are normal with standard deviation 0.02 (GPT-2), norms are 1. Where the recipe says so, what writes into the
residual stream begins smaller by the square root of the number of such writes, 2 x layers, so that the stream's
variance does not grow with depth (Radford et al. 2019, GPT-2, section 2.3; so do Megatron-LM's runs, Shoeybi et al.
2019, https://arxiv.org/abs/1909.08053).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

INITIAL_DEVIATION = 0.02
_BLOCK = 65_536
"""Elements that are drawn together, from a generator of their own."""
_NORM = "norm.weight"
_INTO_RESIDUAL = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True)
class InitialWeights:
    """The parameters of a fresh model, by the names that transformers gives them; float32."""

    num_layers: int
    seed: int
    depth_scaled: bool

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements `start` to `stop` of the flattened parameter; shape [stop - start]."""
        if name.endswith(_NORM):
            return torch.ones(stop - start)
        values = np.empty(stop - start, dtype=np.float32)
        key = int.from_bytes(sha256(name.encode()).digest()[:8], "big")
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            drawn = np.random.Generator(np.random.PCG64([self.seed, key, block])).standard_normal(_BLOCK, np.float32)
            low, high = max(start, first), min(stop, first + _BLOCK)
            values[low - start : high - start] = drawn[low - first : high - first]
        return torch.from_numpy(values) * self._deviation(name)

    def _deviation(self, name: str) -> float:
        if self.depth_scaled and name.endswith(_INTO_RESIDUAL):
            return float(INITIAL_DEVIATION * (2 * self.num_layers) ** -0.5)
        return INITIAL_DEVIATION

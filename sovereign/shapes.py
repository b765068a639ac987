"""The model's shape: a ladder of Qwen3/Llama-compatible decoders, and the one nearest to the size wanted.

FLOPs per token 6 N + 6 L d s: causal attention; Chowdhery et al. 2022, PaLM, appendix B
(https://arxiv.org/abs/2204.02311).
"""

from __future__ import annotations

import math

from sovereign.profile import Profile
from sovereign.section import Section


class ModelShape(Section):
    """Shape of a Qwen3/Llama-compatible decoder."""

    num_layers: int
    """Decoder layers."""
    hidden_size: int
    """Width."""
    intermediate_size: int
    """Width of the gated feed-forward part."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Tokens."""
    sequence_length: int
    """Tokens in a training sequence."""
    tied: bool
    """Input and output embedding are one matrix."""

    @property
    def num_parameters(self) -> int:
        """All parameters, norms included."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.num_layers * self.num_layer_parameters + embeddings + self.hidden_size

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        norms = 2 * self.hidden_size + 2 * self.head_dim
        return attention + 3 * self.hidden_size * self.intermediate_size + norms

    @property
    def flops_per_token(self) -> float:
        """Forward and backward, FLOPs; the embedding lookup is free, the output matrix is not."""
        lookup = 0 if self.tied else self.vocab_size * self.hidden_size
        attention = 6 * self.num_layers * self.num_heads * self.head_dim * self.sequence_length
        return 6.0 * (self.num_parameters - lookup) + attention


# layers, width, feed-forward width, query heads, key/value heads, head width; from 600M on published shapes
_LADDER = (
    (3, 96, 256, 3, 1, 32),
    (4, 128, 352, 4, 2, 32),
    (4, 192, 512, 6, 2, 32),
    (6, 256, 704, 4, 2, 64),
    (8, 384, 1024, 6, 2, 64),
    (8, 512, 1408, 8, 4, 64),
    (12, 768, 2048, 12, 4, 64),
    (24, 1024, 2816, 16, 8, 64),
    (28, 1024, 3072, 16, 8, 128),
    (16, 2048, 8192, 32, 8, 64),
    (28, 2048, 6144, 16, 8, 128),
    (28, 3072, 8192, 24, 8, 128),
    (36, 4096, 12288, 32, 8, 128),
    (40, 5120, 17408, 40, 8, 128),
    (64, 5120, 25600, 64, 8, 128),
    (80, 8192, 28672, 64, 8, 128),
    (126, 16384, 53248, 128, 8, 128),
)
_TIED_BELOW = 1.5e9


def choose_shape(profile: Profile) -> ModelShape:
    """The shape of the ladder whose parameter count is nearest (as a ratio) to the one wanted."""
    wanted = profile.model.parameters
    return min(_shapes(profile, wanted), key=lambda shape: abs(math.log(shape.num_parameters / wanted)))


def _shapes(profile: Profile, wanted: float) -> list[ModelShape]:
    return [
        ModelShape(
            num_layers=layers,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=profile.model.vocab_size,
            sequence_length=profile.model.sequence_length,
            tied=wanted < _TIED_BELOW,
        )
        for layers, width, feed_forward, heads, kv_heads, head_dim in _LADDER
    ]


def ladder_sizes(profile: Profile) -> list[int]:
    """Parameter counts that can be asked for and are met exactly."""
    both = [shape.num_parameters for wanted in (0, _TIED_BELOW) for shape in _shapes(profile, wanted)]
    return [size for size in both if choose_shape(with_parameters(profile, size)).num_parameters == size]


def with_parameters(profile: Profile, parameters: float) -> Profile:
    """`profile`, asking for a model of another size."""
    return profile.model_copy(update={"model": profile.model.model_copy(update={"parameters": parameters})})

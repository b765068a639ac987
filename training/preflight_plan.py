"""What preflight computes with: the plan's model with few layers, its recipe in few steps, rows of random tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sovereign.plan import Plan, RunPhase
from sovereign.profile_training import RateSpan

STEPS = 4
_LAYERS, _TOKENS, _VOCABULARY = 2, 256, 8192
_SEQUENCES = 8


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    value: float | None
    """None where the run does not use what would be checked."""
    limit: float

    @property
    def is_passed(self) -> bool:
        """The value is known and not above the limit."""
        return self.value is None or self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"passed": self.is_passed}


def shrunk(plan: Plan, *, zero_stage: int, world_size: int, precision: str = "fp32") -> Plan:
    """The plan with two layers, rows of at most 256 tokens of at most 8192, the peak rate, fresh weights; else its own.

    Args:
        zero_stage: also 0 with several ranks, which recipes do not have.
    """
    model = plan.model.model_copy(
        update={
            "num_layers": min(plan.model.num_layers, _LAYERS),
            "sequence_length": min(plan.model.sequence_length, _TOKENS),
            "vocab_size": min(plan.model.vocab_size, _VOCABULARY),
        }
    )
    recipe = plan.recipe.model_copy(
        update={
            "num_steps": STEPS,
            "phases": (RunPhase(num_steps=STEPS, sequence_length=model.sequence_length, learning_rate=RateSpan()),),
            "batch_tokens": _SEQUENCES * model.sequence_length,
            "world_size": world_size,
            "micro_batch": _SEQUENCES // world_size // 2,
            "grad_accumulation": 2,
            "zero_stage": zero_stage,
            "precision": precision,
            "compile": False,
        }
    )
    changed = {"model": model, "recipe": recipe, "num_parameters": model.num_parameters, "base": None}
    return plan.model_copy(update=changed)


def make_rows(plan: Plan) -> npt.NDArray[np.int64]:
    """All ranks' rows of every step; shape [steps, sequences, tokens]."""
    shape = (STEPS, _SEQUENCES, plan.model.sequence_length)
    return np.random.default_rng(0).integers(0, plan.model.vocab_size, shape)

"""The parts of the profile that say which model is trained and how."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sovereign.section import Section, Seed

MIN_VOCAB_SIZE = 512
"""The 256 bytes, the end-of-text mark and some merges."""


class Model(Section):
    """The model wanted; the plan chooses the shape."""

    parameters: Annotated[float, Field(ge=1e5, le=2e12)] | None = None
    """Wanted size; the plan picks the nearest shape of its ladder and says the exact number. Needed unless there is a
    `base`, whose size counts then."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE, le=300_000)] = 4096
    """Size of the tokenizer, tokens; with a `base`, its tokenizer's size counts."""
    max_tokenizer_parity: Annotated[float, Field(ge=1, le=100)] | None = None
    """Highest parity of the tokenizer: tokens that a language needs, as a multiple of what the best one needs
    (docs/training.md says how it is measured). Above it the stage tokenize ends with an error; absent: no gate."""
    sequence_length: Annotated[int, Field(ge=64, le=2**20)] = 256
    """Tokens in one training sequence."""


class RateSpan(Section):
    """How the learning rate moves."""

    start: Annotated[float, Field(ge=0, le=1)] = 1.0
    """At the beginning, as a part of the peak."""
    end: Annotated[float, Field(ge=0, le=1)] = 1.0
    """At the end, as a part of the peak."""
    shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """The way from one to the other; sqrt moves fastest at first (for a final decay: the 1-sqrt rule)."""


class Phase(Section):
    """A part of the training with learning rates, a sequence length and a mix of its own."""

    tokens: Annotated[float, Field(gt=0, le=1e15)]
    """Its share of the budget, tokens; begins and ends with a whole step."""
    learning_rate: RateSpan = RateSpan()
    """The learning rate; by default the peak."""
    sequence_length: Annotated[int, Field(ge=16, le=2**20)] | None = None
    """Tokens in one sequence, a divisor of model.sequence_length, which is the default; a step keeps its tokens."""
    mix: Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], Field(min_length=1)] | None = None
    """Weight of each language in the phase's tokens, met to one part in 1024; languages that are not named have none.
    By default as much of each as the corpus has."""


class Goldfish(Section):
    """Goldfish loss against memorisation: one target in k is never learned."""

    k: Annotated[int, Field(ge=2, le=10**6)] = 50
    """One target in so many is left out."""
    h: Annotated[int, Field(ge=1, le=10**4)] = 50
    """Tokens before a target that decide whether it is left out."""


class Training(Section):
    """How long and how to train; what is not given follows from the plan."""

    tokens: Annotated[float, Field(gt=0, le=1e15)]
    """Training budget, tokens (never minutes: the result must not depend on the machine's speed)."""
    batch_tokens: Annotated[int, Field(ge=64, le=2**30)] | None = None
    """Tokens in one optimizer step; by default from the scaling rule in the plan."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Peak learning rate; by default from the scaling rule in the plan."""
    pods: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Training processes on CPU (with GPUs: one for each GPU)."""
    threads_per_pod: Annotated[int, Field(ge=1, le=4096)] = 2
    """Compute threads of one CPU training process."""
    seed: Seed = 0
    """Seed of initialisation and data order."""
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Steps between checkpoints; by default from the plan."""
    heldout_every_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Steps between measures of bits per byte on held-out text; by default a fifth of the run, at most 1,000."""
    keep_checkpoints: Annotated[int, Field(ge=2, le=1000)] = 2
    """Newest checkpoints that stay in the store; two at least, so that there is one before a damaged one."""
    keep_every_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Checkpoints whose step is a multiple of this stay for good, to go back to; by default none."""
    zero_stage: Literal[0, 1, 2, 3] | None = None
    """ZeRO stage; by default the first that fits, which is the fastest. 0, without ZeRO, is for one process on CPU."""
    compile: bool = True
    """Use torch.compile."""
    z_loss: Annotated[float, Field(ge=0, le=1)] | None = None
    """Coefficient of the z-loss, 0 for none; by default from the plan."""
    document_masking: bool = False
    """Attention stops at document ends, and positions begin anew; costs some speed."""
    goldfish: Goldfish | None = None
    """Goldfish loss, or nothing."""
    phases: tuple[Phase, ...] = ()
    """Parts of the training, in order; without any: warm-up, the peak, linear decay to zero (WSD)."""

    @model_validator(mode="after")
    def _phases_add_up(self) -> Self:
        total = sum(phase.tokens for phase in self.phases)
        if self.phases and not math.isclose(total, self.tokens, rel_tol=1e-6):
            raise ValueError(f"the phases' tokens add up to {total:g}, not to training.tokens {self.tokens:g}")
        return self

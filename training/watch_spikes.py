"""Which steps are left out: those whose loss or gradient norm jumps far above what it was lately.

The rule is OLMo 3's (SkipStepOptimizer in allenai/OLMo-core, src/olmo_core/optim/skip_step_optimizer.py): more than six
standard deviations above the mean of the last 128 steps, once there are 64. A step that is left out changes neither
weights nor optimizer, but counts in the window, so that a lasting change is accepted after a while.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence

SIGMA = 6.0
WINDOW_STEPS = 128
_NEEDED_STEPS = WINDOW_STEPS // 2


class SpikeGuard:
    """The last steps' losses and gradient norms; the same on all ranks, since both are numbers of the whole batch."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._norms: deque[float] = deque(maxlen=WINDOW_STEPS)

    def admits(self, loss: float, gradient_norm: float) -> bool:
        """Whether the optimizer may take this step; call it once a step. False for NaN and infinity."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return False
        is_spike = _is_spike(loss, self._losses) or _is_spike(gradient_norm, self._norms)
        self._losses.append(loss)
        self._norms.append(gradient_norm)
        return not is_spike

    def state(self) -> dict[str, list[float]]:
        """The window for a checkpoint; JSON values, which keep every digit."""
        return {"losses": list(self._losses), "gradient_norms": list(self._norms)}

    def load_state(self, window: Mapping[str, Sequence[float]]) -> None:
        """Set what `state` gave."""
        for values, saved in ((self._losses, window["losses"]), (self._norms, window["gradient_norms"])):
            values.clear()
            values.extend(saved)


def _is_spike(value: float, before: deque[float]) -> bool:
    if len(before) < _NEEDED_STEPS:
        return False
    mean = statistics.fmean(before)
    return value - mean > SIGMA * statistics.stdev(before, mean)


_ADVICE = "lower training.learning_rate, or give training.phases a longer warmup"
_DIVERGED, _DIVERGED_NATS = 1.5, 1.0
"""A loss that is above the first one by this factor, and by so much, is no noise of a batch: untrained weights predict
evenly, so that the first loss is about the logarithm of the vocabulary, and training only lowers it."""
_LAST_STEPS = 20


class Divergence:
    """Whether a run's loss has left the way down, from its first step on: `SpikeGuard` judges none of the first 64."""

    def __init__(self, before: Sequence[float] = ()) -> None:
        """Args: `before` has the losses of the run's record so far, where it resumes."""
        self._first = before[0] if before else math.nan
        self._highest = max(before, default=-math.inf)
        self._last: deque[float] = deque(before, maxlen=_LAST_STEPS)

    def add(self, step: int, loss: float) -> str | None:
        """A sentence when the loss of `step` (from 1) is too high and none before it was; call it once a step."""
        if math.isnan(self._first):
            self._first = loss
        was_high = self._is_high(self._highest)
        self._highest = max(self._highest, loss)
        self._last.append(loss)
        if was_high or not self._is_high(loss):
            return None
        return f"the loss rose to {loss:.4g} at step {step}, from {self._first:.4g} at the first: {_ADVICE}"

    def verdict(self) -> str | None:
        """A sentence about the whole run when it ended no better than it began, or got very high on its way."""
        if not self._last:
            return None
        end = statistics.median(list(self._last)[-max(1, len(self._last) // 4) :])
        if len(self._last) > 1 and end >= self._first:
            return (
                f"training diverged: the loss ended at {end:.4g}, from {self._first:.4g} at the first step: {_ADVICE}"
            )
        if self._is_high(self._highest):
            return f"the loss rose to {self._highest:.4g} on its way from {self._first:.4g} to {end:.4g}: {_ADVICE}"
        return None

    def _is_high(self, loss: float) -> bool:
        return loss > max(_DIVERGED * self._first, self._first + _DIVERGED_NATS)

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

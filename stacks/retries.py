"""Retries of temporary errors of an API server, which end at once when an operation is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import tenacity

from sovereign.errors import ClusterError, TemporaryClusterError
from stacks.kubehttp import KindMissingError

# How long a kind that the server does not know may still turn up, once its CRD was applied.
KIND_LIMIT_S: Final = 30.0
_T = TypeVar("_T")


class Retries:
    """Calls and pauses that `cancelled` ends."""

    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled

    def __call__(self, call: Callable[[], _T], timeout_s: float, progress: Callable[[str], None] | None = None) -> _T:
        """What `call` returns, tried again for `timeout_s` seconds while it fails for the moment.

        Args:
            call: raises TemporaryClusterError where another try is worth it.
            timeout_s: after that the last error is raised; a missing kind is waited for at most KIND_LIMIT_S.
            progress: called with what is waited for, before each further try.

        Raises:
            ClusterError: the last error of `call`, or "cancelled".
        """

        def over(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            limit_s = min(timeout_s, KIND_LIMIT_S) if isinstance(error, KindMissingError) else timeout_s
            return (state.seconds_since_start or 0.0) >= limit_s

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if progress is not None and isinstance(error, ClusterError):
                progress(f"{error.message} ({error.got})" if error.got else error.message)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TemporaryClusterError),
            wait=tenacity.wait_exponential(multiplier=0.1, max=2.0) + tenacity.wait_random(0, 0.1),
            stop=over,
            sleep=self.pause,
            before_sleep=tell,
            reraise=True,
        )
        return retrying(call)

    def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            ClusterError: it was cancelled.
        """
        if self._cancelled.wait(seconds):
            raise ClusterError("cancelled")

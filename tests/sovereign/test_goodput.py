"""Goodput: published cases, and that Daly's interval is the best one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sovereign.goodput import (
    CheckpointTimes,
    checkpoint_times,
    daly_interval_s,
    goodput,
    time_between_interruptions_s,
    young_interval_s,
)


def test_llama_3_was_interrupted_so_often() -> None:
    assert time_between_interruptions_s(16_384) == pytest.approx(54 * 86_400 / 466)
    assert time_between_interruptions_s(512) == pytest.approx(54 * 86_400 / 466 * 32)


def test_intervals_of_a_case_by_hand() -> None:
    """Five minutes for a checkpoint, a day between interruptions."""
    assert young_interval_s(300, 86_400) == 7200
    ratio = 300 / (2 * 86_400)
    assert daly_interval_s(300, 86_400) == pytest.approx(7200 * (1 + ratio**0.5 / 3 + ratio / 9) - 300)
    assert daly_interval_s(1000, 400) == 400


@settings(deadline=None)
@given(stall_s=st.floats(0.1, 1000), between_s=st.floats(1000, 1e7), upload_s=st.floats(0, 1000))
def test_no_interval_is_better_than_dalys(stall_s: float, between_s: float, upload_s: float) -> None:
    assume(stall_s < between_s / 10)
    times = CheckpointTimes(stall_s, upload_s, upload_s)
    best_s = daly_interval_s(stall_s, between_s)
    best = goodput(best_s, times, between_s)
    assert 0 < best < 1
    for factor in (0.2, 0.5, 0.8, 1.25, 2, 5):
        assert goodput(best_s * factor, times, between_s) < best * 1.0001


def test_goodput_falls_with_everything_that_takes_time() -> None:
    times = CheckpointTimes(10, 20, 20)
    best = goodput(3000, times, 1e5)
    assert goodput(3000, CheckpointTimes(20, 20, 20), 1e5) < best
    assert goodput(3000, CheckpointTimes(10, 200, 20), 1e5) < best
    assert goodput(3000, CheckpointTimes(10, 20, 200), 1e5) < best
    assert goodput(3000, times, 1e4) < best
    assert goodput(1e9, times, 1e4) == 0, "no checkpoint is ever made in time"


def test_a_checkpoint_is_shared_by_the_machines() -> None:
    """96 GB of 8e9 parameters on 8 machines with 8 GPUs: 12 GB at 2 GB/s, 1.5 GB hashed at 1 GB/s, 12 GB at 1 GB/s."""
    assert checkpoint_times(8_000_000_000, 64, 8) == CheckpointTimes(6 + 1.5, 12, 12)

"""Goodput: the part of a run's time that becomes training, with checkpoints and interruptions.

Interruptions come at random, at a constant rate for each GPU: 466 in 54 days on 16,384 GPUs (Llama 3, section 3.3.4,
https://arxiv.org/abs/2407.21783). Training stands still while a checkpoint is written to the machines' disks; a lost
machine takes its disk along, so what counts after an interruption is the newest checkpoint that the store has whole.
The best interval is Daly's (J. T. Daly 2006, Future Generation Computer Systems 22, 303-312), whose first term is
Young's (J. W. Young 1974, Communications of the ACM 17, 530-531).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

INTERRUPTIONS_PER_GPU_DAY = 466 / (54 * 16_384)
CHECKPOINT_BYTES_PER_PARAMETER = 12
"""Master weight and two moments, float32."""
DISK_BYTES_PER_S = 2e9
"""Written to the disk of one machine: one NVMe drive, sustained; assumed."""
STORE_BYTES_PER_S = 1e9
"""Between one machine and the object store, each way: a third of a 25 Gb/s link; assumed."""
HASH_BYTES_PER_S = 1e9
"""SHA-256 of one rank; measured on one core of a Sapphire Rapids machine."""
RESTART_S = 600.0
"""From an interruption to loading: noticing it (ranks wait at most so long for each other), pods, imports; assumed."""
_DAY_S = 86_400.0


@dataclass(frozen=True)
class CheckpointTimes:
    """What one checkpoint takes, seconds."""

    stall_s: float
    """Training stands still: writing and hashing."""
    upload_s: float
    """Until the store has it, while training goes on."""
    restore_s: float
    """Reading it back from the store."""


def checkpoint_times(num_parameters: int, world_size: int, ranks_per_node: int) -> CheckpointTimes:
    """Each rank writes its part of the state; the ranks of a machine share its disk and its link to the store."""
    of_rank = num_parameters * CHECKPOINT_BYTES_PER_PARAMETER / world_size
    of_node = of_rank * ranks_per_node
    stored_s = of_node / STORE_BYTES_PER_S
    return CheckpointTimes(of_node / DISK_BYTES_PER_S + of_rank / HASH_BYTES_PER_S, stored_s, stored_s)


def time_between_interruptions_s(num_gpus: int) -> float:
    """Mean time from one interruption to the next of a run on so many GPUs, seconds."""
    return _DAY_S / (INTERRUPTIONS_PER_GPU_DAY * num_gpus)


def young_interval_s(stall_s: float, between_s: float) -> float:
    """Training time between checkpoints by Young: sqrt(2 x stall x mean time between interruptions)."""
    return math.sqrt(2 * stall_s * between_s)


def daly_interval_s(stall_s: float, between_s: float) -> float:
    """Training time between checkpoints by Daly, equation 37: Young's with two more terms."""
    if stall_s >= 2 * between_s:
        return between_s
    ratio = stall_s / (2 * between_s)
    return young_interval_s(stall_s, between_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s


def goodput(interval_s: float, times: CheckpointTimes, between_s: float) -> float:
    """Training time as a part of all time, in the mean over a long run with interruptions (a Poisson process).

    Each stretch between interruptions keeps the intervals whose checkpoint the store had whole. Their mean number is a
    geometric series: the sum of exp(-(restart + upload + k x (interval + stall)) / between) over k from 1 on.
    """
    lost = math.exp(-(RESTART_S + times.restore_s + times.upload_s) / between_s)
    survives = math.exp(-(interval_s + times.stall_s) / between_s)
    return interval_s / between_s * lost * survives / -math.expm1(-(interval_s + times.stall_s) / between_s)

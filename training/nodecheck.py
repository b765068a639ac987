"""Whether the machines are fit to train: a short matmul of every rank, an all-reduce, pairs of ranks, GPUs by NVML.

Slow ranks are named and training goes on; a wrong sum or uncorrected memory errors stop it before compute is spent.
Measured for a fraction of a second while all ranks measure at the same time, so what they take from each other counts.
When a run fails, each rank checks itself again, without the others, which may be gone.
"""

from __future__ import annotations

import math
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from sovereign.errors import TrainingError
from training.energy import Gpu

SLOW_MATMUL = 0.75
"""A rank whose matmul rate is below this part of the median over all ranks is slow."""
SLOW_LINK = 0.5
"""A rank whose faster link to a neighbour is below this part of the median over all ranks is slow."""
CHECK_LIMIT_S = 60.0
"""After a failure, a matmul that takes longer will not end."""
_MATMUL_S = 0.2
_CHUNKS = 8
_REDUCED_NUMBERS = 2**20
_EXCHANGES = 4


@dataclass(frozen=True)
class RankCheck:
    """What one rank measured."""

    host: str
    matmul_flops: float
    """Mean over the measurement, FLOP/s: fp32 on CPU, bf16 on GPUs."""
    matmul_peak_flops: float
    """Its fastest part, FLOP/s."""
    link_bytes_per_s: float | None
    """Exchange with the better one of two neighbours, each way; None where the rank is alone."""
    gpu_problems: tuple[str, ...]
    """Throttling and memory errors, by NVML."""
    is_broken: bool
    """The GPU has uncorrected memory errors."""
    has_unknown_past: bool = False
    """There is a GPU, and the kernel's log, which has its XID errors of before, cannot be read."""


@dataclass(frozen=True)
class NodeCheck:
    """All ranks' checks."""

    ranks: Sequence[RankCheck]

    @property
    def peak_flops(self) -> float:
        """Measured matmul peak of all ranks together, FLOP/s."""
        return sum(rank.matmul_peak_flops for rank in self.ranks)

    def problems(self) -> Iterator[str]:
        """What is wrong, a sentence each, with rank and host."""
        for number, rank in enumerate(self.ranks):
            for problem in rank.gpu_problems:
                yield f"rank {number} on {rank.host}: {problem}"
        if unknown := sorted({rank.host for rank in self.ranks if rank.has_unknown_past}):
            yield (
                f"XID errors from before the run are not known on {len(unknown)} machines, whose kernel's log "
                f"cannot be read: {unknown[0]}{', …' if len(unknown) > 1 else ''}"
            )
        rates = {number: rank.matmul_flops for number, rank in enumerate(self.ranks)}
        links = {n: rank.link_bytes_per_s for n, rank in enumerate(self.ranks) if rank.link_bytes_per_s is not None}
        for what, values, least, unit, scale in (
            ("computes", rates, SLOW_MATMUL, "GFLOP/s", 1e9),
            ("exchanges data", links, SLOW_LINK, "MB/s", 1e6),
        ):
            for number, (value, median) in slow(values, least).items():
                yield (
                    f"rank {number} on {self.ranks[number].host} {what} slowly: {value / scale:,.3g} {unit}, "
                    f"the median of all ranks is {median / scale:,.3g} (slow is below {least:.0%} of it)"
                )


def slow(values: Mapping[int, float], least: float) -> dict[int, tuple[float, float]]:
    """The ranks whose value is below `least` times the median, with value and median."""
    if len(values) < 2:
        return {}
    median = statistics.median(values.values())
    return {rank: (value, median) for rank, value in values.items() if value < least * median}


def check_nodes(gpu: Gpu | None, device: torch.device, gather: Callable[[Any], list[Any]]) -> NodeCheck:
    """Check all ranks; every rank must call this, with the threads that it will train with.

    Raises:
        TrainingError: an all-reduce gives a wrong sum, or a GPU has uncorrected memory errors.
    """
    _check_all_reduce(device)
    old_xids = gpu.logged_xids() if gpu else []
    rates, (problems, is_broken) = _matmul_rates(device, gpu)
    if old_xids:
        problems = (f"XID errors {', '.join(map(str, sorted(set(old_xids))))} before the run", *problems)
    own = RankCheck(
        host=socket.gethostname(),
        matmul_flops=_mean(rates),
        matmul_peak_flops=max(rates),
        link_bytes_per_s=_link_rate(device),
        gpu_problems=problems,
        is_broken=is_broken,
        has_unknown_past=old_xids is None,
    )
    check = NodeCheck(gather(own))
    broken = [number for number, rank in enumerate(check.ranks) if rank.is_broken]
    if broken:
        raise TrainingError(
            "GPUs with uncorrected memory errors compute wrong numbers",
            got="\n    ".join(check.problems()),
            expected="none since the driver was loaded",
            hint=f"drain the machines of ranks {', '.join(map(str, broken))} and reset or replace these GPUs",
        )
    return check


def check_alone(
    gpu: Gpu | None, device: torch.device, matmul_flops: float, *, limit_s: float = CHECK_LIMIT_S
) -> list[str]:
    """What can be said of this rank's part of a machine after a failure, a sentence each; asks no other rank.

    Args:
        matmul_flops: what the same matmul gave before the run, FLOP/s.
    """
    found: list[str] = []

    def measure() -> None:
        try:
            rates, (problems, _) = _matmul_rates(device, gpu)
        except RuntimeError as error:  # an accelerator that has failed, or has no memory left
            found.extend([*gpu_problems(gpu)[0], f"a matmul fails: {type(error).__name__}: {error}"])
            return
        how = "" if _mean(rates) >= SLOW_MATMUL * matmul_flops else "computes slowly: "
        speeds = f"{_mean(rates) / 1e9:,.3g} GFLOP/s in a matmul, {matmul_flops / 1e9:,.3g} before the run"
        found.extend([*problems, how + speeds])

    thread = threading.Thread(target=measure, daemon=True)  # of a GPU that hangs no call comes back
    thread.start()
    thread.join(limit_s)
    said = list(found) or [f"a matmul does not end within {limit_s:.0f} s", *gpu_problems(gpu)[0]]
    return [*said, "an all-reduce was not tried: it needs all ranks, and some may be gone"]


def gpu_problems(gpu: Gpu | None) -> tuple[tuple[str, ...], bool]:
    """What NVML finds wrong with the GPU now, and whether it must not be used."""
    if gpu is None:
        return (), False
    health = gpu.health()
    problems = [f"XID error {xid}" for xid in gpu.new_xids()]
    if health.throttled_by:
        problems.append(f"the GPU is throttled: {', '.join(health.throttled_by)}, {health.temperature_c:.0f} °C")
    is_broken = health.uncorrected_ecc_errors > 0
    if is_broken:
        problems.append(f"{health.uncorrected_ecc_errors:.0f} uncorrected memory errors (ECC)")
    return tuple(problems), is_broken


def _mean(rates: Sequence[float]) -> float:
    """Mean rate of parts with the same work."""
    return len(rates) / sum(1 / rate for rate in rates)


def _matmul_rates(device: torch.device, gpu: Gpu | None) -> tuple[list[float], tuple[tuple[str, ...], bool]]:
    """FLOP/s of each part of a measurement of `_MATMUL_S`, and `gpu_problems` while the GPU goes on multiplying.

    An idle GPU is not throttled.
    """
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 768
    random = torch.Generator(device).manual_seed(0)  # its own: the run's random numbers stay as they are
    left = torch.randn(size, size, generator=random, device=device).to(torch.bfloat16 if on_gpu else torch.float32)
    right, out = left.clone(), torch.empty_like(left)

    def launch(times: int) -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)

    def run(times: int) -> float:
        start = time.perf_counter()
        launch(times)
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run(1)
    times = max(1, math.ceil(_MATMUL_S / _CHUNKS / run(1)))
    rates = [2 * size**3 * times / run(times) for _ in range(_CHUNKS)]
    if on_gpu:
        launch(times)
    return rates, gpu_problems(gpu)


def _check_all_reduce(device: torch.device) -> None:
    world_size = dist.get_world_size()
    numbers = torch.full((_REDUCED_NUMBERS,), float(dist.get_rank() + 1), device=device)
    dist.all_reduce(numbers)
    expected = world_size * (world_size + 1) / 2
    if not bool((numbers == expected).all()):
        raise TrainingError(
            f"an all-reduce over {world_size} ranks gives wrong sums",
            got=f"{numbers.min().item()} to {numbers.max().item()} on rank {dist.get_rank()}",
            expected=f"{expected}",
            hint="test the network and its library between these machines",
        )


def _link_rate(device: torch.device) -> float | None:
    """Bytes per second to and from the better one of the two neighbours in a ring.

    A slow rank makes both of its links slow; a rank beside it still has a fast one.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    rates = []
    for first in (0, 1):  # pairs (0,1) (2,3) …, then (1,2) (3,4) …
        other = rank + 1 if (rank - first) % 2 == 0 else rank - 1
        if 0 <= other < world_size:
            rates.append(_exchange_rate(other, device))
        dist.barrier()
    return max(rates) if rates else None


def _exchange_rate(other: int, device: torch.device) -> float:
    sent = torch.ones(_REDUCED_NUMBERS, device=device)
    received = torch.empty_like(sent)
    start = 0.0
    for number in range(1 + _EXCHANGES):
        if number == 1:  # the first one makes the connection
            start = time.perf_counter()
        both = [dist.P2POp(dist.isend, sent, other), dist.P2POp(dist.irecv, received, other)]
        for work in dist.batch_isend_irecv(both):
            work.wait()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return _EXCHANGES * sent.nbytes / (time.perf_counter() - start)

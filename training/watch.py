"""What is recorded of a run while it goes on: speed, MFU, step times, waiting for data, memory, GPU, energy, cost.

Numbers are of the whole run, over all ranks. MFU is FLOPs of the model (`ModelShape.flops_per_token`) for each second,
divided by the peak: of the data sheet for GPUs (sovereign/hardware.py), measured at the start for processors
(training/nodecheck.py). `of_matmul_ceiling` is the same by what matmuls reached on these GPUs at the start. Energy,
cost and emissions count from the run's first step on, across restarts, what led to the present state: work that was
lost with a killed process is not in them.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from sovereign.profile import Economics, Hardware
from training.energy import Gpu, GpuHealth, Meter

STEP_WINDOW = 200
"""Steps whose times the percentiles are of."""
_JOULES_PER_KWH = 3.6e6
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Gather = Callable[[Sequence[float]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Prices:
    """The site's figures, as the plan uses them."""

    economics: Economics
    devices: int
    """GPUs, or machines where there is none: what `gpu_hour_price` is for."""

    @classmethod
    def of(cls, economics: Economics, hardware: Hardware) -> Prices:
        """Of a profile."""
        return cls(economics, hardware.nodes * (hardware.gpus_per_node or 1))

    def so_far(self, elapsed_s: float, energy_kwh: float | None) -> dict[str, float]:
        """Costs in the profile's currency and emissions; those of energy only where it is measured.

        Args:
            energy_kwh: of the devices, without the building's overhead (PUE), which is added here.
        """
        values = {"cost_devices": elapsed_s / 3600 * self.devices * self.economics.gpu_hour_price}
        if energy_kwh is not None:
            whole_kwh = energy_kwh * self.economics.pue
            values["cost_energy"] = whole_kwh * self.economics.electricity_price_per_kwh
            values["co2_kg"] = whole_kwh * self.economics.co2_g_per_kwh / 1000
        return values


@dataclass(frozen=True)
class Rank:
    """What one rank reads of itself at a logged step; NaN where there is nothing to read."""

    data_wait_s: float
    memory_bytes: float
    gpu_memory_bytes: float
    gpu_temperature_c: float
    gpu_throttled: float
    gpu_ecc_errors: float
    gpu_xids: float
    gpu_power_w: float
    energy_j: float


class Watch:
    """Measures a run; one for each rank."""

    def __init__(
        self,
        *,
        flops_per_token: float,
        peak_flops: float,
        measured_flops: float,
        num_devices: int,
        batch_tokens: int,
        prices: Prices,
        gather: Gather,
        meter: Meter | None,
        gpu: Gpu | None,
        before: Mapping[str, float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Args:
        peak_flops: of all devices together, FLOP/s.
        measured_flops: what a matmul reached on all of them together.
        num_devices: GPUs, or processes where there is none.
        gather: gives the same numbers of every rank, shape [ranks, numbers]; every rank must call it.
        before: the last line of the run's record, where it goes on from a checkpoint.
        """
        self._flops_per_token, self._peak_flops, self._batch_tokens = flops_per_token, peak_flops, batch_tokens
        self._measured_flops, self._num_devices = measured_flops, num_devices
        self._prices, self._gather, self._meter, self._gpu = prices, gather, meter, gpu
        self._before_s, self._before_kwh = before.get("elapsed_s", 0.0), before.get("energy_kwh", 0.0)
        self._clock = clock
        self._started_at = self._step_at = self._logged_at = clock()
        self._ended_at: float | None = None
        self._step_s: deque[float] = deque(maxlen=STEP_WINDOW)
        self._between_s: deque[float] = deque(maxlen=STEP_WINDOW)
        self._steps = 0
        self._data_s = 0.0
        self._logged_j = 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Around the reading of a step's rows, with which the step begins."""
        self._step_at = self._clock()
        yield
        self._data_s += self._clock() - self._step_at

    def step_ends(self) -> None:
        """After each step, before anything is logged, measured or saved."""
        now = self._clock()
        self._step_s.append(now - self._step_at)
        self._between_s.append(now - (self._step_at if self._ended_at is None else self._ended_at))
        self._ended_at = now
        self._steps += 1
        if self._meter is not None:
            self._meter.energy_j()

    def numbers(self) -> dict[str, float]:
        """All since the last call, or so far; every rank must call this at the same step."""
        now = self._clock()
        ranks = self._gather(list(vars(self._read()).values()))
        by_name = dict(zip(Rank.__dataclass_fields__, ranks.T, strict=True))
        tokens_per_s = self._steps * self._batch_tokens / (now - self._logged_at)
        flops = tokens_per_s * self._flops_per_token
        elapsed_s = self._before_s + now - self._started_at
        values = {
            "tokens_per_s": tokens_per_s,
            "mfu": flops / self._peak_flops,
            "tflops_per_device": flops / self._num_devices / 1e12,
            "step_p50_s": float(np.percentile(self._step_s, 50)),
            "step_p95_s": float(np.percentile(self._step_s, 95)),
            "step_max_s": max(self._between_s),
            "data_wait_s": float(by_name["data_wait_s"].max()),
            "memory_gb": float(by_name["memory_bytes"].max()) / 1e9,
            "gpu_memory_gb": float(by_name["gpu_memory_bytes"].max()) / 1e9,
            "gpu_temperature_c": _known(by_name["gpu_temperature_c"], np.max),
            "gpu_throttled": _known(by_name["gpu_throttled"], np.sum),
            "gpu_ecc_errors": _known(by_name["gpu_ecc_errors"], np.sum),
            "gpu_xids": _known(by_name["gpu_xids"], np.sum),
            "gpu_power_w": _known(by_name["gpu_power_w"], np.sum),
            "elapsed_s": elapsed_s,
        }
        if self._measured_flops != self._peak_flops:
            values["of_matmul_ceiling"] = flops / self._measured_flops
        energy_j = _known(by_name["energy_j"], np.sum)
        energy_kwh = None
        if not math.isnan(energy_j):
            energy_kwh = self._before_kwh + energy_j / _JOULES_PER_KWH
            values["energy_kwh"] = energy_kwh
            if self._steps:
                tokens = self._steps * self._batch_tokens
                values["joules_per_million_tokens"] = (energy_j - self._logged_j) / tokens * 1e6
            self._logged_j = energy_j
        self._logged_at, self._steps, self._data_s = now, 0, 0.0
        values |= self._prices.so_far(elapsed_s, energy_kwh)
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def _xids(self) -> float:
        """How many XID errors there were since the last time; each is also written to this rank's log."""
        if self._gpu is None:
            return math.nan
        xids = self._gpu.new_xids()
        for xid in xids:
            sys.stderr.write(f"{socket.gethostname()}: XID error {xid} of the GPU\n")
        return float(len(xids))

    def _read(self) -> Rank:
        nothing = GpuHealth(math.nan, math.nan, math.nan, ())
        health = self._gpu.health() if self._gpu is not None else nothing
        return Rank(
            data_wait_s=self._data_s / max(1, self._steps),
            memory_bytes=_resident_bytes(),
            gpu_memory_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else math.nan,
            gpu_temperature_c=health.temperature_c,
            gpu_throttled=float(bool(health.throttled_by)) if self._gpu is not None else math.nan,
            gpu_xids=self._xids(),
            gpu_ecc_errors=health.uncorrected_ecc_errors,
            gpu_power_w=health.power_w,
            energy_j=self._meter.energy_j() if self._meter is not None else math.nan,
        )


def gather_numbers(device: torch.device) -> Gather:
    """The numbers of all ranks by one all-reduce on `device`."""

    def gather(values: Sequence[float]) -> npt.NDArray[np.float64]:
        world_size = dist.get_world_size()
        if world_size == 1:
            return np.array([values])
        # A NaN stays NaN in its own row and does not touch the others.
        rows = torch.zeros(world_size, len(values), dtype=torch.float64)
        rows[dist.get_rank()] = torch.tensor(values, dtype=torch.float64)
        shared = rows.to(device)
        dist.all_reduce(shared)
        return np.asarray(shared.cpu().numpy())

    return gather


def _known(values: npt.NDArray[np.float64], reduce: Callable[[npt.NDArray[np.float64]], Any]) -> float:
    """Over the ranks that have the number; NaN where none has."""
    known = values[~np.isnan(values)]
    return float(reduce(known)) if len(known) else math.nan


def _resident_bytes() -> float:
    """Main memory of this process now."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES

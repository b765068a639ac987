"""Energy, health and memory of what a rank computes on: a GPU by NVML, the processors of a machine by RAPL.

Where neither can be read the numbers are absent; nothing is estimated. NVML counts one GPU. RAPL counts a machine's
processor packages with everything that runs on them, other programs too, and only root may read it on most systems.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
KERNEL_LOG = Path("/dev/kmsg")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)[^)]*\): (\d+)", re.IGNORECASE)


class Meter(Protocol):
    """Counts energy."""

    def energy_j(self) -> float:
        """Joules since the meter was made."""
        ...


@dataclass(frozen=True)
class GpuHealth:
    """What NVML says of a GPU now; a number that this GPU does not give is NaN."""

    temperature_c: float
    power_w: float
    uncorrected_ecc_errors: float
    """Since the driver was loaded."""
    throttled_by: tuple[str, ...]
    """Why its clock is below what it was asked for; reaching the power limit is not a fault and not in here."""


class Gpu:
    """One GPU by NVML (https://docs.nvidia.com/deploy/nvml-api); also its energy meter."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Use `Gpu.open`."""
        self._nvml, self._handle = nvml, handle
        self._start_mj = self._read(nvml.nvmlDeviceGetTotalEnergyConsumption)
        self._events = self._watch_for_xids()

    @classmethod
    def open(cls, uuid: str) -> Gpu | None:
        """The GPU `uuid` (`GPU-…`), or None where NVML or this GPU is not there."""
        import pynvml

        try:
            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        except pynvml.NVMLError:
            return None

    def _read(self, function: Callable[..., Any], *arguments: Any) -> float:
        """A number of NVML; NaN where this GPU does not give it."""
        try:
            return float(function(self._handle, *arguments))
        except self._nvml.NVMLError:
            return math.nan

    @property
    def has_energy(self) -> bool:
        """Whether this GPU counts energy (Volta and later)."""
        return not math.isnan(self._start_mj)

    def energy_j(self) -> float:
        """Joules since the meter was made."""
        return (self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption) - self._start_mj) / 1e3

    def health(self) -> GpuHealth:
        """Temperature, power, memory errors and throttling now."""
        nvml = self._nvml
        reasons = self._read(nvml.nvmlDeviceGetCurrentClocksEventReasons)
        names = {
            "hardware slowdown": nvml.nvmlClocksEventReasonHwSlowdown,
            "temperature (software)": nvml.nvmlClocksEventReasonSwThermalSlowdown,
            "temperature (hardware)": nvml.nvmlClocksEventReasonHwThermalSlowdown,
            "power brake": nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
        }
        bits = 0 if math.isnan(reasons) else int(reasons)
        return GpuHealth(
            temperature_c=self._read(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            power_w=self._read(nvml.nvmlDeviceGetPowerUsage) / 1e3,
            uncorrected_ecc_errors=self._read(
                nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
            throttled_by=tuple(name for name, bit in names.items() if bits & bit),
        )

    def _watch_for_xids(self) -> Any:
        try:
            events = self._nvml.nvmlEventSetCreate()
            self._nvml.nvmlDeviceRegisterEvents(self._handle, self._nvml.nvmlEventTypeXidCriticalError, events)
        except self._nvml.NVMLError:
            return None
        return events

    def new_xids(self) -> list[int]:
        """XID errors (https://docs.nvidia.com/deploy/xid-errors) since the last call, or since this object was made."""
        found: list[int] = []
        while self._events is not None:
            try:
                found.append(int(self._nvml.nvmlEventSetWait_v2(self._events, 0).eventData))
            except self._nvml.NVMLError:  # a time-out: there is none
                break
        return found

    def logged_xids(self) -> list[int] | None:
        """XID errors of this GPU that the driver wrote to the kernel's log; None where it cannot be read.

        The log begins with the machine, or later where it is full.
        """
        try:
            place = self._nvml.nvmlDeviceGetPciInfo(self._handle)
            text = _read_log(KERNEL_LOG)
        except (self._nvml.NVMLError, OSError):
            return None
        own = (place.domain, place.bus, place.device)
        found = _XID.findall(text)
        return [int(xid) for *address, xid in found if tuple(int(part, 16) for part in address) == own]


def _read_log(path: Path) -> str:
    """All that is in the kernel's log now."""
    parts: list[bytes] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while part := _next_record(descriptor):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts).decode(errors="replace")


def _next_record(descriptor: int) -> bytes:
    """The next record of the kernel's log, empty at its end."""
    while True:
        try:
            return os.read(descriptor, 2**14)
        except BlockingIOError:
            return b""
        except BrokenPipeError:  # records that were not read yet made room for new ones
            continue


class Processors:
    """The energy counters of a machine's processor packages (Linux powercap, intel-rapl; AMD's have the same name)."""

    def __init__(self, zones: Sequence[Path]) -> None:
        """Use `Processors.open`."""
        self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        self._last_uj = [int(counter.read_text()) for counter, _ in self._zones]
        self._total_uj = 0

    @classmethod
    def open(cls, root: Path | None = None) -> Processors | None:
        """The packages below `root` (the kernel's); None where there is none or they may not be read."""
        zones = sorted(zone for zone in (root or POWERCAP).glob("intel-rapl:*") if zone.name.count(":") == 1)
        try:
            packages = [zone for zone in zones if (zone / "name").read_text().startswith("package-")]
            return cls(packages) if packages else None
        except OSError:
            return None

    def energy_j(self) -> float:
        """Joules since the meter was made; read at every step, since the counters wrap after minutes."""
        for number, (counter, span_uj) in enumerate(self._zones):
            now_uj = int(counter.read_text())
            self._total_uj += (now_uj - self._last_uj[number]) % span_uj
            self._last_uj[number] = now_uj
        return self._total_uj / 1e6


def open_meter(gpu: Gpu | None, *, on_gpus: bool, rank: int, gather: Callable[[Any], list[Any]]) -> Meter | None:
    """This rank's meter, so that the sum over all ranks counts every GPU, or every machine, once.

    Args:
        gather: gives the values of all ranks; every rank must call this.

    Returns:
        None on ranks that have nothing to count, and on all ranks where a part could not be counted.
    """
    machine = _BOOT_ID.read_text() if _BOOT_ID.exists() else ""
    meter: Meter | None = (gpu if gpu is not None and gpu.has_energy else None) if on_gpus else Processors.open()
    first_with: dict[str, int] = {}
    all_ranks: list[tuple[str, bool]] = gather((machine, meter is not None))
    for other, (name, has_meter) in enumerate(all_ranks):
        if has_meter:
            first_with.setdefault(name, other)
    if on_gpus:
        return meter if all(has_meter for _, has_meter in all_ranks) else None
    is_whole = {name for name, _ in all_ranks} == set(first_with)
    return meter if is_whole and first_with[machine] == rank else None

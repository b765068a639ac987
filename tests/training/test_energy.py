"""Energy and health: counters of processors in files, a GPU by a real shared library in the place of NVIDIA's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.energy import KERNEL_LOG, Gpu, Processors, open_meter

# The functions of NVML that the kit calls, as https://docs.nvidia.com/deploy/nvml-api declares them.
NVML = r"""
#include <stdlib.h>
#include <string.h>
typedef int nvmlReturn_t; typedef void *nvmlDevice_t, *nvmlEventSet_t;
typedef struct { nvmlDevice_t device; unsigned long long type, data; unsigned gpu, compute; } nvmlEventData_t;
enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
static long of(const char *name) { const char *text = getenv(name); return text ? atol(text) : -1; }
static unsigned long long energy_mj = 1000000;
static int xids_told = 0;
nvmlReturn_t nvmlInitWithFlags(unsigned flags) { return OK; }
nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    *device = (nvmlDevice_t)1; return strcmp(uuid, "GPU-1234") ? NOT_FOUND : OK; }
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *mj) {
    *mj = energy_mj; energy_mj += 7200000; return of("NO_ENERGY") == 1 ? NOT_SUPPORTED : OK; }
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius) { *celsius = 71; return OK; }
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *mw) { *mw = 654321; return OK; }
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, unsigned long long *count) {
    *count = of("ECC_ERRORS"); return type == 1 && counter == 0 ? OK : 2; }
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    *reasons = of("REASONS"); return OK; }
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } nvmlPciInfo_t;
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t *pci) {
    pci->domain = 0; pci->bus = 0x3b; pci->device = 0; return OK; }
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) { *set = (nvmlEventSet_t)2; return OK; }
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    return types == 8 ? OK : NOT_SUPPORTED; }
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *event, unsigned timeout_ms) {
    if (xids_told++) return TIMEOUT; event->type = 8; event->data = 79; return OK; }
"""
ASK = """
import dataclasses, json, os
from pathlib import Path
from training import energy
from training.energy import Gpu
energy.KERNEL_LOG = Path(os.environ.get("KERNEL_LOG", "/nowhere"))
gpu, missing = Gpu.open("GPU-1234"), Gpu.open("GPU-5678")
values = dataclasses.asdict(gpu.health()) | {"has_energy": gpu.has_energy, "energy_j": gpu.energy_j()}
print(json.dumps(values | {"xids": [gpu.new_xids(), gpu.new_xids()], "missing": missing,
    "logged": gpu.logged_xids()}))
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libnvidia-ml.so.1."""
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML)
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "nvml.c")]
    subprocess.run(command, check=True)
    return folder


def ask(nvml: Path, **settings: str) -> dict[str, Any]:
    """What the kit reads of the GPU, in a process that finds the library."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml), "PYTHONPATH": root, **settings}
    done = subprocess.run([sys.executable, "-c", ASK], check=True, env=environment, capture_output=True, text=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_a_gpu_tells_energy_health_and_errors(nvml: Path) -> None:
    # A power limit (4) is normal, a hardware slowdown (8) and a power brake (128) are not.
    assert ask(nvml, ECC_ERRORS="3", REASONS=str(4 | 8 | 128)) == {
        "temperature_c": 71,
        "power_w": pytest.approx(654.321),
        "uncorrected_ecc_errors": 3,
        "throttled_by": ["hardware slowdown", "power brake"],
        "has_energy": True,
        "energy_j": 7200,
        "xids": [[79], []],
        "missing": None,
        "logged": None,
    }


def test_xid_errors_of_before_are_in_the_kernels_log(nvml: Path, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(
        "6,1140,88,-;NVRM: loading NVIDIA UNIX Open Kernel Module\n"
        "4,1141,99,-;NVRM: Xid (PCI:0000:3b:00): 48, pid='<unknown>', An uncorrectable double bit error\n"
        "4,1142,99,-;NVRM: Xid (PCI:0000:af:00): 31, pid=77, Ch 00000008\n"
        "4,1143,99,-;NVRM: Xid (PCI:0000:3B:00.0): 79, GPU has fallen off the bus.\n" + "6,1,1,-;x\n" * 10_000
    )
    assert ask(nvml, ECC_ERRORS="0", REASONS="0", KERNEL_LOG=str(log))["logged"] == [48, 79]
    log.write_text("6,1140,88,-;nothing\n")
    assert ask(nvml, ECC_ERRORS="0", REASONS="0", KERNEL_LOG=str(log))["logged"] == []


@pytest.mark.skipif(not os.access(KERNEL_LOG, os.R_OK), reason="the kernel's log cannot be read here")
def test_the_real_log_is_read_to_its_end(nvml: Path) -> None:
    assert ask(nvml, ECC_ERRORS="0", REASONS="0", KERNEL_LOG=str(KERNEL_LOG))["logged"] == []


def test_a_gpu_that_counts_no_energy_says_so(nvml: Path) -> None:
    values = ask(nvml, ECC_ERRORS="0", REASONS="0", NO_ENERGY="1")
    assert not values["has_energy"] and values["throttled_by"] == []


def test_no_gpu_is_no_error() -> None:
    assert Gpu.open("GPU-0") is None


def zone(root: Path, name: str, what: str, energy_uj: int, span_uj: int = 1000) -> Path:
    """A powercap zone."""
    folder = root / name
    folder.mkdir()
    for file, text in (("name", what), ("energy_uj", energy_uj), ("max_energy_range_uj", span_uj)):
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


def test_processors_count_packages_across_a_wrap(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 900), zone(tmp_path, "intel-rapl:1", "package-1", 0)
    zone(tmp_path, "intel-rapl:2", "psys", 5)
    memory = zone(tmp_path, "intel-rapl:0:0", "dram", 7)
    meter = Processors.open(tmp_path)
    assert meter is not None and meter.energy_j() == 0
    first.write_text("100\n")  # 200 later, past the end of its range
    second.write_text("50\n")
    memory.write_text("500\n")
    assert meter.energy_j() == pytest.approx(250e-6)
    first.write_text("110\n")
    assert meter.energy_j() == pytest.approx(260e-6)


def test_processors_without_counters_are_absent(tmp_path: Path) -> None:
    assert Processors.open(tmp_path) is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1).unlink()  # as where it may not be read
    assert Processors.open(tmp_path) is None


def gatherer(others: list[tuple[str, bool]], place: int) -> Callable[[Any], list[Any]]:
    """What a rank at `place` among others sees; its machine is called `here`."""
    return lambda own: [*others[:place], ("here", own[1]), *others[place:]]


@pytest.fixture
def counting_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine named `here` whose processors' counters can be read."""
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "boot_id").write_text("here")
    monkeypatch.setattr("training.energy.POWERCAP", tmp_path)
    monkeypatch.setattr("training.energy._BOOT_ID", tmp_path / "boot_id")


@pytest.mark.parametrize(
    ("others", "rank", "counts"),
    [
        ([], 0, True),
        ([("here", True)], 0, True),
        ([("here", True)], 1, False),  # the rank before counts this machine
        ([("there", True)], 1, True),
        ([("there", False)], 1, False),  # a part that nobody can count: no sum is better than a wrong one
    ],
)
def test_every_machine_is_counted_once_or_not_at_all(
    others: list[tuple[str, bool]], rank: int, counts: bool, counting_machine: None
) -> None:
    meter = open_meter(None, on_gpus=False, rank=rank, gather=gatherer(others, rank))
    assert (meter is not None) == counts

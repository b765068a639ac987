"""The check of the machines before training: a rank that is really slow is named, the others are not."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from sovereign.errors import TrainingError
from tests.training.conftest import Start
from training.energy import Gpu, GpuHealth
from training.nodecheck import SLOW_MATMUL, NodeCheck, RankCheck, gpu_problems, slow

SLOW_RANK = 2
SLOWNESS = 24
"""How many times the slow rank must do each matmul: enough to be told from what a busy machine does to the others."""


def _check(rank: int, port: int, folder: Path) -> None:
    import torch
    import torch.distributed as dist

    from training.engine import gather
    from training.nodecheck import check_nodes

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if rank == SLOW_RANK:
        multiply = torch.mm
        torch.mm = lambda left, right, out: [multiply(left, right, out=out) for _ in range(SLOWNESS)]  # type: ignore[assignment]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=4)
    before = torch.get_rng_state()
    check = check_nodes(None, torch.device("cpu"), gather)
    assert bool((before == torch.get_rng_state()).all()), "the run's random numbers would be others"
    values = [dataclasses.asdict(one) for one in check.ranks]
    (folder / f"{rank}.json").write_text(json.dumps([values, list(check.problems()), check.peak_flops]))
    dist.barrier()


def test_a_slow_rank_is_named(start_training: Start, tmp_path: Path) -> None:
    from training.environment import free_port

    port = free_port()
    processes = [
        multiprocessing.get_context("forkserver").Process(target=_check, args=(rank, port, tmp_path))
        for rank in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * 4
    ranks, problems, peak = json.loads((tmp_path / "0.json").read_text())
    rates = [rank["matmul_flops"] for rank in ranks]
    assert rates[SLOW_RANK] < SLOW_MATMUL * sorted(rates)[1], rates
    assert f"rank {SLOW_RANK} on {ranks[0]['host']} computes slowly: " in "\n".join(problems)
    assert peak == pytest.approx(sum(rank["matmul_peak_flops"] for rank in ranks))
    assert all(rank["link_bytes_per_s"] > 0 for rank in ranks)


def rank(**values: object) -> RankCheck:
    """A sound rank but for `values`."""
    return dataclasses.replace(RankCheck("host", 1e11, 1.2e11, 1e9, (), False), **values)  # type: ignore[arg-type]


def test_slow_is_told_with_numbers_and_threshold() -> None:
    check = NodeCheck([rank(), rank(host="far", matmul_flops=7e10, link_bytes_per_s=4e8), rank(), rank()])
    assert list(check.problems()) == [
        "rank 1 on far computes slowly: 70 GFLOP/s, the median of all ranks is 100 (slow is below 75% of it)",
        "rank 1 on far exchanges data slowly: 400 MB/s, the median of all ranks is 1e+03 (slow is below 50% of it)",
    ]
    assert list(NodeCheck([rank(), rank(matmul_flops=8e10)]).problems()) == []
    assert slow({0: 1.0}, 0.75) == {}, "a rank alone has nothing to be compared with"


class BrokenGpu(Gpu):
    """A GPU with what NVML would tell of a broken one; the real calls are tested in test_energy.py."""

    def __init__(self) -> None:
        """Without NVML."""

    def health(self) -> GpuHealth:
        return GpuHealth(91, 300, 2, ("temperature (hardware)",))

    def new_xids(self) -> list[int]:
        return [48]

    def logged_xids(self) -> list[int] | None:
        return [79, 13, 79]


class CoolGpu(Gpu):
    """A GPU that is throttled only when it works, on a machine whose log is closed."""

    has_worked = False

    def __init__(self) -> None:
        """Without NVML."""

    def health(self) -> GpuHealth:
        return GpuHealth(60, 300, 0, ("power brake",) if self.has_worked else ())

    def new_xids(self) -> list[int]:
        return []

    def logged_xids(self) -> list[int] | None:
        return None


def test_machines_are_judged_by_what_they_do_at_work(start_training: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import torch.distributed as dist

    from training.environment import free_port
    from training.nodecheck import check_nodes

    assert gpu_problems(BrokenGpu()) == (
        (
            "XID error 48",
            "the GPU is throttled: temperature (hardware), 91 °C",
            "2 uncorrected memory errors (ECC)",
        ),
        True,
    )
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        with pytest.raises(TrainingError, match="uncorrected memory errors compute wrong numbers") as error:
            check_nodes(BrokenGpu(), torch.device("cpu"), lambda own: [own])
        assert "drain the machines of ranks 0" in str(error.value)
        assert "XID errors 13, 79 before the run" in str(error.value)
        multiply = torch.mm

        def multiply_warmly(*given: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
            CoolGpu.has_worked = True
            return multiply(*given, **named)

        monkeypatch.setattr(torch, "mm", multiply_warmly)
        check = check_nodes(CoolGpu(), torch.device("cpu"), lambda own: [own])
        assert list(check.problems()) == [
            f"rank 0 on {check.ranks[0].host}: the GPU is throttled: power brake, 60 °C",
            "XID errors from before the run are not known on 1 machines, whose kernel's log cannot be read: "
            + check.ranks[0].host,
        ]
    finally:
        dist.destroy_process_group()


def test_after_a_failure_a_rank_checks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from training.nodecheck import check_alone

    cpu, not_tried = torch.device("cpu"), "an all-reduce was not tried: it needs all ranks, and some may be gone"
    speed, last = check_alone(None, cpu, 1.0)
    assert speed.endswith(" GFLOP/s in a matmul, 1e-09 before the run") and last == not_tried
    assert check_alone(None, cpu, 1e30)[0].startswith("computes slowly: ")
    assert "the GPU is throttled: temperature (hardware), 91 °C" in check_alone(BrokenGpu(), cpu, 1.0)

    def fail(*_arguments: object, **_named: object) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch, "mm", fail)
    assert check_alone(BrokenGpu(), cpu, 1.0)[-2:] == [
        "a matmul fails: AcceleratorError: CUDA error: unspecified launch failure",
        not_tried,
    ]
    hangs = threading.Event()
    monkeypatch.setattr(torch, "mm", lambda *_arguments, **_named: hangs.wait(60))
    assert check_alone(None, cpu, 1.0, limit_s=0.1) == ["a matmul does not end within 0 s", not_tried]
    hangs.set()

"""The numbers of a run: what is measured, what is absent, and what goes on after a restart."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sovereign.profile import Economics, Hardware
from training.energy import Gpu, GpuHealth
from training.shards import Shard, ShardWriter
from training.watch import Prices, Watch
from training.watch_heldout import GROUP_ROWS, NAME, Heldout

ECONOMICS = Economics(pue=1.5, electricity_price_per_kwh=0.2, gpu_hour_price=2.0, co2_g_per_kwh=100)


def alone(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """One rank's numbers."""
    return np.array([values])


class OneJoule:
    """A meter that counts a joule at each look."""

    def __init__(self) -> None:
        self.total = 0.0

    def energy_j(self) -> float:
        self.total += 1.0
        return self.total


def make_watch(**changes: object) -> Watch:
    """A watch of one rank: 2 FLOPs a token, 1000 FLOP/s, 10 tokens a step."""
    settings: dict[str, object] = {
        "flops_per_token": 2.0,
        "peak_flops": 1000.0,
        "measured_flops": 800.0,
        "num_devices": 4,
        "batch_tokens": 10,
        "prices": Prices(ECONOMICS, devices=4),
        "gather": alone,
        "meter": None,
        "gpu": None,
        "before": {},
    }
    return Watch(**(settings | changes))  # type: ignore[arg-type]


def steps(watch: Watch, waits_s: Sequence[float]) -> None:
    """Steps that wait for their rows so long."""
    for wait_s in waits_s:
        with watch.waiting_for_data():
            end = time.perf_counter() + wait_s
            while time.perf_counter() < end:
                pass
        watch.step_ends()


def test_speed_step_times_and_waiting() -> None:
    watch = make_watch()
    steps(watch, [0.01, 0.01, 0.01, 0.05])
    values = watch.numbers()
    assert values["tokens_per_s"] * values["elapsed_s"] == pytest.approx(40, rel=0.05)
    assert values["mfu"] == pytest.approx(values["tokens_per_s"] * 2 / 1000)
    assert values["tflops_per_device"] == pytest.approx(values["tokens_per_s"] * 2 / 4 / 1e12)
    assert values["of_matmul_ceiling"] == pytest.approx(values["mfu"] * 1000 / 800)
    assert values["data_wait_s"] >= 0.02
    assert 0.01 <= values["step_p50_s"] <= values["step_p95_s"] <= values["step_max_s"]
    assert values["step_max_s"] >= 0.05
    assert 0.01 < values["memory_gb"] < 100
    steps(watch, [0.0])
    assert watch.numbers()["data_wait_s"] < 0.01, "a number must count from the last one"


def test_t21_a_machine_that_stood_still_between_steps_shows_in_the_longest_step() -> None:
    now = [0.0]
    watch = make_watch(clock=lambda: now[0])
    for pause_s in (0.0, 0.0, 60.0, 0.0):
        now[0] += pause_s  # after a step, while something is recorded or saved
        with watch.waiting_for_data():
            now[0] += 0.1
        now[0] += 0.4
        watch.step_ends()
    values = watch.numbers()
    assert values["step_max_s"] == pytest.approx(60.5)
    assert values["step_p50_s"] == values["step_p95_s"] == pytest.approx(0.5)


def test_what_cannot_be_measured_is_absent() -> None:
    watch = make_watch()
    steps(watch, [0.0])
    values = watch.numbers()
    assert not {"energy_kwh", "co2_kg", "cost_energy", "gpu_power_w", "gpu_memory_gb", "gpu_xids"} & set(values)
    assert values["cost_devices"] == pytest.approx(values["elapsed_s"] / 3600 * 4 * 2.0)


def test_energy_and_cost_go_on_after_a_restart() -> None:
    watch = make_watch(meter=OneJoule(), before={"elapsed_s": 3600.0, "energy_kwh": 10.0})
    steps(watch, [0.0])
    values = watch.numbers()
    assert values["energy_kwh"] == pytest.approx(10 + 2 / 3.6e6, rel=1e-12)
    assert values["cost_energy"] == pytest.approx(10 * 1.5 * 0.2, rel=1e-4)
    assert values["co2_kg"] == pytest.approx(10 * 1.5 * 0.1, rel=1e-4)
    assert 3600 < values["elapsed_s"] < 3700 and values["cost_devices"] == pytest.approx(8.0, rel=0.01)


class HotGpu(Gpu):
    """A GPU that is throttled, with one XID error."""

    def __init__(self) -> None:
        """Without NVML."""

    def health(self) -> GpuHealth:
        return GpuHealth(80.0, 500.0, 0.0, ("power brake",))

    def new_xids(self) -> list[int]:
        return [13]


def test_ranks_are_added_up_where_they_know(capsys: pytest.CaptureFixture[str]) -> None:
    def two(values: Sequence[float]) -> npt.NDArray[np.float64]:
        names = ("data_wait_s", "memory_bytes", "gpu_memory_bytes", "gpu_temperature_c", "gpu_throttled")
        other = dict(zip((*names, "gpu_ecc_errors", "gpu_xids", "gpu_power_w", "energy_j"), values, strict=True))
        other |= {"data_wait_s": 7.0, "gpu_power_w": 200.0, "gpu_throttled": 0.0, "energy_j": float("nan")}
        return np.array([values, list(other.values())])

    watch = make_watch(gpu=HotGpu(), meter=OneJoule(), gather=two)
    steps(watch, [0.0])
    values = watch.numbers()
    assert (values["data_wait_s"], values["gpu_power_w"], values["gpu_throttled"]) == (7.0, 700.0, 1.0)
    assert (values["gpu_xids"], values["gpu_temperature_c"], values["gpu_ecc_errors"]) == (2.0, 80.0, 0.0)
    assert values["energy_kwh"] == pytest.approx(2 / 3.6e6)
    assert "XID error 13" in capsys.readouterr().err


def test_prices_are_for_gpus_or_machines() -> None:
    assert Prices.of(ECONOMICS, Hardware(nodes=3, gpus_per_node=8, accelerator="H100")).devices == 24
    assert Prices.of(ECONOMICS, Hardware(nodes=3)).devices == 3


@pytest.fixture
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    """Two shards: English tokens are 1 with 4 bytes each, French ones 2 with 2 bytes, `wiki` also has a tiny text."""
    folder, paths = tmp_path_factory.mktemp("shards"), []
    for number in range(2):
        paths.append(folder / f"{number}.bin")
        with ShardWriter(paths[-1], 100, 0) as writer:
            for document in range(40):
                name = f"{number}-{document}"
                writer.add([1] * 9, doc_id=f"news/{name}", language="en", owners=["a"], licence="CC0-1.0", num_bytes=40)
                writer.add([2] * 9, doc_id=f"law/{name}", language="fr", owners=["a"], licence="CC0-1.0", num_bytes=20)
            writer.add([3] * 5, doc_id=f"wiki/{number}", language="zh", owners=["a"], licence="CC0-1.0", num_bytes=12)
    return [Shard(path) for path in paths]


def test_held_out_text_is_measured_by_language_and_dataset(shards: list[Shard]) -> None:
    asked: list[npt.NDArray[np.int64]] = []

    def evaluate(rows: npt.NDArray[np.int64]) -> float:
        asked.append(rows)
        return float(np.log(2) * rows.max())  # 1 bit a token for English, 2 for French, 3 for Chinese

    values = Heldout(shards, 16).measure(evaluate)
    assert values == pytest.approx(
        {
            NAME: 3 / (2 * (40 * 60 + 12) / 1612),
            f"{NAME}/language/en": 1 / 4,
            f"{NAME}/language/fr": 2 / 2,
            f"{NAME}/language/zh": 3 / 2,
            f"{NAME}/dataset/news": 1 / 4,
            f"{NAME}/dataset/law": 2 / 2,
            f"{NAME}/dataset/wiki": 3 / 2,
        }
    )
    assert asked[0].shape == (64, 16)
    groups = asked[1:]
    assert [rows.shape for rows in groups if rows.max() < 3] == [(GROUP_ROWS, 16)] * 4
    assert [rows.shape for rows in groups if rows.max() == 3] == [(1, 12)] * 2, "less than a row is one short row"


def test_rows_come_from_all_shards_alike(tmp_path: Path) -> None:
    """Ten shards, each with tokens of its own number; one of them has most of the text."""
    shards = []
    for number in range(10):
        with ShardWriter(tmp_path / f"{number}.bin", 100, 10) as writer:
            for document in range(1600 if number == 5 else 100):
                writer.add(
                    [number] * 7, doc_id=f"a/{document}", language="en", owners=["a"], licence="CC0-1.0", num_bytes=7
                )
        shards.append(Shard(tmp_path / f"{number}.bin"))
    asked: list[npt.NDArray[np.int64]] = []

    def evaluate(rows: npt.NDArray[np.int64]) -> float:
        asked.append(rows)
        return 1.0

    Heldout(shards, 16).measure(evaluate)
    assert asked[0].shape == (64, 16)
    counts = np.bincount(asked[0].ravel(), minlength=11)[:10] / 14  # of 16 tokens 2 are end marks
    assert counts[5] == pytest.approx(64 * 16 / 25, abs=1)
    assert np.delete(counts, 5) == pytest.approx(np.full(9, 64 / 25), abs=1)
    assert all(set(rows.ravel()) == set(range(11)) for rows in asked[1:]), "8 rows of 2 documents, of shards in turn"


def test_memory_for_held_out_rows_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.bin", 100, 0) as writer:
        for document in range(100):
            writer.add([1] * 999, doc_id=f"a/{document}", language="en", owners=["a"], licence="CC0-1.0", num_bytes=999)
    shard = Shard(tmp_path / "a.bin")
    tracemalloc.start()
    Heldout([shard] * 40, 4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 64 * 4000 * 8, "all shards' first rows would be 40 times 64 rows"


def test_sec18_joules_per_million_tokens_are_of_the_steps_since_the_last_line() -> None:
    meter = OneJoule()
    watch = make_watch(meter=meter)
    steps(watch, [0.0] * 5)
    first = watch.numbers()
    assert first["joules_per_million_tokens"] == pytest.approx(meter.total / 50 * 1e6)
    before = meter.total
    steps(watch, [0.0] * 2)
    second = watch.numbers()
    assert second["joules_per_million_tokens"] == pytest.approx((meter.total - before) / 20 * 1e6)
    unmetered = make_watch()
    steps(unmetered, [0.0])
    assert "joules_per_million_tokens" not in unmetered.numbers()

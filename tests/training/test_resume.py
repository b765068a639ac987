"""Training goes on after kills at random moments bit by bit, and on other numbers of ranks nearly so.

Drawn moments: SOVEREIGN_SEED repeats a run's draw. Kills for each combination in `make drill`: SOVEREIGN_DRILL_MOMENTS.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.receipts import Receipt
from training import environment
from training.campaign import COMBINATIONS, TRAIN, Campaign, Moment, kill_ranks, main, outcome
from training.forked import NUM_STEPS, TINY, finish, fork, start_ranks, write_profile
from training.manifest import rank_file
from training.order import TokenStream
from training.shards import Shard

KILLS = 2
DRILL_KILLS = int(os.environ.get("SOVEREIGN_DRILL_MOMENTS", "20"))
SEED = int(os.environ.get("SOVEREIGN_SEED") or random.SystemRandom().randrange(10**6))
TOLERANCE = 1e-5
"""Nats: how far a step's loss may be from the undisturbed run's after other numbers of ranks (docs/training.md)."""
STEPS, BATCH, LENGTH = 24, 256, 64


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize(("zero_stage", "num_ranks"), COMBINATIONS)
def test_killed_at_random_moments_ends_the_same(campaign: Campaign, zero_stage: int, num_ranks: int) -> None:
    print(f"SOVEREIGN_SEED={SEED}")
    line = campaign.trial(zero_stage, num_ranks, f"{SEED}-{zero_stage}-{num_ranks}", kills=KILLS)
    assert_resumed_the_same(line)


def assert_resumed_the_same(line: dict[str, Any]) -> None:
    """The first kill took a running process between a checkpoint and the last step, the run resumed, all is equal."""
    print(json.dumps(line))
    first = line["kills"][0]
    assert first["was_running"] and TINY["training"]["checkpoint_every_steps"] <= first["steps_done"] < NUM_STEPS
    assert line["resumed_from"] >= TINY["training"]["checkpoint_every_steps"]
    assert line["differs"] == []


@pytest.mark.drill
@pytest.mark.parametrize(("zero_stage", "num_ranks"), COMBINATIONS)
def test_killed_many_times_ends_the_same(campaign: Campaign, zero_stage: int, num_ranks: int) -> None:
    print(f"SOVEREIGN_SEED={SEED}")
    for number in range(DRILL_KILLS // KILLS):
        line = campaign.trial(zero_stage, num_ranks, f"{SEED}-{zero_stage}-{num_ranks}-{number}", kills=KILLS)
        assert_resumed_the_same(line)


class Soonest(random.Random):
    """Draws the least of everything, and so that the disk is lost."""

    def random(self) -> float:
        return 0.0


def test_a_rank_is_killed_before_it_made_its_folder(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("making the model")
    killed = kill_ranks(tmp_path, [fork(time.sleep, 60)], Soonest(), Moment(step=0, delay_s=0.0))
    assert killed == {
        "step": 0,
        "delay_s": 0.0,
        "after_commit": False,
        "was_running": True,
        "steps_done": 0,
        "disk_lost": True,
    }


def test_a_campaign_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--kills", "0", "--seed", "7"]) == 0
    kills = [{"step": 3, "delay_s": 0.1, "was_running": True, "disk_lost": False}]
    line = {"zero_stage": 2, "ranks": 1, "seed": "7-0", "kills": kills, "resumed_from": None, "differs": ["losses"]}
    (tmp_path / "kills.jsonl").write_text(json.dumps(line) + "\n")
    assert main([str(tmp_path), "--kills", "1"]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["kills"], summary["different"], summary["by_combination"]["ZeRO-2 x 1"]) == (1, ["7-0"], 1)


@pytest.mark.parametrize(
    "zero_stages", [(0, 2, 3, 0), *(pytest.param((stage,) * 4, marks=pytest.mark.drill) for stage in (1, 2, 3))]
)
def test_other_numbers_of_ranks_go_on(zero_stages: tuple[int, ...], tokens: Path, tmp_path: Path) -> None:
    """1 → 2 → 4 → 1 ranks, in turn stopped and started by a changed profile, against one rank that nobody disturbed."""
    roots = {name: Path(shutil.copytree(tokens, tmp_path / name / "store")) for name in ("whole", "moved")}
    train(roots["whole"], zero_stage=1, pods=1)
    for number, pods in enumerate((1, 2, 4)):
        train(roots["moved"], zero_stage=zero_stages[number], pods=pods, stop_after=2 + 4 * number)
    train(roots["moved"], zero_stage=zero_stages[3], pods=1)
    history = Receipt.from_bytes((roots["moved"] / TRAIN / "receipt.json").read_bytes()).metrics["history"]
    layouts = [(part["world_size"], part["zero_stage"]) for part in history]
    assert layouts == list(zip((1, 2, 4, 1), zero_stages, strict=True))
    begins = [int(part["from_step"]) for part in history]
    assert begins[0] == 0 and begins == sorted(set(begins))
    configs = [next(roots["moved"].glob(f"models/tiny/runs/*/deepspeed-{begin:08}.json")) for begin in begins]
    given = [json.loads(path.read_text()) for path in configs]
    assert tuple(config["zero_optimization"]["stage"] for config in given) == zero_stages
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    sizes = [[config[name] for name in names] for config in given]
    assert [batch // (micro_batch * accumulation) for batch, micro_batch, accumulation in sizes] == [1, 2, 4, 1]
    whole, moved = outcome(roots["whole"]), outcome(roots["moved"])
    assert len(whole.losses) == len(moved.losses) == STEPS
    furthest = max(abs(one - other) for one, other in zip(whole.losses, moved.losses, strict=True))
    usual = float(np.abs(np.diff(whole.losses)).mean())
    print(json.dumps({"from_steps": begins, "furthest_nats": furthest, "usual_change_in_a_step": usual}))
    assert furthest < TOLERANCE < usual / 10, "a step on other tokens would be told by its loss"
    assert consumed(tokens, begins) == list(range(STEPS * BATCH))


def train(root: Path, *, zero_stage: int, pods: int, stop_after: int | None = None) -> None:
    """Train in the store `root`; with `stop_after`, SIGTERM after the checkpoint of that step."""
    folder = root.parent
    profile = write_profile(
        folder / "profile.json",
        tokens=STEPS * BATCH,
        checkpoint_every_steps=1,
        learning_rate=1e-3,  # at the profile's 4e-3 the tiny model is near divergence: any difference grows quickly
        zero_stage=zero_stage,
        pods=pods,
    )
    shutil.rmtree(folder / "work", ignore_errors=True)
    processes = start_ranks(profile, root, folder / "work", folder / "log", pods)
    if stop_after is not None:
        wanted = f"step-{stop_after:08}"
        while all(process.is_alive() for process in processes):
            if any(path.parent.name >= wanted for path in root.glob(f"{TRAIN}/checkpoints/*/*/COMMIT")):
                processes[-1].terminate()
                break
            time.sleep(0.002)
    codes = finish(processes)
    assert codes == [143 if stop_after else 0] * pods, (folder / "log").read_text()[-3000:]


def consumed(tokens: Path, begins: list[int]) -> list[int]:
    """Places of the token stream in the order in which the ranks of each stretch took them, by their own rows."""
    shards = [Shard(path) for path in sorted(tokens.glob("models/tiny/tokens/train-*.bin"))]
    stream = TokenStream(shards, 0)
    whole = stream.read(0, STEPS * BATCH)
    places: list[int] = []
    for (begin, end), pods in zip(zip(begins, [*begins[1:], STEPS], strict=True), (1, 2, 4, 1), strict=True):
        for step in range(begin, end):
            parts = [stream.rows(step, BATCH // LENGTH, LENGTH, rank=rank, world_size=pods) for rank in range(pods)]
            taken = np.concatenate(parts).ravel()
            start = step * BATCH
            assert np.array_equal(taken, whole[start : start + BATCH])
            places += range(start, start + BATCH)
    return places


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_random_states_and_weights_in_bf16_come_back(zero_stage: int, tmp_path: Path) -> None:
    """The stage trains in bf16 on GPUs only; the engine can on CPU too."""
    process = fork(_go_on_in_bf16, zero_stage, tmp_path)
    assert finish([process]) == [0]


def _go_on_in_bf16(zero_stage: int, folder: Path) -> None:
    from safetensors.torch import save_file

    from training.engine import Engine, join
    from training.fragments import FragmentReader

    join(environment.prepare(folder, threads=1, world_size=1))
    tiny = plan(load_profile(write_profile(folder / "profile.json", zero_stage=zero_stage)))
    resolved = tiny.model_copy(update={"recipe": tiny.recipe.model_copy(update={"precision": "bf16"})})
    rows = np.random.default_rng(0).integers(0, 600, (3, 4, LENGTH))
    one, other = Engine(resolved, print), Engine(resolved, print)
    for step in (0, 1):
        one.step(step, rows[step])
    torch.manual_seed(99)
    random_state = torch.get_rng_state()
    save_file(one.state(), folder / rank_file(0))
    torch.manual_seed(1)
    with FragmentReader(folder, {rank_file(0): one.spans()}) as reader:
        other.load_state(reader, reader.random(rank_file(0)))
    assert torch.equal(torch.get_rng_state(), random_state)
    weights = one.weights()
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert all(torch.equal(value, other.weights()[name]) for name, value in weights.items())
    assert one.step(2, rows[2]) == other.step(2, rows[2])

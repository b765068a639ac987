"""Steps that are left out: the rule, the engine that leaves them out, and a run that goes on after one."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.receipts import Receipt
from tests.training.conftest import Start, events
from training.forked import run_rank
from training.watch_spikes import WINDOW_STEPS, Divergence, SpikeGuard

TIMEOUT_S = 240
COMMITTED = "models/tiny/train/checkpoints/*/step-00000004/COMMIT"


def steady(guard: SpikeGuard, steps: int, seed: int = 0) -> None:
    """Let the guard see ordinary steps: loss 2 ± 0.1, gradient norm 1 ± 0.1."""
    numbers = random.Random(seed)
    for _ in range(steps):
        assert guard.admits(numbers.gauss(2, 0.1), numbers.gauss(1, 0.1))


@pytest.mark.parametrize(
    ("loss", "norm", "is_admitted"), [(2.3, 1.3, True), (2.9, 1, False), (2, 1.9, False), (0, 0, True)]
)
def test_six_sigma_above_the_window_is_left_out(loss: float, norm: float, is_admitted: bool) -> None:
    guard = SpikeGuard()
    steady(guard, WINDOW_STEPS)
    assert guard.admits(loss, norm) == is_admitted


def test_nothing_is_judged_before_there_is_half_a_window() -> None:
    guard = SpikeGuard()
    steady(guard, WINDOW_STEPS // 2 - 1)
    assert guard.admits(100, 100)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_a_number_is_never_admitted_nor_remembered(number: float) -> None:
    guard = SpikeGuard()
    assert not guard.admits(number, 1) and not guard.admits(1, number)
    assert guard.state() == {"losses": [], "gradient_norms": []}


def test_a_lasting_change_is_accepted_after_a_while() -> None:
    guard = SpikeGuard()
    steady(guard, WINDOW_STEPS)
    refused = [guard.admits(4.0, 1.0) for _ in range(WINDOW_STEPS)].count(False)
    assert 1 <= refused < WINDOW_STEPS // 4


def test_a_guard_from_a_checkpoint_decides_alike() -> None:
    guard = SpikeGuard()
    steady(guard, 100)
    other = SpikeGuard()
    other.load_state(json.loads(json.dumps(guard.state())))
    numbers = random.Random(1)
    for _ in range(2 * WINDOW_STEPS):
        loss, norm = numbers.gauss(2, 0.4), numbers.gauss(1, 0.4)
        assert guard.admits(loss, norm) == other.admits(loss, norm)
    assert guard.state() == other.state()


def test_t20_a_loss_far_above_the_first_is_said_once_and_at_the_end() -> None:
    """The run that was reported: learning rate 0.99, loss 6.9, 670, 134."""
    guard = Divergence()
    said = [guard.add(step, loss) for step, loss in enumerate([6.9, 6.8, 670.0, 400.0, 134.0], start=1)]
    assert [text is not None for text in said] == [False, False, True, False, False]
    assert said[2] is not None and "670" in said[2] and "step 3" in said[2] and "learning_rate" in said[2]
    verdict = guard.verdict()
    assert verdict is not None and verdict.startswith("training diverged") and "6.9" in verdict


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([6.9, 6.0, 5.0, 4.0], None),
        ([6.9, 7.6, 5.0, 4.0], None),  # a batch above the first is ordinary
        ([0.2, 0.5, 0.3, 0.1], None),  # so it is where a base has little left to learn
        ([6.9, 40.0, 5.0, 4.0, 4.0, 4.0], "on its way"),
        ([6.9, 6.95, 6.93, 6.94], "diverged"),
        ([6.9], None),
    ],
)
def test_t20_verdict_of_a_run(losses: list[float], word: str | None) -> None:
    guard = Divergence()
    for step, loss in enumerate(losses, start=1):
        guard.add(step, loss)
    verdict = guard.verdict()
    assert verdict is None if word is None else verdict is not None and word in verdict
    resumed = Divergence(losses)
    assert resumed.verdict() == verdict


def _train_with_refusal(profile: Path, folder: Path, stage: int, rank: int, world_size: int, port: str) -> None:
    """Train 5 steps; rank 0's judge refuses the third one where the environment says so, and traces go to `folder`."""
    from training.engine import Engine, join
    from training.environment import RENDEZVOUS, Ranks

    os.environ.update(zip(RENDEZVOUS, (str(rank), str(world_size), "0", "127.0.0.1", port), strict=True))
    join(Ranks(rank, world_size, 0))
    resolved = plan(load_profile(profile))
    recipe = resolved.recipe.model_copy(
        update={"zero_stage": stage, "world_size": world_size, "grad_accumulation": 2, "micro_batch": 2 // world_size}
    )
    rows = np.random.default_rng(0).integers(0, resolved.model.vocab_size, (5, 4, resolved.model.sequence_length))
    traces: list[dict[str, bool]] = []
    states = []
    for is_judged in (False, True):
        engine = Engine(resolved.model_copy(update={"recipe": recipe}), print)
        for step in range(5):
            before = engine.state() if step == 2 else {}
            judge = (lambda _loss, _norm, step=step: not (rank == 0 and step == 2)) if is_judged else None
            if step == 2 and not is_judged:
                states.append(before)
            result = engine.step(step, rows[step][rank::world_size], judge)
            if step == 2 and is_judged:
                after = engine.state()
                same = set(before) == set(after) and all(bool((before[name] == after[name]).all()) for name in before)
                states.append(after)
                traces.append({"same_state": same, "is_taken": result.is_taken, "is_finite": result.is_finite})
            elif is_judged:
                assert result.is_taken
    same_weights = all(bool((states[0][name] == states[1][name]).all()) for name in states[0])
    (folder / f"{rank}.json").write_text(json.dumps(traces[0] | {"same_weights": same_weights}))


@pytest.mark.parametrize(("stage", "world_size"), [(1, 1), (2, 2), (3, 2)])
def test_a_refused_step_changes_nothing_and_judged_steps_are_as_without_a_judge(
    stage: int, world_size: int, start_training: Start, profile_file: Path, tmp_path: Path
) -> None:
    """Weights before the refused step equal, bit for bit, those of an engine that nobody judges."""
    from training.environment import free_port

    port = str(free_port())
    processes = [
        multiprocessing.get_context("forkserver").Process(
            target=_train_with_refusal, args=(profile_file, tmp_path, stage, rank, world_size, port)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
    assert [process.exitcode for process in processes] == [0] * world_size
    for rank in range(world_size):
        trace = json.loads((tmp_path / f"{rank}.json").read_text())
        assert trace == {"same_state": True, "is_taken": False, "is_finite": True, "same_weights": True}


def _train_strictly(profile: Path, root: Path, workdir: Path, log: Path, environment: Mapping[str, str]) -> None:
    """Stage `train` with a rule that leaves out what does not fall fast enough: some of twelve ordinary steps."""
    from training import watch_spikes

    watch_spikes.SIGMA, watch_spikes._NEEDED_STEPS = -1.0, 3
    run_rank(profile, root, workdir, log, environment)


def test_a_run_that_leaves_steps_out_resumes_bit_identically(
    start_training: Start, profile_file: Path, tokens: Path, tmp_path: Path
) -> None:
    """The window comes back with the checkpoint: without it, the resumed run would not refuse for a while."""
    records = []
    for name, is_resumed in (("whole", False), ("resumed", True)):
        root = Path(shutil.copytree(tokens, tmp_path / name))
        log = tmp_path / f"{name}.log"
        for _ in range(2 if is_resumed else 1):
            process = multiprocessing.get_context("forkserver").Process(
                target=_train_strictly, args=(profile_file, root, tmp_path / f"{name}-work", log, {})
            )
            process.start()
            if is_resumed and not any(root.glob(COMMITTED)):
                while process.is_alive() and not any(root.glob(COMMITTED)):
                    process.join(0.02)
                process.kill()
            process.join(TIMEOUT_S)
        assert process.exitcode == 0, events(log)
        lines = map(json.loads, (root / "models/tiny/train/metrics.jsonl").read_text().splitlines())
        records.append([(line["loss"], line["gradient_norm"], line["is_skipped"]) for line in lines if "loss" in line])
        model = (root / "models/tiny/train/model/model.safetensors").read_bytes()
        records[-1].append(model)  # type: ignore[arg-type]
        metrics = Receipt.from_bytes((root / "models/tiny/train/receipt.json").read_bytes()).metrics
        assert metrics["steps_skipped"] > 0 and bool(metrics["resumed_from"]) == is_resumed
    assert records[0] == records[1]
    skipped = [line[2] for line in records[0][:-1]]
    assert any(skipped[metrics["resumed_from"] :]), "choose other numbers: nothing was left out after the resume"

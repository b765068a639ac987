"""Stage `train`: the training loop.

    python -m sovereign.stages run train --profile FILE --store URL --workdir DIR

Alone it is one rank; with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set (torchrun, or the Job's
template) it is one of several, and only rank 0 reports and stores. SIGTERM makes a checkpoint and ends with exit code
143; started again, it goes on from the newest checkpoint of the same configuration and data.
"""

from __future__ import annotations

import json
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sovereign.errors import TrainingError
from sovereign.files import write_atomic
from sovereign.plan import Plan, Recipe
from sovereign.profile import Profile
from sovereign.receipts import stage_key
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.checkpoint import METRICS, WEIGHTS, Checkpoints, rank_file
from training.deepspeed_config import render
from training.environment import Ranks
from training.order import TokenStream
from training.schedule import learning_rate
from training.shards import Shard
from training.tracking import MlflowLog, Record

if TYPE_CHECKING:
    from training.engine import Engine

HELDOUT_ROWS = 64
"""Rows of held-out text that are measured before and after training."""
LOGGED_STEPS = 1000
"""Lines in metrics.jsonl, about, however long the run."""
_REPORT_EVERY_S = 1.0


class TrainingStopped(TrainingError):
    """Training was asked to stop and has left a checkpoint."""

    exit_code = 128 + signal.SIGTERM


@dataclass
class _Run:
    """What the loop works with."""

    context: StageContext
    ranks: Ranks
    engine: Engine
    stream: TokenStream
    bytes_per_token: float
    heldout: Callable[[], float]
    checkpoints: Checkpoints
    record: Record
    mlflow: MlflowLog
    stop: threading.Event
    first_step: int

    @property
    def recipe(self) -> Recipe:
        return self.context.plan.recipe


def _run(context: StageContext) -> StageOutput:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    recipe = context.plan.recipe
    ranks = environment.prepare(context.workdir, threads=recipe.threads, world_size=recipe.world_size)
    say = context.progress if ranks.is_first else _say_nothing
    say("starting")
    run = _start(context, ranks, say, stop)
    status = "FAILED"
    try:
        if run.first_step == 0:
            run.record.add({"step": 0, "heldout_bits_per_byte": run.heldout()})
        _loop(run, say)
        run.record.add({"step": recipe.num_steps, "heldout_bits_per_byte": run.heldout()})
        status = "FINISHED"
    except TrainingStopped:
        status = "KILLED"
        raise
    finally:
        run.checkpoints.close(forget_other_runs=status == "FINISHED")
        run.mlflow.close(status)
    return _export(run)


def _start(context: StageContext, ranks: Ranks, say: Callable[..., None], stop: threading.Event) -> _Run:
    """Load data, model and the newest checkpoint."""
    from safetensors.torch import load_file

    from training.engine import Engine, gather, join

    train, heldout = _shards(context, "train"), _shards(context, "heldout")
    digest = stage_key("train", STAGE_VERSION, _config(context.profile, context.plan), context.inputs)
    join(ranks)
    checkpoints = Checkpoints(
        context.store,
        f"models/{context.dataset}/train/checkpoints/",
        context.workdir / "checkpoints",
        digest,
        ranks,
        gather=gather,
        warn=say,
    )
    found = checkpoints.newest()
    folder = found[0] if found else None
    first_step = found[1].step if found else 0
    say(f"going on from step {first_step}" if found else "making the model")
    engine = Engine(context.plan, load_file(folder / WEIGHTS) if folder and ranks.is_first else None, say)
    if folder:
        engine.load_rank_state(load_file(folder / rank_file(ranks.rank)))
    record = Record(context.workdir / METRICS, folder / METRICS if folder and ranks.is_first else None)
    mlflow = MlflowLog(context.dataset, digest, _parameters(context.plan), warn=say, enabled=ranks.is_first)
    bytes_per_token = sum(int(shard.num_bytes.sum()) for shard in train) / sum(shard.num_tokens for shard in train)
    stream = TokenStream(train, context.plan.recipe.seed)
    measure = _heldout_measure(engine, heldout, context.plan.model.sequence_length)
    return _Run(context, ranks, engine, stream, bytes_per_token, measure, checkpoints, record, mlflow, stop, first_step)


def _loop(run: _Run, say: Callable[..., None]) -> None:
    """All steps that are left.

    Raises:
        TrainingStopped: after SIGTERM, with a checkpoint made.
        TrainingError: the loss is not a number any more.
    """
    recipe, ranks = run.recipe, run.ranks
    length = run.context.plan.model.sequence_length
    num_rows = recipe.batch_tokens // length
    log_every = max(1, recipe.num_steps // LOGGED_STEPS)
    saved = run.first_step
    last_report = logged_at = time.monotonic()
    for step in range(run.first_step, recipe.num_steps):
        rows = run.stream.rows(step, num_rows, length, rank=ranks.rank, world_size=ranks.world_size)
        own_loss, gradient_norm = run.engine.step(step, rows)
        loss, is_stopped = run.engine.share(own_loss, run.stop.is_set())
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step}", hint="lower training.learning_rate")
        done, now = step + 1, time.monotonic()
        if done % log_every == 0:
            line = {
                "step": done,
                "loss": loss,
                "bits_per_byte": loss / math.log(2) / run.bytes_per_token,
                "gradient_norm": gradient_norm,
                "learning_rate": learning_rate(recipe, step),
                "tokens_per_s": log_every * recipe.batch_tokens / (now - logged_at),
            }
            logged_at = now
            run.record.add(line)
            run.mlflow.add(done, line)
        if done % recipe.checkpoint_every_steps == 0 or done == recipe.num_steps or is_stopped:
            _save(run, done)
            saved = done
        if is_stopped and done < recipe.num_steps:
            raise TrainingStopped(f"stopped after {done} of {recipe.num_steps} steps", hint="start it again to go on")
        if run.record.lines and (now - last_report >= _REPORT_EVERY_S or done == recipe.num_steps):
            last_report = now
            say("training", done=done, total=recipe.num_steps, unit="steps", metrics=_shown(run, done, saved))


def _say_nothing(_message: str = "", **_: Any) -> None:
    """Progress of all ranks but the first."""


def _shown(run: _Run, done: int, saved: int) -> dict[str, float]:
    """Numbers for people: the last line of the record, and the time left at the recent speed."""
    recent = [line["tokens_per_s"] for line in run.record.lines[-20:] if "tokens_per_s" in line]
    if not recent:
        return {}
    speed = statistics.median(recent)
    left = (run.recipe.num_steps - done) * run.recipe.batch_tokens / speed
    names = ("loss", "bits_per_byte", "learning_rate")
    shown = {name: run.record.lines[-1][name] for name in names if name in run.record.lines[-1]}
    return shown | {"tokens_per_s": round(speed), "seconds_left": round(left), "checkpoint_step": saved}


def _save(run: _Run, done: int) -> None:
    tensors = {rank_file(run.ranks.rank): run.engine.rank_state()}
    weights = run.engine.weights()
    if run.ranks.is_first:
        tensors[WEIGHTS] = weights
    run.checkpoints.save(done, tensors, run.record.path, run.context.plan.model_dump(mode="json"))


def _shards(context: StageContext, split: str) -> list[Shard]:
    prefix = f"models/{context.dataset}/tokens/{split}-"
    return [Shard(context.fetch(key)) for key in sorted(context.inputs) if key.startswith(prefix)]


def _heldout_measure(engine: Engine, shards: Sequence[Shard], length: int) -> Callable[[], float]:
    """A function that measures bits per byte on the first held-out rows; a short rest is left out."""
    import numpy as np

    tokens = np.concatenate([shard.tokens[: HELDOUT_ROWS * length] for shard in shards]).astype(np.int64)
    num_rows = min(HELDOUT_ROWS, len(tokens) // length)
    if num_rows == 0:
        raise TrainingError(
            "there is too little held-out text to measure anything",
            got=f"{len(tokens)} tokens",
            expected=f"at least model.sequence_length = {length}",
            hint="raise corpus.cleaning.heldout_fraction, or add text",
        )
    rows = tokens[: num_rows * length].reshape(num_rows, length)
    bytes_per_token = sum(int(shard.num_bytes.sum()) for shard in shards) / sum(shard.num_tokens for shard in shards)
    return lambda: engine.evaluate(rows) / math.log(2) / bytes_per_token


def _export(run: _Run) -> StageOutput:
    """The model's folder and the run's record; nothing on other ranks than the first."""
    weights = run.engine.weights()
    if not run.ranks.is_first:
        return StageOutput()
    from training.model import save_model

    context, folder = run.context, run.context.workdir / "export"
    prefix = f"models/{context.dataset}/tokens/"
    tokenizer = [context.fetch(key) for key in sorted(context.inputs) if key.startswith(prefix) and ".bin" not in key]
    model_files = save_model(run.engine.model, weights, tokenizer, folder)
    write_atomic(context.workdir / "plan.json", context.plan.model_dump_json(indent=2) + "\n")
    write_atomic(context.workdir / "deepspeed.json", json.dumps(render(run.recipe), indent=2) + "\n")
    prefix = f"models/{context.dataset}/train/"
    files = {f"{prefix}model/{path.name}": path for path in model_files}
    files |= {prefix + name: context.workdir / name for name in (METRICS, "plan.json", "deepspeed.json")}
    return StageOutput(files, _summary(run))


def _summary(run: _Run) -> dict[str, Any]:
    heldout = [line["heldout_bits_per_byte"] for line in run.record.lines if "heldout_bits_per_byte" in line]
    steps = [line for line in run.record.lines if "loss" in line]
    speeds = [line["tokens_per_s"] for line in steps[len(steps) // 20 :]]
    return {
        "steps": run.recipe.num_steps,
        "tokens": run.recipe.num_tokens,
        "parameters": run.context.plan.num_parameters,
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        "bits_per_byte_before": heldout[0],
        "bits_per_byte_after": heldout[-1],
        "tokens_per_s": round(statistics.median(speeds)),
        "resumed_from": run.first_step or None,
        "mlflow_run_id": run.mlflow.run_id,
    }


def _parameters(plan: Plan) -> dict[str, Any]:
    return {"parameters": plan.num_parameters} | plan.model.model_dump() | plan.recipe.model_dump()


def _config(_profile: Profile, plan: Plan) -> Mapping[str, Any]:
    recipe = plan.recipe.model_dump(exclude={"max_eval_questions", "checkpoint_every_steps"})
    return {"model": plan.model.model_dump(), "recipe": recipe}


STAGE_VERSION = 1
train = Stage(
    name="train",
    run=_run,
    needs=("tokenize",),
    config=_config,
    prefix="models/{dataset}/train/",
    version=STAGE_VERSION,
)

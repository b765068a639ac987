"""Stage `train`: the training loop.

    python -m sovereign.stages run train --profile FILE --store URL --workdir DIR

Alone it is one rank; with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set (training/launch.py, or the
Job's template) it is one of several, and only rank 0 reports and stores; a rank that lost another one ends with exit
code 75. SIGTERM makes a checkpoint and ends with exit code 143; started again, it goes on from the newest checkpoint of
the same configuration and data, also on another number of ranks. Checkpoints lie below
`models/<dataset>/train/checkpoints/<first 8 digits of the run's digest>/` (training/checkpoint.py).
"""

from __future__ import annotations

import math
import signal
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sovereign.base import base_inputs
from sovereign.errors import TrainingError
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt, stage_key
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.resume import run_config
from training.schedule import learning_rate, phase_at
from training.stored import forget_other_runs

if TYPE_CHECKING:
    from training.engine import StepResult
    from training.session import Say, Session

VERSION = 6
LOGGED_STEPS = 1000
"""Lines in metrics.jsonl, about, however long the run."""
_REPORT_EVERY_S = 1.0
_RECENT_LINES = 20


class TrainingStopped(TrainingError):
    """Training was asked to stop and has left a checkpoint."""

    exit_code = 128 + signal.SIGTERM


@environment.among_peers()
def _run(context: StageContext) -> StageOutput:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    recipe = context.plan.recipe
    ranks = environment.prepare(context.workdir, threads=recipe.threads, world_size=recipe.world_size)
    say = context.progress
    say("starting")
    from training.session import start  # torch reads its environment when it is imported

    digest = stage_key("train", VERSION, _config(context.profile, context.plan), context.inputs)
    session = start(context, digest, ranks, say, stop)
    status, output = "FAILED", StageOutput()
    try:
        with session.watching.watchdog:
            _loop(session, say)
        output = session.export()
        status = "FINISHED"
    except TrainingStopped:
        status = "KILLED"
        raise
    finally:
        session.close(status, output)
    return output


def _loop(session: Session, say: Say) -> None:
    """All steps that are left.

    Raises:
        TrainingStopped: after SIGTERM, with a checkpoint made.
        TrainingError: loss or gradient is not a number.
    """
    recipe, ranks, watching = session.recipe, session.ranks, session.watching
    watch, watchdog = watching.watch, watching.watchdog
    log_every = max(1, recipe.num_steps // LOGGED_STEPS)
    reported_at = time.monotonic()
    steps = range(session.first_step, recipe.num_steps)
    batches = session.stream.read_ahead(
        steps,
        recipe.batch_tokens,
        lambda step: phase_at(recipe, step)[0].sequence_length,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    if session.first_step == 0:
        session.measure_heldout(0)
    for step in steps:
        watchdog.at(step, "reading rows")
        with watch.waiting_for_data():
            rows = next(batches)
        watchdog.at(step, "training")
        result = session.engine.step(step, rows, watching.spikes.admits, stop=session.stop.is_set())
        watch.step_ends()
        if not result.is_finite:
            raise watching.not_finite(step, result, session.stream, recipe.batch_tokens)
        done, now = step + 1, time.monotonic()
        if (problem := watching.divergence.add(done, result.loss)) and ranks.is_first:
            sys.stderr.write(f"warning: {problem}\n")
            say(f"warning: {problem}")
        is_last = done == recipe.num_steps
        watchdog.at(step, "recording and saving")
        if done % log_every == 0 or is_last or not result.is_taken:
            session.log(done, _values(session, step, result) | watch.numbers())
        if done % recipe.heldout_every_steps == 0 or is_last:
            session.measure_heldout(done)
        if done % recipe.checkpoint_every_steps == 0 or is_last or result.is_stopped:
            session.save(done)
        watching.runs.write("RUNNING", session.record, soon=True)
        if ranks.is_first and (now - reported_at >= _REPORT_EVERY_S or is_last):
            reported_at = now
            say("training", done=done, total=recipe.num_steps, unit="steps", metrics=_shown(session, done))
        if result.is_stopped and not is_last:
            raise TrainingStopped(f"stopped after {done} of {recipe.num_steps} steps", hint="start it again to resume")


def _values(session: Session, step: int, result: StepResult) -> dict[str, float]:
    """Numbers of the step itself."""
    values = {
        "loss": result.loss,
        "bits_per_byte": result.loss / math.log(2) / session.bytes_per_token,
        "gradient_norm": result.gradient_norm,
        "learning_rate": learning_rate(session.recipe, step),
        "is_skipped": float(not result.is_taken),
    }
    return values | ({"z_loss": result.z_loss} if session.recipe.z_loss else {})


def _shown(session: Session, done: int) -> dict[str, float]:
    """Numbers for people: the last line of the record, and the time left at the recent speed."""
    recent = [line for line in session.record.lines[-_RECENT_LINES:] if "loss" in line]
    if not recent:
        return {}
    speed = statistics.median(line["tokens_per_s"] for line in recent)
    left_s = (session.recipe.num_steps - done) * session.recipe.batch_tokens / speed
    shown: dict[str, float] = {name: recent[-1][name] for name in ("loss", "bits_per_byte", "learning_rate")}
    return shown | {"tokens_per_s": round(speed), "seconds_left": round(left_s)}


def _config(_profile: Profile, plan: Plan) -> Mapping[str, Any]:
    return run_config(plan)


def _forget_other_runs(context: StageContext, _receipt: Receipt) -> None:
    """The checkpoints of runs with another configuration go when this run's result is stored, and not before."""
    forget_other_runs(context.store, f"models/{context.dataset}/train/checkpoints/", context.key)


train = Stage(
    name="train",
    run=_run,
    needs=("tokenize",),
    config=_config,
    prefix="models/{dataset}/train/",
    version=VERSION,
    external_inputs=base_inputs,
    publish=_forget_other_runs,
)

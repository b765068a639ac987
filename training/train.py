"""Stage `train`: the training loop.

    python -m sovereign.stages run train --profile FILE --store URL --workdir DIR

Alone it is one rank; with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set (torchrun, or the Job's
template) it is one of several, and only rank 0 reports and stores. SIGTERM makes a checkpoint and ends with exit code
143; started again, it goes on from the newest checkpoint of the same configuration and data, also on another number of
ranks. Checkpoints lie below `models/<dataset>/train/checkpoints/<first 8 digits of the run's digest>/` (checkpoint.py).
"""

from __future__ import annotations

import math
import signal
import statistics
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sovereign.errors import TrainingError
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.receipts import stage_key
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.resume import run_config
from training.schedule import learning_rate

if TYPE_CHECKING:
    from training.session import Say, Session

VERSION = 3
LOGGED_STEPS = 1000
"""Lines in metrics.jsonl, about, however long the run."""
_REPORT_EVERY_S = 1.0
_RECENT_LINES = 20


class TrainingStopped(TrainingError):
    """Training was asked to stop and has left a checkpoint."""

    exit_code = 128 + signal.SIGTERM


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
    status = "FAILED"
    try:
        if session.first_step == 0:
            session.log(0, {"heldout_bits_per_byte": session.heldout_bits_per_byte()})
        _loop(session, say)
        session.log(recipe.num_steps, {"heldout_bits_per_byte": session.heldout_bits_per_byte()})
        status = "FINISHED"
    except TrainingStopped:
        status = "KILLED"
        raise
    finally:
        session.checkpoints.close(forget_other_runs=status == "FINISHED")
        session.mlflow.close(status)
    return session.export()


def _loop(session: Session, say: Say) -> None:
    """All steps that are left.

    Raises:
        TrainingStopped: after SIGTERM, with a checkpoint made.
        TrainingError: the loss is not a number any more.
    """
    recipe, ranks = session.recipe, session.ranks
    log_every = max(1, recipe.num_steps // LOGGED_STEPS)
    reported_at = logged_at = time.monotonic()
    steps = range(session.first_step, recipe.num_steps)
    batches = session.stream.read_ahead(
        steps,
        recipe.batch_tokens,
        lambda _step: session.sequence_length,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    for step, rows in zip(steps, batches, strict=True):
        own_loss, gradient_norm = session.engine.step(step, rows)
        loss, is_stopped = session.engine.share(own_loss, session.stop.is_set())
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step}", hint="lower training.learning_rate")
        done, now = step + 1, time.monotonic()
        is_last = done == recipe.num_steps
        if done % log_every == 0 or is_last:
            values = {
                "loss": loss,
                "bits_per_byte": loss / math.log(2) / session.bytes_per_token,
                "gradient_norm": gradient_norm,
                "learning_rate": learning_rate(recipe, step),
                "tokens_per_s": (done % log_every or log_every) * recipe.batch_tokens / (now - logged_at),
            }
            logged_at = now
            session.log(done, values)
        if done % recipe.checkpoint_every_steps == 0 or is_last or is_stopped:
            session.save(done)
        if ranks.is_first and (now - reported_at >= _REPORT_EVERY_S or is_last):
            reported_at = now
            say("training", done=done, total=recipe.num_steps, unit="steps", metrics=_shown(session, done))
        if is_stopped and not is_last:
            raise TrainingStopped(f"stopped after {done} of {recipe.num_steps} steps", hint="start it again to go on")


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


train = Stage(
    name="train", run=_run, needs=("tokenize",), config=_config, prefix="models/{dataset}/train/", version=VERSION
)

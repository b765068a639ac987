"""What one rank of a run works with: data, engine, checkpoints, record; how it begins and what it leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sovereign.base import base_tags, fetch_base
from sovereign.files import write_atomic
from sovereign.plan import Recipe
from sovereign.stages import StageContext, StageOutput
from training.base_tokenizer import known_base
from training.checkpoint import Checkpoints, Found, Run
from training.deepspeed_config import render
from training.engine import Engine, gather, join
from training.environment import Ranks
from training.fragments import FragmentReader
from training.ledger import LEDGER, run_ledger
from training.manifest import METRICS, rank_file
from training.mix import make_stream
from training.model import save_model
from training.order import TokenStream
from training.resume import refuse_another_batch, resolved_config
from training.runs import SPEEDS, typical
from training.schedule import learning_rate
from training.shards import Shard
from training.stored import Retention, StoredCheckpoints
from training.tracking import MlflowLog, Record
from training.watch_heldout import NAME as HELDOUT
from training.watch_heldout import Heldout
from training.watching import Watching, watch_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SPIKES = "spikes"
_TOTALS = ("elapsed_s", "energy_kwh", "co2_kg", "cost_devices", "cost_energy")

Say = Callable[..., None]


@dataclass(frozen=True)
class Session:
    """What the training loop works with."""

    context: StageContext
    ranks: Ranks
    engine: Engine
    stream: TokenStream
    bytes_per_token: float
    checkpoints: Checkpoints
    record: Record
    mlflow: MlflowLog
    watching: Watching
    stop: threading.Event
    """Set when the process was asked to stop."""
    first_step: int

    @property
    def recipe(self) -> Recipe:
        """The training configuration."""
        return self.context.plan.recipe

    @property
    def sequence_length(self) -> int:
        """Tokens in a row."""
        return self.context.plan.model.sequence_length

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record numbers of a step on disk and in MLflow."""
        self.record.add({"step": step} | values)
        self.mlflow.add(step, values)

    def save(self, done: int) -> None:
        """Make the checkpoint after `done` steps."""
        self.checkpoints.save(done, self.engine.state(), self.engine.spans(), self.record.path, self._position(done))

    def _position(self, done: int) -> dict[str, Any]:
        """Where the run is after `done` steps: what was consumed follows from it and the shards' digests (order.py)."""
        return {
            "tokens": done * self.recipe.batch_tokens,
            "tokens_per_epoch": self.stream.num_tokens,
            "seed": self.recipe.seed,
            "learning_rate": learning_rate(self.recipe, done - 1),
            _SPIKES: self.watching.spikes.state(),
        }

    def measure_heldout(self, done: int) -> None:
        """Record bits per byte on held-out text after `done` steps; every rank calls this."""
        self.log(done, self.watching.heldout.measure(self.engine.evaluate))

    def close(self, status: str, output: StageOutput) -> None:
        """End the run's records as FINISHED, FAILED or KILLED; complete the numbers of what `export` gave."""
        if status == "FAILED":
            self.watching.report_failure(self.ranks)
        self.checkpoints.close(has_failed=status == "FAILED")
        self.mlflow.close(status)
        if output.metrics:
            output.metrics["mlflow_run_id"] = self.mlflow.run_id  # MLflow may have answered at its end only
            output.metrics["mlflow_complete"] = self.mlflow.is_complete
        self.watching.runs.write(status, self.record, output.metrics)

    def export(self) -> StageOutput:
        """The model as a Hugging Face folder and the run's record; nothing on other ranks than the first.

        Every rank calls this.
        """
        weights = self.engine.weights()
        if not self.ranks.is_first:
            return StageOutput()
        adapter_files, weights = self._merge(weights)
        context, prefix = self.context, f"models/{self.context.dataset}/tokens/"
        tokenizer = [key for key in sorted(context.inputs) if key.startswith(prefix) and not key.endswith(".bin")]
        model_files = save_model(
            self.engine.model, weights, [context.fetch(key) for key in tokenizer], context.workdir / "export"
        )
        write_atomic(context.workdir / "plan.json", context.plan.model_dump_json(indent=2) + "\n")
        digests = {key: context.inputs[key] for key in _shard_keys(context, "train")}
        ledger = run_ledger(self.stream, self.recipe.batch_tokens, self.recipe.num_steps, digests)
        write_atomic(context.workdir / LEDGER, json.dumps(ledger, indent=2, ensure_ascii=False) + "\n")
        write_atomic(context.workdir / "deepspeed.json", _deepspeed_text(context))
        prefix = f"models/{context.dataset}/train/"
        files = {f"{prefix}model/{path.name}": path for path in model_files}
        files |= {f"{prefix}adapter/{path.name}": path for path in adapter_files}
        files |= {prefix + name: context.workdir / name for name in (METRICS, LEDGER, "plan.json", "deepspeed.json")}
        consumed = {name: ledger[name] for name in ("epochs", "documents", "by_language")}
        return StageOutput(files, self._summary() | {"consumed": consumed | {"owners": len(ledger["by_owner"])}})

    def _merge(self, weights: dict[str, torch.Tensor]) -> tuple[list[Path], dict[str, torch.Tensor]]:
        """The files of the adapter, if there is one, and the weights of the model without it."""
        base = self.context.plan.base
        if base is None or base.method == "full":
            return [], weights
        from training.lora import merge, save_adapter

        trained = {name: weights[name] for name in self.engine.shapes}
        _, known = known_base(self.context)
        files = save_adapter(base.lora, known.digest, trained, self.context.workdir / "adapter")
        return files, merge(self.engine.model, weights)

    def _summary(self) -> dict[str, Any]:
        heldout = [line[HELDOUT] for line in self.record.lines if HELDOUT in line]
        steps = [line for line in self.record.lines if "loss" in line]
        speeds = {name: typical(steps, name) for name in SPEEDS}
        return {
            "steps": self.recipe.num_steps,
            "tokens": self.recipe.num_tokens,
            "parameters": self.context.plan.num_parameters,
            "loss_first": steps[0]["loss"],
            "loss_last": steps[-1]["loss"],
            "heldout_bits_per_byte_before": heldout[0],
            "heldout_bits_per_byte_after": heldout[-1],
            "steps_skipped": sum(line["is_skipped"] == 1 for line in steps),
            **{name: value for name, value in speeds.items() if value is not None},
            **{name: steps[-1][name] for name in _TOTALS if name in steps[-1]},
            "resumed_from": self.first_step or None,
            "history": [stretch.model_dump() for stretch in self.checkpoints.history],
            "warning": self.watching.divergence.verdict(),
        } | ({"base": known_base(self.context)[1].digest} if self.context.plan.base else {})


def start(context: StageContext, digest: str, ranks: Ranks, say: Say, stop: threading.Event) -> Session:
    """Meet the other ranks, make the model or load the newest checkpoint of the run with this digest.

    Raises:
        TrainingError: before any of it, the data are too little or not what the phases want.
    """
    train, recipe = _shards(context, "train"), context.plan.recipe
    heldout = Heldout(_shards(context, "heldout"), context.plan.model.sequence_length)
    stream = make_stream(train, recipe.seed, recipe.phases, recipe.batch_tokens)
    join(ranks)
    say("making the model")
    engine = Engine(context.plan, say, _start_model(context, ranks) if context.plan.base else None)
    checkpoints, found = _resume(context, digest, ranks, engine, say)
    record = Record(context.workdir / METRICS, found.folder / METRICS if found and ranks.is_first else None)
    watching = watch_run(context, digest, ranks, engine.device, heldout, record, say)
    if found:
        watching.spikes.load_state(found.manifest.position[_SPIKES])
    watching.runs.keep(f"deepspeed-{checkpoints.history[-1].from_step:08}.json", _deepspeed_text(context))
    parameters = {"parameters": context.plan.num_parameters} | context.plan.model.model_dump()
    return Session(
        context=context,
        ranks=ranks,
        engine=engine,
        stream=stream,
        bytes_per_token=_bytes_per_token(train),
        checkpoints=checkpoints,
        record=record,
        mlflow=MlflowLog(
            context.dataset,
            digest,
            parameters | context.plan.recipe.model_dump(),
            enabled=ranks.is_first,
            warn=say,
            tags=base_tags(context.profile),
            before=list(record.lines),
        ),
        watching=watching,
        stop=stop,
        first_step=found.manifest.step if found else 0,
    )


def _start_model(context: StageContext, ranks: Ranks) -> PreTrainedModel:
    """The base as it is trained; the ranks of one machine fetch it once."""
    from training.base import start_model

    folder = (context.workdir if ranks.is_first else context.workdir.parent) / "base"
    _, known = known_base(context)
    if ranks.local_rank == 0:
        fetch_base(context.store, known.digest, folder)
    gather(None)  # the others wait
    return start_model(context, folder)


def _resume(
    context: StageContext, digest: str, ranks: Ranks, engine: Engine, say: Say
) -> tuple[Checkpoints, Found | None]:
    """The checkpoints of the run with this digest, and the newest one, of which the engine now has the state.

    Raises:
        CheckpointError: none can be used, or there are some of the same run with another number of tokens in a step.
    """
    recipe = context.plan.recipe
    retention = Retention(recipe.keep_checkpoints, recipe.keep_every_steps)
    prefix = f"models/{context.dataset}/train/checkpoints/"
    stored = StoredCheckpoints(context.store, prefix, digest, ranks, retention)
    config = resolved_config(context.profile, context.plan, context.inputs)
    run = Run(digest, recipe.zero_stage, engine.shapes, config)
    checkpoints = Checkpoints(stored, context.workdir / "checkpoints", run, ranks, gather=gather, warn=say)
    found = checkpoints.newest(engine.spans())
    if found is None:
        refuse_another_batch(config, ((folder, manifest.config) for folder, manifest in stored.other_runs()))
        return checkpoints, None
    say(f"resuming at step {found.manifest.step}")
    own = rank_file(ranks.rank) if found.manifest.world_size == ranks.world_size else None
    with FragmentReader(found.folder, found.spans) as reader:
        engine.load_state(reader, reader.random(own) if own else None)
    return checkpoints, found


def _deepspeed_text(context: StageContext) -> str:
    return json.dumps(render(context.plan), indent=2) + "\n"


def _shards(context: StageContext, split: str) -> list[Shard]:
    return [Shard(context.fetch(key)) for key in _shard_keys(context, split)]


def _shard_keys(context: StageContext, split: str) -> list[str]:
    prefix = f"models/{context.dataset}/tokens/{split}-"
    return [key for key in sorted(context.inputs) if key.startswith(prefix)]


def _bytes_per_token(shards: Sequence[Shard]) -> float:
    return sum(int(shard.num_bytes.sum()) for shard in shards) / sum(shard.num_tokens for shard in shards)

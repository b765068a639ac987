"""Stages: functions from stored files to stored files plus a receipt, run the same way here and in a Job.

    python -m sovereign.stages run NAME --profile FILE --store URL --workdir DIR

A stage is a `Stage` object found by entry point group `sovereign.stages`. Its process writes progress as JSON lines on
stdout (`Progress`) and everything else on stderr. A stage whose receipt has the key of its present inputs and
configuration, and whose outputs are still there, is skipped.

The order of a result is files, receipt, pointer (`Stage.publish`): whatever stops it, a pointer names files that are
there, and the same command finishes what is missing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TextIO

from sovereign.errors import SovereignError, StageError
from sovereign.files import room_hint, sha256_bytes, sha256_file
from sovereign.identity import code_digest, code_version, environment_digest
from sovereign.job_inputs import JobInputs, StoredInput, fetch_inputs
from sovereign.locks import refuse_second
from sovereign.plan import Plan, plan
from sovereign.profile import Profile, load_profile
from sovereign.proxies import set_aside
from sovereign.receipts import Receipt, config_digest, made_by, now, stage_key
from sovereign.store import FolderStore, Store, fetch_checked, open_store

STAGES = ("corpus", "curate", "tokenize", "train", "evaluate", "register")
"""The stages in their order."""
CHECKS = ("preflight",)
"""Stages beside the way, which run when they are asked for."""
LOCK = "running.lock"
"""In the work folder of a stage's process, which holds it."""


class Progress:
    """Progress of a stage as JSON lines: {"stage", "done", "total", "unit", "message", "metrics"}."""

    def __init__(self, stage: str, stream: TextIO) -> None:
        self.stage = stage
        self.stream = stream

    def __call__(
        self,
        message: str = "",
        *,
        done: float | None = None,
        total: float | None = None,
        unit: str = "",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Report: `done` of `total` `unit`s, a message for people, numbers by name."""
        event = {
            "stage": self.stage,
            "message": message,
            "done": done,
            "total": total,
            "unit": unit,
            "metrics": dict(metrics or {}),
        }
        try:
            self.stream.write(json.dumps(event) + "\n")
            self.stream.flush()
        except BrokenPipeError:  # whoever started this stage is gone: end as if asked to, with what is done kept
            self.stream = io.StringIO()
            signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True)
class StageContext:
    """What a stage gets."""

    profile: Profile
    plan: Plan
    store: Store
    workdir: Path
    """Local scratch folder; may be empty after a restart of the pod."""
    progress: Progress
    inputs: Mapping[str, str]
    """Digest of every input, by store key, from the receipts of the stages before."""
    key: str = ""
    """Digest of all that the result depends on."""
    rank: int = 0
    """Which of the `num_ranks` processes that run the stage together this is."""
    num_ranks: int = 1
    is_over: Callable[[], bool] = lambda: False
    """Whether the result is in the store, with its receipt: another rank has finished."""

    @property
    def dataset(self) -> str:
        """Name of the dataset and the model: the profile's."""
        return self.profile.name

    def fetch(self, key: str) -> Path:
        """Fetch the input `key` into the work folder and check it against its receipt.

        Raises:
            StoreError: it is missing, or not what the receipt says.
        """
        path = self.workdir / key
        if key in self.inputs:
            return fetch_checked(self.store, key, path, self.inputs[key])
        self.store.get_file(key, path)
        return path


@dataclass
class StageOutput:
    """What a stage gives back: files to store under their keys, and numbers for the receipt."""

    files: dict[str, Path] = field(default_factory=dict)
    """Store key -> local file; the runner stores them and writes their digests into the receipt."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Numbers for the receipt and the summary."""
    stored: dict[str, str] = field(default_factory=dict)
    """Store key -> hex SHA-256 of further outputs, which the ranks of the stage have stored."""


@dataclass(frozen=True)
class Stage:
    """One stage of the way."""

    name: str
    run: Callable[[StageContext], StageOutput]
    needs: tuple[str, ...]
    """Stages whose outputs go in."""
    config: Callable[[Profile, Plan], Mapping[str, Any]]
    """The part of profile and plan that the result depends on (JSON values)."""
    prefix: str
    """Where the outputs and the receipt are, e.g. `raw/{dataset}/`."""
    version: int = 1
    """Raised when the stage's code changes what it makes."""
    external_inputs: Callable[[Profile, Store], Mapping[str, str]] | None = None
    """Digests of inputs that do not come from a stage (files of a source)."""
    scratch: str = ""
    """Where ranks keep unfinished work in the store, e.g. `curated/{dataset}/units/`; cleared after the receipt."""
    append_only: str = ""
    """Which outputs (a shell pattern of keys, e.g. `models/{dataset}/register/*/*`) something may point to for good:
    a later result of the stage never deletes them. Their keys hold a digest, so that it does not change them either."""
    publish: Callable[[StageContext, Receipt], None] | None = None
    """What only a stored result with its receipt allows: to point readers outside the store at it (an alias), to delete
    what it replaces. Repeated until it has succeeded once for this receipt, so it must give the same each time."""


def load_stage(name: str) -> Stage:
    """The stage registered under `name`; a site's package can replace it by entry point.

    Raises:
        StageError: there is none.
    """
    found = [point for point in entry_points(group="sovereign.stages") if point.name == name]
    if not found:
        raise StageError(
            "unknown stage", got=name, expected=", ".join((*STAGES, *CHECKS)), hint="is the kit installed (make setup)?"
        )
    replaced = [point for point in found if not point.value.startswith(("sovereign.", "training."))]
    stage: Stage = (replaced or found)[0].load()
    return stage


def receipt_key(stage: Stage, dataset: str) -> str:
    """Store key of the stage's receipt."""
    return stage.prefix.format(dataset=dataset) + "receipt.json"


def _published_key(stage: Stage, dataset: str) -> str:
    return stage.prefix.format(dataset=dataset) + "published"


def read_receipt(store: Store, stage: Stage, dataset: str) -> Receipt | None:
    """The stage's receipt, or None when it has not run yet."""
    key = receipt_key(stage, dataset)
    return Receipt.from_bytes(store.get_bytes(key)) if store.exists(key) else None


def collect_inputs(store: Store, stage: Stage, profile: Profile) -> dict[str, str]:
    """Digests of all that goes in.

    Raises:
        StageError: a stage before has not run.
    """
    inputs = dict(stage.external_inputs(profile, store)) if stage.external_inputs else {}
    for needed in stage.needs:
        receipt = read_receipt(store, load_stage(needed), profile.name)
        if receipt is None:
            raise StageError(
                f"stage {stage.name} needs stage {needed}, which has not run", hint=f"sovereign stage {needed} PROFILE"
            )
        inputs |= receipt.outputs
    return inputs


def is_current(store: Store, stage: Stage, profile: Profile, resolved: Plan) -> Receipt | None:
    """The receipt, when the stage's present result is what it would make again and is published; else None."""
    receipt = _current(store, stage, profile, resolved, collect_inputs(store, stage, profile))
    return receipt if receipt is not None and _is_published(store, stage, profile.name, receipt) else None


def _current(store: Store, stage: Stage, profile: Profile, resolved: Plan, inputs: Mapping[str, str]) -> Receipt | None:
    receipt = read_receipt(store, stage, profile.name)
    if receipt is None or receipt.key != stage_key(stage.name, stage.version, stage.config(profile, resolved), inputs):
        return None
    return receipt if all(store.exists(output) for output in receipt.outputs) else None


def _is_published(store: Store, stage: Stage, dataset: str, receipt: Receipt) -> bool:
    if stage.publish is None:
        return True
    key = _published_key(stage, dataset)
    return store.exists(key) and store.get_bytes(key).decode(errors="replace") == sha256_bytes(receipt.to_bytes())


def _publish(stage: Stage, context: StageContext, receipt: Receipt) -> None:
    """Set the pointers to a stored result, unless they were."""
    store = context.store
    if stage.publish is None or _is_published(store, stage, context.dataset, receipt):
        return
    stage.publish(context, receipt)
    store.put_bytes(_published_key(stage, context.dataset), sha256_bytes(receipt.to_bytes()).encode())


def run_stage(stage: Stage, profile: Profile, store: Store, workdir: Path, stream: TextIO) -> Receipt:
    """Run one stage here, or skip it when its receipt is current; store its files, then its receipt, then publish.

    Where several processes run one stage together (RANK in the environment), rank 0 alone reports and stores.

    Raises:
        SovereignError: what the stage raises.
    """
    rank, num_ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if rank:
        stream, workdir = io.StringIO(), workdir / f"rank-{rank}"  # on one machine all ranks are given the same folder
    progress = Progress(stage.name, stream)
    resolved = plan(profile)
    inputs = collect_inputs(store, stage, profile)
    find_current = partial(_current, store, stage, profile, resolved, inputs)
    config = stage.config(profile, resolved)
    key = stage_key(stage.name, stage.version, config, inputs)
    context = StageContext(profile, resolved, store, workdir, progress, inputs, key, rank, num_ranks)
    current = find_current()
    if current is not None:
        if not rank:
            _publish(stage, context, current)
            _clear_scratch(store, stage, profile)
        progress("unchanged", done=1, total=1)
        return current
    started_at, start = now(), time.monotonic()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        output = stage.run(replace(context, is_over=lambda: find_current() is not None))
    except OSError as error:
        if hint := room_hint(error, workdir):
            raise StageError(f"stage {stage.name} has no room in its work folder: {error}", hint=hint) from error
        raise
    digests = output.stored | {name: sha256_file(path) for name, path in output.files.items()}
    receipt = Receipt(
        stage=stage.name,
        inputs=inputs,
        outputs=dict(sorted(digests.items())),
        config_digest=config_digest(config),
        key=key,
        metrics=output.metrics,
        started_at=started_at,
        finished_at=now(),
        seconds=round(time.monotonic() - start, 3),
        made_by=made_by(),
        code_version=code_version(),
        code_digest=code_digest(),
        environment_digest=environment_digest(),
    )
    if not rank:
        _store_result(store, stage, profile, output, receipt)
        _publish(stage, context, receipt)
        _clear_scratch(store, stage, profile)
    progress("done", done=1, total=1, metrics=output.metrics)
    return receipt


def _store_result(store: Store, stage: Stage, profile: Profile, output: StageOutput, receipt: Receipt) -> None:
    """Store the files and then the receipt, so that a receipt never names files of another run, whenever it stops."""
    key = receipt_key(stage, profile.name)
    before = read_receipt(store, stage, profile.name)
    files = dict(sorted(output.files.items()))
    replaced = set(before.outputs if before else ()) - set(receipt.outputs)
    with store.prepare(files) as store_files, store.prepare({key: receipt.to_bytes()}) as store_receipt:
        store.delete(key)
        if stage.publish is not None:
            store.delete(_published_key(stage, profile.name))
        store_files()
        for name in sorted(replaced):
            if not fnmatchcase(name, stage.append_only.format(dataset=profile.name)):
                store.delete(name)
        store_receipt()


def _clear_scratch(store: Store, stage: Stage, profile: Profile) -> None:
    """Delete the last key first, so that what is left when it stops is whole up to a step (sovereign/lake/work.py)."""
    if stage.scratch:
        for key in sorted(store.list(stage.scratch.format(dataset=profile.name)), reverse=True):
            store.delete(key)


@contextmanager
def _alone(name: str, profile: Profile, store: Store, workdir: Path) -> Iterator[None]:
    """No other process of this machine runs the stage in the same work folder, or on the same store in a folder.

    Raises:
        LockedError: one does; the message names it.
    """
    with ExitStack() as held:
        if os.environ.get("RANK", "0") == "0":  # the other ranks are one run with it
            stage = f"{name} of {profile.name}"
            held.enter_context(refuse_second(workdir / LOCK, f"the work folder {workdir}", stage=stage))
            if isinstance(store, FolderStore):
                lock = store.root / ".running" / f"{profile.name}-{name}.lock"
                held.enter_context(refuse_second(lock, f"stage {stage} in {store.url}", stage=stage))
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """A stage's process; exit code 0, the error's (told on stderr; 143 when it was asked to stop) or 2 (arguments)."""
    set_aside()
    parser = argparse.ArgumentParser(prog="python -m sovereign.stages", description="Run one stage.")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("name", choices=(*STAGES, *CHECKS))
    run.add_argument("--profile", required=True, help="a file; with --profile-digest a key of the store")
    run.add_argument("--profile-digest", help="hex SHA-256")
    run.add_argument("--opt-outs", help="key of what stands for the profile's file of opt-outs")
    run.add_argument("--opt-outs-digest", help="hex SHA-256")
    run.add_argument("--store", required=True)
    run.add_argument("--workdir", type=Path, required=True)
    options = parser.parse_args(arguments)
    stream = sys.stdout
    try:
        with redirect_stdout(sys.stderr):  # libraries print; stdout is for progress only
            store = open_store(options.store)
            profile = _profile(options, store)
            with _alone(options.name, profile, store, options.workdir):
                run_stage(load_stage(options.name), profile, store, options.workdir, stream)
    except SovereignError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _profile(options: argparse.Namespace, store: Store) -> Profile:
    """The profile of a file, or of the store with what else it needs."""
    if not options.profile_digest:
        return load_profile(Path(options.profile))
    opt_outs = StoredInput(options.opt_outs, options.opt_outs_digest) if options.opt_outs else None
    inputs = JobInputs(StoredInput(options.profile, options.profile_digest), opt_outs)
    return fetch_inputs(store, inputs, options.workdir / "inputs")


if __name__ == "__main__":
    sys.exit(main())

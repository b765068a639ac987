"""Stages from the command line: run, follow, stop, ask; here or in the site's cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from sovereign.cli.base import settle_base
from sovereign.cli.catalog import record_if_possible
from sovereign.cli.console import Board, describe, lines, say, write_json
from sovereign.errors import StageError
from sovereign.jobs import NAMESPACE, JobRunner, job_object
from sovereign.plan import plan
from sovereign.receipts import Receipt
from sovereign.render import render_text
from sovereign.runner import LocalRunner, Runner, ensure_stage, keep_receipt, parse_event, tracking_uri
from sovereign.site import Site
from sovereign.stages import STAGES
from sovereign.store import open_store
from sovereign.workload import slurm_context


@contextmanager
def runner_of(site: Site, *, local: bool) -> Iterator[Runner]:
    """Where the site's stages run."""
    if local:
        yield local_runner(site)
        return
    from sovereign.cli.target import open_target

    with open_target(site) as target:
        settle_base(site, target.store, target.registry)
        yield target.runner


def local_runner(site: Site) -> LocalRunner:
    """Runs the site's stages on this machine."""
    lake = open_store(f"file://{site.data_dir}")
    settle_base(site, lake, lambda: nullcontext(tracking_uri(site.data_dir)))
    return LocalRunner(site.profile, site.resolved_profile(), site.data_dir)


def run_stages(site: Site, runner: Runner, names: tuple[str, ...], board: Board) -> tuple[dict[str, Receipt], bool]:
    """Run those of `names` that are not current, in their order, each shown on the board and its receipt kept.

    What `curate` made goes into the catalog too.

    Returns:
        The receipts by stage, and whether any stage was run.

    Raises:
        StageError: one failed.
        TrainingError: training is among them and a task of its evaluation is missing; nothing was run.
    """
    if "train" in names:
        refuse_missing_tasks(site)
    receipts, any_run = {}, False
    for name in names:
        with board.task(name):
            receipts[name], was_run = ensure_stage(runner, name, board.stage)
        keep_receipt(receipts[name], site.receipts_dir)
        if name == "curate":
            record_if_possible(site, runner.store, local=not isinstance(runner, JobRunner), board=board)
        any_run |= was_run
    return receipts, any_run


def refuse_missing_tasks(site: Site) -> None:
    """Raises: TrainingError: what will be trained could not be evaluated on the tasks that the profile names."""
    from training.task_files import check_tasks

    check_tasks(site.profile)


def run_until(site: Site, name: str, *, local: bool) -> dict[str, Receipt]:
    """Run stage `name` after those before it.

    Raises:
        StageError: there is no such stage, or one failed.
    """
    if name not in STAGES:
        raise StageError("unknown stage", got=name, expected=", ".join(STAGES))
    names = STAGES[: STAGES.index(name) + 1]
    with site.lock(f"stage {name}"), runner_of(site, local=local) as runner:
        if isinstance(runner, JobRunner):
            runner.activate(name)
        with Board() as board:
            receipts, _ = run_stages(site, runner, names, board)
    show_metrics(receipts[name].metrics)
    return receipts


def slurm_script(site: Site) -> str:
    """The batch script of the site's training, after the stages that it needs were run here.

    Raises:
        PlanError, ProfileError: Slurm cannot run it, see `slurm_context`.
        StageError: a stage failed.
        TrainingError: a task of the evaluation is missing.
    """
    refuse_missing_tasks(site)
    profile = site.profile
    context = slurm_context(
        profile, plan(profile), python=sys.executable, profile_path=site.resolved_profile(), data_dir=site.data_dir
    )
    run_until(site, STAGES[STAGES.index("train") - 1], local=True)
    (site.data_dir / "logs").mkdir(exist_ok=True)
    return render_text("training/slurm.sbatch.j2", context, [site.overlays_dir])


def show_metrics(metrics: Mapping[str, object]) -> None:
    """A receipt's numbers, one a line."""
    for key, value in metrics.items():
        if value is None:
            continue
        say(f"  {key}: {value:,.4g}" if isinstance(value, float) else f"  {key}: {value}")


def show_ledger(site: Site, step: int | None, *, local: bool, as_json: bool) -> None:
    """What training saw: all of it, or the documents of one step.

    Raises:
        StageError: there is no such step.
        TrainingError: nothing is trained yet, or the data is not what it was.
    """
    from training.ledger import documents, open_run

    with runner_of(site, local=local) as runner, TemporaryDirectory() as folder:
        ledger, stream = open_run(runner.store, site.profile.name, Path(folder))
        if step is None:
            found: object = ledger
            groups = (("by_language", lambda value: f"{value:,} tokens"), ("by_owner", _owner_text))
            rows = [(name, text(value)) for group, text in groups for name, value in ledger[group].items()]
        else:
            if step >= ledger["steps"]:
                raise StageError("no such step", got=step, expected=f"0 to {ledger['steps'] - 1}")
            seen = list(documents(stream, step * ledger["batch_tokens"], ledger["batch_tokens"]))
            found = [asdict(one) for one in seen]
            rows = [(one.doc_id, f"{one.tokens} tokens, {one.language}, {', '.join(one.owners)}") for one in seen]
    if as_json:
        write_json(found)
    else:
        lines(f"{ledger['tokens']:,} tokens in {ledger['steps']:,} steps" if step is None else f"Step {step}", rows)


def _owner_text(value: Mapping[str, float]) -> str:
    return f"{value['tokens']:,} tokens, of which {value['share']:,.0f} when shared with other owners"


def write_logs(site: Site, name: str, stream: TextIO) -> None:
    """Write what the pods of stage `name` wrote: progress as text, all else as it is.

    Raises:
        StageError: it has no pods.
    """
    from sovereign.cli.target import open_target

    with open_target(site) as target:
        selector = f"batch.kubernetes.io/job-name={job_object(site.profile.name, name)['metadata']['name']}"
        pods = target.cluster.find("v1", "Pod", NAMESPACE, labelSelector=selector)
        if not pods:
            raise StageError(f"stage {name} has no pods now", hint=f"sovereign stage {name} {site.root}")
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            _write_log(target.cluster.follow_log(NAMESPACE, pod["metadata"]["name"]), stream)


def write_local_log(site: Site, name: str, stream: TextIO) -> None:
    """Write what the last run of stage `name` on this machine wrote.

    Raises:
        StageError: it never ran here.
    """
    path = LocalRunner(site.profile, site.resolved_profile(), site.data_dir).log_path(name)
    if not path.is_file():
        raise StageError(
            f"stage {name} has not run on this machine", hint=f"sovereign stage {name} {site.root} --local"
        )
    with path.open(encoding="utf-8", errors="replace") as log:
        _write_log(log, stream)


def _write_log(log: Iterable[str], stream: TextIO) -> None:
    for line in log:
        event = parse_event(line)
        stream.write((f"{event.stage}: {describe(event)}" if event else line.rstrip("\n")) + "\n")


def stop_training(site: Site) -> None:
    """Let the queue suspend the training Job: its pods get SIGTERM and write a checkpoint.

    Raises:
        StageError: it is not there.
    """
    from sovereign.cli.target import open_target

    with open_target(site) as target:
        target.runner.deactivate("train")
    say(f"training stops after its checkpoint; resume it with `sovereign resume {os.path.relpath(site.root)}`")


def stop_local_training(site: Site) -> None:
    """Stop the training that another command runs on this machine.

    Raises:
        StageError: none runs.
    """
    LocalRunner(site.profile, site.resolved_profile(), site.data_dir).stop("train")
    say(f"training stops after its checkpoint; resume it with `sovereign resume --local {os.path.relpath(site.root)}`")


def ask_model(site: Site, question: str) -> str:
    """The served model's answer."""
    from sovereign.cli.target import open_target
    from sovereign.serving.client import ask

    with open_target(site) as target, target.endpoint("serving", "model", 8000) as url:
        return ask(url, f"sovereign/{site.profile.name}", question)

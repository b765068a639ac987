"""`sovereign up`: the whole way from a profile to an answer of the served model.

Every step compares first and does only what differs, so that the same command goes on after it was killed, and a second
run changes nothing.
"""

from __future__ import annotations

import json
import time

from sovereign.cli.base import settle_base
from sovereign.cli.console import Board, lines
from sovereign.cli.platform import prepare_machine
from sovereign.cli.summary import Summary, plan_rows, summary_rows
from sovereign.cli.target import OpenTarget, open_target
from sovereign.cli.work import local_runner, run_stages, runner_of
from sovereign.plan import Plan, plan
from sovereign.profile import EmbeddedTarget, Profile
from sovereign.site import Site
from sovereign.stages import STAGES
from sovereign.workload import PORTS, ServedModel

PLATFORM_STACKS = ("cluster", "datalake")
"""Stacks that stages need; serving comes when there is a champion."""
_ANSWER_S = 600.0
"""How long the one question at the end may take: a machine that trains, too, may answer after minutes."""


def run_up(site: Site, *, local: bool) -> Summary:
    """Go the whole way for `site`, here (`local`: without a cluster, and without serving) or in its cluster."""
    profile = site.profile
    if profile.base is not None and profile.base.known is None:  # not a folder: it is in the lake of a deployed site
        with runner_of(site, local=local):
            profile = site.profile
    resolved = plan(profile)
    lines(f"Plan of {profile.name}", plan_rows(resolved))
    with site.lock("up"):
        summary = _up_local(site, profile) if local else _up(site, profile, resolved)
    lines(f"{profile.name}: {'unchanged' if summary.unchanged else 'done'}", summary_rows(summary))
    return summary


def _up_local(site: Site, profile: Profile) -> Summary:
    runner = local_runner(site)
    with Board() as board:
        receipts, changed = run_stages(site, runner, STAGES, board)
    return Summary(
        profile=profile.name,
        unchanged=not changed,
        mlflow=runner.tracking_uri,
        metrics={name: receipt.metrics for name, receipt in receipts.items()},
        seconds={name: receipt.seconds for name, receipt in receipts.items()},
        site=str(site.root),
        remove=f"rm -r {site.root}",
    )


def _up(site: Site, profile: Profile, resolved: Plan) -> Summary:
    seconds: dict[str, float] = {}
    from stacks.doctor import refuse_unfit

    refuse_unfit(site, profile, installs=True)
    with Board() as board:
        if isinstance(profile.target, EmbeddedTarget):
            prepare_machine(board)
        changed = _deploy(site, profile, resolved, PLATFORM_STACKS, board, seconds)
        with open_target(site) as target:
            settle_base(site, target.store, target.registry)
            receipts, any_run = run_stages(site, target.runner, STAGES, board)
            changed |= any_run
            with target.registry() as mlflow:
                served = _champion(mlflow, profile.name)
                changed |= _deploy(site, profile, resolved, ("serving",), board, seconds, champion=served)
                with target.endpoint("serving", "model", PORTS["model"]) as api:
                    question, answer, expected = _ask(api, profile, target)
                    seconds |= {name: receipt.seconds for name, receipt in receipts.items()}
                    return Summary(
                        profile=profile.name,
                        unchanged=not changed,
                        api=api,
                        model=f"sovereign/{profile.name}",
                        mlflow=mlflow,
                        question=question,
                        answer=answer,
                        expected=expected,
                        metrics={name: receipt.metrics for name, receipt in receipts.items()},
                        seconds=seconds,
                        site=str(site.root),
                        remove=f"sovereign destroy {site.root} --delete-data",
                    )


def _deploy(
    site: Site,
    profile: Profile,
    resolved: Plan,
    stacks: tuple[str, ...],
    board: Board,
    seconds: dict[str, float],
    *,
    champion: ServedModel | None = None,
) -> bool:
    """Compare `stacks` with the live objects and deploy them when anything differs; whether it did."""
    from stacks.deploy import deploy
    from stacks.status import status

    if status(site, profile, resolved, stacks, champion=champion).unchanged:
        return False
    for stack in stacks:
        start = time.monotonic()
        with board.task(stack):
            deploy(site, profile, resolved, [stack], board.deployment, champion=champion)
        seconds[stack] = round(time.monotonic() - start, 1)
    return True


def _champion(mlflow: str, name: str) -> ServedModel:
    from training.registry import champion

    found = champion(mlflow, name)
    return ServedModel(found.digest, found.gguf_digest)


def _ask(api: str, profile: Profile, target: OpenTarget) -> tuple[str, str, str | None]:
    """A held-out question, the served model's answer, and the right one; for real text the beginning of a sentence."""
    from sovereign.serving.client import ask

    key = f"curated/{profile.name}/questions.jsonl"
    lines = target.store.get_bytes(key).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    heldout = [row for row in rows if row["split"] == "heldout" and row["language"] == "en"] or rows
    question, expected = (heldout[0]["question"], heldout[0]["answer"]) if heldout else ("What is a list?", None)
    return question, ask(api, f"sovereign/{profile.name}", question, timeout_s=_ANSWER_S), expected

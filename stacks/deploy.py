"""Deploy, preview and remove the three stacks of a site through the Pulumi Automation API.

Callers hold the site's lock (`with site.lock("deploy")`). Every function may be killed at any moment and called again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.errors import DeployError
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.runtime import Runtime
from sovereign.site import Site
from sovereign.workload import ServedModel
from stacks.engine import Engine, Events, Report, run
from stacks.kinds import check_objects
from stacks.kube import Cluster
from stacks.moves import Moves
from stacks.node import lifecycle, mounts
from stacks.node.spec import NodeSpec
from stacks.objects import STACKS
from stacks.ownership import check_owners, delete_jobs, free_queue
from stacks.programs import PROGRAMS
from stacks.resolve import Deployment, Target, resolve
from stacks.state import read_state, served, state_file

UNPRIVILEGED_ID = 65532
_VOLUMES = {"datalake": ("objects", "mlflow")}
"""Data folders of the embedded node by the stack whose volumes they are."""


@dataclass(frozen=True)
class StackResult:
    """What an operation did to one stack, or would do."""

    stack: str
    changes: dict[str, int]
    """Number of managed objects by operation: create, update, replace, delete, same."""
    steps: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Operation, object and changed fields of all that is not the same."""
    outputs: dict[str, Any]
    seconds: float
    warnings: tuple[str, ...] = ()
    """What stays as it is although the profile wants it otherwise, each with what to do."""

    @property
    def changed(self) -> bool:
        """Whether anything but `same`."""
        return bool(self.steps)


@dataclass(frozen=True)
class DeployResult:
    """What an operation did to all stacks, or would do."""

    stacks: tuple[StackResult, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether any stack changed."""
        return any(stack.changed for stack in self.stacks)

    @property
    def outputs(self) -> dict[str, Any]:
        """Outputs of all stacks, by name."""
        return {key: value for stack in self.stacks for key, value in stack.outputs.items()}


def deploy(
    site: Site,
    profile: Profile,
    plan: Plan,
    stacks: Sequence[str],
    report: Report,
    *,
    champion: ServedModel | None = None,
    runtime: Runtime | None = None,
    adopt: bool = False,
) -> DeployResult:
    """Bring `stacks` to what profile and overlays say, in their order.

    Args:
        site: the site, whose lock the caller holds.
        profile: its profile.
        plan: the profile's plan.
        stacks: some of `STACKS`.
        report: called with progress.
        champion: the model to serve; None keeps the one that is served.
        runtime: what pods of the embedded node run; by default this process's own.
        adopt: take over objects that another site deployed.

    Raises:
        DeployError: Pulumi failed; names object and reason.
        ClusterError: the cluster is another one than before, cannot be reached, or has objects of another site.
        SovereignError: see `stacks.resolve.resolve`.
    """
    build = _build_progress(report)
    deployment = resolve(site, profile, plan, champion=champion or served(site), runtime=runtime, build=build)
    check_objects(deployment.platform)
    engine = Engine(site, deployment.programs["pulumi"], report, adopt=adopt)
    moves = Moves(site, deployment.platform)
    check_owners(deployment.target, moves, adopt=adopt)
    engine.declare(moves.declared)
    results = []
    for stack in _ordered(stacks):
        _prepare(stack, deployment.target)
        moves.release(engine)
        try:
            results.append(_operate(engine, "up", stack, deployment, moves, report))
        finally:
            moves.release(engine)
    return DeployResult(tuple(results))


def preview(
    site: Site,
    profile: Profile,
    plan: Plan,
    stacks: Sequence[str],
    report: Report,
    *,
    champion: ServedModel | None = None,
    runtime: Runtime | None = None,
    adopt: bool = False,
) -> DeployResult:
    """What `deploy` would do; works before there is a cluster. Arguments and errors as there."""
    build = _build_progress(report)
    deployment = resolve(site, profile, plan, champion=champion or served(site), runtime=runtime, build=build)
    check_objects(deployment.platform)
    engine = Engine(site, deployment.programs["pulumi"], report, adopt=adopt)
    moves = Moves(site, deployment.platform)
    check_owners(deployment.target, moves, adopt=adopt)
    engine.declare(moves.declared)
    results = tuple(_operate(engine, "preview", stack, deployment, moves, report) for stack in _ordered(stacks))
    return DeployResult(results)


def destroy(
    site: Site,
    profile: Profile,
    plan: Plan,
    stacks: Sequence[str],
    report: Report,
    *,
    delete_data: bool = False,
    runtime: Runtime | None = None,
) -> DeployResult:
    """Take `stacks` away, last first. Data stays unless `delete_data`.

    With the whole of an embedded node the node goes first and all that ran on it with it, so that this also works when
    its API server is dead. On an existing cluster each object is deleted.

    Raises:
        DeployError: Pulumi failed; names object and reason.
        SovereignError: see `stacks.resolve.resolve`.
    """
    wanted = _ordered(stacks)
    deployment = resolve(site, profile, plan, runtime=runtime, build=_build_progress(report))
    engine = Engine(site, deployment.programs["pulumi"], report)
    node = deployment.target.node
    if "cluster" in wanted:
        if others := [stack for stack in STACKS if stack not in wanted and read_state(site, stack).deployed]:
            message = "the cluster cannot go while other stacks are on it"
            raise DeployError(message, got=", ".join(others), hint="destroy all stacks")
        if node is None:
            delete_jobs(deployment.target, site.id)
            free_queue(deployment.target, site.id, lambda text: report("cluster", text, 0, 1))
    whole_node = node is not None and "cluster" in wanted
    results = []
    for name in wanted if whole_node else reversed(wanted):
        results.append(
            _destroy_one(engine, name, report, delete_data=delete_data, gone=whole_node and name != "cluster")
        )
        if node is not None:
            _remove_rest(node, name, report, delete_data=delete_data)
    return DeployResult(tuple(results))


def _destroy_one(engine: Engine, name: str, report: Report, *, delete_data: bool, gone: bool) -> StackResult:
    """Destroy one stack; where the node is `gone`, all of the stack was on it and is forgotten."""
    started = time.monotonic()
    events = Events(name, len(read_state(engine.site, name).resources), report)
    if state_file(engine.site, name).is_file():
        stack = engine.stack(name, adopt=True)
        if gone:
            engine.edit(stack, lambda _: [])
        elif delete_data:
            engine.edit(stack, _release_data)
        run(stack, "destroy", events)
    return _result(name, events, {}, started)


def _remove_rest(node: NodeSpec, name: str, report: Report, *, delete_data: bool) -> None:
    """What the state may not know: a node whose making was cut off or whose state was lost, and folders of data."""
    if name == "cluster" and NodeSpec.load(node.state_dir) is not None:
        lifecycle.remove(node, delete_data=delete_data, progress=lambda text: report(name, text, 0, 1))
    for volume in _VOLUMES.get(name, ()) if delete_data else ():
        if (node.volumes_dir / volume).is_dir():
            mounts.delete_tree(node.volumes_dir / volume)


def _operate(
    engine: Engine, operation: str, name: str, deployment: Deployment, moves: Moves, report: Report
) -> StackResult:
    target, ledger = deployment.target, moves.ledger(name)
    uid = _cluster_uid(engine.site, name, target, strict=operation == "up")
    node = 1 if name == "cluster" and target.node else 0
    total = len(moves.objects[name]) + len(ledger.held) + node
    events = Events(name, total, report, arrivals=moves.arrivals(name))
    program: Callable[[], None] = lambda: PROGRAMS[name](deployment.platform, target, uid, ledger)  # noqa: E731
    started = time.monotonic()
    report(name, "starting", 0, total)
    done = run(engine.stack(name, program), operation, events)
    outputs = {key: output.value for key, output in done.outputs.items()} if operation == "up" else {}
    return _result(name, events, outputs, started)


def _result(name: str, events: Events, outputs: dict[str, Any], started: float) -> StackResult:
    seconds = round(time.monotonic() - started, 1)
    return StackResult(name, dict(events.changes), tuple(events.steps), outputs, seconds, tuple(events.warnings))


def _cluster_uid(site: Site, stack: str, target: Target, *, strict: bool) -> str | None:
    """UID of the cluster that `stack` goes to: the recorded one, else of the live cluster.

    Raises:
        ClusterError: the live cluster is not the recorded one.
        DeployError: the cluster stack was not deployed yet (`strict`).
    """
    recorded = read_state(site, "cluster").outputs.get("cluster_uid")
    if target.node is not None:
        if recorded is None and stack != "cluster" and strict:
            raise DeployError(f"stack {stack} needs the stack cluster", hint="deploy that first")
        return recorded
    cluster = Cluster(target.kubeconfig, target.context, recorded)
    try:
        return cluster.uid
    finally:
        cluster.close()


def _prepare(stack: str, target: Target) -> None:
    """Make the data folders that the stack's volumes name, owned by the pods' user."""
    for name in _VOLUMES.get(stack, ()) if target.node else ():
        folder = Path(target.node.volumes_dir) / name if target.node else Path()
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != UNPRIVILEGED_ID:
            os.chown(folder, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            folder.chmod(0o750)


def _release_data(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The resources with nothing kept: objects marked `keep` and the node's volumes go too."""
    for resource in resources:
        for values in (resource.get("inputs") or {}, resource.get("outputs") or {}):
            if resource["type"] == "sovereign:index:Manifest":
                values["keep"] = False
            elif resource["type"] == "sovereign:index:Node":
                values["deleteData"] = True
    return resources


def _ordered(stacks: Sequence[str]) -> list[str]:
    if unknown := [name for name in stacks if name not in STACKS]:
        raise DeployError("unknown stack", got=", ".join(unknown), expected=", ".join(STACKS))
    return [name for name in STACKS if name in stacks]


def _build_progress(report: Report) -> Callable[[str, float], None]:
    return lambda text, share: report("tools", text, round(share * 100), 100)

"""The quick comparison: is everything that should be deployed there as it should be? Asks the cluster, not the engine.

It renders what a deploy would apply, lets the API server compare each object (a server-side dry run), and looks at the
node's health and at the names in the Pulumi state. Changes nothing. Imports no pulumi.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from sovereign.errors import ClusterError
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.render import Object
from sovereign.runtime import Runtime
from sovereign.site import Site
from sovereign.workload import ServedModel
from stacks.identity import identity
from stacks.kube import Cluster
from stacks.node import lifecycle
from stacks.node.spec import NodeSpec
from stacks.objects import STACKS, managed, resource_name
from stacks.resolve import Deployment, resolve
from stacks.state import StackState, read_state, served


@dataclass(frozen=True)
class Drift:
    """One difference between what is and what should be."""

    stack: str
    object: str
    """Kind, namespace and name; `node` for the embedded node, `state` for the Pulumi state."""
    fields: tuple[str, ...]
    """What differs, each with the live and the wanted value where that is no secret."""


@dataclass(frozen=True)
class StatusResult:
    """The comparison of some stacks."""

    drift: tuple[Drift, ...]
    num_objects: int
    """Managed objects that were compared."""
    notes: tuple[str, ...] = ()
    """What the profile asks for in vain and a deploy would not change, each with what to do."""

    @property
    def unchanged(self) -> bool:
        """Whether a deploy would change nothing."""
        return not self.drift


def status(
    site: Site,
    profile: Profile,
    plan: Plan,
    stacks: Sequence[str] = STACKS,
    *,
    champion: ServedModel | None = None,
    runtime: Runtime | None = None,
) -> StatusResult:
    """Compare `stacks` with what a deploy with the same arguments would make.

    Args:
        site: the site.
        profile: its profile.
        plan: the profile's plan.
        stacks: some of `STACKS`.
        champion: the model to serve; None is the one that is served.
        runtime: what pods of the embedded node run; by default this process's own.

    Raises:
        SovereignError: a program is missing, or a template is wrong. A dead cluster is drift, not an error.
    """
    states = {stack: read_state(site, stack) for stack in stacks}
    deployment = resolve(site, profile, plan, champion=champion or served(site), runtime=runtime)
    recorded = read_state(site, "cluster").outputs.get("cluster_uid")
    drift = list(_node_drift(deployment.target.node)) if "cluster" in stacks and deployment.target.node else []
    objects = managed(deployment.platform)
    wanted = {stack: objects[stack] for stack in stacks}
    for stack in stacks:
        drift += _state_drift(stack, states[stack], objects)
    notes: tuple[str, ...] = ()
    if not drift:
        drift, notes = _object_drift(deployment, recorded, wanted)
    return StatusResult(tuple(drift), sum(map(len, wanted.values())), notes)


def _node_drift(spec: NodeSpec) -> Iterator[Drift]:
    known = NodeSpec.load(spec.state_dir)
    if known is None:
        yield Drift("cluster", "node", ("the embedded node is not there",))
    elif known.digest != spec.digest:
        changed = [field.name for field in fields(spec) if getattr(spec, field.name) != getattr(known, field.name)]
        yield Drift("cluster", "node", tuple(f"spec.{name}" for name in changed))
    elif not (health := lifecycle.health(spec)).healthy:
        yield Drift("cluster", "node", (health.summary,))


def _state_drift(stack: str, state: StackState, objects: dict[str, list[Object]]) -> Iterator[Drift]:
    if not state.deployed:
        yield Drift(stack, "state", ("never deployed",))
        return
    if state.pending:
        yield Drift(stack, "state", ("an operation was cut off",))
    wanted = {identity(item): resource_name(item) for item in objects[stack]}
    recorded = {record.ref.identity: resource_name(record.ref.manifest) for record in state.records}
    owners = {identity(item): owner for owner, items in objects.items() for item in items}
    for key in sorted(wanted.keys() - recorded.keys()):
        yield Drift(stack, wanted[key], ("not deployed yet",))
    for key in sorted(recorded.keys() - wanted.keys()):
        moved = f"moves to the stack {owners[key]} when that is deployed" if key in owners else "not wanted any more"
        yield Drift(stack, recorded[key], (moved,))


def _object_drift(
    deployment: Deployment, recorded: str | None, wanted: dict[str, list[Object]]
) -> tuple[list[Drift], tuple[str, ...]]:
    target = deployment.target
    pairs = [(stack, item) for stack, items in wanted.items() for item in items]
    try:
        cluster = Cluster(target.kubeconfig, target.context, recorded)
    except ClusterError as error:
        return [Drift("cluster", "cluster", (str(error),))], ()
    try:
        compared = cluster.compare([item for _, item in pairs])
    finally:
        cluster.close()
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for (stack, item), comparison in zip(pairs, compared, strict=True):
        if comparison.error is not None:
            found[stack, resource_name(item)] = (comparison.error.message,)
        elif comparison.changes:
            found[stack, resource_name(item)] = tuple(map(str, comparison.changes))
    notes = tuple(comparison.stays for comparison in compared if comparison.stays)
    return [Drift(stack, name, differences) for (stack, name), differences in found.items()], notes

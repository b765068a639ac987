"""Before a deploy or a removal touches a cluster: whose objects are there, and what would hold up their removal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sovereign.errors import ClusterError, DeployError, TemporaryClusterError
from sovereign.jobs import QUEUE_API
from stacks.fields import Object, ObjectRef
from stacks.identity import SITE, Owner, identity
from stacks.kube import Cluster
from stacks.moves import Moves
from stacks.resolve import Target
from stacks.takeover import foreign_site, is_ours_by_manager, refuse_unmanaged

_WORKERS = 16
_NUM_NAMED = 5
_QUEUE_KINDS = ("Workload", "LocalQueue", "ClusterQueue", "Cohort", "ResourceFlavor", "AdmissionCheck", "Topology")
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_WEBHOOK_API = "admissionregistration.k8s.io/v1"


def check_owners(target: Target, moves: Moves, *, adopt: bool) -> None:
    """Refuse a cluster whose objects of the names that this site declares are somebody else's.

    Args:
        target: the cluster. An embedded node that is not there or does not answer has no objects to lose yet.
        moves: what the site declares and has.
        adopt: whether objects of another site may be taken over.

    Raises:
        ClusterError: another site, or no site, owns objects that a deploy would change.
    """
    if target.node is not None and not target.kubeconfig.is_file():
        return
    wanted = [item for items in moves.objects.values() for item in items]
    with _connected(target) as cluster:
        try:
            live = _live(cluster, wanted)
        except TemporaryClusterError:
            if target.node is not None:
                return
            raise
    recorded = moves.recorded()
    others: dict[str, list[str]] = {}
    for item, found in zip(wanted, live, strict=True):
        if found is None:
            continue
        site = Owner.of(found).site
        if site is None and identity(item) not in recorded and not is_ours_by_manager(found):
            refuse_unmanaged(found)
        if foreign_site(found, item):
            others.setdefault(str(site), []).append(str(ObjectRef.of(item)))
    if others and not adopt:
        site, names = next(iter(others.items()))
        more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
        raise ClusterError(
            f"the cluster is used by another site, {site}; nothing was changed",
            got=", ".join(names[:_NUM_NAMED]) + more,
            expected=f"objects of this site, {moves.site_id}",
            hint="use another cluster, destroy that site first, or take its objects over with --adopt",
        )


def delete_jobs(target: Target, site: str) -> None:
    """Delete the Jobs of `site` on an existing cluster, since queues with work in them cannot be deleted.

    Raises:
        DeployError: the cluster refuses.
    """
    try:
        with _connected(target) as cluster:
            if not _is_ours(cluster, "training", site):
                return
            for job in cluster.find("batch/v1", "Job", "training", labelSelector="app.kubernetes.io/part-of=sovereign"):
                cluster.delete(job)
    except ClusterError as error:
        raise DeployError("the training Jobs cannot be deleted", got=str(error)) from error


def free_queue(target: Target, site: str, report: Callable[[str], None]) -> None:
    """Where the site's Kueue does not run, remove the finalizers that only it would remove, and its webhooks.

    Without that the removal of queues waits for a controller that never answers.

    Raises:
        DeployError: the cluster refuses.
    """
    try:
        with _connected(target) as cluster:
            if _queue_runs(cluster):
                return
            held = [item for kind in _QUEUE_KINDS for item in _held(cluster, kind, site)]
            if not held:
                return
            mine = f"{SITE}={site},app.kubernetes.io/name=kueue"
            report("Kueue does not run: its webhooks and the finalizers of its queues are removed")
            for kind in _WEBHOOKS:
                for item in cluster.find(_WEBHOOK_API, kind, labelSelector=mine):
                    cluster.delete(item)
            for item in held:
                cluster.strip_finalizers(item)
                report(f"{ObjectRef.of(item)}: finalizers removed, since Kueue does not run")
    except ClusterError as error:
        raise DeployError("the queues cannot be prepared for their removal", got=str(error)) from error


def _queue_runs(cluster: Cluster) -> bool:
    """Whether any Kueue of the cluster, the site's or another, works off finalizers."""
    found = cluster.find("apps/v1", "Deployment", labelSelector="app.kubernetes.io/name=kueue")
    return any((item.get("status") or {}).get("availableReplicas") for item in found)


def _held(cluster: Cluster, kind: str, site: str) -> list[Object]:
    """Objects of Kueue that belong to the site and have finalizers."""
    ours = [item for item in cluster.find(QUEUE_API, kind) if item["metadata"].get("finalizers")]
    if kind == "Workload":  # made by Kueue itself, for Jobs of the site
        return [item for item in ours if _is_ours(cluster, item["metadata"]["namespace"], site)]
    return [item for item in ours if Owner.of(item).site == site]


def _is_ours(cluster: Cluster, namespace: str, site: str) -> bool:
    live = cluster.get(ObjectRef("v1", "Namespace", namespace))
    return live is not None and Owner.of(live).site == site


def _live(cluster: Cluster, items: list[Object]) -> list[Object | None]:
    cluster.require()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="owners") as pool:
        return list(pool.map(lambda item: cluster.get(item, timeout_s=5.0), items))


@contextmanager
def _connected(target: Target) -> Iterator[Cluster]:
    cluster = Cluster(target.kubeconfig, target.context)
    try:
        yield cluster
    finally:
        cluster.close()

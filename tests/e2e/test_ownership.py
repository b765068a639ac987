"""What a removal from an existing cluster prepares, against a real API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stacks.fields import Object, ObjectRef
from stacks.identity import owned
from stacks.kube import Cluster
from stacks.ownership import delete_jobs, free_queue
from stacks.resolve import Target
from tests.e2e.node_fixture import RunningNode

pytestmark = pytest.mark.e2e
GROUP = "kueue.x-k8s.io"
HOLD = f"{GROUP}/resource-in-use"
PAUSE = "sovereign.local/pause:1"


@pytest.fixture
def queues(kube: Cluster) -> Iterator[None]:
    """The definition of Kueue's ClusterQueue, without its controller."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "ClusterQueue", "plural": "clusterqueues", "singular": "clusterqueue"}
    definition: Object = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"clusterqueues.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Cluster", "versions": [version]},
    }
    kube.apply(definition)
    kube.wait_ready(definition, 30)
    yield
    for item in kube.find(f"{GROUP}/v1beta1", "ClusterQueue"):
        kube.strip_finalizers(item)
    kube.delete(definition)


def queue(name: str, site: str) -> Object:
    metadata = {"name": name, "finalizers": [HOLD]}
    return owned({"apiVersion": f"{GROUP}/v1beta1", "kind": "ClusterQueue", "metadata": metadata}, site, "cluster")


def webhook(kube: Cluster, name: str, site: str) -> Object:
    """Kueue's webhook on queues, served by nobody."""
    rule = {"apiGroups": [GROUP], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["clusterqueues"]}
    hook = {
        "name": "vclusterqueue.kb.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 2,
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
    }
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "kueue"}}
    item: Object = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": metadata,
        "webhooks": [hook],
    }
    return kube.apply(owned(item, site, "cluster"))


def test_k12_queues_go_although_their_controller_never_ran(cluster: RunningNode, kube: Cluster, queues: None) -> None:
    ours, theirs = queue("training", "ours"), queue("research", "theirs")
    for item in (ours, theirs):
        kube.apply(item)
    kube.begin_delete(ObjectRef.of(ours))
    hook = webhook(kube, "kueue-validating", "ours")
    told: list[str] = []
    free_queue(Target(cluster.kubeconfig, None, None), "ours", told.append)
    kube.delete(ours, 20)
    live = kube.get(theirs)
    assert live is not None and live["metadata"]["finalizers"] == [HOLD]
    assert kube.get(hook) is None
    assert told[0].startswith("Kueue does not run") and "ClusterQueue training: finalizers removed" in told[1]


def test_k2_jobs_of_another_site_stay(cluster: RunningNode, kube: Cluster) -> None:
    space: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "training"}}
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": PAUSE}]}
    metadata = {"name": "run", "namespace": "training", "labels": {"app.kubernetes.io/part-of": "sovereign"}}
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    try:
        for item in (owned(space, "first", "cluster"), job):
            kube.apply(item)
        delete_jobs(Target(cluster.kubeconfig, None, None), "second")
        assert kube.get(job) is not None
        delete_jobs(Target(cluster.kubeconfig, None, None), "first")
        assert kube.get(job) is None
    finally:
        kube.delete(space)

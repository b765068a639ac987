"""stacks.kube against a real API server, without Pulumi."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from sovereign.errors import ClusterError, TemporaryClusterError
from stacks.fields import Object, ObjectRef
from stacks.kube import Cluster
from stacks.kubehttp import ImmutableError, NotFoundError
from tests.e2e.node_fixture import RunningNode, config_map

pytestmark = pytest.mark.e2e
PAUSE = "sovereign.local/pause:1"


def deployment(namespace: str, name: str, **container: Any) -> Object:
    labels = {"app": name}
    pod = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": PAUSE, **container}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def job(namespace: str, name: str, *args: str) -> Object:
    container = {"name": "main", "image": PAUSE, "args": list(args)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


def names(kube: Cluster, manifest: Object) -> list[str]:
    return [change.name for change in kube.diff(manifest)]


def test_applied_object_differs_in_nothing_and_a_change_names_its_fields(kube: Cluster, namespace: str) -> None:
    # The server writes 1000m as 1 and fills in defaults: neither may count as a difference.
    manifest = deployment(namespace, "quiet", resources={"requests": {"cpu": "1000m"}})
    manifest["spec"]["replicas"] = 0
    kube.apply(manifest)
    assert kube.diff(manifest) == []
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    manifest["spec"]["revisionHistoryLimit"] = 3
    assert names(kube, manifest) == ["spec.template.spec.containers[0].image", "spec.revisionHistoryLimit"]
    assert kube.apply(manifest, dry_run=True)["spec"]["revisionHistoryLimit"] == 3
    assert names(kube, manifest), "a dry run changed the object"


def test_change_of_a_managed_field_by_others_is_found_and_what_they_add_is_not(
    kube: Cluster, namespace: str, others: client.CoreV1Api
) -> None:
    manifest = config_map(namespace, "drift", mode="ours", gone="x")
    kube.apply(manifest)
    others.patch_namespaced_config_map("drift", namespace, {"data": {"mode": "theirs", "gone": None, "extra": "1"}})
    found = {change.name: (change.live, change.wanted) for change in kube.diff(manifest)}
    assert found["data.mode"] == ("theirs", "ours")
    assert set(found) == {"data.mode", "data.gone"}
    kube.apply(manifest)
    assert kube.diff(manifest) == []
    others.delete_namespaced_config_map("drift", namespace)
    assert [str(change) for change in kube.diff(manifest)] == ["the object is missing"]


def test_field_taken_out_of_the_manifest_is_taken_out_of_the_object(kube: Cluster, namespace: str) -> None:
    kube.apply(config_map(namespace, "fewer", a="1", b="2"))
    fewer = config_map(namespace, "fewer", a="1")
    assert names(kube, fewer) == ["data.b"]
    assert kube.apply(fewer)["data"] == {"a": "1"}


def test_secret_values_stay_out_of_changes(kube: Cluster, namespace: str) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "key", "namespace": namespace},
        "stringData": {"password": "before-it-was-changed"},
    }
    kube.apply(manifest)
    assert kube.diff(manifest) == []
    changed = {**manifest, "stringData": {"password": "after-it-was-changed"}}
    (change,) = kube.diff(changed)
    assert change.name == "data.password"
    assert "it-was-changed" not in f"{change} {change!r}" and "YmVmb3Jl" not in f"{change} {change!r}"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({"replicas": -3}, "spec.replicas: Invalid value: -3: must be greater than or equal to 0"),
        ({"replcas": 3}, ".spec.replcas: field not declared in schema"),
        ({"replicas": "three"}, ".spec.replicas: expected numeric"),
    ],
)
def test_refusals_name_object_field_and_reason_at_once(
    cluster: RunningNode, namespace: str, spoil: Object, told: str
) -> None:
    cancelled = threading.Event()
    cancelled.set()  # before a second try it would say so instead
    manifest = deployment(namespace, "spoilt")
    manifest["spec"].update(spoil)
    once = Cluster(cluster.kubeconfig, expected_uid=cluster.uid, cancelled=cancelled)
    with contextlib.closing(once), pytest.raises(ClusterError) as caught:
        once.apply(manifest)
    assert not isinstance(caught.value, TemporaryClusterError)
    assert f"Deployment {namespace}/spoilt" in str(caught.value) and told in str(caught.value)


def test_missing_namespace_is_named_at_once(kube: Cluster) -> None:
    with pytest.raises(NotFoundError, match='namespaces "no-such-place" not found'):
        kube.apply(config_map("no-such-place", "x"))


def test_unknown_kind_is_named(kube: Cluster, namespace: str) -> None:
    with pytest.raises(ClusterError, match=r"no matches for kind Nonsense in example\.test/v1"):
        kube.apply({**config_map(namespace, "x"), "apiVersion": "example.test/v1", "kind": "Nonsense"}, timeout_s=1)


def test_immutable_fields_are_told_apart(kube: Cluster, namespace: str) -> None:
    first = job(namespace, "fixed")
    first["spec"]["suspend"] = True
    kube.apply(first)
    second = copy.deepcopy(first)
    second["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    with pytest.raises(ImmutableError) as caught:
        kube.diff(second)
    assert caught.value.fields == ("spec.template.spec",)
    assert len(str(caught.value)) < 600, "the API server's copy of the whole template is in the message"


def test_other_cluster_is_refused_before_anything_is_sent(cluster: RunningNode, kube: Cluster, namespace: str) -> None:
    stranger = Cluster(cluster.kubeconfig, expected_uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(ClusterError, match="another cluster"):
        stranger.apply(config_map(namespace, "never"))
    stranger.close()
    assert kube.get(config_map(namespace, "never")) is None


def test_deployment_is_waited_for_and_deleted_with_its_pods(kube: Cluster, namespace: str) -> None:
    manifest = deployment(namespace, "good")
    kube.apply(manifest)
    told: list[str] = []
    live = kube.wait_ready(manifest, 60, told.append)
    assert live["status"]["availableReplicas"] == 1
    assert any("0 of 1 pods available" in text or "not yet seen" in text for text in told)
    kube.delete(manifest, 60)
    assert kube.get(manifest) is None
    assert kube.find("v1", "Pod", namespace, labelSelector="app=good") == []
    kube.delete(manifest, 5)  # gone already is fine


def test_deployment_that_cannot_start_tells_its_pods_reason(kube: Cluster, namespace: str) -> None:
    manifest = deployment(namespace, "stuck", image="sovereign.local/no-such-image:1", imagePullPolicy="Never")
    kube.apply(manifest)
    with pytest.raises(ClusterError) as caught:
        kube.wait_ready(manifest, 8)
    assert "not ready after 8 s" in str(caught.value) and "ErrImageNeverPull" in str(caught.value)
    kube.delete(manifest)


def test_failed_job_tells_why_without_waiting_for_the_timeout(kube: Cluster, namespace: str) -> None:
    manifest = job(namespace, "fails", "--no-such-option")
    kube.apply(manifest)
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        kube.wait_ready(manifest, 90)
    assert time.monotonic() - started < 60
    assert "BackoffLimitExceeded" in str(caught.value) and "exit code" in str(caught.value)


def test_claims_are_waited_for_as_their_class_says(kube: Cluster, namespace: str) -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": namespace},
        "provisioner": "example.test/none",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "later", "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": namespace,
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    unbound = copy.deepcopy(claim)
    unbound["metadata"]["name"] = "unbound"
    unbound["spec"]["storageClassName"] = "no-such-class"
    try:
        for one in (storage_class, claim, unbound):
            kube.apply(one)
        kube.wait_ready(claim, 20)
        with pytest.raises(ClusterError, match="no volume bound"):
            kube.wait_ready(unbound, 1)
    finally:
        kube.delete(storage_class)


def test_kind_of_a_crd_that_comes_a_moment_later(kube: Cluster, namespace: str) -> None:
    group = f"{namespace}.test"
    crd = widget_crd(group)
    widget = {
        "apiVersion": f"{group}/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": namespace},
        "spec": {"size": 3},
    }
    late = threading.Timer(1.0, kube.apply, [crd])
    late.start()
    try:
        kube.apply(widget, timeout_s=30)
        kube.wait_ready(crd, 10)
        assert kube.diff(widget) == []
    finally:
        late.join()
        kube.delete(crd)
    assert kube.get(widget) is None
    kube.delete(widget)  # with its kind gone it is gone too


def test_webhook_that_is_not_up_is_waited_for(kube: Cluster, namespace: str) -> None:
    def webhook(**target: Any) -> Object:
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
        guard = {
            "name": "guard.example.test",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 2,
            "clientConfig": target,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [rule],
        }
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace},
            "webhooks": [guard],
        }

    dead = webhook(url="https://127.0.0.1:1/")
    unserved = webhook(service={"name": "nobody", "namespace": namespace}, caBundle="Cg==")
    goes = threading.Timer(1.5, kube.delete, [dead])
    try:
        kube.apply(dead)
        deadline = time.monotonic() + 20  # the API server takes a moment to use a webhook; it does not say when
        with pytest.raises(TemporaryClusterError, match="failed calling webhook"):
            while time.monotonic() < deadline:
                kube.apply(config_map(namespace, f"guarded-{time.monotonic_ns()}"), timeout_s=0)
        goes.start()
        kube.apply(config_map(namespace, "guarded"), timeout_s=30)
        kube.apply(unserved)
        with pytest.raises(ClusterError, match=f"its service {namespace}/nobody has no ready endpoint"):
            kube.wait_ready(unserved, 1)
    finally:
        goes.cancel()
        kube.delete(unserved)


def test_deletion_that_hangs_names_the_finalizer(kube: Cluster, namespace: str, others: client.CoreV1Api) -> None:
    manifest = config_map(namespace, "held")
    manifest["metadata"]["finalizers"] = ["example.test/hold"]
    kube.apply(manifest)
    with pytest.raises(ClusterError, match=r"example\.test/hold"):
        kube.delete(manifest, 1)
    # Applied again while it is going, it is made anew as soon as the old one is gone.
    free = threading.Timer(
        1.0, others.patch_namespaced_config_map, ["held", namespace, {"metadata": {"finalizers": None}}]
    )
    free.start()
    old = kube.get(manifest)
    del manifest["metadata"]["finalizers"]
    new = kube.apply(manifest, timeout_s=20)
    free.join()
    assert old is not None and new["metadata"]["uid"] != old["metadata"]["uid"]


def test_sixty_objects_are_compared_at_once(kube: Cluster, namespace: str) -> None:
    manifests = [config_map(namespace, f"many-{number}", a="1") for number in range(60)]
    for manifest in manifests:
        kube.apply(manifest)
    manifests[7]["data"]["a"] = "2"
    compared = kube.compare(manifests)
    assert [number for number, one in enumerate(compared) if not one.same] == [7]


MEGABYTE = {"requests": {"storage": "1M"}}
IMMUTABLE: dict[str, tuple[Object, Object, str]] = {
    "config map": ({"immutable": True, "data": {"a": "1"}}, {"data": {"a": "2"}}, "v1/ConfigMap"),
    "secret": ({"immutable": True, "data": {"a": "MQ=="}}, {"data": {"a": "Mg=="}}, "v1/Secret"),
    "secret's type": ({"type": "Opaque"}, {"type": "example.test/other"}, "v1/Secret"),
    "cluster IP": (
        {"spec": {"ports": [{"port": 1}]}},
        {"spec": {"clusterIP": "None", "ports": [{"port": 1}]}},
        "v1/Service",
    ),
    "role": (
        {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "a"}},
        {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "b"}},
        "rbac.authorization.k8s.io/v1/RoleBinding",
    ),
    "class": (
        {"provisioner": "example.test/a", "parameters": {"a": "1"}},
        {"provisioner": "example.test/a", "parameters": {"a": "2"}},
        "storage.k8s.io/v1/StorageClass",
    ),
    "provisioner": ({"provisioner": "a.test/a"}, {"provisioner": "a.test/b"}, "storage.k8s.io/v1/StorageClass"),
    "reclaim policy": (
        {"provisioner": "a.test/a", "reclaimPolicy": "Retain"},
        {"provisioner": "a.test/a", "reclaimPolicy": "Delete"},
        "storage.k8s.io/v1/StorageClass",
    ),
    "priority": ({"value": 1}, {"value": 2}, "scheduling.k8s.io/v1/PriorityClass"),
    "handler": ({"handler": "a"}, {"handler": "b"}, "node.k8s.io/v1/RuntimeClass"),
    "volume's source": (
        {"spec": {"capacity": {"storage": "1M"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}},
        {"spec": {"capacity": {"storage": "1M"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/b"}}},
        "v1/PersistentVolume",
    ),
    "claim": (
        {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "a", "resources": MEGABYTE}},
        {"spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "a", "resources": MEGABYTE}},
        "v1/PersistentVolumeClaim",
    ),
}
_CLUSTER_SCOPED = ("StorageClass", "PriorityClass", "RuntimeClass", "PersistentVolume")


@pytest.mark.parametrize("name", IMMUTABLE)
def test_k4_fields_that_cannot_change_are_known_as_such(kube: Cluster, namespace: str, name: str) -> None:
    first, second, kind = IMMUTABLE[name]
    api_version, _, kind = kind.rpartition("/")
    metadata = {"name": f"{namespace}-{name.lower().replace(' ', '-').replace(chr(39), '')}"}
    if kind not in _CLUSTER_SCOPED:
        metadata["namespace"] = namespace
    item = {"apiVersion": api_version, "kind": kind, "metadata": metadata}
    kube.apply(item | first)
    try:
        with pytest.raises(ImmutableError) as caught:
            kube.diff(item | second)
        assert caught.value.fields
    finally:
        kube.delete(item)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_k4_selectors_and_templates_of_claims_cannot_change(kube: Cluster, namespace: str, kind: str) -> None:
    item = deployment(namespace, f"fixed-{kind.lower()}") | {"kind": kind}
    item["spec"].pop("replicas")
    if kind == "StatefulSet":
        item["spec"] |= {"serviceName": "x", "replicas": 0}
    kube.apply(item)
    other = copy.deepcopy(item)
    other["spec"]["selector"]["matchLabels"] = {"app": "other"}
    other["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    with pytest.raises(ImmutableError):
        kube.diff(other)
    if kind == "StatefulSet":
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1M"}}}
        grown = copy.deepcopy(item)
        grown["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
        with pytest.raises(ImmutableError):
            kube.diff(grown)
    kube.delete(item)


def static_volume(namespace: str, name: str, storage: str = "1M") -> tuple[Object, Object]:
    """A volume in a folder and the claim that it is reserved for, as the kit's templates have them."""
    full = f"{namespace}-{name}"
    volume: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": full},
        "spec": {
            "capacity": {"storage": storage},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": full,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name},
            "hostPath": {"path": "/usr"},
        },
    }
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": full,
            "volumeName": full,
            "resources": {"requests": {"storage": storage}},
        },
    }
    return volume, claim


def test_k3_a_claim_that_was_deleted_gets_its_volume_again(kube: Cluster, namespace: str) -> None:
    volume, claim = static_volume(namespace, "again")
    for item in (volume, claim):
        kube.apply(item)
    kube.wait_ready(claim, 60)
    kube.delete(claim)
    assert {change.name for change in kube.diff(volume)} >= {"spec.claimRef.uid"}
    kube.apply(claim)  # before the volume, as an engine may do it: the wait repairs the binding
    kube.wait_ready(claim, 60)
    assert kube.diff(volume) == [] and kube.diff(claim) == []
    kube.delete(claim)
    kube.apply(volume)
    kube.apply(claim)
    kube.wait_ready(claim, 60)
    for item in (claim, volume):
        kube.delete(item)


def test_k3_a_volume_that_was_deleted_in_use_is_bound_again(kube: Cluster, namespace: str) -> None:
    volume, claim = static_volume(namespace, "lost")
    for item in (volume, claim):
        kube.apply(item)
    kube.wait_ready(claim, 60)
    kube.begin_delete(ObjectRef.of(volume))
    kube.apply(volume)
    deadline = time.monotonic() + 60
    while (kube.get(volume) or {})["status"].get("phase") != "Bound":
        assert time.monotonic() < deadline, kube.get(volume)
        time.sleep(0.5)
    kube.wait_ready(claim, 60)
    assert kube.diff(volume) == [] and kube.diff(claim) == []
    for item in (claim, volume):
        kube.delete(item)


def test_k4_a_static_claim_is_not_resized_and_says_why(kube: Cluster, namespace: str) -> None:
    volume, claim = static_volume(namespace, "grows")
    for item in (volume, claim):
        kube.apply(item)
    kube.wait_ready(claim, 60)
    volume, claim = static_volume(namespace, "grows", "5M")
    assert kube.diff(claim) == [] and names(kube, volume) == ["spec.capacity.storage"]
    for item in (volume, claim):
        kube.validate(item)
        kube.apply(item)
    assert "keeps its 1M, 5M were asked for" in kube.stays(claim)
    (compared,) = kube.compare([claim])
    assert compared.same and compared.stays == kube.stays(claim)
    for item in (claim, volume):
        kube.delete(item)


def test_k4_a_claim_of_a_class_that_can_is_resized(kube: Cluster, namespace: str) -> None:
    volume, claim = static_volume(namespace, "elastic")
    del volume["spec"]["claimRef"]
    volume["metadata"]["annotations"] = {"pv.kubernetes.io/provisioned-by": "example.test/none"}
    storage_class: Object = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": volume["spec"]["storageClassName"]},
        "provisioner": "example.test/none",
        "allowVolumeExpansion": True,
    }
    for item in (storage_class, volume, claim):
        kube.apply(item)
    kube.wait_ready(claim, 60)
    claim["spec"]["resources"]["requests"]["storage"] = "5M"
    assert kube.stays(claim) == "" and names(kube, claim) == ["spec.resources.requests.storage"]
    assert kube.apply(claim)["spec"]["resources"]["requests"]["storage"] == "5M"
    for item in (claim, volume, storage_class):
        kube.delete(item)


def test_k6_what_others_add_to_a_pod_template_is_found_and_removed(
    cluster: RunningNode, kube: Cluster, namespace: str
) -> None:
    manifest = deployment(namespace, "owned", env=[{"name": "A", "value": "1"}], ports=[{"containerPort": 80}])
    manifest["spec"]["replicas"] = 0
    kube.apply(manifest)
    extra = {
        "containers": [
            {"name": "side", "image": PAUSE},
            {
                "name": "main",
                "env": [{"name": "B", "value": "2"}],
                "ports": [{"containerPort": 81}],
                "securityContext": {"privileged": True},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            },
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [{"name": "first", "image": PAUSE}],
        "hostNetwork": True,
        "tolerations": [{"operator": "Exists"}],
    }
    patch = json.dumps({"spec": {"template": {"spec": extra}}})
    cluster.kubectl("-n", namespace, "patch", "deployment", "owned", "--patch", patch)
    found = " ".join(map(str, kube.diff(manifest)))
    for word in ("side", "'B'", "81", "privileged", "volumeMounts", "volumes", "first", "hostNetwork", "tolerations"):
        assert word in found, word
    kube.apply(manifest)
    assert kube.diff(manifest) == []
    spec = (kube.get(manifest) or {})["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["containers"]] == ["main"] and not spec.get("hostNetwork")
    kube.delete(manifest)


def test_k6_what_others_add_by_a_server_side_apply_or_an_edit_is_found(
    cluster: RunningNode, kube: Cluster, namespace: str
) -> None:
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "open", "namespace": namespace},
        "spec": {"type": "NodePort", "selector": {"app": "x"}, "ports": [{"name": "http", "port": 80}]},
    }
    kube.apply(service)
    assert kube.diff(service) == [], "the server's own cluster IP and node port"
    theirs = copy.deepcopy(service)
    theirs["spec"] = {"externalIPs": ["192.0.2.1"], "ports": [{"name": "ssh", "port": 22, "protocol": "TCP"}]}
    cluster.kubectl("apply", "--server-side", "--field-manager=somebody", "-f", "-", stdin=json.dumps(theirs))
    assert len(kube.diff(service)) == 2
    kube.apply(service)
    assert kube.diff(service) == []
    live = kube.get(service)
    assert live is not None and [port["port"] for port in live["spec"]["ports"]] == [80]
    assert "externalIPs" not in live["spec"]
    kube.delete(service)


def test_k6_restarts_scalers_and_rollouts_do_not_count(cluster: RunningNode, kube: Cluster, namespace: str) -> None:
    manifest = deployment(namespace, "lively")
    del manifest["spec"]["replicas"]
    kube.apply(manifest)
    kube.wait_ready(manifest, 60)
    cluster.kubectl("-n", namespace, "rollout", "restart", "deployment", "lively")
    cluster.kubectl("-n", namespace, "scale", "deployment", "lively", "--replicas=2")
    kube.wait_ready(manifest, 60)
    assert kube.diff(manifest) == []
    kube.delete(manifest)


def test_log_of_a_pod_that_is_gone_is_empty(kube: Cluster, namespace: str) -> None:
    """It may go between the moment when it is listed and the one when its log is asked for."""
    assert list(kube.follow_log(namespace, "deleted")) == []


def test_dead_api_server_is_told_once_and_for_all(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],"
        " users: [{name: a, user: {token: t}}], clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]}"
    )
    dead = Cluster(kubeconfig)
    with pytest.raises(TemporaryClusterError, match="refused"):
        dead.apply(config_map("default", "x"), timeout_s=0.5)
    dead.close()


def widget_crd(group: str) -> Object:
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }

"""The resource type Manifest against a real API server, asked as the engine asks it; no engine, so that it is fast."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from pulumi.provider.experimental import provider as p

from sovereign.errors import ClusterError, SovereignError, TemporaryClusterError
from stacks.fields import Object
from stacks.kube import Cluster
from stacks.provider.errors import InitFailedError, redact
from stacks.provider.log import EngineLog
from stacks.provider.manifest import ManifestType
from stacks.provider.values import UNKNOWN, Properties, secret_texts, to_plain, to_value
from tests.e2e.node_fixture import RunningNode, config_map

pytestmark = pytest.mark.e2e
URN = "urn:pulumi:dev::test::sovereign:index:Manifest::it"


class Log(EngineLog):
    """Keeps what the user would be told."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.texts: list[str] = []

    def progress(self, urn: str, message: str) -> None:
        self.texts.append(message)

    def info(self, urn: str, message: str) -> None:
        self.texts.append(message)


class Resource:
    """One resource of the type, with its state as the engine would keep it."""

    def __init__(self, kubeconfig: Path, **settings: Any) -> None:
        self.log = Log()
        self.cancelled = threading.Event()
        self.type = ManifestType(self.log, self.cancelled)
        self.settings: dict[str, Any] = {"kubeconfig": str(kubeconfig), **settings}
        self.state: Properties = {}

    def check(self, manifest: Any) -> p.CheckResponse:
        news = {key: to_value(value) for key, value in {"manifest": manifest, **self.settings}.items()}
        return self.type.check(p.CheckRequest(URN, self.state, news, b""))

    def inputs(self, manifest: Any) -> Properties:
        checked = self.check(manifest)
        assert not checked.failures and checked.inputs is not None
        return checked.inputs

    def create(self, manifest: Object, *, preview: bool = False) -> Properties:
        made = self.type.create(p.CreateRequest(URN, self.inputs(manifest), 0, preview)).properties
        if not preview:
            self.state = made
        return made

    def diff(self, manifest: Any) -> p.DiffResponse:
        return self.type.diff(p.DiffRequest(URN, "id", self.state, self.inputs(manifest), []))

    def delete(self) -> None:
        self.type.delete(p.DeleteRequest(URN, "id", self.state, 0))


@pytest.fixture
def resource(cluster: RunningNode) -> Resource:
    return Resource(cluster.kubeconfig, clusterUid=cluster.uid)


def test_detailed_diff_names_fields_as_pulumi_does(resource: Resource, namespace: str) -> None:
    resource.create(config_map(namespace, "detailed", a="1", gone="1", **{"with.dot": "1"}))
    found = resource.diff(config_map(namespace, "detailed", a="2", new="1", **{"with.dot": "2"})).detailed_diff
    assert {name: diff.kind.name for name, diff in found.items()} == {
        "manifest.data.a": "UPDATE",
        "manifest.data.gone": "DELETE",
        "manifest.data.new": "ADD",
        'manifest.data["with.dot"]': "UPDATE",
    }
    assert resource.log.texts == [], "a change that was asked for is not one by others"


def test_settings_alone_are_changes_too(resource: Resource, namespace: str) -> None:
    manifest = config_map(namespace, "settings")
    resource.create(manifest)
    assert not resource.diff(manifest).changes
    resource.settings["keep"] = True
    assert resource.diff(manifest).diffs == ["keep"], "the state would not know that the object is to be kept"


def test_other_identity_is_a_replacement_and_other_api_version_is_not(resource: Resource, namespace: str) -> None:
    resource.create(config_map(namespace, "one"))
    moved = resource.diff(config_map(namespace, "two"))
    assert moved.replaces == ["manifest"] and moved.delete_before_replace
    budget = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scale", "namespace": namespace},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}},
    }
    resource.create(budget)
    assert resource.diff({**budget, "apiVersion": "autoscaling/v2"}).replaces == []


def test_kept_object_is_neither_replaced_nor_deleted(resource: Resource, namespace: str, kube: Cluster) -> None:
    kept = {**config_map(namespace, "kept", a="1"), "immutable": True}
    resource.settings["keep"] = True
    resource.create(kept)
    for other in ({**kept, "data": {"a": "2"}}, config_map(namespace, "renamed", a="1")):
        with pytest.raises(ClusterError, match=f"ConfigMap {namespace}/kept is marked keep and is never replaced"):
            resource.diff(other)
    resource.delete()
    assert kube.get(kept) is not None
    assert resource.log.texts == [f"ConfigMap {namespace}/kept is kept in the cluster"]


def test_object_of_others_is_not_taken_over(
    resource: Resource, namespace: str, kube: Cluster, others: client.CoreV1Api
) -> None:
    theirs = config_map(namespace, "theirs", a="1")
    others.create_namespaced_config_map(namespace, client.V1ConfigMap(metadata={"name": "theirs"}, data={"a": "1"}))
    with pytest.raises(ClusterError, match=f"ConfigMap {namespace}/theirs exists already and was not made by this kit"):
        resource.create(config_map(namespace, "theirs", a="2"))
    live = kube.get(theirs)
    assert live is not None and live["data"] == {"a": "1"}
    # What a deploy of ours made before it was killed is gone on with.
    kube.apply(config_map(namespace, "half-made", a="1"))
    resource.create(config_map(namespace, "half-made", a="2"))


def test_unknown_values_are_compared_with_the_last_deploy(resource: Resource, namespace: str, kube: Cluster) -> None:
    manifest = config_map(namespace, "later", a="1")
    resource.create(manifest)
    kube.delete(manifest)
    resource.settings["kubeconfig"] = UNKNOWN
    assert not resource.diff(manifest).changes
    assert list(resource.diff(config_map(namespace, "later", a=UNKNOWN)).detailed_diff) == ["manifest.data.a"]  # type: ignore[arg-type]
    made = resource.create(manifest, preview=True)
    assert to_plain(made["validated"]) is False and to_plain(made["uid"]) is UNKNOWN


def test_cluster_that_does_not_answer_counts_as_a_change(resource: Resource, namespace: str, tmp_path: Path) -> None:
    manifest = config_map(namespace, "unreachable")
    resource.create(manifest)
    resource.settings["kubeconfig"] = str(tmp_path / "gone")
    assert "validated" in resource.diff(manifest).diffs
    resource.state["kubeconfig"] = to_value(resource.settings["kubeconfig"])
    with pytest.raises(ClusterError, match="no kubeconfig at"):
        resource.delete()


def test_errors_name_object_field_and_reason(resource: Resource, namespace: str, cluster: RunningNode) -> None:
    wrong = config_map(namespace, "Not_A_Name")
    with pytest.raises(
        ClusterError, match=f"(?s)ConfigMap {namespace}/Not_A_Name: refused.*metadata.name: Invalid value"
    ):
        resource.create(wrong)
    resource.settings["clusterUid"] = "somebody-elses"
    with pytest.raises(ClusterError, match=f"kube-system has UID {cluster.uid}"):
        resource.create(config_map(namespace, "right"))


def test_secret_values_are_marked_and_taken_out_of_messages(
    resource: Resource, namespace: str, kube: Cluster, cluster: RunningNode
) -> None:
    word = "correct-horse"
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": namespace},
        "stringData": {"word": word},
    }
    made = resource.create(manifest)
    assert set(secret_texts(made["manifest"])) == {word}
    assert not resource.diff(manifest).changes
    # A program may mark values of any object as secret: telling what others did must not tell those.
    marked = Resource(cluster.kubeconfig)
    marked.create(config_map(namespace, "marked", word=word))
    marked.state["manifest"] = to_value(to_plain(marked.state["manifest"])).with_secret(True)
    kube.delete(config_map(namespace, "marked"))
    kube.apply(config_map(namespace, "marked", word=f"{word}-by-others"))
    assert marked.diff(config_map(namespace, "marked", word=word)).changes
    assert "data.word: '[secret]-by-others', should be '[secret]'" in marked.log.texts[-1]
    broken = config_map(namespace, "broken")
    broken["metadata"]["annotations"] = {"Bad Key": "x", "owner": word}
    broken["data"] = {f"{word} is no key": "x"}
    with pytest.raises(SovereignError) as caught:
        resource.create(broken)
    assert word in str(caught.value)
    redact(caught.value, [word])
    assert word not in str(caught.value) and "[secret]" in str(caught.value)


def test_object_that_does_not_become_ready_keeps_its_state(resource: Resource, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "unbound", "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "no-such-class",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    resource.settings["timeoutSeconds"] = 1
    with pytest.raises(InitFailedError, match="no volume bound") as caught:
        resource.create(claim)
    assert to_plain(caught.value.properties["manifest"]) == claim
    assert caught.value.resource_id == f"v1/PersistentVolumeClaim/{namespace}/unbound"
    assert any("no volume bound" in text for text in resource.log.texts)


def test_cancel_ends_a_wait(resource: Resource, namespace: str) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "held", "namespace": namespace},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}},
        },
    }
    threading.Timer(0.5, resource.cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(InitFailedError, match="cancelled"):
        resource.create(job)
    assert time.monotonic() - started < 5


def test_preview_meets_a_missing_namespace(resource: Resource) -> None:
    made = resource.create(config_map("comes-with-the-same-deploy", "x"), preview=True)
    assert to_plain(made["validated"]) is False
    with pytest.raises(ClusterError, match="Invalid value"):
        resource.create(config_map("default", "Not_A_Name"), preview=True)


def test_dead_api_server_makes_a_delete_fail_clearly(
    resource: Resource, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource.create(config_map(namespace, "left"))
    dead = tmp_path / "kubeconfig"
    dead.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],"
        " users: [{name: a, user: {token: t}}], clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]}"
    )
    resource.state |= {"kubeconfig": to_value(str(dead)), "timeoutSeconds": to_value(1)}
    with pytest.raises(TemporaryClusterError, match="does not answer") as caught:
        resource.delete()
    assert caught.value.hint is not None and "start the cluster" in caught.value.hint


@pytest.mark.parametrize(
    ("manifest", "wrong"),
    [
        ({"kind": "ConfigMap", "metadata": {"name": "x"}}, "manifest.apiVersion"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}}, "manifest.metadata.name"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a/b"}}, "manifest.metadata.name"),
        ({"apiVersion": "v1", "kind": "List", "items": [], "metadata": {"name": "x"}}, "manifest.kind"),
        ("text", "manifest"),
    ],
)
def test_malformed_inputs_are_named(manifest: Any, wrong: str) -> None:
    failures = Resource(Path("/nowhere")).check(manifest).failures
    assert failures is not None and [failure.property for failure in failures] == [wrong]

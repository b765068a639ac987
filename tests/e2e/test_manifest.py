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
from stacks.identity import ADOPT_VARIABLE, DECLARED_VARIABLE, Owner, identity, owned, write_declared
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

    def warning(self, urn: str, message: str) -> None:
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
    with pytest.raises(ClusterError, match=f"ConfigMap {namespace}/kept is marked keep and is never replaced"):
        resource.diff(config_map(namespace, "renamed", a="1"))
    resource.delete()
    assert kube.get(kept) is not None
    assert resource.log.texts == [f"ConfigMap {namespace}/kept is kept in the cluster"]


def test_k4_a_kept_object_that_would_have_to_be_replaced_warns_and_stays(
    resource: Resource, namespace: str, kube: Cluster
) -> None:
    """An error here would end the deploy, with everything that comes after."""
    kept = {**config_map(namespace, "kept-as-is", a="1"), "immutable": True}
    resource.settings["keep"] = True
    resource.create(kept)
    assert not resource.diff({**kept, "data": {"a": "2"}}).changes
    assert "marked keep and is never replaced" in resource.log.texts[-1] and "move its data" in resource.log.texts[-1]
    kube.delete(kept)


# --- K1 and K2: whose object it is ---------------------------------------------------------------------------------


def of_site(manifest: Object, site: str = "ours", stack: str = "datalake") -> Object:
    return owned(manifest, site, stack)


def test_k1_delete_forgets_what_another_stack_took_over(resource: Resource, namespace: str, kube: Cluster) -> None:
    manifest = config_map(namespace, "moved", a="1")
    resource.create(of_site(manifest))
    before = kube.apply(of_site(manifest, stack="serving"))
    resource.delete()
    live = kube.get(manifest)
    assert live is not None and live["metadata"]["uid"] == before["metadata"]["uid"]
    assert "another owner" in resource.log.texts[-1]


def test_k1_delete_forgets_what_the_deploy_declares_and_replaces_what_cannot_change(
    cluster: RunningNode, namespace: str, kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = config_map(namespace, "declared", a="1")
    fixed = {**config_map(namespace, "fixed-declared", a="1"), "immutable": True}
    (tmp_path / "declared.json").write_text(write_declared([identity(moved), identity(fixed)]))
    monkeypatch.setenv(DECLARED_VARIABLE, str(tmp_path / "declared.json"))
    resource = Resource(cluster.kubeconfig, clusterUid=cluster.uid)
    resource.create(of_site(moved))
    resource.delete()
    assert kube.get(moved) is not None
    # The same object, deleted to be made again.
    resource.create(of_site(fixed))
    assert resource.diff(of_site({**fixed, "data": {"a": "2"}})).replaces == ["manifest"]
    resource.delete()
    assert kube.get(fixed) is None


def test_k1_delete_leaves_what_others_made_again(resource: Resource, namespace: str, kube: Cluster) -> None:
    manifest = config_map(namespace, "made-again", a="1")
    resource.create(of_site(manifest))
    kube.delete(manifest)
    kube.apply(manifest)
    resource.delete()
    assert kube.get(manifest) is not None


def test_k1_delete_takes_what_lost_its_label_and_what_has_not_moved(
    resource: Resource, namespace: str, kube: Cluster
) -> None:
    for number, relabel in enumerate((False, True)):
        manifest = config_map(namespace, f"goes-{number}", a="1")
        resource.create(of_site(manifest))
        if relabel:
            kube.apply(manifest)
        resource.delete()
        assert kube.get(manifest) is None


def test_k1_delete_is_refused_by_the_server_when_the_object_changes_meanwhile(kube: Cluster, namespace: str) -> None:
    manifest = config_map(namespace, "contested", a="1")
    kube.apply(of_site(manifest))
    seen: list[str | None] = []

    def may(live: Object) -> bool:
        stack = Owner.of(live).stack
        seen.append(stack)
        if len(seen) == 1:  # another deploy takes it between the look and the deletion
            kube.apply(of_site(manifest, stack="serving"))
        return stack == "datalake"

    assert not kube.delete_if(manifest, may)
    assert seen[:2] == ["datalake", "serving"] and kube.get(manifest) is not None


def test_k1_one_object_under_two_api_groups_is_the_same(resource: Resource, namespace: str, kube: Cluster) -> None:
    event: Object = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "happened", "namespace": namespace},
        "involvedObject": {"kind": "ConfigMap", "namespace": namespace, "name": "x"},
        "reason": "Made",
        "type": "Normal",
    }
    resource.create(event)
    newer = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": event["metadata"],
        "regarding": event["involvedObject"],
        "reason": "Made",
        "type": "Normal",
    }
    assert resource.diff(newer).replaces == []
    other = {**newer, "metadata": {**event["metadata"], "name": "elsewhere"}}
    assert resource.diff(other).replaces == ["manifest"]


def test_k2_objects_of_another_site_are_refused_unless_adopted_and_never_deleted(
    cluster: RunningNode, resource: Resource, namespace: str, kube: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = config_map(namespace, "theirs-too", a="1")
    kube.apply(of_site(manifest, "first"))
    for preview in (True, False):
        with pytest.raises(ClusterError, match="belongs to another site, first"):
            resource.create(of_site(manifest, "second"), preview=preview)
    monkeypatch.setenv(ADOPT_VARIABLE, "1")
    adopting = Resource(cluster.kubeconfig, clusterUid=cluster.uid)
    adopting.create(of_site(manifest, "second"))
    # The first one's removal leaves it alone, and its next deploy is refused.
    monkeypatch.delenv(ADOPT_VARIABLE)
    first = Resource(cluster.kubeconfig, clusterUid=cluster.uid)
    first.state = first.inputs(of_site(manifest, "first"))
    with pytest.raises(ClusterError, match="belongs to another site, second"):
        first.type.update(p.UpdateRequest(URN, "id", first.state, first.state, 0, [], False))
    first.delete()
    assert kube.get(manifest) is not None
    adopting.delete()
    assert kube.get(manifest) is None


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

"""What others added to an object, as the live object's managedFields name it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from stacks.additions import additions, pointer, removal
from stacks.fields import Object

MANIFEST: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "s3"},
    "spec": {
        "replicas": 1,
        "template": {
            "spec": {
                "containers": [{"name": "s3", "image": "x", "ports": [{"containerPort": 7}], "env": [{"name": "A"}]}]
            }
        },
    },
}


def live(change: Any = None, kind: str = "Deployment", **entry: Any) -> Object:
    """The deployed object after `change`, with a managedFields entry of somebody else."""
    result = copy.deepcopy(MANIFEST) | {"kind": kind}
    if change is not None:
        change(result["spec"]["template"]["spec"])
    ours = {"manager": "sovereign", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    result["metadata"] |= {"managedFields": [ours, {"manager": "kubectl-edit", "operation": "Update", **entry}]}
    return result


def pod(**fields: Any) -> Any:
    return {"f:spec": {"f:template": {"f:spec": fields["fields"]}}}


def test_k6_a_container_a_variable_and_a_volume_of_others_are_named_whole() -> None:
    def change(spec: Any) -> None:
        spec["containers"].insert(0, {"name": "miner", "image": "y"})
        spec["containers"][1]["env"].append({"name": "B", "value": "1"})
        spec["volumes"] = [{"name": "extra", "emptyDir": {}}]

    fields = {
        "f:containers": {
            'k:{"name":"miner"}': {".": {}, "f:name": {}, "f:image": {}},
            'k:{"name":"s3"}': {"f:env": {'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}}}},
        },
        "f:volumes": {".": {}, 'k:{"name":"extra"}': {".": {}, "f:name": {}}},
    }
    found = additions(live(change, fieldsV1=pod(fields=fields)), MANIFEST)
    assert [change.name for change in found] == [
        "spec.template.spec.containers[0]",
        "spec.template.spec.containers[1].env[1]",
        "spec.template.spec.volumes",
    ]
    assert found[0].live == {"name": "miner", "image": "y"}
    # Removed from the end, so that the places of the others stay right; refused when the object has changed since.
    assert [(step["op"], step["path"]) for step in removal(found, "7")] == [
        ("replace", "/metadata/resourceVersion"),
        ("remove", "/spec/template/spec/volumes"),
        ("remove", "/spec/template/spec/containers/1/env/1"),
        ("remove", "/spec/template/spec/containers/0"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"f:hostNetwork": {}},
        {"f:securityContext": {"f:runAsUser": {}}},
        {"f:nodeSelector": {}},
        {"f:containers": {'k:{"name":"s3"}': {"f:securityContext": {".": {}, "f:privileged": {}}}}},
    ],
)
def test_k6_settings_of_a_pod_that_the_manifest_leaves_out_count(fields: Any) -> None:
    def change(spec: Any) -> None:
        spec |= {"hostNetwork": True, "securityContext": {"runAsUser": 0}, "nodeSelector": {"a": "b"}}
        spec["containers"][0]["securityContext"] = {"privileged": True}

    assert len(additions(live(change, fieldsV1=pod(fields=fields)), MANIFEST)) == 1


def test_k6_a_value_that_the_manifest_has_is_the_dry_runs_work() -> None:
    port: Object = {'k:{"containerPort":7,"protocol":"TCP"}': {".": {}}}
    containers = {'k:{"name":"s3"}': {"f:image": {}, "f:ports": port}}
    entry = {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": containers}}}}

    def change(spec: Any) -> None:
        spec["containers"][0]["ports"][0]["protocol"] = "TCP"

    assert additions(live(change, fieldsV1=entry), MANIFEST) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"manager": "kube-controller-manager", "fieldsV1": {"f:spec": {"f:paused": {}}}},
        {"manager": "clusterrole-aggregation-controller", "fieldsV1": {"f:spec": {"f:paused": {}}}},
        {"subresource": "scale", "fieldsV1": {"f:spec": {"f:paused": {}}}},
        {"fieldsV1": {"f:metadata": {"f:annotations": {"f:a": {}}}}},
        {"fieldsV1": {"f:status": {"f:replicas": {}}}},
        {"fieldsV1": {"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:restartedAt": {}}}}}}},
        {"fieldsV1": {"f:spec": {"f:gone-again": {}}}},
        {},
    ],
)
def test_k6_controllers_scaling_restarts_and_annotations_do_not_count(entry: Any) -> None:
    item = live(**entry)
    item["spec"]["paused"] = True
    item["spec"]["template"]["metadata"] = {"annotations": {"restartedAt": "now"}}
    assert additions(item, {**MANIFEST, "spec": {**MANIFEST["spec"], "template": {"metadata": {}}}}) == []


def test_k6_what_a_queue_writes_into_a_job_does_not_count() -> None:
    fields: Object = {"f:spec": {"f:suspend": {}, "f:template": {"f:spec": {"f:nodeSelector": {}, "f:hostPID": {}}}}}

    def change(spec: Any) -> None:
        spec |= {"nodeSelector": {"a": "b"}, "hostPID": True}

    item = live(change, kind="Job", manager="kueue", fieldsV1=fields)
    item["spec"]["suspend"] = False
    assert [change.name for change in additions(item, MANIFEST)] == ["spec.template.spec.hostPID"]


def test_k6_certificates_of_webhooks_do_not_count_and_added_webhooks_do() -> None:
    manifest = {"kind": "MutatingWebhookConfiguration", "webhooks": [{"name": "a", "clientConfig": {"service": {}}}]}
    hooks = [{"name": "a", "clientConfig": {"caBundle": "x", "service": {}}}, {"name": "b"}]
    fields: Object = {
        "f:webhooks": {'k:{"name":"a"}': {"f:clientConfig": {"f:caBundle": {}}}, 'k:{"name":"b"}': {".": {}}}
    }
    metadata = {"managedFields": [{"manager": "manager", "fieldsV1": fields}]}
    found = additions({"kind": manifest["kind"], "metadata": metadata, "webhooks": hooks}, manifest)
    assert [change.name for change in found] == ["webhooks[1]"]


def test_pointers_are_escaped() -> None:
    assert pointer(("a/b", 0, "c~d")) == "/a~1b/0/c~0d"

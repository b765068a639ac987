"""What a member of `sovereign:trainers` can do on a real API server: watch and stop, never read a secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from sovereign.render import render_template
from stacks.kube import Cluster
from tests.e2e.node_fixture import RunningNode
from tests.stacks.platforms import platform

pytestmark = pytest.mark.e2e
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "training"}}
KEY = "the root key of the lake"


def pod(**more: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "sovereign.local/pause:1", **more.pop("container", {})}
    return {"restartPolicy": "Never", "containers": [container], **more}


def job(spec: dict[str, Any], kind: str = "Job") -> dict[str, Any]:
    body: dict[str, Any] = {"template": {"spec": spec}}
    metadata = {"name": "made-by-a-trainer", "namespace": "training"}
    if kind == "Pod":
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    if kind == "CronJob":
        body = {"schedule": "* * * * *", "jobTemplate": {"spec": body}}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": body}


SECRET_ENV = {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s3-credentials", "key": "secret-key"}}}]}
SERVICE = {"selector": {"a": "b"}, "ports": [{"port": 80}]}
METADATA = {"name": "made-by-a-trainer", "namespace": "training"}
REFUSED = {
    "secret in the environment": job(pod(container=SECRET_ENV)),
    "all of a secret": job(pod(container={"envFrom": [{"secretRef": {"name": "s3-credentials"}}]})),
    "secret as a volume": job(pod(volumes=[{"name": "s", "secret": {"secretName": "s3-credentials"}}])),
    "secret in a projection": job(
        pod(volumes=[{"name": "s", "projected": {"sources": [{"secret": {"name": "s3-credentials"}}]}}])
    ),
    "cron job": job(pod(container=SECRET_ENV), "CronJob"),
    "pod": job(pod(container=SECRET_ENV), "Pod"),
    "external address": {
        "apiVersion": "v1", "kind": "Service", "metadata": METADATA, "spec": SERVICE | {"externalIPs": ["192.0.2.1"]},
    },
    "other name": {
        "apiVersion": "v1", "kind": "Service", "metadata": METADATA,
        "spec": {"type": "ExternalName", "externalName": "attacker.example"},
    },
    "what a pod reads": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": METADATA, "data": {"profile.yaml": ""}},
}  # fmt: skip


@pytest.fixture(scope="module")
def training(kube: Cluster) -> Iterator[None]:
    """The namespace with the shipped roles, a secret, and a Job of the kit."""
    kube.apply(NAMESPACE)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials", "namespace": "training"}}
    kube.apply(secret | {"stringData": {"secret-key": KEY}})
    for item in render_template("cluster/rbac", platform("demo").context):
        kube.apply(item)
    running = job(pod())
    running["metadata"] = {"name": "demo-train", "namespace": "training"}
    running["spec"]["suspend"] = True
    kube.apply(running)
    yield
    kube.delete(NAMESPACE, 90)


def as_trainer(cluster: RunningNode, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(cluster.spec.binaries["kubectl"]), f"--kubeconfig={cluster.kubeconfig}"]
    command += [f"--cache-dir={cluster.spec.state_dir / 'kubectl-cache'}", "--namespace=training"]
    command += ["--as=anna", "--as-group=sovereign:trainers", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("what", REFUSED)
def test_k11_sec10_a_trainer_makes_nothing_that_reads_a_secret(what: str, cluster: RunningNode, training: None) -> None:
    done = as_trainer(cluster, "create", "--filename=-", stdin=json.dumps(REFUSED[what]))
    assert done.returncode != 0 and "forbidden" in done.stderr.lower(), done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "secrets"),
        ("get", "secret", "s3-credentials"),
        ("patch", "job", "demo-train", "--patch", '{"spec":{"suspend":false}}'),
        ("create", "token", "default"),
        ("auth", "can-i", "create", "pods", "--subresource=exec"),
        ("auth", "can-i", "update", "pods", "--subresource=ephemeralcontainers"),
        ("auth", "can-i", "get", "pods", "--subresource=proxy"),
        ("auth", "can-i", "impersonate", "users"),
        ("auth", "can-i", "create", "rolebindings"),
        ("auth", "can-i", "escalate", "roles"),
    ],
)
def test_k11_nor_finds_another_way(arguments: tuple[str, ...], cluster: RunningNode, training: None) -> None:
    done = as_trainer(cluster, *arguments)
    assert done.returncode != 0 and KEY not in done.stdout


def test_k11_a_trainer_watches_and_stops(cluster: RunningNode, training: None) -> None:
    assert "demo-train" in as_trainer(cluster, "get", "jobs").stdout
    for resource in (["pods"], ["pods", "--subresource=log"], ["events"]):
        assert as_trainer(cluster, "auth", "can-i", "get", *resource).stdout.strip() == "yes"
    assert as_trainer(cluster, "delete", "job", "demo-train", "--wait=false").returncode == 0

"""The three stacks on a real API server: what they render is valid, what they deploy works, who may use the state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.cli.target import open_target
from sovereign.errors import ClusterError
from sovereign.files import sha256_bytes
from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.render import Object
from sovereign.site import Site, init_site
from sovereign.tools import find_tool, load_tools
from sovereign.workload import BUCKETS, PORTS, QUEUE
from stacks.deploy import preview
from stacks.engine import environment
from stacks.node import lifecycle, processes
from stacks.node.config import CONTAINERD_SOCKET
from stacks.node.images import HOST_IMAGE
from stacks.node.spec import BinaryImage, NodeSpec
from stacks.objects import STACKS, objects_for
from stacks.resolve import resolve, secret_key
from stacks.state import read_state, state_file
from tests.e2e.node_fixture import RunningNode, free_spec
from tests.e2e.site_fixture import LiveSite, traces
from tests.stacks.platforms import RUNTIME, platform
from tests.stacks.test_templates import job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def deployed(live: LiveSite) -> LiveSite:
    """The session's site with its platform deployed."""
    live.run("deploy", "--stack", "cluster", "--stack", "datalake")
    return live


def ignore(stack: str, message: str, done: int, total: int) -> None:
    """A report that nobody reads."""


# --- templates and the API server ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "site", "nation"])
def test_all_that_shipped_profiles_render_passes_the_servers_dry_run(deployed: LiveSite, name: str) -> None:
    cluster = deployed.cluster
    objects = [item for stack in STACKS for item in objects_for(stack, platform(name))] + job(name, "train")
    refused = []
    for item in objects:
        try:
            cluster.validate(item)
        except ClusterError as error:
            # The deployed one differs from this profile's.
            if not any(words in str(error).lower() for words in ("immutable", "may not change once set")):
                refused.append(str(error))
    assert not refused, "\n".join(refused)
    cluster.close()


def test_the_servers_dry_run_refuses_what_is_wrong(deployed: LiveSite) -> None:
    (service,) = (item for item in objects_for("serving", platform("demo")) if item["kind"] == "Service")
    service["spec"]["ports"][0]["port"] = 70000
    with pytest.raises(ClusterError, match="port"):
        deployed.cluster.validate(service)


# --- what is deployed ----------------------------------------------------------------------------------------------


def test_buckets_take_and_give_files(deployed: LiveSite, tmp_path: Path) -> None:
    with open_target(deployed.site) as target:
        store = target.store
        for bucket in BUCKETS:
            store.put_bytes(f"{bucket}/test/a file", bucket.encode())
            assert store.get_bytes(f"{bucket}/test/a file") == bucket.encode()
            assert list(store.list(f"{bucket}/test/")) == [f"{bucket}/test/a file"]
            store.delete(f"{bucket}/test/a file")
        big = tmp_path / "big"
        big.write_bytes(os.urandom(20_000_000))
        store.put_file("raw/test/big", big)
        store.get_file("raw/test/big", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == big.read_bytes()
        store.delete("raw/test/big")


def test_mlflow_answers_in_the_cluster_and_here_and_nobody_elses_host_name(deployed: LiveSite) -> None:
    with open_target(deployed.site) as target, target.endpoint("lake", "mlflow", PORTS["mlflow"]) as url:
        question = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
        for host, code in ((None, 200), ("mlflow.lake.svc:5000", 200), ("evil.example.org", 403)):
            request = urllib.request.Request(question, headers={"Host": host} if host else {})  # noqa: S310
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                    found = answer.status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == code, host


def test_workload_namespaces_refuse_a_privileged_pod(deployed: LiveSite) -> None:
    container = {"name": "c", "image": "x", "securityContext": {"privileged": True}}
    for namespace in ("training", "lake", "serving"):
        metadata = {"name": "bad", "namespace": namespace}
        pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
        with pytest.raises(ClusterError, match="PodSecurity"):
            deployed.cluster.validate(pod)


def test_secrets_are_not_in_the_state_in_clear(deployed: LiveSite) -> None:
    key = secret_key(deployed.site, "s3 root key")
    files = [path for path in deployed.site.state_dir.rglob("*") if path.is_file()]
    assert state_file(deployed.site, "datalake") in files
    assert not [path for path in files if key.encode() in path.read_bytes()]


_SEES = """
import hashlib, os
from pathlib import Path
from sovereign.lake.database import _password_file
mounted = Path(os.environ["SOVEREIGN_PGPASSFILE"])
with _password_file() as name:
    copy = Path(name)
    modes = [oct(path.stat().st_mode & 0o777) for path in (mounted, copy)]
    print(os.getuid(), *modes, hashlib.sha256(copy.read_bytes()).hexdigest())
"""


def test_databases_passwords_are_a_file_in_the_pod_of_corpus_and_go_again(deployed: LiveSite) -> None:
    site, cluster = deployed.site, deployed.cluster
    profile, password = site.profile_path.read_text(), "*:*:*:reader:made-up-for-the-archive\n"
    named = {"name": "decrees", "path": "postgresql://reader@db.example.org/gazette", "query": "SELECT 1::text AS text"}
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "databases", "namespace": "training"}}
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sees-passwords", "namespace": "training"}}
    made: list[Object] = [pod]
    try:
        site.pgpass_file.write_text(password)
        site.pgpass_file.chmod(0o600)
        deployed.edit(corpus={"sources": [{**named, "owner": "O", "licence": "CC0-1.0", "language": "en"}]})
        deployed.run("deploy", "--stack", "cluster")
        with open_target(site) as target:
            made += target.runner.render("corpus", "try")
        assert password.strip() not in json.dumps(made)
        (job_of_corpus,) = (item for item in made if item["kind"] == "Job")
        spec = job_of_corpus["spec"]["template"]["spec"]
        spec["containers"][0]["command"][1:] = ["-c", _SEES]
        for item in made[1:-1]:
            cluster.apply(item)
        cluster.apply({**pod, "spec": spec})
        deadline = time.monotonic() + 300
        while (phase := (cluster.get(pod) or {}).get("status", {}).get("phase")) in (None, "Pending", "Running"):
            assert time.monotonic() < deadline, phase
            time.sleep(1)
        (line,) = cluster.follow_log("training", "sees-passwords")
        assert (phase, line.split()) == ("Succeeded", ["65532", "0o440", "0o600", sha256_bytes(password.encode())])
        assert not [
            path for path in site.state_dir.rglob("*") if path.is_file() and b"made-up-for" in path.read_bytes()
        ]
    finally:
        site.pgpass_file.unlink()
        site.profile_path.write_text(profile)
        for item in made:
            cluster.delete(item)
        deployed.run("deploy", "--stack", "cluster")
    assert cluster.get(secret) is None
    cluster.close()


# --- the state -----------------------------------------------------------------------------------------------------


def test_the_ordinary_pulumi_command_works_on_the_state(deployed: LiveSite) -> None:
    program = find_tool("pulumi")
    variables = {**os.environ, **environment(deployed.site, program)}

    def pulumi(*arguments: str) -> Any:
        command = [str(program), *arguments, "--stack", "datalake"]
        done = subprocess.run(
            command, cwd=deployed.site.state_dir, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    resources = pulumi("stack", "export")["deployment"]["resources"]
    assert any(resource["urn"].endswith("Deployment/lake/s3") for resource in resources)
    assert pulumi("stack", "history", "--json")[0]["kind"] == "update"
    assert pulumi("stack", "output", "--json")["buckets"] == list(BUCKETS)


def test_a_cut_off_create_is_adopted(deployed: LiveSite) -> None:
    """As a SIGKILL leaves it: the object is in the cluster, in the state there is only the operation."""
    path = state_file(deployed.site, "datalake")
    record = json.loads(path.read_text())
    latest = record["checkpoint"]["latest"]
    (lost,) = (item for item in latest["resources"] if item["urn"].endswith("Service/lake/s3"))
    latest["resources"].remove(lost)
    half = {key: value for key, value in lost.items() if key not in ("id", "outputs")}
    latest["pending_operations"] = [{"resource": half, "type": "creating"}]
    for resource in latest["resources"]:
        for names in (resource.get("dependencies", []), *(resource.get("propertyDependencies") or {}).values()):
            if names and lost["urn"] in names:
                names.remove(lost["urn"])
    path.write_text(json.dumps(record))
    assert read_state(deployed.site, "datalake").pending
    before = deployed.cluster.get(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3", "namespace": "lake"}}
    )
    deployed.run("deploy", "--stack", "datalake")
    after = deployed.cluster.get(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3", "namespace": "lake"}}
    )
    assert before is not None and after is not None and before["metadata"]["uid"] == after["metadata"]["uid"]
    assert not read_state(deployed.site, "datalake").pending
    deployed.run("status", "--stack", "cluster", "--stack", "datalake")


# --- other targets -------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Site:
    """A site that was never deployed, on ranges that are free."""
    ranges = free_spec("v", tmp_path / "site" / "node")
    document = yaml.safe_load((Path(__file__).parents[2] / "templates" / "profiles" / "ci.yaml").read_text())
    cidrs = {name: getattr(ranges, name) for name in ("pod_cidr", "service_cidr", "link_cidr")}
    document["target"] = {"kind": "embedded", "instance": ranges.instance, **cidrs}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(document))
    return init_site(tmp_path / "site", tmp_path / "profile.yaml")


def runtime_of(site: Site) -> Any:
    return replace(RUNTIME, binds=(Path("/usr"),))


def test_preview_works_before_there_is_a_cluster(other: Site) -> None:
    profile = other.profile
    with other.lock("preview"):
        result = preview(other, profile, plan(profile), STACKS, ignore, runtime=runtime_of(other))
    made = {name for stack in result.stacks for operation, name, _ in stack.steps if operation == "create"}
    assert {"node", "Namespace/lake", "Deployment/lake/s3", "ClusterQueue/training", "Service/serving/model"} <= made
    assert all(set(stack.changes) == {"create"} for stack in result.stacks)
    assert not other.node_dir.exists()


def test_another_cluster_than_the_recorded_one_is_refused(deployed: LiveSite, tmp_path: Path) -> None:
    document = yaml.safe_load((Path(__file__).parents[2] / "templates" / "profiles" / "ci.yaml").read_text())
    kubeconfig = deployed.site.node_dir / "admin.conf"
    context = yaml.safe_load(kubeconfig.read_text())["current-context"]
    document["target"] = {"kind": "kubeconfig", "path": str(kubeconfig), "context": context, "image": "example.org/x:1"}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(document))
    site = init_site(tmp_path / "site", tmp_path / "profile.yaml")
    stack = {"urn": "urn:x", "type": "pulumi:pulumi:Stack", "outputs": {"cluster_uid": "another"}}
    state_file(site, "cluster").parent.mkdir(parents=True)
    state_file(site, "cluster").write_text(json.dumps({"checkpoint": {"latest": {"resources": [stack]}}}))
    profile = load_profile(site.profile_path)
    with site.lock("preview"), pytest.raises(ClusterError, match="another cluster"):
        preview(site, profile, plan(profile), ["datalake"], ignore)
    images = resolve(site, profile, plan(profile)).platform.images
    assert images["kueue"].startswith("registry.k8s.io/kueue/kueue:v")


@pytest.fixture
def existing(cluster: RunningNode) -> Iterator[RunningNode]:
    """A cluster of somebody else, whose nodes have Kueue's public image."""
    kueue = BinaryImage("kueue", "1", find_tool("kueue"), ("/manager",))
    lifecycle.ensure(replace(cluster.spec, images=(kueue,)), print)
    supervisor = processes.find(cluster.spec.state_dir)
    assert supervisor is not None
    ctr = ["nsenter", "-t", str(supervisor.pid), "-m", "-p", str(cluster.spec.binaries["ctr"])]
    ctr += ["--address", str(CONTAINERD_SOCKET)]
    reference = f"registry.k8s.io/kueue/kueue:v{load_tools()['kueue'].version}"
    subprocess.run([*ctr, "-n", "k8s.io", "images", "tag", "--force", kueue.reference, reference], check=True)
    yield cluster
    lifecycle.ensure(cluster.spec, print)


@pytest.mark.drill
def test_existing_cluster_gets_namespaces_and_a_queue_that_admits_and_is_left_clean(
    existing: RunningNode, tmp_path: Path
) -> None:
    context = yaml.safe_load(existing.kubeconfig.read_text())["current-context"]
    target = {"kind": "kubeconfig", "path": str(existing.kubeconfig), "context": context, "image": "example.org/kit:1"}
    document = yaml.safe_load((Path(__file__).parents[2] / "templates" / "profiles" / "ci.yaml").read_text())
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(document | {"target": target}))
    before = existing.kubectl("get", "namespaces,crds,clusterroles,clusterrolebindings,priorityclasses", "-o", "name")
    live = LiveSite(init_site(tmp_path / "site", tmp_path / "profile.yaml"))
    assert json.loads(live.run("doctor", "--json"))["checks"] == [
        {"name": "cluster", "ok": True, "detail": f"context {context}, kube-system {existing.uid}", "fix": ""}
    ]
    live.run("deploy", "--stack", "cluster")
    live.run("status", "--stack", "cluster")
    assert read_state(live.site, "cluster").outputs["cluster_uid"] == existing.uid
    resources = {"requests": {"cpu": "10m", "memory": "16M"}, "limits": {"memory": "16M"}}
    container = {"name": "c", "image": HOST_IMAGE, "command": ["/nothing"], "resources": resources}
    metadata = {"name": "try", "namespace": "training", "labels": {"kueue.x-k8s.io/queue-name": QUEUE}}
    pod = {"restartPolicy": "Never", "containers": [container]}
    wanted = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
    existing.kubectl(
        "apply", "-f", "-", stdin=json.dumps(wanted | {"spec": {"suspend": True, "template": {"spec": pod}}})
    )
    existing.kubectl("-n", "training", "wait", "job/try", "--for=jsonpath={.spec.suspend}=false", "--timeout=60s")
    existing.kubectl("-n", "training", "delete", "job", "try")
    live.run("destroy", "--delete-data")
    after = existing.kubectl("get", "namespaces,crds,clusterroles,clusterrolebindings,priorityclasses", "-o", "name")
    assert sorted(after.split()) == sorted(before.split())


@pytest.fixture
def doomed(other: Site) -> Iterator[LiveSite]:
    """A site of its own; whatever is left of it is removed."""
    site = LiveSite(other)
    yield site
    site.run("destroy", "--delete-data")


@pytest.mark.drill
def test_destroy_works_with_a_dead_api_server(other: Site, doomed: LiveSite) -> None:
    doomed.run("deploy", "--stack", "cluster", "--stack", "datalake")
    supervisor, spec = processes.find(other.node_dir), NodeSpec.load(other.node_dir)
    assert supervisor is not None and spec is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    doomed.run("destroy")
    left = [
        line
        for lines in traces(spec.instance, other.root).values()
        for line in lines
        if spec.instance in line or str(other.root) in line
    ]
    assert not left
    assert processes.find(other.node_dir) is None
    assert (other.node_dir / "volumes" / "objects" / "raw").is_dir(), "data stays"
    assert not any(read_state(other, stack).deployed for stack in STACKS)

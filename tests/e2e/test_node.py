"""The embedded node, for real: up, adopted, killed in all its parts, changed, and removed without a trace."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign.errors import NodeError
from stacks.node import cgroups, doctor, lifecycle, network, processes, unit
from stacks.node.images import HOST_IMAGE
from stacks.node.inside import MOUNT_POINTS
from stacks.node.mounts import mounts_below
from stacks.node.spec import BinaryImage, NodeSpec
from tests.e2e.node_fixture import (
    BACK_S,
    RunningNode,
    free_spec,
    mounts_but_of_other_tests,
    pids_of,
    python_folders,
    supervisor_pid,
    wait_until_back,
)

pytestmark = pytest.mark.e2e


def test_is_healthy_and_reachable_from_the_host(cluster: RunningNode) -> None:
    health = lifecycle.health(cluster.spec)
    assert health.healthy, health.summary
    names = [check.name for check in health.checks]
    assert names == ["supervisor", "containerd", "kubelet", "kube-proxy", "api", "node ready", "network"]
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600
    service = json.loads(cluster.kubectl("get", "service", "kubernetes", "-o", "json"))["spec"]["clusterIP"]
    deadline = time.monotonic() + 20
    while True:  # kube-proxy writes its rules a moment after the node is Ready
        try:
            socket.create_connection((service, 443), 2).close()
            break
        except OSError:
            assert time.monotonic() < deadline, f"no route to the Service {service}"
            time.sleep(0.5)


def test_host_sees_no_mount_and_no_rule_of_it(cluster: RunningNode) -> None:
    assert mounts_below(cluster.spec.state_dir) == []
    assert [mount for folder in MOUNT_POINTS for mount in mounts_below(folder)] == []
    assert list((cluster.info.host_volume / "usr").iterdir()) == []
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "kube-proxy" not in tables and "sovereign" not in tables


def test_adopting_changes_nothing(cluster: RunningNode) -> None:
    pid = supervisor_pid(cluster.spec)
    assert lifecycle.ensure(cluster.spec, print) == cluster.info
    assert supervisor_pid(cluster.spec) == pid


def test_kube_proxy_is_no_administrator(cluster: RunningNode) -> None:
    kubeconfig = cluster.spec.kubernetes_dir / "kube-proxy.conf"
    command = [
        str(cluster.spec.binaries["kubectl"]),
        f"--kubeconfig={kubeconfig}",
        "--cache-dir=/dev/null",
        "auth",
        "can-i",
    ]
    may = {}
    for verb, kind in (("list", "services"), ("get", "secrets"), ("create", "pods")):
        done = subprocess.run([*command, verb, kind], capture_output=True, text=True, check=False)
        may[kind] = done.stdout.strip()
    assert may == {"services": "yes", "secrets": "no", "pods": "no"}


def test_second_node_in_its_ranges_is_refused(cluster: RunningNode, tmp_path: Path) -> None:
    other = replace(cluster.spec, instance="other", state_dir=tmp_path / "other")
    with pytest.raises(NodeError) as caught:
        lifecycle.ensure(other, print)
    assert f"embedded node {cluster.spec.instance}" in str(caught.value)
    assert "a free range is 10." in str(caught.value)
    namesake = replace(free_spec("x", tmp_path / "namesake"), instance=cluster.spec.instance)
    with pytest.raises(NodeError, match=f"another node has the instance name {cluster.spec.instance}"):
        lifecycle.ensure(namesake, print)
    with pytest.raises(NodeError, match="another node has the instance name"):
        lifecycle.remove(namesake, progress=print)
    assert lifecycle.health(cluster.spec).healthy
    moved = replace(cluster.spec, pod_cidr="10.199.0.0/24")
    with pytest.raises(NodeError, match="pod_cidr of a node cannot change"):
        lifecycle.ensure(moved, print)
    assert NodeSpec.load(cluster.spec.state_dir) == cluster.spec


def test_doctor_finds_this_machine_fit_and_not_anothers(cluster: RunningNode) -> None:
    failed = [check for check in doctor.checks(cluster.spec) if not check.ok]
    assert failed == []


def pod_manifest(node: RunningNode, code: str) -> str:
    """A pod under Pod Security `restricted` that runs the host's Python through one volume by subPath."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the pod's own
    for folder in python_folders():
        text = str(folder)
        mounts.append({"name": "runtime", "mountPath": text, "subPath": text[1:], "readOnly": True})  # type: ignore[dict-item]
    container = {
        "name": "python",
        "image": HOST_IMAGE,
        "imagePullPolicy": "Never",
        "command": [os.path.realpath(sys.executable), "-I", "-c", code],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "runtime", "persistentVolumeClaim": {"claimName": "runtime", "readOnly": True}},
        ],
    }
    storage = {"storageClassName": "runtime", "accessModes": ["ReadOnlyMany"]}
    documents = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "try-runtime"},
            "spec": storage
            | {
                "capacity": {"storage": "1Gi"},
                "claimRef": {"namespace": "try", "name": "runtime"},
                "hostPath": {"path": str(node.info.host_volume), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "runtime", "namespace": "try"},
            "spec": storage | {"volumeName": "try-runtime", "resources": {"requests": {"storage": "1Gi"}}},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "python", "namespace": "try"}, "spec": pod},
    ]
    return "\n---\n".join(json.dumps(document) for document in documents)


_POD_CODE = """
import json, os, socket
def reach(host, port):
    try:
        socket.create_connection((host, port), 5).close()
        return "reached"
    except OSError as error:
        return type(error).__name__
def writes(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False
print(json.dumps({
    "uid": os.getuid(),
    "root": sorted(os.listdir("/")),
    "writes_usr": writes("/usr/x"),
    "writes_tmp": writes("/tmp/x"),
    "api": reach("kubernetes.default.svc.cluster.local", 443),
    "internet": reach("192.0.2.200", 443),
    "host": reach(HOST, PORT),
}))
"""


def test_restricted_pod_runs_the_hosts_python_and_has_no_way_out(cluster: RunningNode) -> None:
    with socket.create_server((cluster.spec.host_address, 0)) as listener:
        port = listener.getsockname()[1]
        code = _POD_CODE.replace("HOST", repr(cluster.spec.host_address)).replace("PORT", str(port))
        cluster.kubectl("create", "namespace", "try")
        cluster.kubectl("label", "namespace", "try", "pod-security.kubernetes.io/enforce=restricted")
        cluster.kubectl("-n", "try", "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
        cluster.kubectl("apply", "-f", "-", stdin=pod_manifest(cluster, code))
        cluster.kubectl("-n", "try", "wait", "pod/python", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s")
    said = json.loads(cluster.kubectl("-n", "try", "logs", "python"))
    cluster.kubectl("delete", "namespace", "try")
    cluster.kubectl("delete", "persistentvolume", "try-runtime")
    assert said["uid"] == 65532
    assert "etc" in said["root"] and not (said["writes_usr"]) and said["writes_tmp"]
    assert said["api"] == "reached"
    assert said["internet"] != "reached" and said["host"] != "reached"


@pytest.mark.parametrize("program", ["containerd", "kubelet", "kube-proxy", "kube-apiserver"])
def test_killed_program_comes_back_by_itself(cluster: RunningNode, program: str) -> None:
    killed = pids_of(cluster.spec, program)
    assert killed, f"{program} does not run"
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until_back(cluster.spec, program, killed)


def test_changed_binds_and_images_are_taken_in(cluster: RunningNode, tmp_path: Path) -> None:
    pid = supervisor_pid(cluster.spec)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("seen by pods")
    image = BinaryImage("pause-again", "1", Path("/usr/bin/catatonit"), ("/bin/pause", "-P"))
    more = replace(cluster.spec, binds=(*cluster.spec.binds, shared), images=(image,))
    seen = Path(f"/proc/{pid}/root{cluster.info.host_volume}{shared}/file")
    try:
        lifecycle.ensure(more, print)
        assert supervisor_pid(cluster.spec) == pid
        assert seen.read_text() == "seen by pods"
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
        cluster.kubectl("run", "again", f"--image={image.reference}", "--image-pull-policy=Never", "--restart=Never")
        cluster.kubectl("wait", "pod/again", "--for=condition=Ready", "--timeout=60s")
        cluster.kubectl("delete", "pod", "again", "--now")
        missing = replace(cluster.spec, binds=(tmp_path / "not-there",))
        with pytest.raises(NodeError, match="cannot be given to pods"):
            lifecycle.ensure(missing, print)
    finally:
        assert lifecycle.ensure(cluster.spec, print) == cluster.info
    assert not seen.exists()
    assert (shared / "file").read_text() == "seen by pods"


def test_sec16_a_file_is_bound_alone_and_followed(cluster: RunningNode, tmp_path: Path) -> None:
    file = tmp_path / "only" / "text.txt"
    file.parent.mkdir()
    (file.parent / "secret").write_text("not for pods")
    more = replace(cluster.spec, binds=(*cluster.spec.binds, file))
    seen = Path(f"/proc/{supervisor_pid(cluster.spec)}/root{cluster.info.host_volume}{file}")
    try:
        for text in ("old", "new"):
            fresh = file.with_name("fresh")
            fresh.write_text(text)
            fresh.replace(file)  # as an editor saves
            lifecycle.ensure(more, print)
            assert seen.read_text() == text
            assert [path.name for path in seen.parent.iterdir()] == ["text.txt"]
    finally:
        lifecycle.ensure(cluster.spec, print)


def test_folder_made_anew_is_bound_anew(cluster: RunningNode, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    more = replace(cluster.spec, binds=(*cluster.spec.binds, shared))
    seen = Path(f"/proc/{supervisor_pid(cluster.spec)}/root{cluster.info.host_volume}{shared}/file")
    try:
        for text in ("old", "new"):
            shared.mkdir()
            (shared / "file").write_text(text)
            lifecycle.ensure(more, print)
            assert seen.read_text() == text
            (shared / "file").unlink()
            shared.rmdir()
    finally:
        lifecycle.ensure(cluster.spec, print)


def test_sigkill_of_the_supervisor_ends_all_and_ensure_brings_it_back(cluster: RunningNode) -> None:
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    inside = cgroups.processes(cluster.spec.cgroup)
    os.kill(supervisor_pid(cluster.spec), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive := [pid for pid in inside if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert lifecycle.health(cluster.spec).problem_of("supervisor") == "not running"
    begin = time.monotonic()
    assert lifecycle.ensure(cluster.spec, print) == cluster.info
    assert time.monotonic() - begin < BACK_S
    assert "b" in cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}")


def test_killed_programs_and_orphans_leave_no_zombie(cluster: RunningNode) -> None:
    threads = Path(f"/proc/{supervisor_pid(cluster.spec)}/task").glob("*/children")
    children = " ".join(thread.read_text() for thread in threads).split()
    states = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children}
    assert len(states) > 3
    assert "Z" not in states.values(), states


def test_stopped_node_starts_by_its_systemd_units_commands_and_renews_old_certificates(cluster: RunningNode) -> None:
    """The unit's commands without systemd, which the machines that run the tests do not have."""
    commands = dict(line.split("=", 1) for line in unit.render(cluster.spec).splitlines() if line.startswith("Exec"))
    environment = processes.environment()
    certificate = cluster.spec.kubernetes_dir / "pki" / "apiserver.crt"
    before = certificate.read_bytes()
    lifecycle.stop(cluster.spec)
    assert processes.find(cluster.spec.state_dir) is None
    assert not network.has_link(cluster.spec)
    assert cgroups.processes(cluster.spec.cgroup) == set()
    os.utime(certificate, (0, time.time() - 300 * 86400))
    log = cluster.spec.log_dir / "unit.log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(shlex.split(commands["ExecStart"]), env=environment, stderr=stream) as main,
    ):
        subprocess.run(shlex.split(commands["ExecStartPost"]), env=environment, check=True)
        info = lifecycle.ensure(cluster.spec, print)
        renewed = certificate.read_bytes()
        subprocess.run(shlex.split(commands["ExecStop"]), env=environment, check=True)
        assert main.wait(30) == 0
    assert info == cluster.info
    assert renewed != before
    assert cluster.kubeconfig.read_text() == (cluster.spec.kubernetes_dir / "admin.conf").read_text()
    assert lifecycle.ensure(cluster.spec, print) == cluster.info


def test_lost_link_is_repaired(cluster: RunningNode) -> None:
    network.ip("route", "del", cluster.spec.service_cidr)
    assert "no route" in lifecycle.health(cluster.spec).problem_of("network")
    pid = supervisor_pid(cluster.spec)
    assert lifecycle.ensure(cluster.spec, print) == cluster.info
    assert supervisor_pid(cluster.spec) == pid
    network.ip("link", "del", cluster.spec.interface)
    assert lifecycle.ensure(cluster.spec, print) == cluster.info


def test_another_cluster_is_refused(cluster: RunningNode) -> None:
    recorded = cluster.spec.cluster_uid_file.read_text()
    cluster.spec.cluster_uid_file.write_text("00000000-0000-0000-0000-000000000000")
    try:
        with pytest.raises(NodeError, match="Another cluster answers"):
            lifecycle.ensure(cluster.spec, print)
    finally:
        cluster.spec.cluster_uid_file.write_text(recorded)
    lifecycle.ensure(cluster.spec, print)


def trace(spec: NodeSpec) -> set[str]:
    """What a node could leave on the machine, outside its state folder; other nodes' links may come and go."""
    folders = [Path(name) for name in ("/etc", "/opt", "/run", "/usr/libexec", "/var/lib", "/var/log", "/var/run")]
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    found = {f"mount {mount}" for mount in mounts_but_of_other_tests(spec.state_dir.parent)}
    found |= {f"rule {line}" for line in rules.splitlines()}
    found |= {f"cgroup {root / spec.cgroup}" for root in cgroups.hierarchies() if (root / spec.cgroup).exists()}
    found |= {f"file {path}" for folder in folders for path in folder.rglob("*")}
    found |= {f"forwarding {Path('/proc/sys/net/ipv4/ip_forward').read_text()}"}
    found |= {f"kubectl cache {path}" for path in Path("~/.kube").expanduser().glob("*")}
    ours = [("link", link["ifname"], link["ifname"]) for link in network.ip("link")]
    ours += [("route", route["dst"], route.get("dev", "")) for route in network.ip("route")]
    return found | {f"{kind} {name}" for kind, name, device in ours if device == spec.interface or device[:4] != "sov-"}


def test_node_killed_while_it_is_made_is_repaired_and_removed_without_a_trace(
    cluster: RunningNode, tmp_path: Path
) -> None:
    spec = replace(free_spec("w", tmp_path / "second"), binds=(Path("/usr"),))
    before = trace(spec)
    seed = random.SystemRandom().randrange(1000)
    moment_s = random.Random(seed).uniform(0.5, 12)
    print(f"seed {seed}: killed after {moment_s:.1f} s")
    code = "import sys; from stacks.node import lifecycle, spec; from pathlib import Path; " + (
        "lifecycle.ensure(spec.NodeSpec.from_json(sys.stdin.read()), lambda text: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as making:
        assert making.stdin is not None
        making.stdin.write(spec.to_json())
        making.stdin.close()
        time.sleep(moment_s)
        making.kill()
    if supervisor := processes.find(spec.state_dir):
        os.kill(supervisor.pid, signal.SIGKILL)
    try:
        lifecycle.ensure(spec, print)
        assert lifecycle.health(spec).healthy
        inside = cgroups.processes(spec.cgroup)
        assert len(inside) > 10
        (spec.volumes_dir / "data").write_text("kept")
    finally:
        lifecycle.remove(spec, progress=print)
    assert [path.name for path in spec.state_dir.iterdir()] == ["volumes"]
    assert (spec.volumes_dir / "data").read_text() == "kept"
    lifecycle.remove(spec, delete_data=True, progress=print)
    assert not spec.state_dir.exists()
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []
    assert trace(spec) ^ before == set()
    assert lifecycle.health(cluster.spec).healthy, "another node was touched"

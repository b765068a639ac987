"""Deploys without an engine: what is deployed, in which order, what a killed command leaves, what errors say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pulumi.automation.events import EngineEvent

from sovereign.errors import ClusterError, DeployError, LockedError, ProfileError, SiteError
from sovereign.site import Site, init_site
from sovereign.workload import HOST_IMAGE
from stacks import deploy, engine, kueue, objects
from stacks.components import component, waves
from stacks.engine import Engine, Events
from stacks.node import images
from stacks.node.spec import PROGRAMS, NodeSpec
from stacks.objects import PARTS, STACKS, objects_for
from stacks.resolve import connect, secret_key
from stacks.state import locks_dir, read_state, repair_state, state_file
from tests.stacks.platforms import platform

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:x"}
URN = "urn:pulumi:cluster::sovereign::sovereign:index:Queue$sovereign:index:Manifest::"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "apiVersion: sovereign/v1\nname: made-up\ncorpus: {demonstration: {}}\n"
        "model: {parameters: 1.0e+6}\ntraining: {tokens: 1.0e+5}\n"
    )
    return init_site(tmp_path / "site", profile)


def write_state(site: Site, stack: str, resources: list[dict[str, Any]], **more: Any) -> None:
    path = state_file(site, stack)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"checkpoint": {"latest": {"resources": resources, **more}}}))


# --- state ---------------------------------------------------------------------------------------------------------


def test_a_stack_without_a_file_was_never_deployed(site: Site) -> None:
    assert not read_state(site, "cluster").deployed


def test_k8_sec15_a_torn_state_is_read_from_its_copies(site: Site) -> None:
    write_state(site, "cluster", [{"urn": f"{URN}Secret/lake/s3", "type": "sovereign:index:Manifest"}])
    path = state_file(site, "cluster")
    whole = path.read_bytes()
    assert not repair_state(site, "cluster")
    for torn in (b"", whole[: len(whole) // 2], b"\0" * 100, b"[]", b'{"checkpoint": []}', b"\xff", b"[" * 200_000):
        path.write_bytes(torn)
        assert read_state(site, "cluster").resources == ("Secret/lake/s3",)
        assert repair_state(site, "cluster")
        assert (path.read_bytes(), path.with_suffix(".json.damaged").read_bytes()) == (whole, torn)
    assert not repair_state(site, "cluster")


def test_sec15_pulumis_own_copy_comes_first(site: Site) -> None:
    write_state(site, "cluster", [{"urn": f"{URN}Secret/lake/old", "type": "sovereign:index:Manifest"}])
    repair_state(site, "cluster")
    write_state(site, "cluster", [{"urn": f"{URN}Secret/lake/new", "type": "sovereign:index:Manifest"}])
    path = state_file(site, "cluster")
    path.rename(path.with_suffix(".json.bak"))
    path.write_bytes(b"{")
    assert read_state(site, "cluster").resources == ("Secret/lake/new",)


@pytest.mark.parametrize("torn", [b"", b"{", b"null", b"[" * 200_000])
def test_k8_a_state_that_is_lost_is_named_with_the_way_out(torn: bytes, site: Site) -> None:
    path = state_file(site, "cluster")
    path.parent.mkdir(parents=True)
    path.write_bytes(torn)
    for read in (read_state, repair_state):
        with pytest.raises(SiteError, match="is damaged") as caught:
            read(site, "cluster")
        assert str(path) in str(caught.value) and "remove it and deploy again" in str(caught.value)


def test_k8_a_damaged_lock_is_named(site: Site, plugin: None) -> None:
    path = lock(site, 1, "elsewhere")
    for torn in ("", "{", "[]", '{"pid": "x"}', "[" * 200_000):
        path.write_text(torn)
        with pytest.raises(LockedError, match="cannot be read") as caught:
            Engine(site, Path("/nowhere/pulumi"))
        assert str(path) in str(caught.value)


def test_state_tells_names_outputs_and_cut_off_operations(site: Site) -> None:
    items: list[dict[str, Any]] = [
        {"urn": "urn:x::sovereign", "type": "pulumi:pulumi:Stack", "outputs": {"queue": "q", "key": SECRET}},
        {"urn": f"{URN}Secret/lake/s3", "type": "sovereign:index:Manifest"},
        {"urn": f"{URN}node", "type": "sovereign:index:Node"},
        {"urn": f"{URN}Job/old", "type": "sovereign:index:Manifest", "delete": True},
        {"urn": f"{URN}queue", "type": "sovereign:index:Queue"},
    ]
    write_state(site, "cluster", items, pending_operations=[{"type": "creating"}])
    state = read_state(site, "cluster")
    assert state.resources == ("Secret/lake/s3", "node")
    assert state.outputs == {"queue": "q"}
    assert state.pending


def test_keys_follow_from_the_passphrase(site: Site) -> None:
    key = secret_key(site, "s3 root key")
    assert len(key) == 40 and key == secret_key(site, "s3 root key") != secret_key(site, "another")
    site.passphrase_file.write_text("something else\n")
    assert secret_key(site, "s3 root key") != key
    site.passphrase_file.unlink()
    with pytest.raises(SiteError, match="passphrase"):
        secret_key(site, "s3 root key")


def test_moved_site_with_a_node_is_refused_and_untouched(site: Site) -> None:
    binaries = {name: Path("/usr/bin/true") for name in PROGRAMS}
    site.node_dir.mkdir()
    NodeSpec("demo", site.node_dir, "10.244.0.0/24", "10.96.0.0/20", "10.88.0.0/30", binaries).save()
    moved = Site(site.root.rename(site.root.with_name("moved")))
    with pytest.raises(SiteError, match="moved while its node was there") as caught:
        connect(moved, moved.profile, print)
    assert caught.value.expected == site.root


def test_commands_on_a_site_without_a_node_say_what_to_do(site: Site) -> None:
    with pytest.raises(ClusterError, match="not there") as caught:
        connect(site, site.profile, print)
    assert f"sovereign deploy {site.root}" in str(caught.value)


# --- what a killed command leaves ----------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin on PATH, also where this Python is no runtime."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / engine.PLUGIN).write_text("#!/bin/sh\n")
    (folder / engine.PLUGIN).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def pulumi(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes named pulumi that sleep; ended after the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def sleeper(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    program = folder / "pulumi"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    return subprocess.Popen([program, "1000"], env=environment)


def lock(site: Site, pid: int, hostname: str) -> Path:
    path = locks_dir(site) / "organization" / "sovereign" / "cluster" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"pid": pid, "username": "ada", "hostname": hostname}))
    return path


def test_locks_of_dead_processes_go(site: Site, plugin: None) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = lock(site, ended.pid, os.uname().nodename)
    path.with_name("a.json.attrs").write_text("{}")
    Engine(site, Path("/nowhere/pulumi"))
    assert not list(path.parent.iterdir())


def test_engines_of_killed_commands_are_ended(
    site: Site, plugin: None, pulumi: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    pulumi.append(sleeper(tmp_path, {engine.MARK: str(site.root)}))
    path = lock(site, pulumi[0].pid, os.uname().nodename)
    # Its zombie is ours until it is waited for; the engine of a killed command has no such parent.
    os.waitid(os.P_PID, pulumi[0].pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    Engine(site, Path("/nowhere/pulumi"))
    assert pulumi[0].wait(timeout=10) == -9
    assert not path.exists()


def test_a_pulumi_run_by_hand_is_named_not_ended(
    site: Site, plugin: None, pulumi: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    pulumi.append(sleeper(tmp_path, {}))
    path = lock(site, pulumi[0].pid, os.uname().nodename)
    with pytest.raises(LockedError, match=f"process {pulumi[0].pid} of ada"):
        Engine(site, Path("/nowhere/pulumi"))
    assert pulumi[0].poll() is None and path.exists()


def test_a_lock_of_another_machine_is_respected(site: Site, plugin: None) -> None:
    path = lock(site, 1, "elsewhere")
    with pytest.raises(LockedError, match="elsewhere"):
        Engine(site, Path("/nowhere/pulumi"))
    assert path.exists()


# --- programs ------------------------------------------------------------------------------------------------------


def test_waves_put_definitions_before_their_objects() -> None:
    kinds = ["ClusterQueue", "Deployment", "Namespace", "CustomResourceDefinition", "RoleBinding", "APIService"]
    order = [[item["kind"] for item in wave] for wave in waves([{"kind": kind} for kind in kinds])]
    assert order == [
        ["Namespace"],
        ["CustomResourceDefinition"],
        ["RoleBinding"],
        ["Deployment", "APIService"],
        ["ClusterQueue"],
    ]


def test_components_make_what_status_compares() -> None:
    demo = platform("demo")
    for stack in STACKS:
        made = [item for name in PARTS[stack] for item in component(name).objects(demo)]
        assert made == objects_for(stack, demo)


def test_the_host_image_is_the_nodes() -> None:
    assert HOST_IMAGE == images.HOST_IMAGE


def test_data_is_kept_until_it_is_released() -> None:
    kept = {"type": "sovereign:index:Manifest", "inputs": {"keep": True}, "outputs": {"keep": True}}
    node = {"type": "sovereign:index:Node", "inputs": {"deleteData": False}, "outputs": {"deleteData": False}}
    released = deploy._release_data([kept, node])
    assert released[0]["inputs"]["keep"] is released[0]["outputs"]["keep"] is False
    assert released[1]["inputs"]["deleteData"] is released[1]["outputs"]["deleteData"] is True


@pytest.fixture
def replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package of a site that replaces the object store."""
    (tmp_path / "ministry_site.py").write_text(
        "from stacks.components import Component\n"
        "class Ceph(Component):\n"
        "    @staticmethod\n"
        "    def objects(platform):\n"
        "        return [{'apiVersion': 'v1', 'kind': 'Service', 'metadata': {'name': 's3', 'namespace': 'lake'}}]\n"
    )
    information = tmp_path / "ministry_site-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ministry-site\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[sovereign.components]\nobject-store = ministry_site:Ceph\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    objects._replacements.cache_clear()
    yield
    objects._replacements.cache_clear()


def test_a_site_replaces_a_component(replacement: None) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in objects_for("datalake", platform("demo"))]
    assert ("Service", "s3") in names and ("Deployment", "s3") not in names and ("Deployment", "mlflow") in names
    assert component("object-store").__name__ == "Ceph"


def test_unknown_stacks_are_refused() -> None:
    with pytest.raises(DeployError, match="databases"):
        deploy._ordered(["databases"])
    assert deploy._ordered(["serving", "cluster"]) == ["cluster", "serving"]


# --- events --------------------------------------------------------------------------------------------------------


def event(kind: str, **fields: Any) -> EngineEvent:
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, kind: fields})


def step(operation: str, name: str, type_: str = "sovereign:index:Manifest", **more: Any) -> dict[str, Any]:
    return {"metadata": {"op": operation, "urn": URN + name, "type": type_, "provider": "", **more}}


def test_events_become_progress_changes_and_errors() -> None:
    told: list[tuple[str, str, int, int]] = []
    events = Events("cluster", 2, lambda *report: told.append(report))
    changed = {"spec.replicas": {"diffKind": "update", "inputDiff": False}}
    events(event("resourcePreEvent", **step("update", "Deployment/lake/s3", detailedDiff=changed)))
    events(event("resOutputsEvent", **step("update", "Deployment/lake/s3")))
    events(event("resourcePreEvent", **step("same", "Secret/lake/key")))
    events(event("resOutputsEvent", **step("same", "Secret/lake/key")))
    events(event("resourcePreEvent", **step("create", "queue", "sovereign:index:Queue")))
    fields = {"prefix": "", "color": "raw", "streamID": 0}
    reason = "Deployment lake/s3: 0 of 1 pods available\n  got: pod s3-1: Unschedulable"
    events(event("diagnosticEvent", urn=f"{URN}Deployment/lake/s3", message=reason, severity="error", **fields))
    events(event("diagnosticEvent", message="update failed", severity="error", **fields))
    assert told[0] == ("cluster", "changed Deployment/lake/s3", 1, 2)
    assert told[1] == ("cluster", "Secret/lake/key", 2, 2)
    assert events.changes == {"update": 1, "same": 1}
    assert events.steps == [("update", "Deployment/lake/s3", ("spec.replicas",))]
    assert events.errors == [f"Deployment/lake/s3: {reason}"]


# --- Kueue ---------------------------------------------------------------------------------------------------------


def kustomization(folder: Path) -> Path:
    """The shape of Kueue's own folder, with one object of each kind that is adapted."""
    (folder / "default").mkdir(parents=True)
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kueue-system", "labels": {}}},
        {"kind": "ConfigMap", "data": {"c.yaml": "leaderElection: {leaderElect: true}"}},
        {"kind": "ClusterRole", "metadata": {"name": "kueue-rayjob-editor-role"}},
        {"kind": "ClusterRole", "metadata": {"name": "kueue-job-editor-role"}},
        {"kind": "CustomResourceDefinition", "metadata": {"name": "workloads"}},
        {"kind": "MutatingWebhookConfiguration", "webhooks": [{"name": "mpod.kb.io"}, {"name": "mjob.kb.io"}]},
        {"kind": "Deployment", "spec": {"template": {"metadata": {"annotations": {}}, "spec": {
            "securityContext": {}, "containers": [{"name": "manager", "image": "controller", "readinessProbe": {}}]}}}},
    ]  # fmt: skip
    for item in items:
        item.setdefault("metadata", {"name": "made-up"})
    (folder / "default" / "objects.yaml").write_text("\n---\n".join(json.dumps(item) for item in items))
    return folder


def test_kueue_is_cut_to_what_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\ncat "$2/objects.yaml"\n')
    program.chmod(0o755)
    folder = kustomization(tmp_path / "config")
    cut = kueue.kueue_objects(program, folder, image="example.org/kueue:1", pull_policy="Never")
    program.unlink()  # the second time it comes from the cache
    assert kueue.kueue_objects(program, folder, image="example.org/kueue:1", pull_policy="Never") == cut
    by_kind = {item["kind"]: item for item in cut}
    assert [item["metadata"]["name"] for item in cut if item["kind"] == "ClusterRole"] == ["kueue-job-editor-role"]
    assert by_kind["MutatingWebhookConfiguration"]["webhooks"] == [{"name": "mjob.kb.io"}]
    (manager,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert manager["image"] == "example.org/kueue:1" and "cpu" not in manager["resources"]["limits"]
    assert "leaderElect: false" in by_kind["ConfigMap"]["data"]["c.yaml"]


def test_two_replacements_are_refused(replacement: None, tmp_path: Path) -> None:
    other = tmp_path / "other_site-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-site\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[sovereign.components]\nobject-store = ministry_site:Ceph\n")
    with pytest.raises(ProfileError, match="two packages"):
        objects_for("datalake", platform("demo"))

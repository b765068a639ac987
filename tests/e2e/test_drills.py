"""What is too long for every change, for `make drill`: the demo offline, real text, kills at many moments."""

from __future__ import annotations

import functools
import json
import os
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.jobs import QUEUE_API, finished, job_object
from sovereign.resources import data_path
from stacks.fields import Object
from stacks.node import lifecycle
from stacks.node.spec import NodeSpec
from stacks.objects import STACKS
from stacks.state import read_state
from tests.e2e.node_fixture import BACK_S, free_spec, pids_of, pids_where, supervisor_pid, wait_until_back
from tests.e2e.site_fixture import SOVEREIGN, LiveSite
from tests.e2e.test_way import receipt, running, train_anew, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.drill, pytest.mark.timeout(7200)]
MOMENTS = int(os.environ.get("SOVEREIGN_DRILL_MOMENTS", "20"))

# A network with a way out that leads nowhere and counts what tries to take it.
OUTSIDE = """
ip link set lo up
ip link add outside type dummy && ip addr add 192.0.2.2/24 dev outside && ip link set outside up
ip route add default via 192.0.2.1 && ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev outside
nft add table inet drill
nft add chain inet drill out '{ type filter hook output priority 0; }'
nft add rule inet drill out oifname outside meta l4proto '!=' icmpv6 counter
"""


def profile_with_free_ranges(name: str, folder: Path) -> Path:
    """The shipped profile with an instance and ranges that nobody uses."""
    document = yaml.safe_load((data_path("templates") / "profiles" / f"{name}.yaml").read_text())
    ranges = free_spec("d", folder / "node")
    cidrs = {field: getattr(ranges, field) for field in ("pod_cidr", "service_cidr", "link_cidr")}
    document["target"] = {"kind": "embedded", "instance": ranges.instance, **cidrs}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def summary_of(output: str) -> dict[str, Any]:
    """The summary at the end of the output of `sovereign up --json`."""
    summary: dict[str, Any] = json.loads(output[output.index("\n{") :])
    return summary


def test_demo_passes_offline_and_sends_nothing_outside(tmp_path: Path) -> None:
    profile, site = profile_with_free_ranges("demo", tmp_path), tmp_path / "site"
    up = shlex.join([str(SOVEREIGN), "up", str(profile), "--site", str(site), "--json"])
    destroy = shlex.join([str(SOVEREIGN), "destroy", str(site), "--delete-data"])
    counters = tmp_path / "counters.json"
    script = f"set -e\n{OUTSIDE}\ntrap '{destroy} >&2' EXIT\n{up}\nnft -j list table inet drill > {counters}"
    done = subprocess.run(["unshare", "--net", "bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    summary = summary_of(done.stdout)
    evaluate = summary["metrics"]["evaluate"]
    print(json.dumps({"seconds": summary["seconds"], "evaluate": evaluate}))
    assert min(evaluate["accuracy"].values()) >= 0.9
    assert evaluate["share_of_unigram"] < 0.6
    assert summary["answer"] == summary["expected"]
    rules = [entry["rule"] for entry in json.loads(counters.read_text())["nftables"] if "rule" in entry]
    (counter,) = [part["counter"] for part in rules[0]["expr"] if "counter" in part]
    assert counter["packets"] == 0


def test_real_text_goes_the_whole_way(tmp_path: Path) -> None:
    profile, site = profile_with_free_ranges("realtext", tmp_path), tmp_path / "site"
    try:
        command = [str(SOVEREIGN), "up", str(profile), "--site", str(site), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
    finally:
        subprocess.run([SOVEREIGN, "destroy", str(site), "--delete-data"], check=True, capture_output=True)
    summary = summary_of(done.stdout)
    evaluate = summary["metrics"]["evaluate"]
    print(json.dumps({"seconds": summary["seconds"], "evaluate": evaluate}))
    assert evaluate["share_of_unigram"] < 0.8
    assert evaluate["bits_per_byte_xz"] > 0
    assert summary["answer"]


def specs(live: LiveSite) -> dict[str, Object]:
    """Spec (or data) of every object of the kit, by name, without what differs from one cluster to the next."""
    kinds = {
        "v1": ("ConfigMap", "Secret", "Service", "PersistentVolumeClaim"),
        "apps/v1": ("Deployment",),
        "batch/v1": ("Job",),
        "networking.k8s.io/v1": ("NetworkPolicy",),
        QUEUE_API: ("ClusterQueue", "LocalQueue"),
    }
    cluster = live.cluster
    found = {}
    for api_version, kind in ((version, kind) for version, names in kinds.items() for kind in names):
        for item in cluster.find(api_version, kind, labelSelector="app.kubernetes.io/part-of=sovereign"):
            name = "/".join([kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]])
            found[name] = without_own(item.get("spec") or item.get("data") or {})
    cluster.close()
    # The champion's digest covers the model card, which holds times.
    champion = read_state(live.site, "serving").outputs["champion"]
    return {name: json.loads(json.dumps(spec).replace(champion, "champion")) for name, spec in found.items()}


def without_own(spec: Any) -> Any:
    """The spec without addresses, and without what a Job gets from its UID: labels, selectors, its workload's name."""
    if isinstance(spec, dict):
        own = {
            "clusterIP",
            "clusterIPs",
            "controller-uid",
            "batch.kubernetes.io/controller-uid",
            "kueue.x-k8s.io/workload",
        }
        return {key: without_own(value) for key, value in spec.items() if key not in own}
    return [without_own(value) for value in spec] if isinstance(spec, list) else spec


def test_up_killed_at_many_moments_ends_as_without(live: LiveSite) -> None:
    """SIGKILL of `sovereign up` at random moments, from nothing to the answer; then it is run to its end."""
    live.up()
    stages = ("corpus", "curate", "tokenize")
    reference = specs(live), [receipt(live, stage).outputs for stage in stages]
    loss = receipt(live, "train").metrics["loss_last"]
    live.run("destroy", "--delete-data")
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(MOMENTS):
        with live.start("up") as process:
            try:
                process.communicate(timeout=draw.uniform(0.5, 40))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
    live.up()
    assert live.up()["unchanged"]
    assert not any(read_state(live.site, stack).pending for stack in STACKS)
    previews = json.loads(live.run("preview", "--json"))["stacks"]
    assert [stack["steps"] for stack in previews] == [[], [], []]
    assert (specs(live), [receipt(live, stage).outputs for stage in stages]) == reference
    assert receipt(live, "train").metrics["loss_last"] == pytest.approx(loss, rel=0.02)


@pytest.mark.parametrize("victim", ["kube-apiserver", "containerd", "kubelet", "supervisor"])
def test_killed_parts_of_the_node_come_back(live: LiveSite, victim: str) -> None:
    """Back within a minute by themselves; the supervisor, which is all of the node, with the next command."""
    live.up()
    spec = NodeSpec.load(live.site.node_dir)
    assert spec is not None
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    times = []
    for _ in range(MOMENTS):
        time.sleep(draw.uniform(0, 3))
        killed = {supervisor_pid(spec)} if victim == "supervisor" else pids_of(spec, victim)
        assert killed
        begin = time.monotonic()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        if victim == "supervisor":
            live.run("train")
            wait_for("a healthy node", lambda: lifecycle.health(spec).healthy)  # its DNS is refused for a moment
        else:
            wait_until_back(spec, victim, killed)
        times.append(round(time.monotonic() - begin, 1))
    print(json.dumps({"victim": victim, "back_after_s": times}))
    assert max(times) < BACK_S
    wait_for("everything as deployed", lambda: live.up()["unchanged"], 120)


def stage_pids(spec: NodeSpec) -> set[int]:
    """Processes of the node that train."""
    return pids_where(spec, "cmdline", lambda command: b"sovereign.stages\0run\0train" in command)


def other_stage_pids(spec: NodeSpec, known: set[int]) -> set[int]:
    """Processes of the node that train and are not `known`."""
    return stage_pids(spec) - known


def test_training_killed_many_times_ends_as_without(live: LiveSite) -> None:
    """The process by SIGKILL, then its pod by deletion; no third time, since a Job waits longer after each failure."""
    live.up()
    spec = NodeSpec.load(live.site.node_dir)
    assert spec is not None
    loss = receipt(live, "train").metrics["loss_last"]
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    selector = "batch.kubernetes.io/job-name=ci-train"
    times = []
    for _ in range(MOMENTS // 2):
        with train_anew(live) as process:
            for kill in ("process", "pod"):
                (pod,) = wait_for("a pod", lambda: running(live, selector, "training"))
                pids = wait_for("its process", lambda: stage_pids(spec))
                time.sleep(draw.uniform(0, 8))
                begin = time.monotonic()
                if kill == "pod":
                    live.cluster.delete(pod)
                else:
                    for pid in pids:
                        os.kill(pid, signal.SIGKILL)
                wait_for("another process", functools.partial(other_stage_pids, spec, pids))
                times.append(round(time.monotonic() - begin, 1))
            _, errors = process.communicate()
        assert process.returncode == 0, errors[-4000:]
        assert receipt(live, "train").metrics["loss_last"] == pytest.approx(loss, rel=0.02)
    print(json.dumps({"training_again_after_s": times}))


def urgent_job(training: Object) -> Object:
    """A short Job that goes before `training` and finds no room beside it."""
    pod = json.loads(json.dumps(training["spec"]["template"]["spec"]))
    (container,) = pod["containers"]
    container["command"] = [container["command"][0], "-c", "import time; time.sleep(5)"]
    container["resources"]["requests"]["cpu"] = "400m"
    labels = training["metadata"]["labels"] | {"kueue.x-k8s.io/priority-class": "urgent"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "urgent", "namespace": "training", "labels": labels},
        "spec": {"suspend": True, "backoffLimit": 0, "template": {"spec": pod}},
    }


def test_training_makes_room_for_an_urgent_job_and_goes_on(live: LiveSite) -> None:
    """Kueue's preemption is a SIGTERM to the pod: it leaves a checkpoint, and the Job goes on from it by itself."""
    live.up()
    loss = receipt(live, "train").metrics["loss_last"]
    with train_anew(live) as process:
        training = live.cluster.get(job_object("ci", "train"))
        assert training is not None
        urgent = urgent_job(training)
        live.cluster.apply(urgent)
        wait_for("the urgent Job's end", lambda: finished(live.cluster.get(urgent) or {}) == "Complete", 300)
        evictions = [
            eviction["reason"]
            for workload in live.cluster.find(QUEUE_API, "Workload", "training")
            for eviction in workload.get("status", {}).get("schedulingStats", {}).get("evictions", [])
        ]
        _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-4000:]
    live.cluster.delete(urgent)
    assert evictions == ["Preempted"]
    metrics = receipt(live, "train").metrics
    assert metrics["resumed_from"] > 0
    assert metrics["loss_last"] == pytest.approx(loss, rel=0.02)

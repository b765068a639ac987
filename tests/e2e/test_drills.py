"""What is too long for every change, for `make drill`: the demo offline, real text, kills at many moments."""

from __future__ import annotations

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

from sovereign.resources import data_path
from stacks.node import processes
from stacks.state import read_state
from tests.e2e.node_fixture import free_spec
from tests.e2e.site_fixture import SOVEREIGN, LiveSite
from tests.e2e.test_way import receipt, running, wait_for

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
    ranges = free_spec("u", folder / "node")
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


def test_up_killed_at_many_moments_ends_well(live: LiveSite) -> None:
    """SIGKILL of `sovereign up` at random moments, from nothing to the answer; then it is run to its end."""
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
    assert not any(read_state(live.site, stack).pending for stack in ("cluster", "datalake", "serving"))
    assert '"create"' not in live.run("preview", "--json")


@pytest.mark.parametrize("victim", ["kube-apiserver", "containerd", "supervisor"])
def test_killed_parts_of_the_node_come_back(live: LiveSite, victim: str) -> None:
    """Back within a minute; for the supervisor, with the next command."""
    live.up()
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(MOMENTS):
        time.sleep(draw.uniform(0, 3))
        supervisor = processes.find(live.site.node_dir)
        assert supervisor is not None
        if victim == "supervisor":
            os.kill(supervisor.pid, signal.SIGKILL)
            live.run("deploy")
        else:
            command = ["nsenter", "-t", str(supervisor.pid), "-p", "-m", "pkill", "-KILL", "-x", victim[:15]]
            subprocess.run(command, check=True)
        wait_for(f"{victim} back", lambda: running(live, "app.kubernetes.io/name=s3", "lake"))
    wait_for("everything as deployed", lambda: live.up()["unchanged"], 120)


def test_training_pod_killed_many_times_ends_as_without(live: LiveSite) -> None:
    live.up()
    reference = receipt(live, "train").metrics["loss_last"]
    for number in range(MOMENTS):
        live.edit(training={"seed": 100 + number})
        with live.start("train") as process:
            wait_for("training", lambda: running(live, "batch.kubernetes.io/job-name=ci-train", "training"), 240)
            time.sleep(random.SystemRandom().uniform(0, 20))
            for pod in running(live, "batch.kubernetes.io/job-name=ci-train", "training"):
                live.cluster.delete(pod)
            _, errors = process.communicate()
        assert process.returncode == 0, errors[-4000:]
        assert receipt(live, "train").metrics["loss_last"] == pytest.approx(
            reference, rel=0.2
        )  # another seed each time

"""The whole way on a real node: `sovereign up` of profile ci, what it leaves, what it survives."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from sovereign.errors import TemporaryClusterError
from sovereign.receipts import Receipt
from sovereign.serving.client import ask
from sovereign.workload import PORTS
from stacks.fields import Object
from stacks.node import processes
from stacks.node.spec import NodeSpec
from stacks.state import read_state
from tests.e2e.node_fixture import BACK_S
from tests.e2e.site_fixture import LiveSite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
T = TypeVar("T")


@pytest.fixture(scope="module")
def summary(live: LiveSite) -> dict[str, Any]:
    """What the first `sovereign up` ended with."""
    return live.up()


def wait_for(what: str, ready: Callable[[], T], timeout_s: float = BACK_S) -> T:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if found := ready():
                return found
        except TemporaryClusterError:
            pass
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.3)


def running(live: LiveSite, selector: str, namespace: str) -> list[Object]:
    pods = live.cluster.find("v1", "Pod", namespace, labelSelector=selector)
    return [
        pod for pod in pods if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def receipt(live: LiveSite, stage: str) -> Receipt:
    return Receipt.from_bytes((live.site.receipts_dir / f"{stage}.json").read_bytes())


def test_way_ends_with_a_model_that_learned_and_answers(live: LiveSite, summary: dict[str, Any]) -> None:
    train, evaluate = summary["metrics"]["train"], summary["metrics"]["evaluate"]
    assert train["heldout_bits_per_byte_after"] < 0.7 * train["heldout_bits_per_byte_before"]
    assert set(evaluate["accuracy"]) == {"en", "fr", "ar", "zh"}
    assert summary["answer"] and summary["expected"]
    assert not summary["unchanged"]
    stages = ("corpus", "curate", "tokenize", "train", "evaluate", "register")
    assert [receipt(live, stage).stage for stage in stages] == list(stages)


def test_second_up_changes_nothing_and_preview_and_status_agree(live: LiveSite, summary: dict[str, Any]) -> None:
    again = live.up()
    assert again["unchanged"] and again["answer"] == summary["answer"]
    live.run("status")
    assert '"create"' not in live.run("preview", "--json")
    states = [read_state(live.site, stack) for stack in ("cluster", "datalake", "serving")]
    assert all(state.deployed and not state.pending for state in states)


def test_official_client_chats_streams_and_sees_the_champion_only(summary: dict[str, Any]) -> None:
    client = OpenAI(base_url=f"{summary['api']}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["sovereign/ci"]
    messages: Any = [{"role": "user", "content": summary["question"]}]
    whole = client.chat.completions.create(model="sovereign/ci", messages=messages, temperature=0, max_tokens=16)
    parts = client.chat.completions.create(
        model="sovereign/ci", messages=messages, temperature=0, max_tokens=16, stream=True
    )
    streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert whole.choices[0].message.content == streamed
    assert client.models.retrieve("sovereign/ci").id == whole.model == "sovereign/ci"
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model="another/model", messages=messages, max_tokens=1)


def test_s1_s2_a_pod_refuses_long_prompts_and_honours_stops(summary: dict[str, Any]) -> None:
    client = OpenAI(base_url=f"{summary['api']}/v1", api_key="none", max_retries=0, timeout=30)
    long: Any = [{"role": "user", "content": "x" * 200_000}]
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="sovereign/ci", messages=long)
    assert refused.value.code == "context_length_exceeded"
    messages: Any = [{"role": "user", "content": summary["question"]}]
    for stop in summary["answer"][1:4]:
        reply = client.chat.completions.create(model="sovereign/ci", messages=messages, temperature=0, stop=stop)
        assert reply.choices[0].message.content == summary["answer"].partition(stop)[0]


def test_what_is_served_answers_as_what_was_evaluated(live: LiveSite, summary: dict[str, Any]) -> None:
    folder = live.site.node_dir / "volumes" / "objects" / "models" / "ci"
    evaluation = json.loads((folder / "evaluate" / "evaluation.json").read_text())
    examples = evaluation["questions"]["examples"]
    assert examples
    for example in examples:
        # The evaluation asks for a few tokens more than the longest answer has, `ask` for more.
        assert ask(summary["api"], "sovereign/ci", example["question"]).startswith(example["given"])


def peak_mb(*marks: str) -> float:
    """Largest resident memory of the process whose command line has the marks, among all that the host sees."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
            if all(mark in command for mark in marks):
                (line,) = (row for row in (folder / "status").read_text().splitlines() if row.startswith("VmHWM"))
                return int(line.split()[1]) / 1000
        except (OSError, ValueError):
            continue
    raise AssertionError(f"no process with {marks}")


def test_the_model_server_is_small_unprivileged_and_its_engine_is_not_reachable(
    live: LiveSite, summary: dict[str, Any]
) -> None:
    (pod,) = running(live, "app.kubernetes.io/name=model", "serving")
    assert {container["name"] for container in pod["spec"]["containers"]} == {"front", "engine"}
    assert sum(status["restartCount"] for status in pod["status"]["containerStatuses"]) == 0
    for container in pod["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
    digest = pod["metadata"]["annotations"]["sovereign.local/model-digest"]
    assert digest == read_state(live.site, "serving").outputs["champion"]
    gguf = read_state(live.site, "serving").outputs["gguf"]
    peaks = {name: peak_mb(f"sovereign.serving\0{name}\0", gguf) for name in ("front", "engine")}
    print("peaks of memory in MB:", peaks)
    assert all(10 < peak < 200 for peak in peaks.values())
    supervisor = processes.find(live.site.node_dir)
    assert supervisor is not None
    reach = f"import socket; socket.create_connection(('{pod['status']['podIP']}', %d), 3)"
    for port, expected in ((PORTS["model"], 0), (PORTS["engine"], 1)):
        command = ["nsenter", "-t", str(supervisor.pid), "-n", sys.executable, "-c", reach % port]
        assert subprocess.run(command, capture_output=True, check=False).returncode == expected


def test_nothing_on_the_node_asked_for_a_way_out(live: LiveSite, summary: dict[str, Any]) -> None:
    supervisor = processes.find(live.site.node_dir)
    assert supervisor is not None
    command = ["nsenter", "-t", str(supervisor.pid), "-n", "nft", "-j", "list", "table", "inet", "sovereign"]
    table = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["nftables"]
    parts = [part for entry in table for part in entry.get("rule", {}).get("expr", [])]
    packets = [part["counter"]["packets"] for part in parts if "counter" in part]
    assert packets and not any(packets)


def test_edited_field_is_named_by_status_and_repaired_by_deploy(live: LiveSite, summary: dict[str, Any]) -> None:
    spec = NodeSpec.load(live.site.node_dir)
    assert spec is not None
    command = [str(spec.binaries["kubectl"]), f"--kubeconfig={live.site.node_dir / 'admin.conf'}", "-n", "lake"]
    subprocess.run([*command, "scale", "deployment/s3", "--replicas=2"], check=True)
    assert "spec.replicas" in live.run("status", "--json", code=3)
    live.run("deploy", "--stack", "datalake")
    live.run("status")


def test_deleted_object_comes_back(live: LiveSite, summary: dict[str, Any]) -> None:
    service: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "model", "namespace": "serving"}}
    live.cluster.delete(service)
    assert not live.up()["unchanged"]
    assert live.cluster.get(service) is not None


def train_anew(live: LiveSite) -> subprocess.Popen[str]:
    """`sovereign train` of what was trained already, as if it had never been; started, with a checkpoint made."""
    folder = live.site.node_dir / "volumes" / "objects" / "models" / "ci" / "train"
    shutil.rmtree(folder)
    process = live.start("train")
    wait_for("a checkpoint", lambda: any(folder.glob("checkpoints/**/COMMIT")), 240)
    return process


def test_killed_training_pod_resumes_and_ends_the_same(live: LiveSite, summary: dict[str, Any]) -> None:
    with train_anew(live) as process:
        (victim,) = running(live, "batch.kubernetes.io/job-name=ci-train", "training")
        live.cluster.delete(victim)
        _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    metrics = receipt(live, "train").metrics
    assert metrics["resumed_from"] > 0
    assert metrics["loss_last"] == pytest.approx(summary["metrics"]["train"]["loss_last"], rel=0.02)


def test_stopped_training_leaves_a_checkpoint_and_goes_on(live: LiveSite, summary: dict[str, Any]) -> None:
    with train_anew(live) as process:
        live.run("stop")
        wait_for("no pod", lambda: not running(live, "batch.kubernetes.io/job-name=ci-train", "training"))
        process.kill()
    live.run("resume")
    metrics = receipt(live, "train").metrics
    assert metrics["resumed_from"] > 0
    assert metrics["loss_last"] == pytest.approx(summary["metrics"]["train"]["loss_last"], rel=0.02)
    assert "loss" in live.run("logs")


def test_two_pods_train_one_model(live: LiveSite, summary: dict[str, Any]) -> None:
    live.edit(training={"pods": 2, "threads_per_pod": 1, "tokens": 100_000})
    live.run("train")
    log = live.run("logs")
    pods = live.cluster.find("v1", "Pod", "training", labelSelector="batch.kubernetes.io/job-name=ci-train")
    assert len(pods) == 2 and "loss" in log
    metrics = receipt(live, "train").metrics
    assert metrics["heldout_bits_per_byte_after"] < 0.8 * metrics["heldout_bits_per_byte_before"]
    live.edit(training={"pods": 1, "threads_per_pod": 2, "tokens": 300_000})


def test_node_that_ended_comes_back_with_the_next_command(live: LiveSite, summary: dict[str, Any]) -> None:
    """As after a reboot: no process of it is left."""
    supervisor = processes.find(live.site.node_dir)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for("its end", lambda: processes.find(live.site.node_dir) is None)
    live.run("train")
    assert processes.find(live.site.node_dir) is not None


@pytest.mark.parametrize("stack", ["cluster", "serving"])
def test_killed_up_goes_on(live: LiveSite, summary: dict[str, Any], stack: str) -> None:
    """SIGKILL at a seeded moment while something is repaired; the next `up` ends well and leaves nothing behind."""
    seed = random.SystemRandom().randrange(1000)
    print(f"seed {seed}")
    kind, name, namespace = ("ConfigMap", "kueue-manager-config", "kueue-system")
    if stack == "serving":
        kind, name, namespace = ("Service", "model", "serving")
    live.cluster.delete({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}})
    with live.start("up") as process:
        time.sleep(random.Random(seed).uniform(1, 8))
        process.send_signal(signal.SIGKILL)
    live.up()
    assert live.up()["unchanged"]
    assert not any(read_state(live.site, each).pending for each in ("cluster", "datalake", "serving"))

"""The batch script on a real Slurm of one machine; its daemons (slurmctld, slurmd) run for this test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sovereign.cli.work import slurm_script
from sovereign.packages import Package, ensure_packages
from sovereign.receipts import Receipt
from sovereign.site import Site, init_site
from tests.training.conftest import PROFILE

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons run as root here"),
]
PACKAGES = [
    Package(name, "Slurm for its drill", lambda program=program: shutil.which(program) is not None)  # type: ignore[misc]
    for name, program in (("slurmctld", "slurmctld"), ("slurmd", "slurmd"), ("slurm-client", "sbatch"))
]
TIMEOUT_S = 1800
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
KillWait=60
ReturnToService=2
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=15000 State=UNKNOWN
PartitionName=main Nodes=node Default=YES State=UP
"""


def free_ports() -> list[int]:
    """Two TCP ports that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slurm's controller and one node; the packages are installed where they are missing."""
    ensure_packages(PACKAGES)
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    configuration = tmp_path / "slurm.conf"
    text = CONFIGURATION.format(host=socket.gethostname().partition(".")[0], folder=tmp_path, ports=free_ports())
    configuration.write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    monkeypatch.chdir(Path(__file__).parents[2])  # the job's processes import this tree
    with ExitStack() as stack:
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "node"]):
            log = stack.enter_context((tmp_path / f"{command[0]}.log").open("wb"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
            stack.callback(process.terminate)
        wait_for("a node that is idle", lambda: "idle" in run("sinfo", "--noheader", "--format=%T", check=False))
        stack.callback(run, "scancel", "--full", "--user=root", check=False)
        yield


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout


def submit(script: Path) -> str:
    """The new job's number."""
    return run("sbatch", "--parsable", str(script)).strip()


def is_over(job: str) -> bool:
    return run("squeue", "--noheader", f"--job={job}", check=False).strip() == ""


def test_a_job_is_stopped_by_a_notice_and_goes_on(slurm: None, tokens: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny.yaml"
    training = PROFILE["training"] | {"pods": 2, "tokens": 60 * 256}  # type: ignore[operator]
    source.write_text(json.dumps(PROFILE | {"training": training}))
    site: Site = init_site(tmp_path / "a site", source)
    shutil.copytree(tokens, site.data_dir)
    script = tmp_path / "train.sbatch"
    script.write_text(slurm_script(site))
    train = site.data_dir / "models" / "tiny" / "train"

    first = submit(script)
    log = site.data_dir / "logs" / f"train-{first}.log"
    wait_for(f"a checkpoint, see {log}", lambda: any(train.glob("checkpoints/*/*/COMMIT")) or is_over(first))
    run("scancel", "--signal=TERM", first)
    wait_for("its end", lambda: is_over(first))
    assert not (train / "receipt.json").exists(), log.read_text()
    assert "stopped after" in log.read_text()

    second = submit(script)
    wait_for("its end", lambda: is_over(second))
    receipt = Receipt.from_bytes((train / "receipt.json").read_bytes())
    assert receipt.metrics["resumed_from"] > 0
    assert receipt.metrics["steps"] == 60

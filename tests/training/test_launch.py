"""How ranks are started and end: numbers and exit codes, a lost peer told apart from a program's own error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sovereign.errors import PeerLostError, TrainingError
from sovereign.profile import load_profile
from sovereign.runner import LocalRunner, StageEvent
from sovereign.store import FolderStore
from tests.training.conftest import PROFILE, Start, events
from training.environment import among_peers
from training.launch import set_slurm_rendezvous

TIMEOUT_S = 1200


def free_port() -> str:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def agent(code: str, **options: int) -> subprocess.Popen[str]:
    """The agent of one machine, whose ranks run `code`."""
    program = f"import sys\nfrom training.launch import run_agent\nsys.exit(run_agent(['-c', {code!r}], **{options}))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)


def test_the_exit_code_is_that_of_the_rank_that_failed() -> None:
    code = "import os, sys, time\nsys.exit(75) if os.environ['RANK'] == '1' else time.sleep(3600)"
    with agent(code, ranks=2, grace_s=5) as process:
        assert process.wait(TIMEOUT_S) == 75


def test_pods_have_their_ranks_in_order() -> None:
    code = "import os\nprint(*(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')), flush=True)"
    port = int(free_port())
    agents = [agent(code, ranks=1, pods=2, pod=pod, port=port) for pod in (0, 1)]
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in agents]
    assert [process.returncode for process in agents] == [0, 0]
    assert outputs == ["0 2 0\n", "1 2 0\n"]


def test_slurm_says_who_we_are() -> None:
    environment = {
        "SLURM_PROCID": "9",
        "SLURM_NTASKS": "16",
        "SLURM_LOCALID": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
        "SLURM_JOB_ID": "10123",
    }
    set_slurm_rendezvous(environment)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert [environment[name] for name in names] == ["9", "16", "1", "10.0.0.7", "20123"]
    with pytest.raises(TrainingError, match="not started by Slurm's srun"):
        set_slurm_rendezvous({"SLURM_JOB_ID": "1"})


def test_a_rank_knows_that_another_is_lost(start_training: Start, store_root: Path, tmp_path: Path) -> None:
    """Rank 1 is killed while both train: rank 0 ends at once, with the code that lets a Job try again."""
    profile = tmp_path / "two.yaml"
    training = PROFILE["training"] | {"pods": 2, "tokens": 4000 * 256}  # type: ignore[operator]
    profile.write_text(json.dumps(PROFILE | {"training": training}))
    port = free_port()
    processes = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(start_training(profile, store_root, tmp_path / "work", tmp_path / f"{rank}.log", **ranks))
    store = FolderStore(store_root)
    while not any(key.endswith("/COMMIT") for key in store.list("models/tiny/train/checkpoints/")):
        assert processes[0].exitcode is None, events(tmp_path / "0.log")
        processes[0].join(0.1)
    os.kill(int(processes[1].pid or 0), signal.SIGKILL)
    processes[0].join(TIMEOUT_S)
    assert processes[0].exitcode == PeerLostError.exit_code == 75, events(tmp_path / "0.log")
    assert "another rank is gone" in events(tmp_path / "0.log")[-1]["message"]


def test_a_rank_s_own_error_stays_its_own() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), among_peers():
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.drill
def test_two_ranks_on_this_machine(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sovereign train --local` starts them."""
    profile = tmp_path / "two.yaml"
    training = PROFILE["training"] | {"pods": 2}  # type: ignore[operator]
    profile.write_text(json.dumps(PROFILE | {"training": training}))
    data = Path(shutil.copytree(tokens, tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    seen: list[StageEvent] = []
    receipt = LocalRunner(load_profile(profile), profile, data).run("train", seen.append)
    assert receipt.metrics["steps"] == 12 and seen[-1].message == "done"
    (folder,) = data.glob("models/tiny/train/checkpoints/*/step-00000012")
    assert {"rank-00000.safetensors", "rank-00001.safetensors"} < {path.name for path in folder.iterdir()}

"""Training without a cluster, stopped from outside: Ctrl-C, a service manager, `sovereign stop`, a second trainer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovereign.locks import holder_of
from sovereign.site import Site, init_site
from sovereign.stages import LOCK
from tests.training.conftest import PROFILE
from training.runs import read_runs

TIMEOUT_S = 240
STEPS = 1500
_CLI = "import sys; from sovereign.cli import main; sys.argv[0] = 'sovereign'; main()"


@pytest.fixture
def site(tokens: Path, tmp_path: Path) -> Site:
    """A site whose lake has all that training needs, for a training of some ten seconds."""
    profile = tmp_path / "profile.yaml"
    profile.write_text(json.dumps(PROFILE | {"training": PROFILE["training"] | {"tokens": STEPS * 256}}))  # type: ignore[operator]
    site = init_site(tmp_path / "site", profile)
    shutil.copytree(tokens, site.data_dir)
    return site


def command(*arguments: str | Path) -> list[str]:
    """The command line, with the code of this checkout."""
    return [sys.executable, "-c", _CLI, *map(str, arguments)]


@pytest.fixture
def training(site: Site) -> Iterator[subprocess.Popen[str]]:
    """`sovereign train --local`, begun: it has the process group that a terminal would give it."""
    with subprocess.Popen(
        command("train", site.root, "--local"), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            wait_for(lambda: any_step(site) or process.poll() is not None, process)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for what the process does."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue


def any_step(site: Site) -> bool:
    """Whether training has done a step."""
    log = site.data_dir / "logs" / "train.log"
    return log.exists() and '"unit": "steps"' in log.read_text()


def run_of(site: Site) -> tuple[str, int]:
    """Status and step of the only run."""
    from sovereign.store import open_store

    (run,) = read_runs(open_store(f"file://{site.data_dir}"), "tiny")
    return run.status, run.step


def checkpoints(site: Site) -> list[int]:
    """Steps of the checkpoints in the lake."""
    found = site.data_dir.glob("models/tiny/train/checkpoints/*/step-*/COMMIT")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("ctrl-c", 128 + signal.SIGINT),
        pytest.param("sigterm", 128 + signal.SIGTERM, marks=pytest.mark.drill),
        ("stop", 128 + signal.SIGTERM),
    ],
)
def test_t5_t15_training_that_is_stopped_leaves_a_checkpoint_and_resumes(
    ending: str, code: int, site: Site, training: subprocess.Popen[str]
) -> None:
    assert training.poll() is None, str(training.args)
    if ending == "ctrl-c":
        os.killpg(training.pid, signal.SIGINT)
    elif ending == "sigterm":
        training.terminate()
    else:
        stopped = subprocess.run(command("stop", site.root, "--local"), capture_output=True, text=True, check=False)
        assert stopped.returncode == 0 and "sovereign resume --local" in stopped.stderr, stopped.stderr
    _, said = training.communicate(timeout=TIMEOUT_S)
    assert training.returncode == code, said
    assert "stage train was stopped: stopped after" in said and "run it again to resume" in said
    assert "Traceback" not in said and "error" not in said
    assert holder_of(site.data_dir / "work" / "train" / LOCK) is None, "the stage outlived its command"
    status, step = run_of(site)
    assert status == "KILLED" and 0 < step < STEPS
    assert checkpoints(site)[-1] == step, "steps were lost"
    if ending == "stop":
        resumed = subprocess.run(command("resume", site.root, "--local"), capture_output=True, text=True, check=False)
        assert resumed.returncode == 0, resumed.stderr
        assert f"resumed_from: {step}" in resumed.stderr and run_of(site) == ("FINISHED", STEPS)
        log = subprocess.run(command("logs", site.root, "--local"), capture_output=True, text=True, check=True).stdout
        assert f"train: resuming at step {step}" in log and "tokens/s" in log


def test_t5_a_second_signal_kills(site: Site, training: subprocess.Popen[str]) -> None:
    """The stage is stopped, so that it cannot answer the first one."""
    holder = holder_of(site.data_dir / "work" / "train" / LOCK)
    assert holder is not None
    os.kill(holder["pid"], signal.SIGSTOP)
    assert training.stderr is not None
    training.send_signal(signal.SIGINT)
    for line in training.stderr:
        if "once more kills it" in line:
            break
    training.send_signal(signal.SIGINT)
    assert training.wait(TIMEOUT_S) == 128 + signal.SIGINT
    assert holder_of(site.data_dir / "work" / "train" / LOCK) is None


@pytest.mark.drill
def test_t15_a_stage_whose_command_was_killed_ends_with_a_checkpoint(
    site: Site, training: subprocess.Popen[str]
) -> None:
    lock = site.data_dir / "work" / "train" / LOCK
    training.kill()
    training.wait()
    wait_for(lambda: holder_of(lock) is None, training)
    status, step = run_of(site)
    assert status == "KILLED" and checkpoints(site)[-1] == step


def test_t7_a_second_trainer_is_refused_and_names_the_first(
    site: Site, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    """By its own process, past the site's lock: in the same folder, and with another one on the same store."""
    holder = holder_of(site.data_dir / "work" / "train" / LOCK)
    assert holder is not None
    for workdir in (site.data_dir / "work" / "train", tmp_path / "other"):
        stage = ["run", "train", "--profile", site.profile_path, "--store", f"file://{site.data_dir}"]
        second = subprocess.run(
            [sys.executable, "-m", "sovereign.stages", *map(str, stage), "--workdir", str(workdir)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1 and "in use" in second.stderr, second.stderr
        assert f'"pid": {holder["pid"]}' in second.stderr and "disk space" not in second.stderr
    assert training.poll() is None

"""What the tests of training share: a tokenised lake of the real stages, and runs of stage `train` in own processes.

The processes are forked from a server that has imported torch and DeepSpeed, so that a run costs its steps only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from training.forked import prepare_lake, start_rank

PROFILE = {
    "apiVersion": "sovereign/v1",
    "name": "tiny",
    "corpus": {"demonstration": {"facts": 10}, "cleaning": {"heldout_fraction": 0.1}},
    "model": {"parameters": 1e5, "vocab_size": 600, "sequence_length": 64},
    "training": {
        "tokens": 12 * 256,
        "batch_tokens": 256,
        "learning_rate": 4e-3,
        "checkpoint_every_steps": 4,
        "threads_per_pod": 1,
        "compile": False,
    },
}
"""12 steps of 4 sequences; a checkpoint after each fourth."""


@pytest.fixture(scope="session")
def profile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny profile."""
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(json.dumps(PROFILE))
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory, profile_file: Path) -> Path:
    """A folder store with the results of corpus, curate and tokenize."""
    return prepare_lake(profile_file, tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("work"))


@pytest.fixture
def store_root(tokens: Path, tmp_path: Path) -> Path:
    """A store of this test's own with the tokenised lake in it."""
    import shutil

    return Path(shutil.copytree(tokens, tmp_path / "store"))


Start = Callable[..., ForkServerProcess]


@pytest.fixture(scope="session")
def start_training() -> Start:
    """Start stage `train` in a process: start_training(profile_file, store_root, workdir, log, **environment)."""

    def start(profile: Path, root: Path, workdir: Path, log: Path, **environment: str) -> ForkServerProcess:
        return start_rank(profile, root, workdir, log, environment)

    return start


def events(log: Path) -> list[dict[str, Any]]:
    """Progress that a run has written so far."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

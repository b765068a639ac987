"""The manifest of a checkpoint, and the checks that come before anything of it is read.

A checkpoint is a folder `step-00000100` with
    rank-00000.safetensors     a rank's fragments of weights and moments (fragments.py), and its random states
    metrics.jsonl              the record of the run so far (rank 0)
    manifest.json              what it is: the fields of `Manifest`
    COMMIT                     SHA-256 of manifest.json, written last
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sovereign.errors import CheckpointError
from sovereign.files import sha256_bytes, sha256_file

METRICS, MANIFEST, COMMIT = "metrics.jsonl", "manifest.json", "COMMIT"
FORMAT = 2
"""Of manifest and files; another one is refused."""
FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
"""A file in the checkpoint's own folder, never elsewhere."""
_STEP = re.compile(r"step-(\d{8,})$")


class Commit(NamedTuple):
    """Which checkpoint: two of the same step are different ones when their content differs."""

    step: int
    digest: str
    """SHA-256 of the manifest, and by it of everything."""

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"step-{self.step:08}"


def step_of(folder: str) -> int | None:
    """The step in a folder's name."""
    match = _STEP.search(folder)
    return int(match[1]) if match else None


def rank_file(rank: int) -> str:
    """Name of the file with what only this rank has."""
    return f"rank-{rank:05}.safetensors"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stretch(_Part):
    """Who trained the steps from `from_step` on."""

    from_step: int
    world_size: int
    zero_stage: int
    code_version: str


class Manifest(_Part):
    """What a checkpoint is."""

    format: int = FORMAT
    run: str
    """Digest of configuration and inputs: only the same run goes on from it, on any number of ranks."""
    step: int
    """Steps done; the next one has this number."""
    position: dict[str, Any]
    """Where the run is: tokens taken from the stream, rate of the last step, what was consumed."""
    world_size: int
    zero_stage: int
    parameters: dict[str, tuple[int, ...]]
    """Shape of each parameter."""
    files: dict[FileName, str]
    """SHA-256 of every file."""
    spans: dict[FileName, dict[str, tuple[int, int]]]
    """By file: the range of each parameter's elements that it holds."""
    history: tuple[Stretch, ...]
    config: dict[str, Any]
    """The resolved configuration: profile, plan, digests of the inputs."""
    code_version: str

    def to_bytes(self) -> bytes:
        """The bytes that are written; the same on every rank."""
        return self.model_dump_json().encode()


def parse_manifest(data: bytes, commit: str, origin: Path) -> Manifest:
    """The manifest in `data`.

    Raises:
        CheckpointError: it is not what was committed, or of another format.
    """
    if (found := sha256_bytes(data)) != commit:
        raise CheckpointError(f"{origin} is not what was committed", got=found, expected=commit)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CheckpointError(
            f"{origin} has another format: {error.errors()[0]['msg']}", expected=f"format {FORMAT}"
        ) from error


def check_file(path: Path, manifest: Manifest) -> None:
    """Raises: CheckpointError: the file is missing, or not the one that the manifest names."""
    expected = manifest.files.get(path.name)
    try:
        found = sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if found != expected:
        raise CheckpointError(f"{path} is damaged", got=found, expected=expected)

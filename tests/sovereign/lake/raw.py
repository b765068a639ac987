"""Raw documents laid into a store with the receipt that stage corpus would leave, and what curate makes of them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sovereign.files import sha256_bytes
from sovereign.lake.documents import Document, DocumentWriter, read_rows
from sovereign.lake.stages import curate
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore, Store

NAME = "test"


def make_profile(**corpus: Any) -> Profile:
    return Profile.model_validate(document(**corpus))


def document(**corpus: Any) -> dict[str, Any]:
    """A profile, as its file has it."""
    return {
        "apiVersion": "sovereign/v1",
        "name": NAME,
        "corpus": {"demonstration": {"facts": 10}} | corpus,
        "model": {"parameters": 4e5},
        "training": {"tokens": 1e5},
    }


def put_raw(store: FolderStore, documents: Iterable[Document], scratch: Path) -> None:
    """Store `documents` as stage corpus would, with no question."""
    with DocumentWriter(scratch, "documents") as writer:
        for one in documents:
            writer.add(one)
    for path in writer.files:
        store.put_file(f"raw/{NAME}/{path.name}", path)
    store.put_bytes(f"raw/{NAME}/questions.jsonl", b"")
    outputs = {key: sha256_bytes(store.get_bytes(key)) for key in store.list(f"raw/{NAME}/")}
    told = {"config_digest": "", "key": "", "metrics": {}, "started_at": "", "finished_at": "", "seconds": 0.0}
    receipt = Receipt(stage="corpus", inputs={}, outputs=outputs, made_by="", code_version="", **told)
    store.put_bytes(f"raw/{NAME}/receipt.json", receipt.to_bytes())


def run_curate(store: FolderStore, workdir: Path, **corpus: Any) -> Receipt:
    """Run the stage in this process."""
    return run_stage(curate, make_profile(**corpus), store, workdir, io.StringIO())


def result(store: Store) -> dict[str, bytes]:
    """Every file below `curated/`, but for the receipt."""
    return {key: store.get_bytes(key) for key in store.list("curated/") if not key.endswith("/receipt.json")}


def verdicts(store: FolderStore) -> Iterator[tuple[Document, str]]:
    """Every document that curate wrote, with `train`, `heldout` or the reason why it is rejected."""
    for kind in ("train", "heldout", "rejected"):
        paths = [store.root / key for key in store.list(f"curated/{NAME}/{kind}-")]
        for one, extra in read_rows(paths, ["reason"] if kind == "rejected" else []):
            yield one, extra.get("reason", kind)


def command(folder: Path, store: Store, *, module: str = "sovereign.stages", **corpus: Any) -> list[str]:
    """The stage's process; `folder` is its work folder and has the profile."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = folder / "profile.yaml"
    profile.write_text(yaml.safe_dump(document(**corpus)))
    arguments = ["run", "curate", "--profile", str(profile), "--store", store.url, "--workdir", str(folder / "work")]
    return [sys.executable, "-m", *module.split(), *arguments]


def start_rank(rank: int, num_ranks: int, program: list[str]) -> subprocess.Popen[str]:
    """One rank as a process of its own, as a pod would run it."""
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

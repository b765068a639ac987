"""Ingest as a whole: sources in the store, killed processes, full disks, and that nothing is lost."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import SourceError, StageError
from sovereign.files import sha256_file
from sovereign.lake.documents import read_documents
from sovereign.lake.stages import corpus
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore, Store, open_store
from tests.sovereign.servers import s3_server

RUN = """
import sys
from sovereign.lake import ingest
from sovereign.stages import main
ingest.BATCH_BYTES = 20_000
sys.exit(main(sys.argv[1:]))
"""
"""The stage's process, with batches small enough for a test."""


def profile(*sources: dict[str, Any], **corpus_section: Any) -> Profile:
    common = {"owner": "O", "licence": "CC0-1.0", "language": "en"}
    section = {"sources": [common | one for one in sources], **corpus_section}
    document = {"apiVersion": "sovereign/v1", "name": "test", "corpus": section}
    return Profile.model_validate(document | {"model": {"parameters": 4e5}, "training": {"tokens": 1e5}})


def run(wanted: Profile, store: Store, workdir: Path) -> Receipt:
    return run_stage(corpus, wanted, store, workdir, io.StringIO())


def texts_of(receipt: Receipt, store: Store, folder: Path) -> list[str]:
    paths = []
    for number, key in enumerate(key for key in sorted(receipt.outputs) if key.endswith(".parquet")):
        paths.append(folder / str(number))
        store.get_file(key, paths[-1])
    return [document.text for document in read_documents(paths)]


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of several kinds, damaged ones among them, of some 60 batches."""
    folder = tmp_path_factory.mktemp("many")
    draw = random.Random(7)
    for number in range(120):
        lines = [json.dumps({"text": f"file {number} {draw.randbytes(60).hex()}"}) for _ in range(60)]
        content = "\n".join([*lines, "not JSON"]).encode()
        packed = gzip.compress(content, mtime=0)
        (folder / f"{number:03}.jsonl").write_bytes(content)
        (folder / f"{number:03}.jsonl.gz").write_bytes(packed[:-200] if number % 5 == 0 else packed)
    return folder


class Process:
    """The stage `corpus` as a process of its own."""

    def __init__(self, wanted: Profile, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "profile.yaml").write_text(wanted.model_dump_json(exclude_none=True))
        self.command = [sys.executable, "-c", RUN, "run", "corpus", "--profile", str(folder / "profile.yaml")]
        self.command += ["--store", f"file://{folder / 'store'}", "--workdir", str(folder / "work")]

    def start(self, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)

    def finish(self, **more: Any) -> tuple[int, str]:
        with self.start(**more) as process:
            error = process.communicate()[1]
        return process.returncode, error

    @property
    def finished_batches(self) -> list[Path]:
        return sorted((self.folder / "work" / "ingest").rglob("*.json"))

    @property
    def stored(self) -> dict[str, str]:
        """Digests of all outputs; the receipt tells times and is left out."""
        root = self.folder / "store"
        return {
            path.relative_to(root).as_posix(): sha256_file(path)
            for path in root.rglob("*")
            if path.is_file() and path.name != "receipt.json"
        }


@pytest.fixture(scope="module")
def uninterrupted(many_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Process:
    process = Process(wanted_of(many_files), tmp_path_factory.mktemp("whole"))
    assert process.finish() == (0, "")
    assert len(process.finished_batches) > 40
    return process


def wanted_of(many_files: Path) -> Profile:
    return profile({"name": "many", "path": str(many_files)}, demonstration={"facts": 10})


@pytest.mark.parametrize("moments", [(0,), (1,), (10, 30), (5, 6, 7, 25)])
def test_killed_stage_goes_on_where_it_stopped(
    moments: tuple[int, ...], many_files: Path, uninterrupted: Process, tmp_path: Path
) -> None:
    process = Process(wanted_of(many_files), tmp_path / "killed")
    for moment in moments:
        with process.start() as running:
            while len(process.finished_batches) < moment or not list(tmp_path.rglob(".*.part")):
                assert running.poll() is None, running.stderr
                time.sleep(0.001)
            os.kill(running.pid, signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in process.finished_batches[: max(moments)]}
    assert not process.stored
    assert process.finish() == (0, "")
    assert process.stored == uninterrupted.stored
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    receipts = [
        json.loads((one.folder / "store/raw/test/receipt.json").read_text()) for one in (process, uninterrupted)
    ]
    metrics = [receipt["predicate"]["metrics"] for receipt in receipts]
    assert metrics[0] == metrics[1]
    report = metrics[0]["source many"]
    assert report["found"] == report["documents"] + sum(report["skipped"].values())
    assert set(report["skipped"]) == {"not JSON", "truncated or damaged gzip"}


def test_damaged_batch_is_made_again(many_files: Path, uninterrupted: Process, tmp_path: Path) -> None:
    process = Process(wanted_of(many_files), tmp_path / "damaged")
    assert process.finish() == (0, "")
    (tmp_path / "damaged/store/raw/test/receipt.json").unlink()
    work = tmp_path / "damaged/work"
    (work / "raw/test/documents-00003.parquet").write_bytes(b"PAR1")
    (work / "raw/test/documents-00005.parquet").unlink()
    process.finished_batches[9].write_text('{"key": ')
    assert process.finish() == (0, "")
    assert process.stored == uninterrupted.stored


def test_full_disk_is_an_error_and_nothing_is_lost(many_files: Path, uninterrupted: Process, tmp_path: Path) -> None:
    """A limit to the size of a file fails a write as a full disk does, in the middle of it."""
    sizes = sorted(path.stat().st_size for path in (uninterrupted.folder / "store").rglob("documents-*.parquet"))
    limit = sizes[len(sizes) // 2]
    process = Process(wanted_of(many_files), tmp_path / "full")
    code, error = process.finish(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert code == 1
    assert "error: stage corpus has no room in its work folder" in error and "make room in" in error
    assert not process.stored
    assert not list(tmp_path.rglob("*.part"))
    finished = len(process.finished_batches)
    assert finished < len(uninterrupted.finished_batches)
    assert process.finish() == (0, "")
    assert process.stored == uninterrupted.stored


def test_clock_of_the_files_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    wanted = profile({"name": "one", "path": str(tmp_path / "a.txt")})
    first = run(wanted, FolderStore(tmp_path / "one"), tmp_path / "work one")
    os.utime(tmp_path / "a.txt", (2**33, 2**33))  # the year 2242
    second = run(wanted, FolderStore(tmp_path / "two"), tmp_path / "work two")
    assert (first.key, first.outputs) == (second.key, second.outputs)


def test_another_reading_of_the_profile_is_not_taken_for_finished(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    store = FolderStore(tmp_path / "store")
    first = run(profile({"name": "one", "path": str(tmp_path / "a.txt")}), store, tmp_path / "work")
    other = profile({"name": "one", "path": str(tmp_path / "a.txt"), "owner": "Another"})
    assert run(other, store, tmp_path / "work").outputs != first.outputs


def test_source_that_changes_after_the_stage_began_is_an_error(tmp_path: Path) -> None:
    class Changing(io.StringIO):
        """Changes the source with the first word of progress."""

        def write(self, text: str) -> int:
            (tmp_path / "a.txt").write_text("after")
            return super().write(text)

    (tmp_path / "a.txt").write_text("before")
    wanted = profile({"name": "one", "path": str(tmp_path / "a.txt")})
    with pytest.raises(StageError, match="source one has changed since the stage began"):
        run_stage(corpus, wanted, FolderStore(tmp_path / "store"), tmp_path / "work", Changing())
    assert texts_of(run(wanted, (store := FolderStore(tmp_path / "store")), tmp_path / "work"), store, tmp_path) == [
        "after"
    ]


def test_object_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    class Changing(FolderStore):
        """Changes an object when it has handed it out."""

        def get_file(self, key: str, path: Path) -> None:
            super().get_file(key, path)
            self.put_bytes(key, b"after")

    Changing(tmp_path / "store").put_bytes("raw/in/a.txt", b"before")
    wanted = profile({"name": "one", "path": "s3://raw/in"})
    with pytest.raises(SourceError, match="has changed while it was read"):
        run(wanted, Changing(tmp_path / "store"), tmp_path / "work")


def test_what_a_source_declares_is_in_the_receipt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    said = {"legal_basis": "Archives Act, § 4", "terms": "https://example.org/terms", "contact": "data@example.org"}
    wanted = profile({"name": "one", "path": str(tmp_path / "a.txt"), **said})
    declared = run(wanted, FolderStore(tmp_path / "store"), tmp_path / "work").metrics["source one"]["declared"]
    assert said.items() <= declared.items()
    assert (declared["owner"], declared["licence"]) == ("O", "CC0-1.0")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield FolderStore(tmp_path / "store")
        return
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3"):
        yield open_store("s3://")


def test_objects_of_the_store_are_a_source(store: Store, tmp_path: Path) -> None:
    packed = gzip.compress(b'{"text": "one"}\n{"text": "two"}\nnot JSON\n', mtime=0)
    objects = {"gazette/a/x.jsonl.gz": packed, "gazette/b.txt": b"three", "gazette/c.bin": b"\0", "gazettes.txt": b"no"}
    for name, content in objects.items():
        store.put_bytes(f"raw/in/{name}", content)
    wanted = profile(
        {"name": "gazette", "path": "s3://raw/in/gazette"}, {"name": "single", "path": "s3://raw/in/gazettes.txt"}
    )
    receipt = run(wanted, store, tmp_path / "work")
    assert texts_of(receipt, store, tmp_path) == ["one", "two", "three", "no"]
    metrics = receipt.metrics["source gazette"]
    assert metrics["skipped"] == {"not JSON": 1, "unknown kind of file": 1}
    assert metrics["skipped_examples"][0] == "a/x.jsonl.gz#3: not JSON"
    assert not list((tmp_path / "work").rglob("object"))
    assert run(wanted, store, tmp_path / "work") == receipt
    store.put_bytes("raw/in/gazette/b.txt", b"changed")
    assert texts_of(run(wanted, store, tmp_path / "work"), store, tmp_path) == ["one", "two", "changed", "no"]
    with pytest.raises(SourceError, match=r"source nothing is not there\n  got: no object at s3://raw/in/none"):
        run(profile({"name": "nothing", "path": "s3://raw/in/none"}), store, tmp_path / "work")


@settings(max_examples=25, deadline=None)
@given(
    contents=st.lists(
        st.tuples(
            st.sampled_from([".txt", ".jsonl", ".csv", ".jsonl.gz", ".xml", ".warc", ".html", ".parquet", ".bin"]),
            st.binary(max_size=200)
            | st.text(max_size=200).map(lambda text: f'{{"text": {json.dumps(text)}}}\n'.encode()),
        ),
        max_size=12,
    )
)
def test_found_is_documents_and_skipped(
    contents: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The stage itself compares the counts with what it wrote; here they are compared with the files."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "texts").mkdir()
    (folder / "texts" / "readable.txt").write_text("a text")
    for number, (suffix, content) in enumerate(contents):
        (folder / "texts" / f"{number}{suffix}").write_bytes(
            gzip.compress(content) if suffix.endswith("gz") else content
        )
    store = FolderStore(folder / "store")
    receipt = run(profile({"name": "any", "path": str(folder / "texts")}), store, folder / "work")
    metrics = receipt.metrics["source any"]
    assert metrics["found"] == metrics["documents"] + sum(metrics["skipped"].values())
    assert metrics["documents"] == len(texts_of(receipt, store, folder))

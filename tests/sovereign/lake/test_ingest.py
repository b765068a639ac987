"""Ingest as a whole: sources in the store, killed processes, full disks, and that nothing is lost."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import SourceError, StageError
from sovereign.files import sha256_file
from sovereign.lake import ingest
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

def noted(source, piece, *more):
    with open(log, "a") as file:
        file.write(piece.name + "\\n")
    return read_piece(source, piece, *more)

log, read_piece, ingest.read_piece, ingest.BATCH_BYTES = sys.argv[1], ingest.read_piece, noted, 20_000
sys.exit(main(sys.argv[2:]))
"""
"""The stage's process, with batches small enough for a test; it notes which files it reads."""
MAX_PIECES = 4
"""Files in a batch of `many_files`, at most."""


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
    """The stage `corpus` as a process of its own, each time in another work folder, as in another pod."""

    def __init__(self, wanted: Profile, folder: Path, *, fresh: bool = True) -> None:
        self.folder, self.fresh, self.started = folder, fresh, 0
        self.root = folder / "store"
        folder.mkdir(exist_ok=True)
        (folder / "profile.yaml").write_text(wanted.model_dump_json(exclude_none=True))

    @property
    def workdir(self) -> Path:
        return self.folder / f"work-{self.started if self.fresh else 0}"

    @property
    def read(self) -> list[str]:
        """Files that the last process has read."""
        log = self.folder / f"read-{self.started}"
        return log.read_text().splitlines() if log.exists() else []

    def start(self, **more: Any) -> subprocess.Popen[str]:
        self.started += 1
        command = [sys.executable, "-c", RUN, str(self.folder / f"read-{self.started}"), "run", "corpus"]
        command += ["--profile", str(self.folder / "profile.yaml")]
        command += ["--store", f"file://{self.root}", "--workdir", str(self.workdir)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)

    def finish(self, **more: Any) -> tuple[int, str]:
        """Exit code and errors."""
        with self.start(**more) as process:
            self.told, error = process.communicate()
        return process.returncode, error

    def kill(self, when: Callable[[], bool]) -> None:
        """Start, and kill as soon as it is so."""
        with self.start() as running:
            while not when():
                assert running.poll() is None, running.stderr and running.stderr.read()
                time.sleep(0.001)
            os.kill(running.pid, signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL

    def kill_reading(self, num_batches: int) -> None:
        """Kill in the middle of a batch, with so many finished or more."""
        self.kill(lambda: len(self.finished) >= num_batches and self._is_writing())

    def _is_writing(self) -> bool:
        walk = os.walk(self.workdir)  # unlike rglob it does not mind a folder that goes meanwhile
        return any(name.startswith(".") and name.endswith(".part") for _, _, names in walk for name in names)

    def markers(self, step: str) -> list[Path]:
        return sorted((self.root / "raw/test/units/markers" / step).glob("*.json"))

    @property
    def finished(self) -> list[Path]:
        return self.markers("00-read")

    @property
    def stored(self) -> dict[str, str]:
        """Digests of all outputs, and of what lies there beside them; the receipt tells times and is left out."""
        return {
            path.relative_to(self.root).as_posix(): sha256_file(path)
            for path in self.root.rglob("*")
            if path.is_file()
            and path.name != "receipt.json"
            and "sovereign-part" not in path.name
            and path.suffix != ".lock"  # of a running process
        }

    @property
    def result(self) -> dict[str, str]:
        return {key: digest for key, digest in self.stored.items() if "/units/" not in key}

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the receipt."""
        receipt = json.loads((self.root / "raw/test/receipt.json").read_text())
        metrics: dict[str, Any] = receipt["predicate"]["metrics"]
        return metrics


@pytest.fixture(scope="module")
def uninterrupted(many_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Process:
    process = Process(wanted_of(many_files), tmp_path_factory.mktemp("whole"))
    assert process.finish() == (0, "")
    assert len([key for key in process.stored if "documents-" in key]) > 40
    assert process.read == sorted(path.name for path in many_files.iterdir())
    return process


def wanted_of(many_files: Path) -> Profile:
    return profile({"name": "many", "path": str(many_files)}, demonstration={"facts": 10})


def assert_same(process: Process, uninterrupted: Process) -> None:
    """Nothing else lies in the store either, and the receipts say the same."""
    assert process.stored == uninterrupted.stored
    assert process.metrics == uninterrupted.metrics


@pytest.mark.parametrize(
    ("moments", "fresh"), [((0,), True), ((1,), True), ((10, 30), True), ((5, 6, 7, 25), True), ((10, 30), False)]
)
def test_killed_stage_goes_on_where_it_stopped(
    moments: tuple[int, ...], fresh: bool, many_files: Path, uninterrupted: Process, tmp_path: Path
) -> None:
    process = Process(wanted_of(many_files), tmp_path / "killed", fresh=fresh)
    read: list[list[str]] = []
    for moment in moments:
        process.kill_reading(moment)
        read.append(process.read)
        assert not process.result
        assert len(list(process.workdir.rglob("*.parquet"))) <= 1
    kept = {path: path.stat().st_mtime_ns for path in process.finished}
    assert process.finish() == (0, "")
    assert f"{len(kept)} batches were finished before" in process.told or not kept
    read.append(process.read)
    assert_same(process, uninterrupted)
    report = process.metrics["source many"]
    assert report["found"] == report["documents"] + sum(report["skipped"].values())
    assert set(report["skipped"]) == {"not JSON", "truncated or damaged gzip"}
    assert sorted({name for names in read for name in names}) == uninterrupted.read
    for before, after in itertools.pairwise(read):  # only the batch that was not finished is read again
        assert len(set(before) & set(after)) <= MAX_PIECES


def test_stage_killed_while_it_publishes_reads_nothing_again(
    many_files: Path, uninterrupted: Process, tmp_path: Path
) -> None:
    process = Process(wanted_of(many_files), tmp_path / "killed")
    for moment in (0, 10, 30):
        process.kill(
            lambda moment=moment: (  # type: ignore[misc]
                any((process.root / "raw/test").glob("documents-*")) and len(process.markers("01-publish")) >= moment
            )
        )
        assert process.read == (uninterrupted.read if moment == 0 else [])
        names = [Path(key).name for key in process.stored if key.endswith(".parquet")]
        assert 0 <= len(names) - len(set(names)) <= 1, "a file lies there once, but for one that is moved"
        assert len(set(names)) == len([key for key in uninterrupted.stored if key.endswith(".parquet")])
    (tmp_path / "killed/store/raw/test/documents-00003.parquet").write_bytes(b"PAR1")
    assert process.finish() == (0, "")
    assert process.told.count("made anew") == 1
    assert 0 < len(process.read) <= MAX_PIECES
    assert_same(process, uninterrupted)


def test_damaged_and_foreign_batches_are_made_anew(many_files: Path, uninterrupted: Process, tmp_path: Path) -> None:
    process = Process(wanted_of(many_files), tmp_path / "damaged")
    process.kill_reading(12)
    unit = process.root / "raw/test/units/files/read"
    (unit / "000003/documents-00003.parquet").write_bytes(b"PAR1")
    (unit / "000005/documents-00005.parquet").unlink()
    process.finished[7].write_text('{"files": ')
    foreign = json.loads(process.finished[9].read_text())
    foreign["facts"]["key"] = "0" * 64
    process.finished[9].write_text(json.dumps(foreign))
    assert process.finish() == (0, "")
    assert [f"source many: batch {number} " in process.told for number in (3, 5, 7, 9)] == [True] * 4
    assert process.told.count("made anew") == 4
    assert_same(process, uninterrupted)


def test_batches_of_another_source_are_kept_when_one_changes(tmp_path: Path) -> None:
    """The first source is finished, and the second one makes the stage fail; then it is mended."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    (tmp_path / "first/a.txt").write_text("a text")
    (tmp_path / "second/b.bin").write_text("not read")
    sources = [{"name": name, "path": str(tmp_path / name)} for name in ("first", "second")]
    before = Process(profile(sources[0]), tmp_path / "site")
    assert before.finish() == (0, "")
    receipt = (before.root / "raw/test/receipt.json").read_bytes()
    process = Process(profile(*sources), tmp_path / "site")
    assert process.finish()[0] == 1
    assert process.result == before.result, "the result before stays"
    assert (process.root / "raw/test/receipt.json").read_bytes() == receipt
    (tmp_path / "second/b.txt").write_text("another text")
    assert process.finish() == (0, "")
    assert process.read == ["b.bin", "b.txt"]
    assert not list((process.root / "raw/test/units").rglob("*.*"))
    assert process.metrics["documents"] == 2


def test_batches_that_other_code_has_read_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.bin"):
        (tmp_path / name).write_text("a text")
    wanted = profile(*({"name": f"of-{name[0]}", "path": str(tmp_path / name)} for name in ("a.txt", "b.bin")))
    told = []
    for version in (ingest.VERSION, ingest.VERSION, ingest.VERSION + 1):
        monkeypatch.setattr(ingest, "VERSION", version)
        stream = io.StringIO()
        with pytest.raises(SourceError, match="source of-b"):
            run_stage(corpus, wanted, FolderStore(tmp_path / "store"), tmp_path / "work", stream)
        told.append("made anew" in stream.getvalue())
    assert told == [False, False, True]


def test_full_disk_is_an_error_and_nothing_is_lost(many_files: Path, uninterrupted: Process, tmp_path: Path) -> None:
    """A limit to the size of a file fails a write as a full disk does, in the middle of it."""
    sizes = sorted(path.stat().st_size for path in (uninterrupted.folder / "store").rglob("documents-*.parquet"))
    limit = sizes[len(sizes) // 2]
    process = Process(wanted_of(many_files), tmp_path / "full")
    code, error = process.finish(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert code == 1
    assert "error: stage corpus has no room in its work folder" in error and "make room in" in error
    assert not process.result
    assert not list(tmp_path.rglob("*.part"))
    assert 0 < len(process.finished) < len(sizes)
    assert process.finish() == (0, "")
    assert_same(process, uninterrupted)


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


def test_a_folder_is_listed_as_often_for_many_objects_as_for_few(tmp_path: Path) -> None:
    class Counting(FolderStore):
        """Counts listings of the source."""

        listings = 0

        def list(self, prefix: str) -> Iterator[str]:
            self.listings += prefix.startswith("raw/in")
            return super().list(prefix)

    listings = []
    for count in (2, 40):
        store = Counting(tmp_path / f"store {count}")
        for number in range(count):
            store.put_bytes(f"raw/in/{number}.txt", b"a text")
        receipt = run(profile({"name": "one", "path": "s3://raw/in"}), store, tmp_path / f"work {count}")
        assert receipt.metrics["documents"] == count
        listings.append(store.listings)
    assert listings == [3, 3]  # for its digest, for hosts' files, for the documents


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

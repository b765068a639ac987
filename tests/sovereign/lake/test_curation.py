"""Curation by several ranks: the same bytes for any number of them, whenever one is killed; and what stops it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import StageError
from sovereign.lake import documents as documents_module
from sovereign.lake import duplicates, tasks, work
from sovereign.lake.curation import Curation
from sovereign.lake.documents import Document
from sovereign.lake.stages import curate
from sovereign.lake.tasks import list_tasks
from sovereign.plan import plan
from sovereign.ranks import run_ranks
from sovereign.receipts import Receipt
from sovereign.stages import Progress, StageContext, is_current, read_receipt
from sovereign.store import FolderStore, open_store
from tests.sovereign.lake.raw import (
    NAME,
    command,
    make_profile,
    put_raw,
    result,
    run_curate,
    start_rank,
    verdicts,
)
from tests.sovereign.servers import s3_server

OFF = {"language": None, "quality": None}
SMALL: dict[str, Any] = {"cleaning": OFF, "curation": {"task_mb": 1}}
FOOT = "© Ministry of Laws. This text may be passed on under the Republic's licence."
WORDS = [f"{first}{second}{third}" for first in "bdgkl" for second in "aeiou" for third in ("n", "r", "st", "lo")]


def make_text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def change(rng: random.Random, text: str) -> str:
    """`text` with about one word in a hundred replaced."""
    return " ".join(rng.choice(WORDS) if rng.random() < 0.01 else word for word in text.split(" "))


def make_documents(count: int = 900) -> list[Document]:
    """Texts with exact and near copies by other owners, far from each other; some have a footer, some are too short."""
    rng = random.Random(5)
    texts = []
    for number in range(count // 3):
        text = make_text(rng, 8) if number % 3 else f"{make_text(rng, 200)}\n\n{FOOT}"
        texts += [text, change(rng, text) if number % 2 else text + " ", make_text(rng, 9) if number % 5 else "no"]
    rng.shuffle(texts)
    return [
        Document(
            f"s/{number}",
            text,
            rng.choice(("en", "fr")),
            "s",
            (rng.choice("ABCD"),),
            rng.choice(("MIT", "CC0-1.0")),
            None,
        )
        for number, text in enumerate(texts)
    ]


DOCUMENTS = make_documents()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    """A store with raw documents in so many small row groups that there are several tasks."""
    folder = tmp_path_factory.mktemp("raw")
    store = FolderStore(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "_GROUP_ROWS", 5)
        patch.setattr(documents_module, "_FILE_CHARS", 100_000)
        put_raw(store, DOCUMENTS, folder / "scratch")
    assert 5 < len(tasks_of(store)) < 12
    return store


@pytest.fixture
def store(lake: FolderStore, tmp_path: Path) -> FolderStore:
    """A copy of it."""
    copied = FolderStore(tmp_path / "store")
    for key in lake.list("raw/"):
        copied.put_file(key, lake.root / key)
    return copied


@pytest.fixture(scope="module")
def alone(lake: FolderStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Receipt, dict[str, bytes]]:
    """What one rank makes of it."""
    folder = tmp_path_factory.mktemp("alone")
    store = FolderStore(folder / "store")
    for key in lake.list("raw/"):
        store.put_file(key, lake.root / key)
    receipt = run_curate(store, folder / "work", **SMALL)
    return receipt, result(store)


def tasks_of(store: FolderStore) -> list[tasks.Task]:
    keys = [key for key in store.list(f"raw/{NAME}/") if key.endswith(".parquet")]
    return list(list_tasks(store, keys, 1e6))


def receipt_of(store: FolderStore) -> Receipt:
    receipt = read_receipt(store, curate, NAME)
    assert receipt is not None
    return receipt


def test_tasks_are_all_row_groups_once_and_need_the_footers_only(
    lake: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tasks_of(lake)
    monkeypatch.setattr(tasks, "_TAIL_BYTES", 10)
    assert tasks_of(lake) == found
    assert sum(task.num_documents for task in found) == len(DOCUMENTS)
    spans = [span for task in found for span in task.spans]
    assert len({span.file for span in spans}) > 1 and len(spans) > len(found)
    for before, after in pairwise(spans):
        assert (after.file, after.first) in ((before.file, before.stop), (before.file + 1, 0))
    keys = [key for key in lake.list(f"raw/{NAME}/") if key.endswith(".parquet")]
    assert {span.stop - span.first for task in list_tasks(lake, keys, 1) for span in task.spans} == {1}
    with pytest.raises(StageError, match=r"questions\.jsonl is no Parquet file"):
        list(list_tasks(lake, [f"raw/{NAME}/questions.jsonl"], 1e6))


def test_ranks_meet_in_an_s3_service(
    lake: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "objects" / "curated").mkdir(parents=True)
    with s3_server(tmp_path / "objects"):
        store = open_store("s3://")
        for key in lake.list("raw/"):
            store.put_file(key, lake.root / key)
        program = command(tmp_path / "ranks", store, **SMALL)
        ranks = [start_rank(rank, 3, program) for rank in range(3)]
        for rank in ranks:
            _, errors = rank.communicate(timeout=250)
            assert rank.returncode == 0, errors
        assert result(store) == alone[1]


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_byte_is_the_same_for_any_number_of_ranks(
    ranks: int, store: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    program = command(tmp_path / "ranks", store, module=f"sovereign.ranks {ranks}", **SMALL)
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result(store) == alone[1]
    receipt = receipt_of(store)
    assert (receipt.outputs, receipt.metrics, receipt.key) == (alone[0].outputs, alone[0].metrics, alone[0].key)
    assert is_current(store, curate, make_profile(**SMALL), plan(make_profile(**SMALL))) == receipt


def test_tasks_and_parts_decide_nothing(
    alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many tasks and parts the same is made of every document as of one; and it is what simple rules say."""
    made = []
    for number, part_documents in enumerate((2**20, 2**5)):
        monkeypatch.setattr(duplicates, "PART_DOCUMENTS", part_documents)
        monkeypatch.setattr(documents_module, "_GROUP_ROWS", 2000 if number == 0 else 4)
        store = FolderStore(tmp_path / f"store-{number}")
        put_raw(store, DOCUMENTS, tmp_path / f"scratch-{number}")
        receipt = run_curate(store, tmp_path / f"work-{number}", **SMALL)
        assert receipt.metrics == alone[0].metrics
        made.append(sorted(verdicts(store), key=lambda one: int(one[0].doc_id[2:])))
    assert made[0] == made[1]
    copies = defaultdict(list)
    for raw, (one, verdict) in zip(DOCUMENTS, made[0], strict=True):
        assert one.text in (raw.text.strip(), raw.text.replace(FOOT, "").strip())
        assert ("repeated-lines" in one.transforms) == (one.text != raw.text.strip())
        assert (verdict == "too short") == (len(one.text) < 10)
        if verdict != "too short":
            copies[one.text].append((raw, one, verdict))
    clusters: defaultdict[str | None, set[tuple[str, str]]] = defaultdict(set)
    for found in copies.values():
        reasons = {verdict for _, _, verdict in found}
        assert len({one.cluster_id for _, one, _ in found}) == 1
        assert reasons == {"near duplicate"} or found[0][2] in ("train", "heldout")
        assert reasons == {"near duplicate"} or {verdict for _, _, verdict in found[1:]} <= {"duplicate"}
        clusters[found[0][1].cluster_id].update((raw.owners[0], raw.licence) for raw, _, _ in found)
    for one, verdict in made[0]:
        if verdict in ("train", "heldout"):
            assert one.owners == tuple(sorted({owner for owner, _ in clusters[one.cluster_id]}))
            assert one.licence == " AND ".join(sorted({licence for _, licence in clusters[one.cluster_id]}))
            assert ("owners-merged" in one.transforms) == (len(clusters[one.cluster_id]) > 1)
    assert min(alone[0].metrics["rejected"].values()) > 20
    assert set(alone[0].metrics["rejected"]) == {"too short", "duplicate", "near duplicate"}
    with_foot = {one.text for one, _ in made[0] if FOOT in one.text}
    assert len(with_foot) == 10
    assert alone[0].metrics["repeated_lines"] == {
        "s": sum(FOOT in raw.text for raw in DOCUMENTS) - sum(FOOT in one.text for one, _ in made[0])
    }


def markers(store: FolderStore) -> int:
    return sum("/markers/" in key for key in store.list(f"curated/{NAME}/units/"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_ranks_go_on_and_end_with_the_same_bytes(
    seed: int, store: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    """SIGKILL when a number of units by the seed is finished: of one rank, which comes back; then of both."""
    rng = random.Random(seed)
    program = command(tmp_path / "ranks", store, **SMALL)
    ranks = [start_rank(rank, 2, program) for rank in range(2)]
    for victims in ([rng.randrange(2)], [0, 1]):
        wanted = markers(store) + rng.randrange(1, 12)
        while markers(store) < wanted and any(rank.poll() is None for rank in ranks):
            time.sleep(0.005)
        for victim in victims:
            ranks[victim].kill()
            ranks[victim].communicate()
            ranks[victim] = start_rank(victim, 2, program)
    for rank in ranks:
        _, errors = rank.communicate(timeout=250)
        assert rank.returncode == 0, errors
    assert result(store) == alone[1]
    assert receipt_of(store).outputs == alone[0].outputs


class CountingStore(FolderStore):
    """Counts how often a marker is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read = Counter[str]()

    def get_bytes(self, key: str) -> bytes:
        self.read[key.partition("/markers/")[2]] += 1
        return super().get_bytes(key)


def test_what_was_decided_is_added_up_once(store: FolderStore, tmp_path: Path) -> None:
    counting = CountingStore(store.root)
    run_curate(counting, tmp_path / "work", **SMALL)
    decided = {key: count for key, count in counting.read.items() if "-decide/" in key}
    assert len(decided) == len(tasks_of(store))
    # once for the sum, and once more where the file gets its name
    assert set(decided.values()) == {2}


class EndingStore(FolderStore):
    """Ends, as a killed process would, when a marker of one step is to be written or `deletes` keys of work were."""

    step, deletes = "", 10**6

    def put_bytes(self, key: str, data: bytes) -> None:
        if self.step and f"-{self.step}" in key:
            raise KeyboardInterrupt
        super().put_bytes(key, data)

    def delete(self, key: str) -> None:
        if "/units/" in key and not key.endswith("/room"):  # that one goes before there is a receipt
            self.deletes -= 1
            if self.deletes < 0:
                raise KeyboardInterrupt
        super().delete(key)


def interrupt(
    store: FolderStore, workdir: Path, *, step: str = "", deletes: int = 10**6, corpus: dict[str, Any] = SMALL
) -> None:
    ending = EndingStore(store.root)
    ending.step, ending.deletes = step, deletes
    with pytest.raises(KeyboardInterrupt):
        run_curate(ending, workdir, **corpus)


@pytest.mark.parametrize(
    ("before", "damaged"),
    [
        ("repeats", "files/lines/000001/parts"),
        ("screen", "files/repeats/000000/parts"),
        ("merge", "files/screen/000001/parts"),
        ("cluster", "files/link/000003/links"),
        ("merge", "files/cluster/000000/parts"),
        ("decide", "files/merge/000000/parts"),
        ("decide", "files/screen/000000/screened-00000.parquet"),
        ("decide", "markers/05-screen/000000.json"),
    ],
)
def test_damaged_work_is_noticed_and_made_again(
    before: str, damaged: str, store: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    interrupt(store, tmp_path / "work", step=before)
    (path,) = store.root.glob(f"curated/{NAME}/units/*/{damaged}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if damaged.endswith("links") else 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError, match=f"{damaged}.* is not what step {damaged.split('/')[1].split('-')[-1]} made"):
        run_curate(store, tmp_path / "work", **SMALL)
    run_curate(store, tmp_path / "work", **SMALL)
    assert result(store) == alone[1]


@pytest.mark.parametrize("deletes", [0, 3, 30, 50])
def test_work_that_was_half_cleared_never_hides_a_lost_file(
    deletes: int, store: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    interrupt(store, tmp_path / "work", deletes=deletes)
    assert receipt_of(store).outputs == alone[0].outputs
    store.delete(f"curated/{NAME}/train-00002.parquet")
    run_curate(store, tmp_path / "work", **SMALL)
    assert result(store) == alone[1]
    assert run_curate(store, tmp_path / "work", **SMALL) == receipt_of(store)


def test_current_result_clears_what_was_left(store: FolderStore, tmp_path: Path) -> None:
    interrupt(store, tmp_path / "work", deletes=5)
    run_curate(store, tmp_path / "work", **SMALL)
    assert not list(store.list(f"curated/{NAME}/units/"))


def test_result_before_stays_until_the_new_one_is_made_and_then_goes_whole(
    store: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    store.put_bytes(f"curated/{NAME}/train-00099.parquet", b"of a larger corpus before")
    first = run_curate(store, tmp_path / "work", **SMALL)
    assert result(store) == alone[1]
    other = {"cleaning": OFF | {"min_chars": 60}, "curation": {"task_mb": 1}}
    with pytest.raises(StageError, match="no document is left"):
        run_curate(store, tmp_path / "work", cleaning=OFF | {"min_chars": 10**5}, curation={"task_mb": 1})
    assert receipt_of(store) == first
    assert {key: content for key, content in result(store).items() if "/units/" not in key} == alone[1]
    second = run_curate(store, tmp_path / "work", **other)
    assert second.outputs != first.outputs
    assert not list(store.list(f"curated/{NAME}/units/"))


def test_a_run_never_vouches_for_files_of_another(
    store: FolderStore, alone: tuple[Receipt, dict[str, bytes]], tmp_path: Path
) -> None:
    """Both end while they give the files their names; then the first goes on."""
    other = {"cleaning": OFF | {"min_chars": 60}, "curation": {"task_mb": 1}}
    for corpus in (SMALL, other):
        interrupt(store, tmp_path / "work", step="publish/000003", corpus=corpus)
    run_curate(store, tmp_path / "work", **SMALL)
    assert result(store) == alone[1]


def test_a_rank_that_never_comes_is_told(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE_S", 0.3)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(StageError, match=r"step rights does not go on\n  got: \d of \d units, and for 0 s no other"):
        run_curate(store, tmp_path / "work", **SMALL)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(StageError, match=r"no such rank\n  got: RANK=3\n  expected: below WORLD_SIZE=3"):
        run_curate(store, tmp_path / "work", **SMALL)
    assert read_receipt(store, curate, NAME) is None


def test_a_rank_that_comes_when_all_is_done_ends(store: FolderStore, tmp_path: Path) -> None:
    """It began before the result was there, and finds neither plan nor units."""
    profile = make_profile(**SMALL)
    inputs = dict.fromkeys(store.list(f"raw/{NAME}/"), "")
    progress = Progress("curate", (tmp_path / "progress").open("w"))
    looks = iter([False, False, True, True])
    context = StageContext(
        profile, plan(profile), store, tmp_path / "work", progress, inputs, "key", 1, 2, lambda: next(looks)
    )
    assert Curation(context).run() == {}
    progress.stream.close()


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_when_a_rank_fails_all_end_with_its_code(code: str, expected: int, capfd: pytest.CaptureFixture[str]) -> None:
    program = f"import os, sys, time\nif os.environ['RANK'] == '1':\n  {code}\ntime.sleep(600)"
    assert run_ranks(3, [sys.executable, "-c", program]) == expected
    assert "rank 1 of 3 ended" in capfd.readouterr().err


def test_ranks_know_their_number(tmp_path: Path) -> None:
    program = f"import os; open(f'{tmp_path}/' + os.environ['RANK'], 'w').write(os.environ['WORLD_SIZE'])"
    assert run_ranks(3, [sys.executable, "-c", program]) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("012", "3")


def test_when_the_launcher_is_stopped_its_ranks_end(store: FolderStore, tmp_path: Path) -> None:
    program = command(tmp_path / "ranks", store, module="sovereign.ranks 2", **SMALL)
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        while not markers(store) and launcher.poll() is None:
            time.sleep(0.01)
        launcher.terminate()
        launcher.communicate(timeout=200)  # ends when no rank holds the pipe any more
    assert launcher.returncode == 143

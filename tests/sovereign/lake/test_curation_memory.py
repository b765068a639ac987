"""What one rank holds is bounded: it curates more text than its process may have memory."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from sovereign.lake import neardedup, repeats
from sovereign.lake.cleaning import text_digest
from sovereign.lake.documents import Document
from sovereign.lake.duplicates import ClusterSplit, Heldout, PartMerge, TaskIndex, Verdicts, decide
from sovereign.lake.neardedup import ROW_VALUES, NearDuplicates
from sovereign.lake.repeats import LineCount, LineIndex, Repeated, find_repeated
from sovereign.lake.stages import curate
from sovereign.lake.work import PartsWriter
from sovereign.profile_cleaning import NearDuplicateRules, RepeatedLines
from sovereign.stages import read_receipt
from sovereign.store import FolderStore
from tests.sovereign.lake.raw import NAME, command, put_raw

LIMIT_MB = 384
"""Private memory of the process (RLIMIT_DATA: heap and private mappings), MiB; docs/corpus.md has this figure."""
NUM_DOCUMENTS, CHARS = 26_000, 18_000
FOOT = "© Ministry of Laws. This text may be passed on under the Republic's licence."
_LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT_MB << 20}, {LIMIT_MB << 20}))
try:
    bytearray({NUM_DOCUMENTS * CHARS})
    sys.exit("the limit does not hold")
except MemoryError:
    pass
from sovereign.stages import main
code = main(sys.argv[1:])
sys.stderr.write(f"peak {{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}} MiB")
sys.exit(code)
"""


def make_documents() -> Iterator[Document]:
    """Long texts that are all different; most have lines of their own and a footer, some are near duplicates."""
    rng = random.Random(1)
    words = "".join(rng.choices("abcdefgh \n", [11] * 9 + [1], k=2 * CHARS))
    for number in range(NUM_DOCUMENTS):
        if number % 100 == 99:  # compared as near duplicates
            text = words[:CHARS] + words[:CHARS] + f" {number}"
        else:
            start = rng.randrange(CHARS)
            lines = words[start : start + CHARS].replace("\n", f"\n{number} ")
            text = f"{number} {lines}\n{FOOT}"
        yield Document(f"s/{number}", text, "en", "s", (f"owner {number % 7}",), "CC0-1.0", None)


@pytest.mark.timeout(600)
def test_a_corpus_larger_than_the_memory_of_a_rank(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    put_raw(store, make_documents(), tmp_path / "scratch")
    off = dict.fromkeys(("language", "quality", "personal_data"))
    near = {"near_duplicates": {"min_chars": CHARS * 3 // 2, "keep_different_facts": False}}
    program = command(tmp_path / "rank", store, cleaning=off | near, curation={"task_mb": 32})
    arguments = program[program.index("run") :]
    done = subprocess.run([sys.executable, "-c", _LIMITED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = re.search(r"peak (\d+) MiB", done.stderr)
    assert peak is not None
    print(f"text {NUM_DOCUMENTS * CHARS >> 20} MiB, limit {LIMIT_MB} MiB, peak with files in memory {peak[1]} MiB")
    receipt = read_receipt(store, curate, NAME)
    assert receipt is not None
    assert receipt.metrics["documents_in"] == NUM_DOCUMENTS
    assert receipt.metrics["train"]["characters"] > LIMIT_MB << 20
    assert receipt.metrics["rejected"]["near duplicate"] == NUM_DOCUMENTS // 100 - 1
    assert receipt.metrics["repeated_lines"] == {"s": NUM_DOCUMENTS - NUM_DOCUMENTS // 100 - 10}
    assert len([key for key in receipt.outputs if "/train-" in key]) > 10


T = TypeVar("T")


def limited(mib: int, function: Callable[[Path], T], folder: Path) -> T:
    """What `function` gives in a process that may take `mib` more than it has when it begins."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_limited, mib, function, folder).result()


def _limited(mib: int, function: Callable[[Path], T], folder: Path) -> T:
    has = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert has is not None
    limit = (int(has[1]) << 10) + (mib << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return function(folder)


NUM_TASKS, TASK_COPIES = 16, 16_000
PAGE = "This domain is for sale."


def read_parts(parts: PartsWriter) -> dict[str, bytes]:
    written = parts.path.read_bytes()
    return {name: written[start : start + length] for name, (start, length, _) in parts.parts.items()}


def copies() -> Iterator[Document]:
    """A task's copies of one text."""
    for number in range(TASK_COPIES):
        yield Document(f"s/{number}", PAGE, "en", "s", (f"owner {number % 7}",), "CC0-1.0", None)


def merge_copies(folder: Path) -> list[Counter[str]]:
    """How many copies are kept and set aside in the first task and in the last."""
    merge = PartMerge()
    for task in range(NUM_TASKS):
        index = TaskIndex(folder, None)
        for row, document in enumerate(copies()):
            index.add(row, document)
        with PartsWriter(folder) as parts:
            index.write(parts, 0)
        read = read_parts(parts)
        merge.add_task(task, read["documents-0"], read["tables"])
    verdicts, languages = merge.decide()
    assert languages == {"en": (1, text_digest(PAGE).hex())}
    assert {task: len(found.merged) for task, found in verdicts.items() if found.merged} == {0: 1}
    counts = []
    for task in (0, NUM_TASKS - 1):
        found, heldout = verdicts.get(task, Verdicts()), Heldout(0, [languages])
        decided = (decide(one, row, text_digest(one.text), found, heldout) for row, one in enumerate(copies()))
        counts.append(Counter(f"{verdict} {len(one.owners)}" for one, verdict in decided))
    return counts


@pytest.mark.timeout(300)
def test_any_number_of_copies_of_one_text(tmp_path: Path) -> None:
    first, last = limited(32, merge_copies, tmp_path)
    assert first == {"train 7": 1, "duplicate 1": TASK_COPIES - 1}
    assert last == {"duplicate 1": TASK_COPIES}


def merge_near_duplicates(folder: Path) -> dict[int, Verdicts]:
    """What is decided of a text for which all texts of all tasks are near duplicates."""
    standing = np.frombuffer(text_digest(PAGE), np.uint8)
    rng, numbers = np.random.default_rng(2), np.arange(TASK_COPIES, dtype="<u4")
    near = np.stack([numbers, numbers % 7], axis=1).tobytes()
    tables = json.dumps([["en"], [[[f"owner {number}"], "CC0-1.0"] for number in range(7)]]).encode()
    split = ClusterSplit(folder, 0)
    for _ in range(NUM_TASKS):
        own = np.frombuffer(rng.bytes(32 * TASK_COPIES), np.uint8).reshape(-1, 32)
        split.add(own, np.broadcast_to(standing, own.shape), lambda *_: [tables, near])
    with PartsWriter(folder) as parts:
        split.write(parts)
    merge = PartMerge()
    read = read_parts(parts)
    merge.add_clusters(read["gone-0"], read["rights-0"])
    index = TaskIndex(folder, None)
    index.add(0, next(copies()))
    with PartsWriter(folder) as parts:
        index.write(parts, 0)
    merge.add_task(0, read_parts(parts)["documents-0"], read_parts(parts)["tables"])
    return dict(merge.decide()[0])


@pytest.mark.timeout(300)
def test_any_number_of_near_duplicates_of_one_text(tmp_path: Path) -> None:
    owners = tuple(f"owner {number}" for number in range(7))
    assert limited(112, merge_near_duplicates, tmp_path) == {0: Verdicts(merged={0: (owners, "CC0-1.0")})}


def count_footers(folder: Path) -> int:
    """How many texts of all tasks lose the line that every one has."""
    repeats._HELD = 2**12
    rules = RepeatedLines()
    count, written = LineCount(rules.max_documents), []
    for task in range(NUM_TASKS):
        (folder / str(task)).mkdir()
        index = LineIndex(folder / str(task), rules, 0)
        for row in range(TASK_COPIES):
            index.add("s", f"{FOOT}\n{task} {row}")
        with PartsWriter(folder / str(task)) as parts:
            index.write(parts)
        written.append(parts)
        read = read_parts(parts)
        count.add_task(read["lines-0"], read["texts"])
    limits, num_gone = count.limits(), 0
    for parts in written:
        read = read_parts(parts)
        places = Repeated([find_repeated(read["lines-0"], read["texts"], limits)])
        num_gone += sum(places.starts(row) == [0] for row in range(TASK_COPIES))
    return num_gone


@pytest.mark.timeout(300)
def test_any_number_of_texts_with_one_line(tmp_path: Path) -> None:
    assert limited(16, count_footers, tmp_path) == NUM_TASKS * TASK_COPIES - RepeatedLines().max_documents


NUM_TEXTS, BLOCK = 2**18, 2**10


def link_shared_band(folder: Path) -> None:
    """Texts that have a band of the first group in common; every second is a near duplicate of the one before."""
    neardedup._SORTED, neardedup._COMPARED = 2**14, BLOCK
    rng = np.random.default_rng(1)
    near = NearDuplicates(folder / "near", NearDuplicateRules())
    for _ in range(0, NUM_TEXTS, BLOCK):
        signatures = rng.integers(0, 2**32, (BLOCK, ROW_VALUES), np.uint32)
        signatures[1::2] = signatures[::2]
        signatures[:, : neardedup.ROWS] = 1
        near.extend(signatures.tobytes(), rng.bytes(32 * BLOCK))
    near.link(0, folder / "links")


@pytest.mark.timeout(300)
def test_any_number_of_texts_that_share_a_band(tmp_path: Path) -> None:
    limited(16, link_shared_band, tmp_path)
    found = np.fromfile(tmp_path / "links", np.int64).reshape(-1, 2)
    every_second = np.arange(1, NUM_TEXTS, 2)
    assert np.array_equal(found, np.stack([every_second, every_second - 1], axis=1))

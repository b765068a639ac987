"""What one rank holds is bounded: it curates more text than its process may have memory."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign.lake.documents import Document
from sovereign.lake.stages import curate
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
    near = {"near_duplicates": {"min_chars": CHARS * 3 // 2}}
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

"""All kinds of bad input in one source, through both stages: nothing stops them, nothing is lost."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sovereign.lake import opening
from sovereign.lake.documents import Document, read_documents, read_rows
from sovereign.lake.stages import corpus, curate
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from tests.sovereign.lake.test_readers import pack_warc, warc

FREE_BYTES = 2**22
"""So much may come of a compressed file here, so that bombs need be no larger; it is 64 MiB else."""
MIXED = ["Le premier décret de la forêt.", "Le deuxième décret de la rivière."]
INVALID = b"\x81\x8d\x8f\x90\x9d"
"""Neither UTF-8 nor anything in use for French."""


def write_bad_files(folder: Path) -> None:
    """One or more files of each kind."""
    draw = random.Random(4)
    lines = [json.dumps({"text": f"line {number} {draw.randbytes(40).hex()}"}) for number in range(3000)]
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0)[:-20_000])
    (folder / "lies.warc").write_bytes(pack_warc(warc(lie=400), gz=False))
    (folder / "lies.warc.gz").write_bytes(pack_warc(warc(lie=-40), gz=True))
    with (folder / "line.jsonl").open("wb") as file:  # sparse: it takes no room on the disk
        file.write(b'{"text": "before the line of 2 GB"}\n')
        file.seek(2**31, os.SEEK_CUR)
        file.write(b'\n{"text": "after the line of 2 GB"}\n')
    (folder / "null.txt").write_bytes(b"A text with \0 a null \0\0byte in it, " + b"and many others. " * 9)
    (folder / "null.jsonl").write_bytes(b'{"text": "An escaped \\u0000 null."}\n{"text": "A plain \0 null."}\n')
    (folder / "nulls.txt").write_bytes(bytes(5000))
    (folder / "invalid.txt").write_bytes(b"Un texte " + INVALID)
    (folder / "invalid.jsonl").write_bytes(b'{"text": "' + INVALID + b'"}\n{"text": "The line after it."}\n')
    (folder / "mixed.csv").write_bytes(b"text\n" + MIXED[0].encode("cp1252") + b"\n" + MIXED[1].encode() + b"\n")
    (folder / "bomb.txt.gz").write_bytes(gzip.compress(bytes(100 * 2**20)))
    (folder / "bomb.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "Before the bomb."}\n' + (b" " * 2**20 + b"\n") * 100)
    )
    (folder / "bomb.zip").write_bytes(b"PK\3\4")
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 2**16]))
    pq.write_table(pa.table({"text": many}), folder / "bomb-rows.parquet", compression="zstd")
    pq.write_table(pa.table({"text": ["y" * 2**23]}), folder / "bomb-page.parquet", compression="zstd")
    (folder / "loop").symlink_to(folder)
    (folder / "self.txt").symlink_to("self.txt")
    same = [{"id": 7, "text": f"Text {number} with the same id."} for number in range(4)]
    (folder / "same.jsonl").write_text("\n".join(json.dumps(one) for one in [*same, {"text": "Text without an id."}]))
    (folder / "future.jsonl").write_text('{"text": "Of the next millennium.", "collected_at": "3026-01-01T00:00:00Z"}')
    os.utime(folder / "future.jsonl", (2**33, 2**33))  # the year 2242


class Lake:
    """A store in which both stages have run over the source."""

    def __init__(self, folder: Path) -> None:
        texts = folder / "texts"
        texts.mkdir()
        write_bad_files(texts)
        source = {"name": "bad", "path": str(texts), "owner": "O", "licence": "CC0-1.0", "language": "fr"}
        wanted = {
            "apiVersion": "sovereign/v1",
            "name": "test",
            "corpus": {"sources": [source], "cleaning": dict.fromkeys(("language", "quality", "near_duplicates"))},
            "model": {"parameters": 4e5},
            "training": {"tokens": 1e5},
        }
        self.store = FolderStore(folder / "store")
        self.raw, self.curated = (
            run_stage(stage, Profile.model_validate(wanted), self.store, folder / "work", io.StringIO())
            for stage in (corpus, curate)
        )
        self.gathered = {one.doc_id: one for one in read_documents(self.paths(self.raw, "documents"))}

    def paths(self, receipt: Receipt, name: str) -> list[Path]:
        return [self.store.root / key for key in receipt.outputs if key.rpartition("/")[2].startswith(f"{name}-")]

    def texts(self, file: str) -> list[str]:
        return [one.text for one in self.gathered.values() if one.doc_id.partition("#")[0] == f"bad/{file}"]


pytestmark = pytest.mark.timeout(600)  # 2 GB are read three times


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "FREE_BYTES", FREE_BYTES)
        yield Lake(tmp_path_factory.mktemp("bad"))


def test_all_that_was_found_is_a_document_or_has_a_reason(lake: Lake) -> None:
    metrics = lake.raw.metrics["source bad"]
    assert metrics["skipped"] == {
        "truncated or damaged gzip": 1,
        "WARC record with a wrong length": 2,
        "WARC record that is no page": 12,
        "document too large": 1,  # the line of 2 GB
        "not UTF-8": 3,  # invalid.txt, a line of invalid.jsonl, nulls.txt
        "not JSON": 1,  # a null byte in the line
        "expands too far": 2 + (1000 - 63) + 1,
        "unknown kind of file": 1,
        "link to a folder": 1,
        "not a file": 1,
    }
    assert metrics["found"] == metrics["documents"] + sum(metrics["skipped"].values())
    assert metrics["documents"] == len(lake.gathered) == lake.raw.metrics["documents"]


def test_what_is_beside_the_damage_was_read(lake: Lake) -> None:
    cut = lake.texts("cut.jsonl.gz")
    assert len(cut) > 2000 and [text.split()[1] for text in cut] == [str(number) for number in range(len(cut))]
    assert len(lake.texts("lies.warc")) == len(lake.texts("lies.warc.gz")) == 4
    assert lake.texts("line.jsonl") == ["before the line of 2 GB", "after the line of 2 GB"]
    assert lake.texts("null.jsonl") == ["An escaped \0 null."]
    assert lake.texts("invalid.jsonl") == ["The line after it."]
    assert lake.texts("mixed.csv") == MIXED
    assert lake.texts("bomb.jsonl.gz") == ["Before the bomb."]
    assert [one for one in lake.gathered if "same" in one] == [
        *(f"bad/same.jsonl#7{again}" for again in ("", "#2", "#3", "#4")), "bad/same.jsonl#5",
    ]  # fmt: skip
    assert lake.gathered["bad/future.jsonl#1"].collected_at == "3026-01-01T00:00:00Z"


def test_all_that_was_gathered_is_kept_or_has_a_reason(lake: Lake) -> None:
    metrics = lake.curated.metrics
    kept: list[Document] = []
    for split in ("train", "heldout"):
        documents = list(read_documents(lake.paths(lake.curated, split)))
        assert len(documents) == metrics[split]["documents"]
        kept += documents
    rejected = [(one, extra["reason"]) for one, extra in read_rows(lake.paths(lake.curated, "rejected"), ["reason"])]
    assert Counter(reason for _, reason in rejected) == metrics["rejected"] == {"duplicate": 4 + 62}
    assert metrics["documents_in"] == len(kept) + len(rejected) == lake.raw.metrics["documents"]
    assert sorted([one.doc_id for one in kept] + [one.doc_id for one, _ in rejected]) == sorted(lake.gathered)
    texts = {one.doc_id: one.text for one in kept}
    assert texts["bad/null.txt"] == ("A text with  a null byte in it, " + "and many others. " * 9).strip()
    assert not any("\0" in text for text in texts.values())

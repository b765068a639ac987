"""Duplicates among all tasks: what a task tells of its documents, and what is decided of each text and its copies.

Texts are dealt out by the highest bits of their SHA-256, so that a part of them, with all copies, fits in memory
whatever the size of the corpus and however many copies a text has: those of a task with the same owners and licence
count once. Of a text the first document in the
order of the corpus is kept, with the owners of all copies and near duplicates, and a licence that keeps every licence's
terms.
"""

from __future__ import annotations

import io
import json
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sovereign.lake.cleaning import text_digest
from sovereign.lake.documents import Document
from sovereign.lake.neardedup import NearDuplicates, digest_words
from sovereign.lake.work import PartsWriter
from sovereign.profile_cleaning import NearDuplicateRules

MIN_FOR_HELDOUT = 20
"""A language with at least so many documents has at least one held out."""
CLUSTER_ID_CHARS = 32
"""Of the hex SHA-256 of the text that stands for a cluster."""
PART_DOCUMENTS = 2**19
"""A part has at most about so many texts; a text with its copies counts once for each of its rights in a task."""
_DIGEST = 32
_ENTRY = np.dtype([("digest", "u1", _DIGEST), ("row", "<u4"), ("language", "<u4"), ("rights", "<u4")])
"""The first document of a text with these rights: language and rights are places in the task's tables."""
_NEAR = np.dtype([("number", "<u4"), ("rights", "<u4")])
"""Rights of one of the texts with a signature."""
_GONE = np.dtype([("digest", "u1", _DIGEST), ("representative", "u1", _DIGEST)])
"""A near duplicate, and the text that stands for it."""

Rights = tuple[tuple[str, ...], str]
"""Owners and licence."""
Read = Callable[..., list[bytes]]
"""Fetches parts by their names; empty where there is none."""


def part_bits(num_documents: int) -> int:
    """Bits of a digest that say in which part it is."""
    return max(0, (num_documents - 1).bit_length() - (PART_DOCUMENTS.bit_length() - 1))


def part_of(digests: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint64]:
    """The part of each digest."""
    words = digest_words(digests)[:, 0]
    return words >> np.uint64(64 - bits) if bits else np.zeros(len(words), np.uint64)


def _array(data: bytes, kind: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.frombuffer(data, kind)


class TaskIndex:
    """What a task tells of the documents that passed its screen."""

    def __init__(self, folder: Path, rules: NearDuplicateRules | None) -> None:
        self._rows: dict[tuple[bytes, int], tuple[int, int]] = {}  # of each text and rights the first, and its language
        self._languages: dict[str, int] = {}
        self._rights: dict[Rights, int] = {}
        self._near = NearDuplicates(folder, rules) if rules else None
        self._numbers: dict[bytes, int] = {}
        self._near_rights: dict[tuple[int, int], None] = {}

    def add(self, row: int, document: Document) -> None:
        """Add the document in row `row` of what the task wrote; of copies with the same rights the first is told of."""
        digest = text_digest(document.text)
        rights = self._rights.setdefault((document.owners, document.licence), len(self._rights))
        if (digest, rights) in self._rows:
            return
        language = self._languages.setdefault(document.language, len(self._languages))
        self._rows[digest, rights] = (row, language)
        if self._near is None:
            return
        if digest not in self._numbers and self._near.add(digest, document.text):
            self._numbers[digest] = self._near.count - 1
        if digest in self._numbers:
            self._near_rights[self._numbers[digest], rights] = None

    def write(self, parts: PartsWriter, bits: int) -> None:
        """Write all of it: the documents by the part of their digest, the tables, the signatures."""
        entries = np.empty(len(self._rows), _ENTRY)
        digests = b"".join(digest for digest, _ in self._rows)
        entries["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST)
        entries["row"] = [row for row, _ in self._rows.values()]
        entries["language"] = [language for _, language in self._rows.values()]
        entries["rights"] = [rights for _, rights in self._rows]
        which = part_of(entries["digest"], bits)
        for part in np.unique(which).tolist():
            parts.add(f"documents-{part}", entries[which == part].tobytes())
        parts.add("tables", json.dumps([list(self._languages), list(self._rights)], ensure_ascii=False).encode())
        if self._near and self._near.count:
            self._near.flush()
            parts.add("signatures", self._near.signatures_path.read_bytes())
            parts.add("digests", self._near.digests_path.read_bytes())
            parts.add("near", np.array(list(self._near_rights), _NEAR).tobytes())


def read_tables(data: bytes) -> tuple[list[str], list[Rights]]:
    """A task's languages, and its rights."""
    languages, rights = json.loads(data)
    return languages, [(tuple(owners), licence) for owners, licence in rights]


class ClusterSplit:
    """Near duplicates by the part of their digest, and what they hand to the text that stands for them by its part."""

    def __init__(self, folder: Path, bits: int) -> None:
        self._folder, self._bits = folder, bits

    def add(self, own: npt.NDArray[np.uint8], standing: npt.NDArray[np.uint8], read: Read) -> None:
        """Add a task's texts with a signature, each with the digest of the text that stands for it."""
        is_gone = (own != standing).any(axis=1)
        if not is_gone.any():
            return
        gone = np.empty(is_gone.sum(), _GONE)
        gone["digest"], gone["representative"] = own[is_gone], standing[is_gone]
        which = part_of(gone["digest"], self._bits)
        for part in np.unique(which).tolist():
            self._append(f"gone-{part}", gone[which == part].tobytes())
        tables, near_rights = read("tables", "near")
        _, rights = read_tables(tables)
        near = _array(near_rights, _NEAR)
        near = near[is_gone[near["number"]]]
        parts = part_of(standing[near["number"]], self._bits).tolist()
        handed: set[tuple[bytes, int]] = set()
        for number, place, part in zip(near["number"].tolist(), near["rights"].tolist(), parts, strict=True):
            digest = standing[number].tobytes()
            if (digest, place) not in handed:
                handed.add((digest, place))
                line = json.dumps([digest.hex(), *rights[place]], ensure_ascii=False)
                self._append(f"rights-{part}", line.encode() + b"\n")

    def _append(self, name: str, data: bytes) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(data)

    def write(self, parts: PartsWriter) -> None:
        """Write all of it."""
        for kind in ("gone", "rights"):
            for path in sorted(self._folder.glob(f"{kind}-*")):
                parts.add(path.name, path.read_bytes())


@dataclass
class Verdicts:
    """What is decided of a task's documents, by the row of the first of their text in the task.

    What is not named is kept. Copies of it in the task are duplicates, of a near duplicate near duplicates.
    """

    duplicates: set[int] = field(default_factory=set)
    near_duplicates: dict[int, str] = field(default_factory=dict)
    """Hex SHA-256 of the text that stands for it."""
    merged: dict[int, Rights] = field(default_factory=dict)
    """Owners and licence of a kept document that has those of others too, or several."""
    first_rows: dict[bytes, int] = field(default_factory=dict)
    """By digest the first row with the text, as far as `decide` has come."""

    def to_bytes(self) -> bytes:
        """JSON, which `update` takes."""
        values = {"duplicates": sorted(self.duplicates), "near": self.near_duplicates, "merged": self.merged}
        return json.dumps(values, ensure_ascii=False).encode()

    def update(self, data: bytes) -> None:
        """Add those that gave `data`."""
        values = json.loads(data)
        self.duplicates.update(values["duplicates"])
        self.near_duplicates |= {int(row): digest for row, digest in values["near"].items()}
        self.merged |= {int(row): (tuple(owners), licence) for row, (owners, licence) in values["merged"].items()}


class PartMerge:
    """All documents whose text is in one part of the digests."""

    def __init__(self) -> None:
        self._rights: dict[Rights, int] = {}
        self._languages: dict[str, int] = {}
        # Near duplicates, what they hand on, and documents, in this order: digests with a code each.
        self._digests = [np.empty((0, 4), np.uint64)]
        self._codes = [np.empty(0, np.int64)]
        self._places = [np.empty((0, 3), np.int64)]
        self._standing: list[str] = []
        self._num_handed = 0

    def add_clusters(self, gone: bytes, rights: bytes) -> None:
        """Add what `ClusterSplit` wrote for the part; before any document."""
        records = _array(gone, _GONE)
        self._standing = [row.tobytes().hex() for row in records["representative"]]
        self._digests.append(digest_words(records["digest"]))
        self._codes.append(np.full(len(records), -1))
        digests, codes = bytearray(), array("q")
        for line in io.BytesIO(rights):
            digest, owners, licence = json.loads(line)
            digests += bytes.fromhex(digest)
            codes.append(self._rights_code((tuple(owners), licence)))
        self._num_handed = len(codes)
        self._digests.append(digest_words(np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST)))
        self._codes.append(np.frombuffer(codes, np.int64))

    def add_task(self, task: int, documents: bytes, tables: bytes) -> None:
        """Add a task's documents; tasks come in their order."""
        entries = _array(documents, _ENTRY)
        languages, rights = read_tables(tables)
        rights_codes = _translate(entries["rights"], lambda place: self._rights_code(rights[place]))
        language_codes = _translate(
            entries["language"], lambda place: self._languages.setdefault(languages[place], len(self._languages))
        )
        self._digests.append(digest_words(entries["digest"]))
        self._codes.append(rights_codes)
        where = np.full(len(entries), task)
        self._places.append(np.stack([where, entries["row"].astype(np.int64), language_codes], axis=1))

    def _rights_code(self, rights: Rights) -> int:
        return self._rights.setdefault(rights, len(self._rights))

    def decide(self) -> tuple[dict[int, Verdicts], dict[str, tuple[int, str]]]:
        """Verdicts by task; and by language how many texts are kept and the smallest hex SHA-256 of them."""
        digests, codes = np.concatenate(self._digests), np.concatenate(self._codes)
        places = np.concatenate(self._places)
        num_gone = len(self._standing)
        before = num_gone + self._num_handed
        order = np.lexsort(digests.T[::-1])  # stable: within a text what was added first comes first
        digests, codes = digests[order], codes[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (digests[1:] != digests[:-1]).any(axis=1)
        texts = np.cumsum(is_new) - 1
        leader = order[is_new]  # of each text
        is_gone = (leader < num_gone)[texts]
        is_document = order >= before
        verdicts: defaultdict[int, Verdicts] = defaultdict(Verdicts)
        for position in np.flatnonzero(is_document & is_gone).tolist():
            task, row, _ = places[order[position] - before].tolist()
            verdicts[task].near_duplicates[row] = self._standing[leader[texts[position]]]
        kept = np.flatnonzero(is_document & ~is_gone)
        _, where = np.unique(texts[kept], return_index=True)
        first = kept[where]
        others = np.setdiff1d(kept, first, assume_unique=True)
        for task, row, _ in places[order[others] - before].tolist():
            verdicts[task].duplicates.add(row)
        for position, rights in self._merged(texts, codes, first):
            task, row, _ = places[order[position] - before].tolist()
            verdicts[task].merged[row] = rights
        return verdicts, self._by_language(digests[first], places[order[first] - before, 2])

    def _merged(
        self, texts: npt.NDArray[np.int64], codes: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, Rights]]:
        """The first documents of texts with several owners or licences, and these."""
        all_rights = list(self._rights)
        has_several = np.array([len(set(owners)) > 1 for owners, _ in all_rights], bool)
        width = len(all_rights) + 1
        pairs = np.unique((texts * width + codes)[codes >= 0])
        starts = np.searchsorted(pairs, texts[first] * width)
        stops = np.searchsorted(pairs, (texts[first] + 1) * width)
        is_several = (stops - starts > 1) | has_several[codes[first]]
        for position, start, stop in zip(*(some[is_several].tolist() for some in (first, starts, stops)), strict=True):
            found = [all_rights[code] for code in (pairs[start:stop] % width).tolist()]
            owners = tuple(sorted({owner for some, _ in found for owner in some}))
            yield position, (owners, _all_of(sorted({licence for _, licence in found})))

    def _by_language(self, digests: npt.NDArray[np.uint64], codes: npt.NDArray[np.int64]) -> dict[str, tuple[int, str]]:
        names = list(self._languages)
        found, smallest, counts = np.unique(codes, return_index=True, return_counts=True)
        return {
            names[code]: (count, digests[position].astype(">u8").tobytes().hex())
            for code, position, count in zip(found.tolist(), smallest.tolist(), counts.tolist(), strict=True)
        }


def _translate(places: npt.NDArray[np.uint32], code: Callable[[int], int]) -> npt.NDArray[np.int64]:
    """The codes of `places`; `code` is asked once for each."""
    found, where = np.unique(places, return_inverse=True)
    return np.array([code(place) for place in found.tolist()], np.int64)[where]


def _all_of(licences: list[str]) -> str:
    """The SPDX expression that keeps every licence's terms."""
    if len(licences) == 1:
        return licences[0]
    return " AND ".join(f"({licence})" if " OR " in licence else licence for licence in licences)


class Heldout:
    """Which documents are held out for evaluation: a share by digest, and at least one of a language with enough."""

    def __init__(self, fraction: float, counts: Iterable[Mapping[str, tuple[int, str]]]) -> None:
        """Args: `counts` are those of `PartMerge.decide` for all parts."""
        self._limit = fraction * 2**64
        numbers: defaultdict[str, int] = defaultdict(int)
        smallest: dict[str, str] = {}
        for by_language in counts:
            for language, (count, digest) in by_language.items():
                numbers[language] += count
                smallest[language] = min(digest, smallest.get(language, digest))
        self._first = {
            language: digest for language, digest in smallest.items() if numbers[language] >= MIN_FOR_HELDOUT
        }

    def has(self, digest: bytes, language: str) -> bool:
        """Whether the kept document with this digest and language is held out."""
        return digest.hex() == self._first.get(language) or int.from_bytes(digest[:8]) < self._limit


def decide(document: Document, row: int, digest: bytes, verdicts: Verdicts, heldout: Heldout) -> tuple[Document, str]:
    """The document as it is kept, and `train`, `heldout`, or the reason why it is rejected.

    Args:
        row: its row in what the screen of its task wrote; rows come in their order.
        digest: that of its text.
        verdicts: those of its task.
    """
    first = verdicts.first_rows.setdefault(digest, row)
    representative = verdicts.near_duplicates.get(first, digest.hex())
    document = replace(document, cluster_id=representative[:CLUSTER_ID_CHARS])
    if first in verdicts.near_duplicates:
        return document, "near duplicate"
    if first != row or row in verdicts.duplicates:
        return document, "duplicate"
    if rights := verdicts.merged.get(row):
        transforms = (*document.transforms, "owners-merged")
        document = replace(document, owners=rights[0], licence=rights[1], transforms=transforms)
    return document, "heldout" if heldout.has(digest, document.language) else "train"

"""Lines that stand in many documents of a source: menus, letterheads, cookie notices, licence footers.

A short line says little by itself ("Contact", "return None"), so what is counted are passages: a line, with as many of
those after it as are needed for `min_chars`. Of the different texts of a source that have a passage, the first
`max_documents` in the order of their SHA-256 keep its lines; from the others they are taken out. A text that would lose
more than `max_share` of its characters stays whole: it is a copy or a version of another, and the search for near
duplicates is for those.

Passages are counted exactly, by 64 bits of their BLAKE2b, among `GROUP_TASKS` tasks that follow each other, whatever
the size of the corpus. They are dealt out by the highest bits of the hash, so that a part of them fits in memory; of a
passage that many texts have only the first texts are held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sovereign.lake.cleaning import normalise, text_digest
from sovereign.lake.work import PartsWriter
from sovereign.profile_cleaning import RepeatedLines

GROUP_TASKS = 64
"""Tasks whose lines are counted together: 4 GB of text where a task has 64 MB."""
PART_LINES = 2**20
"""A part has at most about so many passages where lines have `_LINE_BYTES`; counting takes up to 0.1 kB for each."""
_LINE_BYTES = 32
_HELD = 2**17
"""Passages that are held in memory until they are written."""
_HASH = 8
_ENTRY = np.dtype([("hash", "<u8"), ("row", "<u4"), ("line", "<u4")])
"""A passage: its document's row in the task, and the line with which it begins where it comes first in it."""
_TEXT = np.dtype([("hash", "<u8"), ("text", "<u8")])
_PLACE = np.dtype([("row", "<u4"), ("line", "<u4")])


def part_bits(num_tasks: int, task_bytes: float) -> int:
    """Bits of a passage's hash that say in which part of its group it is."""
    num_lines = min(num_tasks, GROUP_TASKS) * task_bytes / _LINE_BYTES
    return int(num_lines / PART_LINES).bit_length()


def passages(lines: list[str], min_chars: int) -> Iterator[tuple[int, int, str]]:
    """Each passage: its first line, the line after its last, and the text without blank lines.

    Args: `lines` of a text have no spaces around them.
    """
    lengths = [len(line) for line in lines]
    for start, length in enumerate(lengths):
        if not length:
            continue
        stop = start + 1
        while length < min_chars:
            if stop == len(lengths):
                return
            length += lengths[stop]
            stop += 1
        yield start, stop, lines[start] if stop == start + 1 else "\n".join(filter(None, lines[start:stop]))


def take_out(text: str, starts: Iterable[int], rules: RepeatedLines) -> tuple[str, int]:
    """A normalised text without the passages that begin with these lines, wherever they stand; how many lines went."""
    wanted = set(starts)
    lines = text.split("\n")
    stripped = [line.strip() for line in lines]
    found = list(passages(stripped, rules.min_chars))
    repeated = {passage for start, _, passage in found if start in wanted}
    gone = {line for start, stop, passage in found if passage in repeated for line in range(start, stop)}
    num_chars = sum(len(stripped[line]) for line in gone)
    if num_chars > rules.max_share * sum(map(len, stripped)):
        return text, 0
    rest = "\n".join(line for number, line in enumerate(lines) if number not in gone)
    return normalise(rest)[0], sum(bool(stripped[line]) for line in gone)


class LineIndex:
    """What a task tells of the passages in its documents."""

    def __init__(self, folder: Path, rules: RepeatedLines, bits: int) -> None:
        """Args: `bits` say in which part a passage is."""
        self._folder, self._rules, self._bits = folder, rules, bits
        self._salts: dict[str, np.uint64] = {}
        self._texts = bytearray()
        self._num_texts = 0
        self._held: list[npt.NDArray[np.void]] = []
        self._num_held = 0

    def add(self, source: str, text: str) -> None:
        """Add the next document with its normalised text, an empty one where it is not to be counted."""
        salt = self._salts.get(source)
        if salt is None:
            salt = self._salts[source] = np.frombuffer(_hash(source), "<u8")[0]
        lines = [line.strip() for line in text.split("\n")]
        starts: dict[bytes, int] = {}  # of each passage where it comes first
        for start, _, passage in passages(lines, self._rules.min_chars):
            starts.setdefault(_hash(passage), start)
        if starts:
            entries = np.empty(len(starts), _ENTRY)
            entries["hash"] = np.frombuffer(b"".join(starts), "<u8") ^ salt
            entries["row"], entries["line"] = self._num_texts, list(starts.values())
            self._held.append(entries)
            self._num_held += len(starts)
        self._texts += text_digest(text)[:_HASH]
        self._num_texts += 1
        if self._num_held >= _HELD:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        entries = np.concatenate(self._held)
        self._held, self._num_held = [], 0
        which = entries["hash"] >> np.uint64(64 - self._bits) if self._bits else np.zeros(len(entries), np.uint64)
        for part in np.unique(which).tolist():
            with (self._folder / f"lines-{part}").open("ab") as file:
                file.write(entries[which == part].tobytes())

    def write(self, parts: PartsWriter) -> None:
        """Write all of it: the passages by the part of their hash, and 64 bits of each text's digest."""
        self._flush()
        for path in sorted(self._folder.glob("lines-*")):
            parts.add(path.name, path.read_bytes())
        parts.add("texts", bytes(self._texts))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_HASH).digest()


class LineCount:
    """The passages of a group of tasks that are in one part of the hashes, and which of them are to go.

    Of a passage only the first texts are held, so that it does not matter how many have it.
    """

    def __init__(self, max_documents: int) -> None:
        self._max_documents = max_documents
        self._held = np.empty(0, _TEXT)
        self._new: list[npt.NDArray[np.void]] = []
        self._num_new = 0

    def add_task(self, passages: bytes, texts: bytes) -> None:
        """Add what a task's index wrote for the part."""
        self._new.append(_with_texts(passages, texts))
        self._num_new += len(self._new[-1])
        if self._num_new > max(len(self._held), _HELD):
            self._reduce()

    def _reduce(self) -> npt.NDArray[np.int64]:
        """Hold the first texts of each passage, one more than keep it; gives the place of each among them."""
        found = np.concatenate([self._held, *self._new])
        self._new, self._num_new = [], 0
        found = found[np.lexsort((found["text"], found["hash"]))]
        is_first = np.ones(len(found), bool)  # of its passage
        is_first[1:] = found["hash"][1:] != found["hash"][:-1]
        is_new = is_first.copy()  # of its passage and text
        is_new[1:] |= found["text"][1:] != found["text"][:-1]
        found, is_first = found[is_new], is_first[is_new]
        first = np.flatnonzero(is_first)
        places = np.arange(len(found)) - first[np.cumsum(is_first) - 1]
        is_held = places <= self._max_documents
        self._held = found[is_held]
        held: npt.NDArray[np.int64] = places[is_held]
        return held

    def limits(self) -> npt.NDArray[np.void]:
        """Of each passage that more texts have than may keep it, the first that may not."""
        is_limit = self._reduce() == self._max_documents
        found: npt.NDArray[np.void] = self._held[is_limit]
        return found


def find_repeated(passages: bytes, texts: bytes, limits: npt.NDArray[np.void]) -> bytes:
    """Where those of a task's passages begin that are to go, as `Repeated` takes it.

    Args: what the task's index wrote for the part, and the part's limits by `LineCount`, at least one.
    """
    found = _with_texts(passages, texts)
    where = np.searchsorted(limits["hash"], found["hash"]).clip(max=len(limits) - 1)
    is_gone = (limits["hash"][where] == found["hash"]) & (found["text"] >= limits["text"][where])
    gone = np.frombuffer(passages, _ENTRY)[is_gone]
    places = np.empty(len(gone), _PLACE)
    places["row"], places["line"] = gone["row"], gone["line"]
    return places.tobytes()


def _with_texts(passages: bytes, texts: bytes) -> npt.NDArray[np.void]:
    """Of each passage its hash, and 64 bits of the digest of the text that has it."""
    entries = np.frombuffer(passages, _ENTRY)
    found = np.empty(len(entries), _TEXT)
    found["hash"], found["text"] = entries["hash"], np.frombuffer(texts, ">u8")[entries["row"]]
    return found


class Repeated:
    """Where the passages begin that are to go from a task's documents."""

    def __init__(self, parts: list[bytes]) -> None:
        """Args: `parts` are what `find_repeated` found in each part."""
        places = np.frombuffer(b"".join(parts), _PLACE)
        places = places[np.lexsort((places["line"], places["row"]))]
        self._rows, first = np.unique(places["row"], return_index=True)
        self._bounds = np.append(first, len(places))
        self._lines = places["line"]

    def starts(self, row: int) -> list[int]:
        """First lines of those of the document in `row`."""
        where = int(np.searchsorted(self._rows, row))
        if where == len(self._rows) or self._rows[where] != row:
            return []
        found: list[int] = self._lines[self._bounds[where] : self._bounds[where + 1]].tolist()
        return found

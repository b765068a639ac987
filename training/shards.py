"""Token shards: documents as token ids in one memory-mapped file, with their ends, ids, languages,
owners, licences and quality.

File, little-endian: a header of 64 bytes (`_HEADER`: magic, version, bytes per token, offset and length of the index,
its SHA-256); the tokens, every document followed by the end-of-text mark; arrays by document; the index, JSON: counts,
languages, owners, licences, and where each array is. The writer needs memory for the arrays and ids only; a
file gets its name when it is complete. Whether the tokens are the right ones is known from the digest in the stage's
receipt, which is checked before training (sovereign/stages.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.files import sync_folder

MAGIC = b"SOVTOKEN"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQ32s")
_ARRAYS = {
    "ends": "<u8",
    "num_bytes": "<u8",
    "languages": "<u2",
    "owner_ends": "<u8",
    "owners": "<u4",
    "id_ends": "<u8",
    "licences": "<u4",
    "qualities": "<f8",
}
_TYPECODES = {"<u8": "Q", "<u4": "I", "<u2": "H", "<f8": "d"}


class ShardWriter:
    """Writes one shard; a context manager. Nothing is at `path` until it ends without an error."""

    def __init__(self, path: Path, vocab_size: int, end_of_text: int) -> None:
        self.num_tokens = 0
        self._path, self._end = path, end_of_text
        self._temporary = path.with_name(f".{path.name}.part")
        self._dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self._arrays: dict[str, array[Any]] = {name: array(_TYPECODES[kind]) for name, kind in _ARRAYS.items()}
        self._ids = bytearray()
        self._names: dict[str, dict[str, int]] = {"languages": {}, "owners": {}, "licences": {}}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        self._file.write(bytes(_HEADER.size))

    def add(
        self,
        tokens: Sequence[int],
        *,
        doc_id: str,
        language: str,
        owners: Sequence[str],
        licence: str,
        num_bytes: int,
        quality: float | None = None,
    ) -> None:
        """Append a document; the end-of-text mark is added.

        Args:
            num_bytes: length of its text in UTF-8.
            quality: 0 to 1; None where it is not measured.

        Raises:
            TrainingError: nobody owns it, or the end-of-text mark stands in it.
        """
        if not owners:
            raise TrainingError(f"document {doc_id} has no owner", expected="at least one owner of every document")
        if self._end in tokens:
            raise TrainingError(
                f"document {doc_id} has the end-of-text mark inside",
                got=f"token {self._end} at {list(tokens).index(self._end)}",
                expected="one mark, after the document",
            )
        self._file.write(np.array([*tokens, self._end], dtype=self._dtype).tobytes())
        self.num_tokens += len(tokens) + 1
        self._arrays["ends"].append(self.num_tokens)
        self._arrays["num_bytes"].append(num_bytes)
        self._arrays["languages"].append(self._number("languages", language))
        self._arrays["owners"].extend(self._number("owners", owner) for owner in owners)
        self._arrays["owner_ends"].append(len(self._arrays["owners"]))
        self._arrays["licences"].append(self._number("licences", licence))
        self._arrays["qualities"].append(math.nan if quality is None else quality)
        self._ids += doc_id.encode()
        self._arrays["id_ends"].append(len(self._ids))

    def _number(self, kind: str, name: str) -> int:
        names = self._names[kind]
        return names.setdefault(name, len(names))

    def _finish(self) -> None:
        blocks: dict[str, bytes] = {
            name: np.array(values, dtype=_ARRAYS[name]).tobytes() for name, values in self._arrays.items()
        }
        blocks["ids"] = bytes(self._ids)
        places = {}
        for name, block in blocks.items():
            self._file.write(bytes(-self._file.tell() % 8))  # aligned, so that it can be mapped
            places[name] = [self._file.tell(), len(block)]
            self._file.write(block)
        index = {
            "num_tokens": self.num_tokens,
            "num_documents": len(self._arrays["ends"]),
            **{kind: list(names) for kind, names in self._names.items()},
            "arrays": places,
        }
        text, offset = json.dumps(index).encode(), self._file.tell()
        self._file.write(text)
        self._file.seek(0)
        digest = hashlib.sha256(text).digest()
        self._file.write(_HEADER.pack(MAGIC, VERSION, self._dtype.itemsize, offset, len(text), digest))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._finish()
        if kind is None:
            self._temporary.replace(self._path)
            sync_folder(self._path.parent)
        else:
            self._temporary.unlink(missing_ok=True)


class Shard:
    """One shard. Opening it reads its index and keeps some numbers, whatever its size.

    Each array is mapped into memory when it is asked for and unmapped when the caller lets it go: whoever uses one
    more than once keeps it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path`.

        Raises:
            TrainingError: not a shard of this version, or cut off, or its header or index is damaged.
        """
        self.path = path
        index, width = self._read_index()
        self.num_tokens: int = index["num_tokens"]
        self.num_documents: int = index["num_documents"]
        self._places: dict[str, tuple[int, int]] = index["arrays"]
        self._token_type = f"<u{width}"

    def _read_index(self) -> tuple[dict[str, Any], int]:
        """The index, and bytes per token."""
        try:
            with self.path.open("rb") as file:
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size or not header.startswith(MAGIC):
                    raise self._damaged("no header of a token shard")
                _, version, width, offset, length, digest = _HEADER.unpack(header)
                if version != VERSION:
                    raise TrainingError(
                        f"{self.path} has another format", got=version, expected=VERSION, hint="run stage tokenize"
                    )
                file.seek(offset)
                text = file.read(length) if offset + length == self.path.stat().st_size else b""
        except OSError as error:
            raise TrainingError(f"cannot read shard {self.path}: {error}") from error
        if hashlib.sha256(text).digest() != digest:
            raise self._damaged("its index is not the one that was written")
        index: dict[str, Any] = json.loads(text)
        return index, width

    def _damaged(self, reason: str) -> TrainingError:
        return TrainingError(f"{self.path} is damaged: {reason}", hint="remove it and run stage tokenize again")

    def _map(self, offset: int, dtype: str, count: int) -> npt.NDArray[Any]:
        if count == 0:
            return np.empty(0, dtype)
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype, count, offset)

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name not in self._places:
            raise TrainingError(
                f"{self.path} has no {name}: a version of the kit before this one made it",
                hint="sovereign train PROFILE makes shards and model anew",
            )
        offset, num_bytes = self._places[name]
        return self._map(offset, _ARRAYS[name], num_bytes // np.dtype(_ARRAYS[name]).itemsize)

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """All tokens, documents one after the other; shape [num_tokens]."""
        return self._map(_HEADER.size, self._token_type, self.num_tokens)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each document ends in `tokens`, its end-of-text mark included; shape [num_documents]."""
        return self._array("ends").view("<i8")

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, its end-of-text mark included; shape [num_documents]. Not mapped: made anew."""
        return np.diff(self.ends, prepend=0)

    @property
    def num_bytes(self) -> npt.NDArray[np.uint64]:
        """Length of each document's text, UTF-8 bytes; shape [num_documents]."""
        return self._array("num_bytes")

    @property
    def languages(self) -> npt.NDArray[np.uint16]:
        """Number of each document's language; shape [num_documents]."""
        return self._array("languages")

    @property
    def owners(self) -> npt.NDArray[np.uint32]:
        """Numbers of the owners of every document, one document after the other."""
        return self._array("owners")

    @property
    def owner_counts(self) -> npt.NDArray[np.int64]:
        """How many of `owners` belong to each document; shape [num_documents]. Not mapped: made anew."""
        return np.diff(self._array("owner_ends").view("<i8"), prepend=0)

    @property
    def licences(self) -> npt.NDArray[np.uint32]:
        """Number of each document's licence; shape [num_documents].

        Raises:
            TrainingError: the shard is of a version that did not write them; `qualities` too.
        """
        return self._array("licences")

    @property
    def qualities(self) -> npt.NDArray[np.float64]:
        """Quality of each document, NaN where it is not measured; shape [num_documents]."""
        return self._array("qualities")

    @property
    def language_names(self) -> list[str]:
        """Languages by the numbers in `languages`; read anew."""
        names: list[str] = self._read_index()[0]["languages"]
        return names

    @property
    def owner_names(self) -> list[str]:
        """Owners by the numbers in `owners`; read anew."""
        names: list[str] = self._read_index()[0]["owners"]
        return names

    @property
    def licence_names(self) -> list[str]:
        """Licences (SPDX expressions) by the numbers in `licences`; read anew."""
        names: list[str] = self._read_index()[0]["licences"]
        return names

    def document_id(self, number: int) -> str:
        """Id of document `number`."""
        return self.document_ids([number])[0]

    def document_ids(self, numbers: Iterable[int]) -> list[str]:
        """Ids of the documents with these numbers."""
        offset, num_bytes = self._places["ids"]
        ids = self._map(offset, "<u1", num_bytes)
        return [bytes(ids[begin:end]).decode() for begin, end in _bounds(self._array("id_ends"), numbers)]

    def owners_of(self, numbers: Iterable[int]) -> list[list[int]]:
        """Numbers of the owners of each of these documents."""
        owners = self.owners
        return [owners[begin:end].tolist() for begin, end in _bounds(self._array("owner_ends"), numbers)]

    def by_language(self, values: npt.NDArray[Any]) -> dict[str, int]:
        """Sums of `values` (one for each document) by language."""
        names = self.language_names
        sums = np.bincount(self.languages, weights=values, minlength=len(names))
        return {language: int(total) for language, total in zip(names, sums, strict=True)}


def _bounds(ends: npt.NDArray[Any], numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Where the items of each of these documents begin and end."""
    for number in numbers:
        yield int(ends[number - 1]) if number else 0, int(ends[number])

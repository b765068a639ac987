"""Decontamination: text of evaluation sets, and whether a document has a part of it (sovereign.ngrams)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sovereign.errors import StageError
from sovereign.files import sha256_file
from sovereign.lake.opening import open_expanded
from sovereign.lake.records import Unreadable
from sovereign.ngrams import NgramIndex
from sovereign.profile_cleaning import EvaluationSet


class EvaluationText:
    """All text of some evaluation sets.

    Raises:
        StageError: a file is not there, is damaged, or has no text that is long enough to be looked for.
    """

    def __init__(self, sets: Iterable[EvaluationSet]) -> None:
        self._index = NgramIndex()
        self._names: list[str] = []
        """Of the set of each item."""
        for one in sets:
            before = len(self._names)
            for text in _read_texts(one):
                number = self._index.add(text)
                assert number == len(self._names)
                self._names.append(one.name)
            if not any(self._index.overlap(number).is_measured for number in range(before, len(self._names))):
                raise StageError(
                    f"evaluation set {one.name} has nothing to look for",
                    got=f"{len(self._names) - before} texts in {one.path}",
                    expected=f"at least one text of 8 words, in {', '.join(one.fields) or 'any field'}",
                    hint="correct corpus.cleaning.evaluation_sets",
                )

    def found_in(self, text: str) -> str | None:
        """The name of a set of which 13 words in a row, or a whole text of 8 to 12, stand in `text`."""
        number = self._index.first_in(text)
        return None if number is None else self._names[number]


def file_digest(name: str, path: Path) -> str:
    """Hex SHA-256 of a file that the profile names.

    Raises:
        StageError: it cannot be read.
    """
    try:
        return sha256_file(path)
    except OSError as error:
        raise StageError(
            f"cannot read {name}: {error}", got=path, hint="correct its path under corpus.cleaning in the profile"
        ) from error


def _read_texts(wanted: EvaluationSet) -> Iterator[str]:
    try:
        for record in _read_records(Path(wanted.path)):
            yield from _texts({key: record.get(key) for key in wanted.fields} if wanted.fields else record)
    except (OSError, Unreadable, ValueError, pa.ArrowException, RecursionError) as error:
        raise StageError(
            f"evaluation set {wanted.name} cannot be read: {error}",
            got=wanted.path,
            expected=".jsonl, .jsonl.gz or .parquet with one record a line or row",
        ) from error


def _read_records(path: Path) -> Iterator[dict[str, Any]]:
    if path.name.endswith(".parquet"):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        with open_expanded(path, path.name) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"line {number} is not a JSON object")
                    yield record
    else:
        raise ValueError("unknown kind of file")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a record, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)

"""Lists of words that documents are rejected for: toxic language, by a site's own lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sovereign.errors import StageError
from sovereign.ngrams import hashes_by_length, unit_hashes, units
from sovereign.profile_cleaning import WordList

MAX_UNITS = 32
"""Of an entry: words, or characters in scripts without spaces."""


@dataclass(frozen=True)
class _Loaded:
    rules: WordList
    by_length: dict[int, npt.NDArray[np.uint64]]
    """Hashes of the entries, by their number of units."""


class WordLists:
    """Some lists, each for one language.

    Raises:
        StageError: a file cannot be read, has no entry, or an entry is too long.
    """

    def __init__(self, lists: Iterable[WordList]) -> None:
        self._lists = [_load(one) for one in lists]

    def found_in(self, text: str, language: str) -> str | None:
        """The name of a list from which more of the words of `text` are than may be."""
        own = [one for one in self._lists if one.rules.language in (language, language.partition("-")[0])]
        if not own:
            return None
        hashes = unit_hashes(units(text))
        rows = hashes_by_length(hashes, max(length for one in own for length in one.by_length))
        for one in own:
            num_listed = sum(
                length * int(np.isin(rows[length - 1], entries).sum())
                for length, entries in one.by_length.items()
                if length <= len(rows)
            )
            if num_listed > one.rules.max_share * len(hashes):
                return one.rules.name
        return None


def _load(rules: WordList) -> _Loaded:
    try:
        lines = Path(rules.path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(
            f"word list {rules.name} cannot be read: {error}", got=rules.path, expected="a text file in UTF-8"
        ) from error
    entries: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        found = [] if line.startswith("#") else units(line)
        if len(found) > MAX_UNITS:
            raise StageError(
                f"word list {rules.name} has an entry that is too long",
                got=f"{len(found)} words in line {number}",
                expected=f"at most {MAX_UNITS}",
            )
        if found:
            entries[len(found)].append(int(hashes_by_length(unit_hashes(found), len(found))[-1][0]))
    if not entries:
        raise StageError(f"word list {rules.name} is empty", got=rules.path, expected="a word or phrase on each line")
    return _Loaded(rules, {length: np.array(sorted(hashes), np.uint64) for length, hashes in entries.items()})

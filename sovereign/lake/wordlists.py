"""Lists of words that documents are rejected for: toxic language, by a site's own lists, from files or plug-ins.

A plug-in is an entry point of group `sovereign.word_lists`, a function without arguments that gives the lines:

    [project.entry-points."sovereign.word_lists"]
    xx-insults = "ministry_site.words:insults"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sovereign.errors import StageError
from sovereign.files import sha256_bytes
from sovereign.ngrams import hashes_by_length, unit_hashes, units
from sovereign.profile_cleaning import WordList

GROUP = "sovereign.word_lists"
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


def read_lines(rules: WordList) -> list[str]:
    """The lines of a list.

    Raises:
        StageError: the file cannot be read, or there is no such plug-in.
    """
    if rules.path is None:
        plugged = {point.name: point for point in entry_points(group=GROUP)}
        if rules.plugin not in plugged:
            raise StageError(
                f"word list {rules.name} has an unknown plug-in",
                got=rules.plugin,
                expected=", ".join(sorted(plugged)) or "one that is installed",
                hint=f"correct corpus.cleaning.word_lists[].plugin, or install what has it in group {GROUP}",
            )
        return list(plugged[rules.plugin].load()())
    try:
        return Path(rules.path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(
            f"word list {rules.name} cannot be read: {error}", got=rules.path, expected="a text file in UTF-8"
        ) from error


def plugin_digests(lists: Iterable[WordList]) -> dict[str, str]:
    """Hex SHA-256 of what plug-ins give, by name."""
    return {
        f"word-list/{one.name}": sha256_bytes("\n".join(read_lines(one)).encode()) for one in lists if one.path is None
    }


def _load(rules: WordList) -> _Loaded:
    entries: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(read_lines(rules), 1):
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
        raise StageError(
            f"word list {rules.name} is empty", got=rules.path or rules.plugin, expected="a word or phrase on each line"
        )
    return _Loaded(rules, {length: np.array(sorted(hashes), np.uint64) for length, hashes in entries.items()})

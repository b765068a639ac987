"""The spelling of owners' names: those that read the same are one owner, and those that nearly do can be listed."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

_SIMILARITY = 0.88
"""Two names whose folded letters agree in this share (difflib's ratio) may be one with a slip of the pen."""
_COMPARED = 20_000
"""Of more names than these, only those with the same folded letters are looked for: comparing each takes its time."""
_SHOWN_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Signs of Arabic, Syriac and Kaithi that Unicode calls format characters."""
_BLANKS = frozenset("\u034f\u0640\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u2800\u3164\uffa0")
"""Nothing is read there, although their categories say letter, mark or sign: fillers, joiners, the Arabic tatweel."""
_JOINER = re.compile(r"(?<=[^\W\d_A-Za-z])[\u200c\u200d](?=[^\W\d_A-Za-z])|(?<=[\u0900-\u0dff])[\u200c\u200d]")
"""A joiner or non-joiner where a script's spelling has it, as in Persian and in Indic conjuncts."""
_ALIKE = str.maketrans(
    "авекмнорстухіјѕԁԛԝһѵ" "αβεικνορτυχ" "ıl|1057" "ىيئ" "ك" "ةۀہھ" "أإآٱ",
    "abekmhopctyxijsdqwhv" "abeikvoptux" "iiiiost" "ییی" "ک" "هههه" "اااا",
)  # fmt: skip
"""Letters of Cyrillic, Greek and Arabic, and digits, by what they are taken for."""


class _Read(dict[int, int | None]):
    """A table for str.translate that drops what nobody sees."""

    def __missing__(self, code: int) -> int | None:
        char = chr(code)
        is_format = unicodedata.category(char) == "Cf" and char not in _SHOWN_FORMATS
        is_selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
        self[code] = None if is_format or is_selector or char in _BLANKS else code
        return self[code]


_READ = _Read()


@lru_cache(2**14)
def owner_name(name: str) -> str:
    """The name as it is read: Unicode NFKC, single spaces and none around it, without characters that nobody sees.

    Invisible are directions, soft hyphens, zero-width spaces, tatweels and variation selectors; ligatures, presentation
    forms and full-width letters become the letters that they stand for. A zero-width joiner or non-joiner stays between
    letters whose script spells with it.
    """
    name = unicodedata.normalize("NFKC", name)
    if not name.isascii():
        joiners = {match.start() for match in _JOINER.finditer(name)}
        name = "".join(c if at in joiners else c.translate(_READ) for at, c in enumerate(name))
    return " ".join(unicodedata.normalize("NFKC", name).split())


@lru_cache(2**14)
def _letters(name: str) -> str:
    """What a hasty reader sees of a name: its letters and digits, without case, marks and alphabet."""
    folded = unicodedata.normalize("NFKD", name).casefold()
    kept = "".join(c for c in folded if c.isalnum() and c not in _BLANKS)
    digits = "".join(str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in kept)
    return digits.translate(_ALIKE)


def look_alikes(name: str, known: Iterable[str], most: int = 5) -> list[str]:
    """Those of the other names in `known` that may be meant by `name` too, the closest first."""
    by_letters: dict[str, list[str]] = defaultdict(list)
    for other in sorted(set(known) - {name}):
        by_letters[_letters(other)].append(other)
    own = _letters(name)
    same = by_letters.pop(own, [])
    near = difflib.get_close_matches(own, by_letters, most, _SIMILARITY) if len(by_letters) <= _COMPARED else []
    return [*same, *(other for letters in near for other in by_letters[letters])][:most]


def look_alike_groups(names: Iterable[str]) -> list[list[str]]:
    """Groups of names whose letters look the same."""
    by_letters: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        by_letters[_letters(name)].append(name)
    return [group for group in by_letters.values() if len(group) > 1]


def unicode_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it has bytes that are not UTF-8, as an argument of a command can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8") from error
    return text


def _named(name: str) -> str:
    unicode_text(name)
    if not (found := owner_name(name)):
        raise ValueError("must be a name, not blank")
    return found


UnicodeText = Annotated[str, AfterValidator(unicode_text)]
OwnerName = Annotated[str, AfterValidator(_named)]

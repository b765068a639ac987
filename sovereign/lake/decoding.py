"""The encoding of a text: what it says itself, else one in use for its language that its letters support.

A wrong guess would be mojibake that nobody sees, so a text that supports no guess, or two, is refused. Every encoding
that a language is written in gives a text; the one whose letters cost fewest bits in that language (letters.py) is
taken if the next text is `_MARGIN` bits worse.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from contextlib import suppress
from typing import NamedTuple

from sovereign.lake.codepages import SEVEN_BIT, WIDE, canonical, encodings_of, languages_of
from sovereign.lake.letters import letters
from sovereign.lake.records import Unreadable

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # UTF-32 before UTF-16: one begins like the other
_C0 = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff]")
_ESCAPES = re.compile(rb"\x1b\$|~\{.*~\}|\+[A-Za-z0-9/]{3}[A-Za-z0-9+/]*-", re.DOTALL)
"""Of encodings whose bytes are ASCII: ISO 2022, HZ, UTF-7."""
_COMMAS = str.maketrans("şţŞŢ", "șțȘȚ")
_SIGNS = frozenset("\u00a0\u00ad…–—‘’‚“”„«»‹›•·§°©®™€£¥¢±×÷¼½¾²³¹†‡¶¿¡")
"""What may be all that is beyond ASCII in a text: bytes of no text give blocks and lines of DOS pages."""
_MARGIN = 5.0
"""Bits by which the best text must be better than any other, by its letters alone too."""
_DECLARED = 8.0
"""Bits that a declaration is worth."""


class _Guess(NamedTuple):
    encoding: str
    text: str
    bits: float
    """With what speaks for the encoding itself."""
    letter_bits: float


def decode(data: bytes, language: str, *, encoding: str | None = None, declared: str | None = None) -> str:
    """The text in `data`.

    Args:
        data: the whole text.
        language: BCP 47 tag of the source.
        encoding: what the profile says, which is taken as true.
        declared: what a page or server says, which is often wrong.

    Raises:
        Unreadable: it is not in `encoding`; or neither in UTF-8 nor, as far as its letters tell, in any other.
    """
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except (UnicodeError, ValueError) as error:
            raise Unreadable(f"not {encoding}") from error
    marked = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    is_wide = marked == "utf-8" and 5 * data.count(0) > len(data)
    has_escapes = b"\x1b$" in data
    with suppress(UnicodeError):
        text = data.decode(marked).removeprefix("\ufeff")
        # UTF-16 without a mark is UTF-8 too, by its bytes.
        is_wide = is_wide or (not has_escapes and 20 * len(_C0.findall(text)) > len(text))
        if not is_wide:
            return _read_seven_bit(data, text, language) if text.isascii() else text
    return _choose(data, language, declared, is_wide=is_wide).text


def find_encoding(sample: bytes, language: str) -> str:
    """The encoding of a file that is too large to be decoded whole, from its first lines; UTF-8 where nothing fits."""
    for bom, name in _BOMS.items():
        if sample.startswith(bom):
            return "utf-8-sig" if name == "utf-8" else name
    odd = b"\n".join(line for line in sample.split(b"\n") if not _is_utf8(line))
    if odd and language:
        with suppress(Unreadable):
            return _choose(odd, language, None, is_wide=False).encoding
    return "utf-8"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def fits(text: str, language: str) -> bool:
    """Whether `text` can be one of the language's, as far as its letters tell."""
    if text.isascii():
        return True
    tables = [table for table, _ in encodings_of(_primary(language))]
    return not _CONTROL.search(text) and any(_bits(text, table) is not None for table in tables)


def _read_seven_bit(data: bytes, text: str, language: str) -> str:
    """ASCII, unless its escapes tell another encoding.

    Raises:
        Unreadable: it has escapes of ISO 2022 that no encoding explains.
    """
    if not _ESCAPES.search(data):
        return text
    for name, spoken in SEVEN_BIT.items():
        if name == "hz" and spoken != _primary(language):
            continue
        found = _try(data, name)
        is_sure = name != "hz"  # ISO 2022 has escapes that nothing else has
        if found is not None and not found.isascii() and (is_sure or _bits(found, spoken) is not None):
            return found
    found = _try(data, "utf-7")
    if found is not None and not found.isascii() and fits(found, language):
        return found
    if "\x1b$" in text:
        raise Unreadable("not UTF-8")
    return text


def _choose(data: bytes, language: str, declared: str | None, *, is_wide: bool) -> _Guess:
    """The text in the encoding that its letters support.

    Raises:
        Unreadable: there is none, or there are two.
    """
    label = canonical(declared) if declared else None
    best: dict[str, _Guess] = {}
    unusual: list[_Guess] = []
    """Texts that the language has not, one of which may yet be right: with names of other languages."""
    for table, priors in encodings_of(_primary(language)):
        for name in WIDE if is_wide else (*priors, *WIDE[:2], *([label] if label and label not in priors else [])):
            text = _try(data, name, _primary(language))
            bits = None if text is None else _bits(text, table)
            if text is not None and bits is None and (known := letters(table)) and known.is_latin:
                unusual.append(_Guess(name, text, 0, known.cost(text)[0]))
            if text is not None and bits is not None:
                guess = _Guess(name, text, bits + priors.get(name, 0) - (_DECLARED if name == label else 0), bits)
                best[text] = min(guess, best.get(text, guess), key=lambda one: one.bits)
    guesses = sorted(best.values(), key=lambda guess: guess.bits)
    for other in guesses[1:]:
        if min(other.bits - guesses[0].bits, other.letter_bits - guesses[0].letter_bits) < _MARGIN:
            raise Unreadable(f"not UTF-8, and as well {guesses[0].encoding} as {other.encoding}")
    for other in unusual:
        if guesses and len(other.text) == len(guesses[0].text) and other.letter_bits < guesses[0].letter_bits:
            raise Unreadable(f"not UTF-8, and as well {guesses[0].encoding} as {other.encoding}")
    if guesses:
        return guesses[0]
    # A page in another language than its source's.
    claimed = _try(data, label) if label else None
    if claimed is not None and any(_bits(claimed, other) is not None for other in languages_of(label or "")):
        return _Guess(label or "", claimed, 0, 0)
    raise Unreadable("not UTF-8")


def _primary(language: str) -> str:
    return language.partition("-")[0]


def _try(data: bytes, encoding: str, language: str = "") -> str | None:
    """The text, unless it has characters that no text has."""
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError, ValueError):
        return None
    if encoding == "cp1258":  # its marks stand alone
        text = unicodedata.normalize("NFC", text)
    if language == "ro":  # code pages have only one of the two, and both mean the letter with a comma
        text = text.translate(_COMMAS)
    return None if _CONTROL.search(text) else text


def _bits(text: str, table: str) -> float | None:
    """What its letters cost in a language; None when they are not the language's."""
    known = letters(table)
    return None if known is None or not _is_prose(text) else known.bits(text)


def _is_prose(text: str) -> bool:
    """Whether there is a letter at all, and other characters than ASCII's are letters or signs that writers use."""
    odd = {char for char in text if not char.isascii()}
    return any(map(str.isalpha, text)) and (any(map(str.isalpha, odd)) or odd <= _SIGNS)

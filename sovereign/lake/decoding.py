"""The encoding of a text: what it says itself, else one in use for its language that its letters support.

A wrong guess would be mojibake that nobody sees, so a text that supports no guess, or two, is refused. The rules need
no statistics of words: letters that the language does not have, and letters that it has often, tell encodings apart.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from sovereign.lake.records import Unreadable

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # UTF-32 before UTF-16: one begins like the other
_WIDE = ("utf-16-le", "utf-16-be")
_PUNCTUATION = frozenset(
    "\xa0\xad«»“”„‘’‚‹›–—…•·°§¶†‡€£©®™ªº¿¡½¼¾×²³±№、。，：；？！（）《》「」『』【】"
    "\u3000・ー〜～،؛؟ـ\u200c\u200d\u200e\u200f"
)
_MISPLACED = re.compile(r"(?<=[^\W\d_])[«»“”„‹›•°§¶€£©®™¿¡½¼¾×²³±…](?=[^\W\d_])")
"""Signs that do not stand inside a word."""
_RUN = re.compile(r"[^\W\d_\x00-\x7f]{5}")
_MIXED = re.compile(r"[A-Za-z][^\W\d_\x00-\x7f]|[^\W\d_\x00-\x7f][A-Za-z]")
_C0 = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ue000-\uf8ff]")
_MAX_STRANGE = 0.02
"""Share of characters beyond ASCII that the language need not know."""
_MARGIN = 1.1
"""So much better than the next guess must the best one be."""

# What pages declare, and what browsers read it as: https://encoding.spec.whatwg.org/#names-and-labels
_READ_AS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_NAMES = (
    "utf-8 utf-16 utf-16-le utf-16-be cp866 koi8-r koi8-u mac-roman mac-cyrillic cp874 big5 big5hkscs gb18030 euc_jp "
    "iso2022_jp cp932 cp949 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 iso8859-2 iso8859-3 "
    "iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 iso8859-13 iso8859-14 iso8859-15 iso8859-16"
)
_DECLARABLE = frozenset(_NAMES.split())
"""Python's names of what a page may declare, by the same list; Python's other codecs are no encodings of pages."""


@dataclass(frozen=True)
class _Script:
    """How texts of some languages look."""

    encodings: tuple[str, ...]
    letters: frozenset[str]
    """All that are expected beyond ASCII."""
    common: frozenset[str]
    min_common: float
    """Share of `common` among the characters beyond ASCII."""
    is_latin: bool = False
    is_spaced: bool = True
    """Words are parted from Latin ones."""


def _chars(*ranges: tuple[int, int]) -> frozenset[str]:
    return frozenset(chr(code) for first, last in ranges for code in range(first, last + 1))


def _latin(encodings: tuple[str, ...], letters: str) -> _Script:
    every = frozenset(letters + letters.upper())
    return _Script(encodings, every, every, 0, is_latin=True)


_WEST = ("cp1252", "iso8859-15")
_CENTRAL = ("cp1250", "iso8859-2")
_BALTIC = ("cp1257", "iso8859-13")
_WESTERN = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿœšž"
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x3001, 0x3002), (0xFF01, 0xFF60))
_LATIN = {
    "is fo": _latin(_WEST, _WESTERN + "ðþ"),
    "de": _latin(_WEST, _WESTERN + "ß"),
    "pl": _latin(_CENTRAL, "ąćęłńóśźż"),
    "cs": _latin(_CENTRAL, "áčďéěíňóřšťúůýž"),
    "sk": _latin(_CENTRAL, "áäčďéíĺľňóôŕšťúýž"),
    "hu": _latin(_CENTRAL, "áéíóöőúüű"),
    "hr bs sl sr": _latin(_CENTRAL, "čćđšž"),
    "ro": _latin(_CENTRAL, "âăîşţ"),
    "lt": _latin(_BALTIC, "ąčęėįšųūž"),
    "lv": _latin(_BALTIC, "āčēģīķļņšūž"),
    "et": _latin((*_BALTIC, *_WEST), "äõöüšž"),
    "tr az": _latin(("cp1254", "iso8859-9"), "çğıöşüâîûİ"),
}
_WESTERN_LANGUAGES = "en fr es pt it nl da sv nb nn no fi ca gl eu ga gd cy br co oc rm lb af sq id ms sw fy"


@cache
def _scripts() -> dict[str, tuple[_Script, ...]]:
    """By language."""
    cyrillic = frozenset("оаеинтсрвліъ")
    han = frozenset(
        "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
        "這個們來為國說時會對過發後裡著並與及或其所等由法者"
    )
    kana = _chars((0x3041, 0x30FF))
    hangul = frozenset("이다는을의가에고한하기로지사은그리어인도를서해아대나시자정")
    slavic = _chars((0x400, 0x45F), (0x490, 0x491))
    arabic = _Script(("cp1256", "iso8859-6"), _chars((0x621, 0x652), (0x660, 0x6D3)), frozenset("الينموترهبدسعیک"), 0.5)
    by_languages: dict[str, _Script] = {
        _WESTERN_LANGUAGES: _latin(_WEST, _WESTERN),
        **_LATIN,
        "ru bg sr mk": _Script(("cp1251", "koi8-r", "iso8859-5", "cp866"), slavic, cyrillic, 0.5),
        "uk be": _Script(("cp1251", "koi8-u", "iso8859-5"), slavic, cyrillic, 0.45),
        "ar fa ur": arabic,
        "el": _Script(("cp1253", "iso8859-7"), _chars((0x384, 0x3CE)), frozenset("αοιετσνηυρςάίό"), 0.65),
        "he yi": _Script(("cp1255", "iso8859-8"), _chars((0x5B0, 0x5F4)), frozenset("יוהלאתרבשמ"), 0.5),
        "th": _Script(("cp874",), _chars((0xE01, 0xE5B)), frozenset("านรอกเงมยลวดทสต่้ัิี"), 0.4),
        "zh": _Script(("gb18030", "big5"), _chars(*_HAN), han, 0.16, is_spaced=False),
        "ja": _Script(("cp932", "euc_jp", "iso2022_jp"), _chars(*_HAN) | kana, kana, 0.2, is_spaced=False),
        "ko": _Script(("cp949",), _chars(*_HAN, (0xAC00, 0xD7A3)), hangul, 0.2, is_spaced=False),
    }
    found: dict[str, tuple[_Script, ...]] = {}
    for languages, script in by_languages.items():
        for language in languages.split():
            found[language] = (*found.get(language, ()), script)
    return found


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
    with suppress(UnicodeError):
        text = data.decode(marked).removeprefix("\ufeff")
        # UTF-16 without a mark and ISO-2022 are UTF-8 too, by their bytes.
        is_wide = is_wide or 20 * len(_C0.findall(text)) > len(text)
        if not is_wide and "\x1b$" not in text:
            return text
    found = _guess(data, language, declared, _WIDE if is_wide else _names(language))
    if found is None:
        raise Unreadable("not UTF-8")
    return found


def find_encoding(sample: bytes, language: str) -> str:
    """The encoding of a file that is too large to be decoded whole, from its first lines; UTF-8 where nothing fits."""
    for bom, name in _BOMS.items():
        if sample.startswith(bom):
            return "utf-8-sig" if name == "utf-8" else name
    odd = b"\n".join(line for line in sample.split(b"\n") if not _is_utf8(line))
    if odd:
        names = _names(language)
        text = _guess(odd, language, None, names)
        return next((name for name in names if text is not None and _try(odd, name) == text), "utf-8")
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
    scripts = _scripts().get(_primary(language), ())
    return not _CONTROL.search(text) and any(_score(text, script) is not None for script in scripts)


def _guess(data: bytes, language: str, declared: str | None, names: tuple[str, ...]) -> str | None:
    """The text in the declared encoding or in one of `names`, if one alone fits."""
    label = _canonical(declared) if declared else None
    claimed = _try(data, label) if label is not None else None
    if claimed is not None and fits(claimed, language):
        return claimed
    guesses: dict[str, float] = {}
    for script in _scripts().get(_primary(language), ()):
        for name in names:
            text = _try(data, name)
            score = _score(text, script) if text is not None else None
            if text is not None and score is not None:
                guesses[text] = max(score, guesses.get(text, 0))
    best = sorted(guesses.items(), key=lambda item: -item[1])
    if best:
        return None if len(best) > 1 and best[0][1] < _MARGIN * best[1][1] else best[0][0]
    # A page in another language than its source's.
    scripts = {script for known in _scripts().values() for script in known if label in script.encodings}
    if claimed is not None and any(_score(claimed, script) is not None for script in scripts):
        return claimed
    return None


def _primary(language: str) -> str:
    return language.partition("-")[0]


def _names(language: str) -> tuple[str, ...]:
    return tuple(name for script in _scripts().get(_primary(language), ()) for name in script.encodings)


def _canonical(label: str) -> str | None:
    try:
        name = codecs.lookup(label.strip().lower()).name
    except (LookupError, ValueError):
        return None
    name = _READ_AS.get(name, name)
    return name if name in _DECLARABLE else None


def _try(data: bytes, encoding: str) -> str | None:
    """The text, unless it has characters that no text has."""
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError, ValueError):
        return None
    return None if _CONTROL.search(text) else text


def _score(text: str, script: _Script) -> float | None:
    """How well `text` fits; None when it does not."""
    counts = Counter(text)  # a list of its characters would take 80 bytes for each
    beyond = {char: number for char, number in counts.items() if char > "\x7f"}
    letters = {char: number for char, number in beyond.items() if char not in _PUNCTUATION}
    num_beyond, num_letters = sum(beyond.values()), sum(letters.values())
    strange = sum(number for char, number in letters.items() if char not in script.letters)
    strange += sum(1 for _ in _MISPLACED.finditer(text))
    if strange > _MAX_STRANGE * num_beyond:
        return None
    if script.is_latin:
        num_ascii_letters = sum(number for char, number in counts.items() if char.isascii() and char.isalpha())
        if 3 * num_letters > 2 * num_ascii_letters or _RUN.search(text):
            return None
        return 1 - strange / max(1, num_beyond)
    misplaced = sum(one.islower() and other.isupper() and other > "\x7f" for one, other in pairwise(text))
    misplaced += sum(1 for _ in _MIXED.finditer(text)) if script.is_spaced else 0
    if not letters or misplaced > _MAX_STRANGE * num_letters:
        return None
    score = sum(number for char, number in letters.items() if char.lower() in script.common) / num_letters
    return score if score >= script.min_common else None

"""Encodings that texts of a language come in, and what pages call them.

Each has a prior in bits: how much rarer it is than the usual one of its language. Python's names.
"""

from __future__ import annotations

import codecs

# What pages declare, and what browsers read it as: https://encoding.spec.whatwg.org/#names-and-labels
_READ_AS = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
    "cp950": "big5hkscs",
}  # fmt: skip
_NAMES = (
    "utf-8 utf-16 utf-16-le utf-16-be cp866 koi8-r koi8-u mac-roman mac-cyrillic cp874 big5hkscs gb18030 euc_jp "
    "iso2022_jp cp932 cp949 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 iso8859-2 iso8859-3 "
    "iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 iso8859-13 iso8859-14 iso8859-15 iso8859-16 "
    "hz iso2022_kr"
)
_DECLARABLE = frozenset(_NAMES.split())
"""Python's names of what a page may declare, by the same list; Python's other codecs are no encodings of pages."""

_USUAL, _STANDARD, _OLD = 0, 2, 8
"""Windows' code pages; ISO's; DOS's and Macintosh's."""
_WEST = {
    "cp1252": _USUAL, "iso8859-15": _STANDARD, "mac-roman": _OLD, "cp850": _OLD, "cp437": _OLD + 1, "cp858": _OLD + 1,
}  # fmt: skip
_CENTRAL = {"cp1250": _USUAL, "iso8859-2": _STANDARD, "cp852": _OLD, "mac-latin2": _OLD}
_BALTIC = {"cp1257": _USUAL, "iso8859-13": _STANDARD, "iso8859-4": _OLD, "cp775": _OLD}
_TURKISH = {"cp1254": _USUAL, "iso8859-9": _STANDARD, "cp857": _OLD, "mac-turkish": _OLD, "iso8859-3": _OLD + 2}
_CELTIC = _WEST | {"iso8859-14": _STANDARD}
_CYRILLIC = {
    "cp1251": _USUAL, "koi8-r": _STANDARD, "iso8859-5": _STANDARD, "cp866": _STANDARD + 1, "mac-cyrillic": _OLD,
    "koi8-u": _OLD, "cp855": _OLD,
}  # fmt: skip
_UKRAINIAN = _CYRILLIC | {"koi8-u": _USUAL, "koi8-r": _OLD, "cp1125": _STANDARD + 1}
_KAZAKH = _CYRILLIC | {"kz1048": _USUAL, "ptcp154": _STANDARD}
_TAJIK = _CYRILLIC | {"koi8-t": _USUAL}
_GREEK = {"cp1253": _USUAL, "iso8859-7": _STANDARD, "cp737": _OLD, "cp869": _OLD, "mac-greek": _OLD}
_HEBREW = {"cp1255": _USUAL, "iso8859-8": _STANDARD, "cp862": _OLD}
_ARABIC = {"cp1256": _USUAL, "iso8859-6": _STANDARD, "cp720": _OLD, "cp864": _OLD + 4}
_THAI = {"cp874": _USUAL, "iso8859-11": _STANDARD}
_VIETNAMESE = {"cp1258": _USUAL}
_CHINESE = {"gb18030": _USUAL, "big5hkscs": _USUAL, "cp950": _STANDARD}
_JAPANESE = {"cp932": _USUAL, "euc_jp": _USUAL, "euc_jis_2004": _OLD, "shift_jis_2004": _OLD, "euc_jisx0213": _OLD + 1}
_KOREAN = {"cp949": _USUAL, "johab": _OLD}
_BY_LANGUAGES = {
    "is fo": _WEST | {"cp861": _OLD},
    "no nb nn da": _WEST | {"cp865": _OLD},
    "ga gd cy br gv kw": _CELTIC,
    "pl cs sk hu sl hr bs sh sq": _CENTRAL,
    "ro mo": _CENTRAL | {"iso8859-16": _STANDARD},
    "lt lv": _BALTIC,
    "et": _WEST | _BALTIC,
    "tr az ku": _TURKISH,
    "eo mt": {"iso8859-3": _USUAL},
    "ru bg mk": _CYRILLIC,
    "uk be": _UKRAINIAN,
    "kk": _KAZAKH,
    "tg": _TAJIK,
    "el": _GREEK,
    "he yi": _HEBREW,
    "ar fa ur ps": _ARABIC,
    "th": _THAI,
    "vi": _VIETNAMESE,
    "zh yue": _CHINESE,
    "ja": _JAPANESE,
    "ko": _KOREAN,
}
_ENCODINGS = {language: group for languages, group in _BY_LANGUAGES.items() for language in languages.split()}
_OTHER_SCRIPTS = {"sr": (("sr", _CYRILLIC), ("sr-latn", _CENTRAL))}
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
SEVEN_BIT = {"iso2022_jp": "ja", "iso2022_jp_ext": "ja", "iso2022_jp_2004": "ja", "iso2022_kr": "ko", "hz": "zh"}
"""Encodings whose bytes are all ASCII, with the language that they are for."""


def encodings_of(language: str) -> tuple[tuple[str, dict[str, int]], ...]:
    """Names of the tables of letters for texts in a language, each with encodings and their priors in bits."""
    return _OTHER_SCRIPTS.get(language) or ((language, _ENCODINGS.get(language, _WEST)),)


def languages_of(encoding: str) -> tuple[str, ...]:
    """Languages, a few of them perhaps by another's table, that are written in `encoding`."""
    found = [language for language, group in _ENCODINGS.items() if encoding in group]
    return (*found, *(("en", "fr", "de", "es", "it", "pt", "nl") if encoding in _WEST else ()))


def canonical(label: str) -> str | None:
    """Python's name of the encoding that browsers read `label` as; None where it is no encoding of pages."""
    try:
        name = codecs.lookup(label.strip().lower()).name
    except (LookupError, ValueError):
        return None
    name = _READ_AS.get(name, name)
    return name if name in _DECLARABLE else None

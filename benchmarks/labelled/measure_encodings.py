"""Measure how encodings are found, by us and by others, on real texts of which the encoding is known.

    python3 -m benchmarks.labelled.measure_encodings FOLDER [NUMBER]

FOLDER has the packages that debian_texts.py names; NUMBER texts of each length are drawn by language. Writes
measure_encodings.json beside this file. A text counts as wrong if a letter of it differs; other detectors are not
told the language. Texts whose bytes are the same as in UTF-8 are left out.
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.labelled.debian_texts import LABELLED, as_typed, read_packages, samples

ROOT = Path(__file__).parents[2]
PEERS_EVERY = 4
"""Other detectors see every fourth text: some take a hundred times as long."""
LENGTHS = (1, 4, 40)
"""Sentences."""
_WEST, _CENTRAL = ("cp1252", "iso8859-15"), ("cp1250", "iso8859-2")
_CYRILLIC, _OLD_CYRILLIC = ("cp1251", "koi8-r", "iso8859-5", "cp866"), ("mac-cyrillic", "cp855")
USUAL = {
    **dict.fromkeys(("en", "fr", "de", "es", "it", "pt", "nl", "ca", "sv", "da", "no", "fi", "is", "ga", "gl"), _WEST),
    **dict.fromkeys(("pl", "cs", "sk", "hu", "sl", "hr"), _CENTRAL),
    **dict.fromkeys(("ru", "bg"), _CYRILLIC),
    "ro": (*_CENTRAL, "iso8859-16"), "lt": ("cp1257", "iso8859-13"), "lv": ("cp1257", "iso8859-13"),
    "et": ("cp1257", "iso8859-13", "cp1252", "iso8859-15"), "tr": ("cp1254", "iso8859-9"), "uk": ("cp1251", "koi8-u"),
    "sr": ("cp1251", "iso8859-5"), "el": ("cp1253", "iso8859-7"), "he": ("cp1255", "iso8859-8"),
    "ar": ("cp1256", "iso8859-6"), "fa": ("cp1256",), "vi": ("cp1258",), "th": ("cp874",),
    "zh": ("gb18030", "big5hkscs"), "ja": ("cp932", "euc_jp", "iso2022_jp"), "ko": ("cp949",), "eo": ("iso8859-3",),
}  # fmt: skip
OLD = {
    **dict.fromkeys(("en", "fr", "de", "es", "it", "pt", "sv", "fi", "ca"), ("cp850", "cp437", "mac-roman")),
    **dict.fromkeys(("pl", "cs", "hu", "sk"), ("cp852", "mac-latin2")),
    **dict.fromkeys(("ru", "bg"), _OLD_CYRILLIC),
    "uk": ("cp1125", "mac-cyrillic"), "el": ("cp737", "mac-greek"), "he": ("cp862",), "tr": ("cp857",),
    "lt": ("cp775",),
}  # fmt: skip
WIDE = ("utf-16-le", "utf-16-be")


def ours(declared: str | None = None) -> Callable[[bytes, str], str | None]:
    """Our decoder, where the page declares something."""
    from sovereign.lake.decoding import decode
    from sovereign.lake.records import Unreadable

    def find(data: bytes, language: str) -> str | None:
        try:
            return decode(data, language, declared=declared)
        except Unreadable:
            return None

    return find


def _by_name(name_of: Callable[[bytes], str | None]) -> Callable[[bytes, str], str | None]:
    def find(data: bytes, _: str) -> str | None:
        try:
            name = name_of(data)
            return None if name is None else data.decode(name)
        except (UnicodeError, LookupError):
            return None

    return find


def methods() -> dict[str, Callable[[bytes, str], str | None]]:
    """Ours and, of others, those that are installed."""
    from sovereign.lake.codepages import encodings_of

    found: dict[str, Callable[[bytes, str], str | None]] = {
        "ours": ours(),
        "ours, declared ISO-8859-1": ours("iso-8859-1"),
    }
    try:
        import charset_normalizer
    except ImportError:
        pass
    else:

        def isolated(data: bytes, language: str) -> str | None:
            names = [
                name for _, group in encodings_of(language) for name in group if name.startswith(("cp", "iso", "koi"))
            ]
            best = charset_normalizer.from_bytes(data, cp_isolation=names or None).best()
            return None if best is None else str(best)

        found["charset-normalizer, cp_isolation"] = isolated
    try:
        import chardet
    except ImportError:
        pass
    else:
        found["chardet"] = _by_name(lambda data: chardet.detect(data)["encoding"])
    try:
        import cchardet
    except ImportError:
        pass
    else:
        found["uchardet (faust-cchardet)"] = _by_name(lambda data: cchardet.detect(data)["encoding"])
    try:
        from resiliparse.parse.encoding import detect_encoding
    except ImportError:
        pass
    else:
        found["resiliparse"] = _by_name(detect_encoding)
    return found


def main(folder: Path, number: int) -> None:
    """Write the counts."""
    texts = read_packages(folder, LABELLED)
    counts: dict[tuple[str, str, int], Counter[str]] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    found = methods()
    for language in USUAL:
        for index, text in enumerate(samples(texts[language], LENGTHS, number, 1)):
            for kind, names in (("usual", USUAL[language]), ("DOS and Mac", OLD.get(language, ())), ("UTF-16", WIDE)):
                for name in names:
                    data = as_typed(text, name)
                    if data is None or (data.isascii() and name != "iso2022_jp"):
                        continue
                    for method, find in found.items():
                        if index % PEERS_EVERY and not method.startswith("ours"):
                            continue
                        start = time.perf_counter()
                        answer = find(data, language)
                        seconds[method] += time.perf_counter() - start
                        length = max(one for one in LENGTHS if one <= text.count("\n") + 1)
                        verdict = _verdict(answer, data.decode(name), language)
                        counts.setdefault((method, kind, length), Counter())[verdict] += 1
    rows = [
        {"method": method, "kind": kind, "sentences": length, **count}
        for (method, kind, length), count in counts.items()
    ]
    result: dict[str, Any] = {"rows": rows, "seconds": {name: round(spent, 1) for name, spent in seconds.items()}}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)
    print(result["seconds"])


_COMMAS = str.maketrans("şţŞŢ", "șțȘȚ")


def _verdict(found: str | None, right: str, language: str) -> str:
    if found is None:
        return "refused"
    same = unicodedata.normalize("NFC", found), unicodedata.normalize("NFC", right)
    if language == "ro":  # the same letters, in Unicode twice
        same = same[0].translate(_COMMAS), same[1].translate(_COMMAS)
    return "right" if same[0] == same[1] else "wrong"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8)

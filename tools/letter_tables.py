"""Make sovereign/lake/letters.json: how often letters, and pairs of them, stand in texts of each language.

Run: python tools/letter_tables.py FOLDER, where FOLDER has the packages that benchmarks/labelled/debian_texts.py names.
Only counts are kept, rounded to whole bits; no text of the packages is in the table.
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

LANGUAGES = (  # noqa: SIM905
    "af ar ast az be bg br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl he hr hu id is it ja kk ko ku lt lv"
    " mk ms nl nn no oc pl pt ro ru sk sl sq sr sr@latin sv th tr uk vi wa zh tg uz"
).split()
WESTERN = ("ca", "da", "de", "en", "es", "fi", "fr", "is", "it", "nl", "no", "pt", "sv")
ALIASES = {
    "nb": "no", "yi": "he", "mo": "ro", "sh": "hr", "ur": "fa", "ps": "fa", "yue": "zh", "gv": "ga", "kw": "br",
    **dict.fromkeys(("fo", "lb", "nds", "rm", "co", "sc", "ht", "mt", "sw", "tl", "fil", "gsw", "xh", "zu"), "west"),
}  # fmt: skip
"""Languages with too little text, and another with the same letters."""
IDEOGRAPHIC = {"zh", "ja", "ko"}
MIN_COUNT = {"zh": 2, "ja": 2, "ko": 2}
MAX_SENTENCES = 20_000
_CANTONESE = "佢哋嘅咗喺嗰啲冇嚟咁乜嘢唔畀係俾噉咪啱攞"
"""Common in Hong Kong, and in none of the texts."""
_CEDILLAS = str.maketrans("șțȘȚ", "şţŞŢ")


def main(folder: Path) -> None:
    """Write the table."""
    from benchmarks.labelled.debian_texts import TRAINING, read_packages
    from sovereign.lake.letters import make_letters

    texts = read_packages(folder, TRAINING)
    signs: Counter[str] = Counter()
    tables = {name: _table(name, texts[name], signs) for name in LANGUAGES}
    tables["west"] = _table("west", [text for name in WESTERN for text in texts[name][::8]], Counter())
    # Serbian and Uzbek are written in two scripts; both count for the language.
    tables["sr-latn"] = tables.pop("sr@latin")
    rare = _by_bits(signs, sum(signs.values()) * 8)
    for name, table in tables.items():
        sentences = texts["sr@latin" if name == "sr-latn" else "fr" if name == "west" else name]
        table["max_mean"] = _max_mean(make_letters(table, rare), sentences)
    result = {"aliases": ALIASES, "signs": rare, "languages": tables}
    path = ROOT / "sovereign/lake/letters.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=0, sort_keys=True) + "\n", "utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes, {len(tables)} languages")


def _table(name: str, sentences: list[str], signs: Counter[str]) -> dict[str, Any]:
    from sovereign.lake.letters import fold

    chars: Counter[str] = Counter()
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    if name == "ro":  # old encodings have cedillas where commas belong
        sentences = [*sentences, *(text.translate(_CEDILLAS) for text in sentences)]
    for text in sentences[:: max(1, len(sentences) // MAX_SENTENCES)]:
        folded = [fold(char) for char in f" {text} "]
        chars.update(folded[1:])
        if name not in IDEOGRAPHIC:
            for one, other in pairwise(folded):
                pairs[one][other] += 1
    signs.update({char: number for char, number in chars.items() if unicodedata.category(char)[0] not in "LMZ"})
    least, total = MIN_COUNT.get(name, 3), sum(chars.values())
    kept = {char: number for char, number in chars.items() if char > "\x7f" and number >= least}
    if name == "zh":
        kept |= {char: kept.get(char, 0) + total // 2**12 for char in _CANTONESE}
    grouped: dict[int, list[str]] = defaultdict(list)
    for one, followers in pairs.items():
        for other, number in followers.items():
            if number >= least and (one > "\x7f" or other > "\x7f"):
                grouped[_bits(number, sum(followers.values()))].append(one + other)
    return {"chars": _by_bits(kept, total), "pairs": _join(grouped)}


def _max_mean(letters: Any, sentences: list[str]) -> float:
    """What all but one of 200 sentences cost less than, and a bit more; less than what other languages cost."""
    costs = [letters.cost(text) for text in sentences[:: max(1, len(sentences) // 4000)]]
    means = sorted(bits / number for bits, number in costs if number > 1)
    most = means[int(len(means) * 0.995)] + 2
    if not letters.is_latin and letters.pairs:  # all letters count, so that means lie close together
        most = min(most, 1.4 * means[len(means) // 2] + 0.5)
    return float(min(13.5, round(most, 1)))


def _bits(number: int, total: int) -> int:
    return round(-math.log2(number / total))


def _by_bits(counts: Mapping[str, int], total: int) -> dict[str, str]:
    grouped: dict[int, list[str]] = defaultdict(list)
    for char, number in counts.items():
        if char > "\x7f":
            grouped[_bits(number, total)].append(char)
    return _join(grouped)


def _join(grouped: Mapping[int, list[str]]) -> dict[str, str]:
    return {str(bits): "".join(sorted(items)) for bits, items in sorted(grouped.items())}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

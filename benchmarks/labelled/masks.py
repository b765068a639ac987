"""Precision and recall of the masks of personal data (sovereign/lake/pii.py) on labelled text in ten languages.

    apt-get download PACKAGES (below); dpkg -x each PACKAGE.deb FOLDER
    python3 -m benchmarks.labelled.masks FOLDER [--real | --misses] > benchmarks/labelled/masks.json

The text is Debian's documentation. Between its lines stand made sentences (masks_made.py): half have valid personal
data, half have numbers that look like it. What is masked in the real lines is labelled in masks_labels.json: strings
that are personal data, read one by one, and strings that are not. A string without a label stops the script. `--real`
prints what needs a label, `--misses` the made sentences that come out wrong.
"""

from __future__ import annotations

import gzip
import html
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.labelled.masks_made import REGIONS, Sentence, make_sentences
from sovereign.lake.pii import Masker
from sovereign.profile_cleaning import PersonalData

PACKAGES = (
    "debian-handbook",
    *(f"debian-reference-{name}" for name in ("de", "es", "fr", "it", "ja", "pt-br", "zh-cn")),
    *(f"developers-reference-{name}" for name in ("de", "fr", "it", "ja", "ru")),
    "manpages-pl",
    "manpages-ru",
)
_HANDBOOK = {"ar": "ar-MA", "de": "de-DE", "es": "es-ES", "fr": "fr-FR", "it": "it-IT", "ja": "ja-JP"} | {
    "pl": "pl-PL",
    "pt": "pt-BR",
    "ru": "ru-RU",
    "zh": "zh-CN",
}
_OTHERS = {
    "pt": ["debian-reference/debian-reference.pt-br.txt.gz"],
    "zh": ["debian-reference/debian-reference.zh-cn.txt.gz"],
    "pl": ["man/pl/man*/*.gz"],
    "ru": ["developers-reference/ru/developers-reference.txt.gz", "man/ru/man*/*.gz"],
}
PER_LANGUAGE = 400
"""Sentences of either sort that are put into each language's text."""
_MASK = re.compile(r"<(EMAIL|IBAN|CARD|FR-NIR|IP|PHONE)>")


def real_lines(folder: Path, language: str) -> Iterator[str]:
    """Lines of the documentation in a language that have a character."""
    share = folder / "usr" / "share"
    for path in sorted((share / "doc" / "debian-handbook" / "html" / _HANDBOOK[language]).glob("*.html")):
        body = re.sub(r"(?s)<(script|style|head)\b.*?</\1>", "", path.read_text(encoding="utf-8"))
        body = re.sub(r"\s+", " ", re.sub(r"</?(?:p|div|li|h\d|pre|td|dt|dd|br)\b[^>]*>", "\x00", body))
        yield from filter(str.strip, html.unescape(re.sub(r"<[^>]+>", "", body)).split("\x00"))
    default = [f"debian-reference/debian-reference.{language}.txt.gz"]
    default.append(f"developers-reference/{language}/developers-reference.txt.gz")
    for pattern in _OTHERS.get(language, default):
        for path in sorted(share.glob(pattern)):
            yield from filter(str.strip, gzip.decompress(path.read_bytes()).decode().split("\n"))


def masked_in(line: str, masked: str) -> list[tuple[str, str]]:
    """Kind and string of each mask in a line."""
    pieces = _MASK.split(masked)
    pattern = "".join("(.+?)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces))
    match = re.fullmatch(pattern, line)
    return list(zip(pieces[1::2], match.groups(), strict=True)) if match else []


def _kind(found: str) -> str:
    """The kind of a labelled string."""
    return "EMAIL" if "@" in found else "IP" if re.fullmatch(r"[0-9.]+|[0-9a-f:]+", found) else "PHONE"


def score_made(sentence: Sentence, masked: str, counts: dict[str, Counter[str]]) -> bool:
    """Count a made sentence's masks; whether it came out right."""
    wanted, found = Counter(_MASK.findall(sentence.masked)), Counter(_MASK.findall(masked))
    is_right = masked == sentence.masked
    for kind in wanted | found:
        right = min(wanted[kind], found[kind])
        if not is_right and wanted == found:
            right = 0  # a part of it, or something else
        counts[kind]["right"] += right
        counts[kind]["wrong"] += found[kind] - right
        counts[kind]["missed"] += wanted[kind] - right
    if not sentence.kind:
        counts[sentence.sort]["kept" if is_right else "masked"] += 1
    return is_right


class Real:
    """What is masked in real lines."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unlabelled: dict[str, str] = {}
        self._labels = json.loads(Path(__file__).with_name("masks_labels.json").read_text(encoding="utf-8"))
        strings = "|".join(map(re.escape, self._labels["personal"]))
        self._personal = re.compile(rf"(?<![\w.:])(?:{strings})(?![\w.:])")

    def score(self, line: str, masked: str, language: str) -> None:
        """Count a line's masks, and labelled personal data that has none."""
        for missed in self._personal.findall(masked):
            self.counts[_kind(missed)]["missed"] += 1
        for kind, found in masked_in(line, masked):
            if found in self._labels["personal"]:
                self.counts[kind]["right"] += 1
            elif found in self._labels["not personal"]:
                self.counts[kind]["wrong"] += 1
            elif kind == "EMAIL" and re.fullmatch(r"[\w.+%-]+@[\w.-]+\.[a-z]{2,}", found):
                self.counts[kind]["right"] += 1
            else:
                self.unlabelled[found] = f"{language} {kind} {line.strip()[:160]}"


def measure(folder: Path, mode: str) -> dict[str, object]:
    """The report."""
    made: defaultdict[str, Counter[str]] = defaultdict(Counter)
    real = Real()
    languages: dict[str, dict[str, int]] = {}
    for language, regions in REGIONS.items():
        rng = random.Random(language)
        lines: list[str | Sentence] = list(real_lines(folder, language))
        counts = {"real_lines": len(lines), "real_numbers": sum(len(re.findall(r"\d+", str(line))) for line in lines)}
        for sentence in make_sentences(language, PER_LANGUAGE, rng):
            lines.insert(rng.randrange(len(lines)), sentence)
        masker = Masker(PersonalData(phone_regions=regions))
        out = masker.mask("\n".join(line.text if isinstance(line, Sentence) else line for line in lines))[0].split("\n")
        wrong = 0
        for line, masked in zip(lines, out, strict=True):
            if not isinstance(line, Sentence):
                real.score(line, masked, language)
            elif not score_made(line, masked, made):
                wrong += 1
                if mode == "--misses":
                    sys.stdout.write(f"{language} {line.sort} | {line.text} | {masked}\n")
        languages[language] = {**counts, "made_wrong": wrong}
    if mode == "--real":
        sys.stdout.writelines(f"{found!r:28} {where}\n" for found, where in real.unlabelled.items())
    elif real.unlabelled:
        raise SystemExit(f"{len(real.unlabelled)} strings without a label, see --real: {list(real.unlabelled)[:5]}")
    return report(made, real.counts, languages)


def report(
    made: dict[str, Counter[str]], real: dict[str, Counter[str]], languages: dict[str, dict[str, int]]
) -> dict[str, object]:
    """Precision and recall by kind, in made and real lines together; and what was kept of numbers by sort."""
    kinds: dict[str, dict[str, float]] = {}
    total: Counter[str] = Counter()
    for kind in ("EMAIL", "IBAN", "CARD", "FR-NIR", "IP", "PHONE", "all"):
        count = total if kind == "all" else made[kind] + real[kind]
        total += Counter() if kind == "all" else count
        kinds[kind] = {
            "right": count["right"],
            "wrong": count["wrong"],
            "missed": count["missed"],
            "precision": round(count["right"] / max(1, count["right"] + count["wrong"]), 4),
            "recall": round(count["right"] / max(1, count["right"] + count["missed"]), 4),
        }
    kept = {sort: dict(count) for sort, count in sorted(made.items()) if "kept" in count or "masked" in count}
    return {"kinds": kinds, "numbers that are no personal data": kept, "languages": languages}


if __name__ == "__main__":
    mode = sys.argv[2] if len(sys.argv) > 2 else ""
    result = json.dumps(measure(Path(sys.argv[1]), mode), indent=1, ensure_ascii=False)
    (sys.stderr if mode else sys.stdout).write(result + "\n")

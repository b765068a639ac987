"""Measure extractors of main text on the pages that build_pages.py made.

    python3 -m benchmarks.labelled.measure_pages SET/pages.jsonl --out docs/readers-pages.json

Needs the kit's packages and, to compare, trafilatura, readability-lxml and justext from PyPI.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.labelled.score import Score, score


def ours(page: str) -> str:
    from sovereign.lake.htmltext import main_text

    return main_text(page).text


def trafilatura_precision(page: str) -> str:
    import trafilatura

    return trafilatura.extract(page, include_comments=False, favor_precision=True) or ""


def trafilatura_default(page: str) -> str:
    import trafilatura

    return trafilatura.extract(page, include_comments=False) or ""


def trafilatura_recall(page: str) -> str:
    import trafilatura

    return trafilatura.extract(page, include_comments=False, favor_recall=True) or ""


def resiliparse_main(page: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(page, main_content=True)


def resiliparse_whole(page: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(page, main_content=False)


def readability(page: str) -> str:
    from lxml import html
    from readability import Document

    return " ".join(html.fromstring(Document(page).summary()).itertext())


def justext(page: str) -> str:
    import justext as library

    paragraphs = library.justext(page.encode(), frozenset(), length_low=0, stopwords_low=0, stopwords_high=0)
    return "\n".join(one.text for one in paragraphs if not one.is_boilerplate)


EXTRACTORS: dict[str, Callable[[str], str]] = {
    "this kit": ours,
    "trafilatura": trafilatura_default,
    "trafilatura, precision": trafilatura_precision,
    "trafilatura, recall": trafilatura_recall,
    "resiliparse, main content": resiliparse_main,
    "resiliparse, whole page": resiliparse_whole,
    "readability-lxml": readability,
    "jusText, without stop words": justext,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help="extractors")
    parser.add_argument("--worst", type=int, default=0, help="print so many of the worst pages of the first extractor")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.pages.read_text().splitlines()]
    pages = {(line["generator"], line["language"], line["name"]): line for line in lines}
    extractors = options.only or list(EXTRACTORS)
    scores: dict[str, dict[str, Score]] = {name: defaultdict(Score) for name in extractors}
    seconds = dict.fromkeys(extractors, 0.0)
    worst = []
    for line in pages.values():
        page = (options.pages.parent / line["file"]).read_text("utf-8", "replace")
        for name in extractors:
            start = time.process_time()
            try:
                text = EXTRACTORS[name](page)
            except Exception as error:  # noqa: BLE001  (an extractor that fails gives nothing)
                print(name, line["file"], repr(error)[:200], file=sys.stderr)
                text = ""
            seconds[name] += time.process_time() - start
            one = score(line["label"], text)
            for key in (line["generator"], f"language {line['language']}", "all"):
                scores[name][key].add(one)
            if name == extractors[0]:
                worst.append((min(one.recall, 1 - one.surplus), one.recall, one.surplus, line["file"]))
    result = {
        "pages": len(pages),
        "versions": {name: importlib.metadata.version(name) for name in ("trafilatura", "resiliparse", "lxml")},
        "extractors": {
            name: {
                "seconds": round(seconds[name], 2),
                "scores": {
                    key: {"recall": round(one.recall, 4), "surplus": round(one.surplus, 4), "words": one.label}
                    for key, one in sorted(scores[name].items())
                },
            }
            for name in extractors
        },
    }
    for name in extractors:
        print(f"{name}: {seconds[name]:.1f} s")
        for key, one in sorted(scores[name].items()):
            print(f"  {key:26} recall {one.recall:.4f} surplus {one.surplus:.4f}")
    print(*sorted(worst)[: options.worst], sep="\n")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

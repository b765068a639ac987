"""Measure readers of PDF on the files that build_pdfs.py made: words in order, and time, interleaved.

    python3 -m benchmarks.labelled.measure_pdfs SET/pdfs.jsonl --out docs/readers-pdfs.json

Needs the kit's packages and, to compare, pypdf from PyPI and pdftotext.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.labelled.score import Score, score


def ours(path: Path) -> str:
    from sovereign.lake.pdfpages import read_pages
    from sovereign.lake.pdftext import extract

    return extract([lines for _, _, lines in read_pages(path.read_bytes())]).text


def pypdf(path: Path) -> str:
    from pypdf import PdfReader

    return "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(path.read_bytes())).pages)


def pdfium(path: Path) -> str:
    import pypdfium2

    document = pypdfium2.PdfDocument(path.read_bytes())
    return "\n\n".join(page.get_textpage().get_text_range() for page in document)


def pdftotext(path: Path) -> str:
    return subprocess.run(["pdftotext", path, "-"], capture_output=True, check=True).stdout.decode()


def _seconds() -> float:
    """Of processors, by this process and those that it started."""
    return sum(os.times()[:4])


READERS: dict[str, Callable[[Path], str]] = {
    "this kit": ours, "pypdf": pypdf, "PDFium alone": pdfium, "pdftotext": pdftotext,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pdfs", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help="readers")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.pdfs.read_text().splitlines()]
    files = {line["file"]: line for line in lines}
    readers = options.only or list(READERS)
    scores: dict[str, dict[str, Score]] = {name: defaultdict(Score) for name in readers}
    seconds, refused = dict.fromkeys(readers, 0.0), dict.fromkeys(readers, 0)
    for file, line in files.items():
        for name in readers:
            start = _seconds()
            text = READERS[name](options.pdfs.parent / file)
            seconds[name] += _seconds() - start
            if not line["letters"]:
                refused[name] += not text
                continue
            one = score(line["label"], text)
            for key in (
                f"{line['language']}, {line['producer']}",
                f"language {line['language']}",
                line["producer"],
                "all",
            ):
                scores[name][key].add(one)
    result = {
        "files": len(files),
        "files without letters": sum(not line["letters"] for line in files.values()),
        "versions": {name: importlib.metadata.version(name) for name in ("pypdfium2", "pypdf")},
        "readers": {
            name: {
                "seconds": round(seconds[name], 2),
                "refused without letters": refused[name],
                "scores": {
                    key: {"recall": round(one.recall, 4), "surplus": round(one.surplus, 4), "words": one.label}
                    for key, one in sorted(scores[name].items())
                },
            }
            for name in readers
        },
    }
    for name in readers:
        print(f"{name}: {seconds[name]:.1f} s")
        for key, one in sorted(scores[name].items()):
            print(f"  {key:26} recall {one.recall:.4f} surplus {one.surplus:.4f}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

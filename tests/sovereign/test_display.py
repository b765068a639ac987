"""Text of others in Markdown, as a real parser reads it (row sec14)."""

from __future__ import annotations

import unicodedata

import pytest
from markdown_it import MarkdownIt

from sovereign.display import escape_markdown, one_line, spell, visible

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "![x](https://evil.example/a.png)",
    "javascript link": "[x](javascript:alert(2))",
    "reference": "[x][y]\n\n[y]: https://evil.example",
    "autolink": "<https://evil.example>",
    "entity": "&lt;script&gt; &#60;b&#62;",
    "comment": "<!-- hidden",
    "cdata": "<![CDATA[x]]> <?php x ?> <!DOCTYPE html>",
    "table": "a | b |\n|---|---|",
    "escaped pipe": "a \\| b \\\\| c",
    "heading": "# big",
    "setext": "text\n====",
    "rule": "---",
    "list": "- a\n- b",
    "numbered": "1. a",
    "quote": "> a",
    "fence": "```\ncode\n```",
    "tildes": "~~~\ncode\n~~~",
    "code": "`code` ``more``",
    "indented": "     code",
    "emphasis": "*a* _b_ **c** __d__ ~~e~~",
    "math": "$\\frac{1}{2}$ $$x$$",
    "footnote": "[^1]",
    "front matter": "---\nlicense: mit\n---",
    "backslash at the end": "a\\",
    "line break": "a  \nb",
}
BIDI = {
    "override": "\u202egnp.exe",
    "embedding": "a \u202b b",
    "unbalanced end of isolate": "\u2069\u2069 a \u202e",
    "isolate": "\u2066a",
    "zero width": "a\u200bb\ufeffc\u00add",
    "escape": "\x1b[31mred\x07",
    "nul": "a\x00b",
    "paragraph separator": "a\u2029b",
    "tag characters": "a\U000e0041",
    "surrogate": "a\ud800",
}
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def paragraph(text: str) -> str:
    """What a reader sees of Markdown that is one paragraph without any mark."""
    first, content, last = PARSER.parse(text)
    assert (first.type, last.type) == ("paragraph_open", "paragraph_close")
    children = content.children or []
    assert {child.type for child in children} <= {"text", "text_special"}, [child.type for child in children]
    return "".join(child.content for child in children)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_sec14_hostile_text_is_text(text: str) -> None:
    shown = " ".join(text.split())
    assert paragraph(escape_markdown(text)) == shown
    cells = PARSER.parse(f"| name | other |\n|---|---|\n| {escape_markdown(text)} | next |\n")
    inline = [token for token in cells if token.type == "inline"]
    assert len(inline) == 4
    assert "".join(child.content for child in inline[2].children or []) == shown
    assert {child.type for child in inline[2].children or []} <= {"text", "text_special"}
    assert inline[3].content == "next"


@pytest.mark.parametrize("text", BIDI.values(), ids=BIDI)
def test_sec14_what_is_not_seen_is_spelt(text: str) -> None:
    shown = paragraph(escape_markdown(text))
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    for page in (spell(text), visible(text)):
        assert not [char for char in page if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    shown.encode()  # no lone surrogate


@pytest.mark.parametrize("text", ["الأرشيف الوطني", "ארכיון", "abc \u200f(1)", "مكتبة 12 | b"])
def test_sec14_right_to_left_text_is_isolated(text: str) -> None:
    assert one_line(text) == f"\u2068{text}\u2069"
    # An end of an isolate in the text would end ours.
    assert one_line(text + "\u2069 x").count("\u2069") == 1
    assert paragraph(escape_markdown(text)) == f"\u2068{text}\u2069"


def test_sec14_plain_text_is_as_it_was() -> None:
    text = "Ministère de l’Intérieur, 東京都, भारत\u200d"
    assert one_line(text) == text and spell(f"{text}\n{text}") == f"{text}\n{text}"

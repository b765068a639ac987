"""The main text of web pages (rows L1): nothing is lost around inline elements, and navigation goes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sovereign.lake.htmltext import main_text
from sovereign.lake.records import Report, Unreadable
from tests.sovereign.lake.reading import read


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<div>Start <b>bold</b> and <a href=x>link</a> end <p>long</p> after <i>it</i>.</div>",
         "Start bold and link end\n\nlong\n\nafter it."),
        ("<p>un<wbr>divided, <span>wo</span>rd, <em>a</em><strong>b</strong></p>", "undivided, word, ab"),
        ("<p>Haupt<br>stadt</p>", "Haupt\nstadt"),
        ("<p>10<sup>2</sup> m<sup>-1</sup>, 1<sup>er</sup>, H<sub>2</sub>O</p>", "10² m⁻¹, 1er, H2O"),
        ("<p><ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>です</p>", "漢字(かんじ)です"),
        ("<p>Unter&shy;nehmen</p>", "Unternehmen"),
        ("<ul><li><div>one</div></li><li>two<ul><li>a<li>b</ul></li></ul>", "- one\n- two\n- a\n- b"),
        ("<ol start=3><li>x<li value=7>y<li>z</ol>", "3. x\n7. y\n8. z"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a | b\n1 | 2"),
        ("<table><tr><td><p>one<p>two<td><p>side</table>", "one\n\ntwo\n\nside"),
        ("<dl><dt>term<dd>what it is</dl>", "term\nwhat it is"),
        ("<pre>  x = 1\n    y\n\n z</pre>", "  x = 1\n    y\n\n z"),
        ("<details><summary>More</summary>hidden until asked</details>", "More\n\nhidden until asked"),
        ("<p>seen</p><p hidden>h</p><p style='display: none'>n</p><p aria-hidden=true>a</p>", "seen"),
        ("<p>a</p><script>s()</script><style>p{}</style><template><p>t</template><noscript>n</noscript><!-- c --><p>b",
         "a\n\nb"),
        ("plain text, no <b>paragraph</b>", "plain text, no paragraph"),
        ("<p>if 1 &lt; 2 &amp; 3 > 2</p>", "if 1 < 2 & 3 > 2"),
        ("<p>see <x-term>the word</x-term><x-term>next</x-term>.</p>", "see the word next ."),
    ],
)  # fmt: skip
def test_l1_inline_and_block_elements(page: str, text: str) -> None:
    assert main_text(page).text == text


SITE = """<html><head><title>T</title></head><body>
<header><a href=/>Our site</a> <a href=/about>About</a></header>
<nav><ul><li><a href=/1>First</a><li><a href=/2>Second</a></ul></nav>
<div class="breadcrumbs"><a href=/>Home</a> / <a href=/n>News</a></div>
{}
<aside><h2>Related</h2><a href=/3>Third</a></aside>
<div class="cookie-consent">We use cookies.</div>
<footer>Copyright 2020 Somebody</footer></body></html>"""


@pytest.mark.parametrize(
    "main", ["<main>{}</main>", "<div role=main>{}</div>", "<article>{}</article>", "<div>{}</div>"]
)
def test_l1_navigation_goes_and_is_counted(main: str) -> None:
    body = "<h1>Title<a class=headerlink href=#t>¶</a></h1><p>The text with <a href=x>a link</a> in it.</p><p>End.</p>"
    found = main_text(SITE.format(main.format(body)))
    assert found.text == "Title\n\nThe text with a link in it.\n\nEnd."
    assert found.num_words == 9
    assert found.num_words_left_out == 16 + 1  # with the mark of the heading's place


def test_l1_headings_of_the_text_in_header_elements_stay() -> None:
    page = "<body><header><h1>Title</h1><p>By A. Author</p></header><p>Text.</p></body>"
    assert main_text(page).text == "Title\n\nBy A. Author\n\nText."


def test_l1_quotations_keep_their_footer() -> None:
    page = "<body><blockquote><p>To be.</p><footer>Hamlet</footer></blockquote></body>"
    assert main_text(page).text == "To be.\n\nHamlet"


def test_l1_page_of_navigation_only_keeps_what_is_text() -> None:
    assert main_text("<nav>only this text here</nav>").text == "only this text here"


def test_l1_what_was_left_out_is_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(SITE.format("<main><p>The text of it.</p></main>"))
    _, report = read(tmp_path)
    assert report.metrics()["extraction"] == {"page words kept": 4, "page words left out": 16}
    assert Report.from_metrics(report.metrics()) == report


@pytest.mark.parametrize(
    "part", ["<div class=nav>", "<aside>", "<div><span>", "<ul><li>", "<table><tr><td>", "<a href=x>"]
)
def test_l1_nested_pages_end(part: str) -> None:
    start = time.process_time()
    for depth in (200, 100_000):
        try:
            main_text(f"<body>{part * depth}text</body>")
        except Unreadable as error:
            assert error.message in ("page that cannot be parsed", "page without text")
    assert time.process_time() - start < 20

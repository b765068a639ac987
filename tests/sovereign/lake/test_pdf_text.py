"""The text of PDF files (row L3): order of reading, paragraphs, and what stands on every page."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from sovereign.lake.pdforder import Letter, reading_order
from sovereign.lake.pdftext import Line, extract
from tests.sovereign.lake.pdf import pdf_of
from tests.sovereign.lake.reading import read


def lines(*texts: str, top: float = 700, leading: float = 14, left: float = 72) -> list[Line]:
    """Lines under each other, as wide as they are long."""
    return [Line(text, left, left + 5 * len(text), top - leading * place, 12, 10) for place, text in enumerate(texts)]


def letters(seen: str, *, stored: str | None = None) -> list[Letter]:
    """A line as it is seen from the left; each letter is 5 points wide. Args: `stored` is the order in the file."""
    places = {place: Letter(char, 5.0 * place, 5.0 * place + 5, 12) for place, char in enumerate(seen)}
    if stored is None:
        return list(places.values())
    left = list(places.items())
    found = []
    for char in stored:
        place, letter = next((place, letter) for place, letter in left if letter.char == char)
        left.remove((place, letter))
        found.append(letter)
    return found


@pytest.mark.parametrize(
    ("read_as", "seen"),
    [
        ("שלום עולם", "םלוע םולש"),
        ("מחיר 25 ולא 60", "60 אלו 25 ריחמ"),
        ("גרסה 3.14 מתאריך 01/02/2020.", ".01/02/2020 ךיראתמ 3.14 הסרג"),
        ("קרא Hover Click כאן", "ןאכ Hover Click ארק"),
        ("السعر 25 وليس 60", "60 سيلو 25 رعسلا"),
        ("عام ١٤٤٤ هـ", "ـه ١٤٤٤ ماع"),
    ],
)
def test_l3_right_to_left_lines_in_either_order_of_the_file(read_as: str, seen: str) -> None:
    assert reading_order(letters(seen)) == read_as  # stored as it is seen from the left
    assert reading_order(letters(seen)[::-1]) == read_as


def test_l3_files_that_show_words_reversed_are_turned() -> None:
    text = ["הספר של הילדים", "הם קוראים את הספרים", "בלילות ארוכים של חורף ב 2020", "עם חברים טובים ושירים"]
    turned = extract([lines(*text)]).text
    reversed_lines = [line[::-1].replace("0202", "2020") for line in text]
    assert extract([lines(*reversed_lines)]).text == turned
    assert "של חורף ב 2020" in turned


def test_l3_lines_become_paragraphs_and_divided_words_one() -> None:
    page = lines(
        "Alle Menschen sind vor dem Gesetz gleich und haben ohne Unter\ufffe", "schied Anspruch auf gleichen Schutz.",
        "Die Nord\ufffe", "Süd-Achse und Rede\ufffe", "und Glaubensfreiheit in 3 Ländern der Welt.",
    )  # fmt: skip
    assert extract([page]).text == (
        "Alle Menschen sind vor dem Gesetz gleich und haben ohne Unterschied Anspruch auf gleichen Schutz.\n\n"
        "Die Nord-Süd-Achse und Rede- und Glaubensfreiheit in 3 Ländern der Welt."
    )


def test_l3_han_lines_are_joined_without_spaces() -> None:
    assert extract([lines("人人生而自由，在尊严和权 利上一律平", "等。他们赋有理性和良心。")]).text == (
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。"
    )


def test_l3_leaders_of_a_table_of_contents_go() -> None:
    page = lines(
        "1 Introduction . . . . . . . . . . . . . 3", "2 The method.................... 14", "and so on... he said"
    )
    assert extract([page]).text.split("\n\n")[0].startswith("1 Introduction 3")
    assert ".." not in extract([page]).text.replace("on...", "")
    assert "so on... he" in extract([page]).text


def test_l3_running_heads_and_page_numbers_go_and_headings_stay() -> None:
    pages = [
        [
            *lines("The handbook", top=780),
            *lines(f"Article {number}", f"The text of page {number} says {number} things.", top=720),
            *lines(f"{number + 4} / 20", top=40),
        ]
        for number in range(1, 9)
    ]
    found = extract(pages)
    assert "handbook" not in found.text
    assert "/ 20" not in found.text
    assert all(f"Article {number}" in found.text and f"says {number} things" in found.text for number in range(1, 9))
    assert found.words_left_out == 8 * 5


def test_l3_pages_without_letters_are_left_out() -> None:
    garbage = lines("\x07r` \x9dA\x9e\x07r` \x9dA\x9e", "(cid:12)(cid:7) x (cid:3)")
    private = lines("\ue001\ue002\ue003 \ue004\ue005")
    found = extract([garbage, lines("A page of text."), private])
    assert (found.text, found.pages_without_letters) == ("A page of text.", 2)


def test_l3_shapes_of_letters_become_letters() -> None:
    assert extract([lines("ﬁnal eﬀect", "\ufefb \ufee3\ufe8e", "\uf0b7 item")]).text.split() == (
        ["final", "effect", "لا", "ما", "•", "item"]
    )


def _pdf(font: bytes, content: bytes, *, rotate: int = 0) -> bytes:
    packed = zlib.compress(content)
    page = b"<</Type/Page/Parent 2 0 R/Rotate %d/MediaBox[0 0 600 800]/Contents 3 0 R/Resources<</Font<</F 4 0 R>>>>>>"
    return pdf_of(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[5 0 R]>>",
            b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed),
            font,
            page % rotate,
        ]
    )


HELVETICA = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"


@pytest.mark.parametrize("matrix", [b"1 0 0 1 72 720", b"0 1 -1 0 100 100", b"0 -1 1 0 100 700", b"-1 0 0 -1 500 100"])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_l3_rotated_pages_and_text(rotate: int, matrix: bytes, tmp_path: Path) -> None:
    content = b"BT /F 12 Tf %b Tm (The first line of) Tj 0 -14 Td (one sentence.) Tj ET" % matrix
    (tmp_path / "a.pdf").write_bytes(_pdf(HELVETICA, content, rotate=rotate))
    documents, report = read(tmp_path)
    assert documents[0].text == "The first line of one sentence."
    assert report.metrics()["extraction"] == {
        "PDF pages kept": 1, "PDF pages left out, without letters": 0, "PDF words kept": 6, "PDF words left out": 0,
    }  # fmt: skip


def test_l3_file_whose_font_does_not_say_its_letters_is_refused(tmp_path: Path) -> None:
    font = b"<</Type/Font/Subtype/Type1/BaseFont/X/FirstChar 1/LastChar 9/Encoding<</Differences[1/g1/g2/g3/g4/g5]>>>>"
    (tmp_path / "a.pdf").write_bytes(_pdf(font, b"BT /F 12 Tf 72 720 Td (\\001\\002\\003 \\004\\005\\001\\002) Tj ET"))
    documents, report = read(tmp_path)
    assert not documents
    assert report.skipped.keys() <= {"PDF whose fonts do not say their letters", "PDF without text"}


def test_l3_progress_within_a_file(tmp_path: Path) -> None:
    from sovereign.lake.pdf import pdf_text

    one = b"BT /F 12 Tf 72 720 Td (text) Tj ET"
    assert pdf_text(_pdf(HELVETICA, one), lambda done, total: None).num_pages == 1

"""Text that was decoded twice is repaired; text that is about it, or only looks like it, stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sovereign.lake.mojibake import repair
from tests.sovereign.lake.reading import read
from tests.sovereign.lake.test_decoding import TEXTS


@pytest.mark.parametrize("page", ["latin-1", "cp1252", "cp1251"])
@pytest.mark.parametrize("language", TEXTS)
def test_l7_text_decoded_twice_is_repaired(language: str, page: str) -> None:
    wrong = "".join(_misread(char, page) for char in TEXTS[language])
    if wrong != TEXTS[language]:
        assert repair(wrong, language) == (TEXTS[language], 1)


def _misread(char: str, page: str) -> str:
    """As browsers do, where the page leaves a byte out."""
    data = char.encode()
    try:
        return data.decode(page)
    except UnicodeError:
        return "".join(_one(bytes([byte]), page) for byte in data)


def _one(byte: bytes, page: str) -> str:
    try:
        return byte.decode(page)
    except UnicodeError:
        return chr(byte[0])


@pytest.mark.parametrize(
    ("language", "text", "right"),
    [
        ("de", "GrÃ¼ÃŸe aus KÃ¶ln", "Grüße aus Köln"),
        ("de", "GrÃƒÂ¼ÃƒÂŸe aus KÃƒÂ¶ln", "Grüße aus Köln"),
        ("en", "itâ€™s a cafÃ©", "it’s a café"),
        ("de", "Schöne Grüße\naus KÃ¶ln", "Schöne Grüße\naus Köln"),
        ("fr", "dÃ©jÃ\xa0 vu", "déjà vu"),
        ("hi", "à¤°à¤‚à¤— à¤”à¤° à¤¸à¤«à¤¼à¥‡à¤¦", "रंग और सफ़ेद"),
    ],
)
def test_l7_parts_of_a_text(language: str, text: str, right: str) -> None:
    assert repair(text, language) == (right, 1)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        *TEXTS.items(),
        ("de", "Aus dem Wort „für“ wird dann fÃ¼r, aus „schön“ wird schÃ¶n."),
        ("en", "A file that shows “Ã©” or “Ã¼” was read in the wrong encoding."),
        ("en", "The bytes of é read as Latin-1 are Ã©."),
        ("pt", "NÃO, SÃO PAULO, À “MÃE”: ÂMBITO, VÂ‘Â"),
        ("vi", "Ôi! Ñ, Ã, Ấ, CHÂU ÂU “Â”, ĐẤT NƯỚC"),
        ("fr", "À «\xa0PÂTÉ\xa0», Ô\xa0«\xa0DÉJÀ\xa0»"),
        ("uk", "Сіль і Сіяч, Рівне, Різдво, Сєвєродонецьк"),
        ("ru", "Рёв и Сёмга, СССР “Р” и ‘С’"),
        ("en", "A² + B² = C², 5 × 3 °C, £5, ½ © ®"),
    ],
)
def test_l7_right_text_stays(language: str, text: str) -> None:
    assert repair(text, language) == (text, 0)


def test_l7_documents_are_counted(tmp_path: Path) -> None:
    lines = [{"text": "GrÃ¼ÃŸe aus KÃ¶ln"}, {"text": "Grüße aus Köln"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    documents, report = read(tmp_path, "de")
    assert [one.text for one in documents] == ["Grüße aus Köln"] * 2
    assert report.metrics()["decoded_twice_and_repaired"] == 1
    assert type(report).from_metrics(report.metrics()) == report

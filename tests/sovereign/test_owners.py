"""Names of owners: what is one, what only looks like it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.owners import look_alike_groups, look_alikes, owner_name

ARCHIVE = "National Archive"


@pytest.mark.parametrize(
    "name",
    [
        "National Archive\u200f", "\u202bNational Archive\u202c", "\u2067National Archive\u2069",
        "Nat\u200bional Archive", "\ufeffNational Archive", "Natio\u00adnal Archive", "National\u2060 Archive",
        "National\u200c Archive", "Nati\u200donal Archive", "National\u00a0\u2003Archive", "National\u3164 Archive",
        "Ｎａｔｉｏｎａｌ Archive", "N\ufe0fational Archive", "National\u034f Archive", "\U000e0041National Archive",
        "National\u061c Archive", "𝐍ational Archive", "National\n Archive",
    ],
)  # fmt: skip
def test_l13_what_reads_the_same_is_one_owner(name: str) -> None:
    assert owner_name(name) == ARCHIVE


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("مـكـتبة", "مكتبة"),  # tatweels
        ("ﻣﻜﺘﺒﺔ", "مكتبة"),  # presentation forms
        ("ﬁnance", "finance"),
        ("Bibliothe\u0300que", "Bibliothèque"),
        ("ㅤ국립", "국립"),
        ("か\u3099", "が"),
    ],
)
def test_l13_in_other_scripts_too(name: str, same: str) -> None:
    assert owner_name(name) == owner_name(same) == unicodedata.normalize("NFC", same)


@pytest.mark.parametrize("name", ["کتابخانه‌های ملی", "क्‍ष", "Straße", "ЦБ", "الأرشيف ١٢"])
def test_l13_a_name_keeps_the_spelling_of_its_script(name: str) -> None:
    assert owner_name(name) == name


def test_l13_nothing_that_can_be_read_is_blank() -> None:
    assert owner_name("\u200b\u00ad \u3164\ufeff") == ""


@given(st.text(max_size=20))
def test_l13_folding_is_final(name: str) -> None:
    once = owner_name(name)
    assert owner_name(once) == once


def test_l13_look_alikes_are_listed_the_closest_first() -> None:
    known = ["Nationаl Archive", "NATIONAL ARCHIVE", "National Archives", "Ministry of Health", ARCHIVE]  # Cyrillic а
    assert look_alikes(ARCHIVE, known) == ["NATIONAL ARCHIVE", "Nationаl Archive", "National Archives"]
    assert look_alikes("مكتبه", ["مكتبة", "مکتبة", "متحف"]) == ["مكتبة", "مکتبة"]
    assert look_alikes("Musée", ["Musee", "Office"]) == ["Musee"]
    assert look_alikes("Archive 1", ["Archive l", "Archive 2"])[0] == "Archive l"


def test_l13_groups_hold_only_names_with_the_same_letters() -> None:
    assert look_alike_groups(["Bank", "Ваnk", "BANK", "Tank", "Bank"]) == [["BANK", "Bank", "Ваnk"]]  # Cyrillic Ва

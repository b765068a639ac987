"""Tags in one form."""

from __future__ import annotations

from itertools import product
from string import ascii_lowercase

import pytest

from sovereign.languages import canonical_tag


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ("EN", "en"),
        ("En-gb", "en-GB"),
        ("zh-hANT-tw", "zh-Hant-TW"),
        ("eng", "en"),
        ("GER-at", "de-AT"),
        ("deu", "de"),
        ("nds", "nds"),
        ("cmn", "cmn"),
        ("iw", "he"),
        ("mn-Cyrl-MN", "mn-Cyrl-MN"),
        ("EN-CA-X-CA", "en-CA-x-ca"),  # these two are of RFC 5646, section 2.1.1
        ("az-latn-x-LATN", "az-Latn-x-latn"),
        ("de-ch-1996", "de-CH-1996"),
        ("es-419", "es-419"),
    ],
)
def test_canonical_form(tag: str, wanted: str) -> None:
    assert canonical_tag(tag) == wanted
    assert canonical_tag(wanted) == wanted


@pytest.mark.parametrize("tag", ["", "e", "english", "en_US", "en-", "fr\n", "en-" + "a" * 9, "é", "en-\u0661"])
def test_what_is_no_tag(tag: str) -> None:
    assert canonical_tag(tag) is None


def test_every_language_with_a_short_code_is_known_by_its_long_ones() -> None:
    """ISO 639-1 has 183 languages; 20 of them have two codes in ISO 639-2, three more had another one before."""
    short = [
        found for one in product(ascii_lowercase, repeat=3) if len(found := canonical_tag("".join(one)) or "") == 2
    ]
    assert (len(set(short)), len(short)) == (183, 183 + 20 + 3)

"""Licences: SPDX expressions, custom terms, and what a list of licences allows."""

from __future__ import annotations

import pytest

from sovereign.licences import LicenceError, canonical_licence, check_licence, is_allowed, licence_id

NOTHING: frozenset[str] = frozenset()
DECLARED = frozenset({"LicenseRef-Archive-2026"})


@pytest.mark.parametrize(
    "licence",
    [
        "CC-BY-4.0",
        "cc-by-4.0",
        "GPL-2.0",
        "GPL-2.0+",
        "(MIT OR Apache-2.0) AND CC0-1.0",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "OGL-UK-3.0 AND LicenseRef-Archive-2026",
    ],
)
def test_expressions_of_spdx_and_declared_terms(licence: str) -> None:
    check_licence(licence, DECLARED)


@pytest.mark.parametrize(
    "licence",
    [
        "", "  ", "CC BY 4.0", "Public domain", "NONE", "NOASSERTION", "CC-BY-4.0 AND", "(MIT", "MIT MIT",
        "MIT or GPL WITH",         "MIT WITH Apache-2.0", "Classpath-exception-2.0", "LicenseRef-", "LicenseRef-a b",
        "(" * 600 + "MIT" + ")" * 600,
        "MIT AND " * 10_000 + "MIT", "bsd-new", "\ud800", "MIT\0",
    ],
)  # fmt: skip
def test_what_is_no_expression(licence: str) -> None:
    with pytest.raises(LicenceError, match="is no SPDX expression") as caught:
        check_licence(licence, DECLARED)
    assert caught.value.problem == "is no SPDX expression"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "licence", ["LicenseRef-Other", "MIT OR LicenseRef-Other", "LicenseRef-scancode-public-domain"]
)
def test_custom_terms_must_be_declared(licence: str) -> None:
    with pytest.raises(LicenceError, match="is not declared"):
        check_licence(licence, DECLARED)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-4.0", True),
        ("cc-by-4.0", True),
        ("MIT", False),
        ("CC-BY-4.0 AND CC0-1.0", True),
        ("CC-BY-4.0 AND MIT", False),
        ("CC-BY-4.0 OR MIT", True),
        ("MIT OR BSD-3-Clause", False),
        ("(MIT OR CC-BY-4.0) AND (CC0-1.0 OR MIT)", True),
        ("MIT OR CC-BY-4.0 AND BSD-3-Clause", False),  # AND binds first
        ("(MIT OR CC-BY-4.0) AND BSD-3-Clause", False),
        ("LicenseRef-Archive-2026", True),
        ("LicenseRef-Archive-2027", False),
        ("Apache-2.0 WITH LLVM-exception", True),  # the licence itself is allowed
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),  # this pair is
        ("GPL-2.0 WITH Classpath-exception-2.0", True),  # the same, by its old name
        ("GPL-2.0-only", False),
        ("GPL-2.0-only WITH Bison-exception-2.2", False),
    ],
)
def test_what_a_list_allows(licence: str, expected: bool) -> None:
    named = ["CC-BY-4.0", "cc0-1.0", "Apache-2.0", "LicenseRef-Archive-2026"]
    named.append("GPL-2.0-only WITH Classpath-exception-2.0")
    allowed = frozenset(licence_id(one) for one in named)
    assert is_allowed(licence, allowed) is expected
    assert not is_allowed(licence, NOTHING)


@pytest.mark.parametrize(
    ("licence", "canonical"),
    [
        ("cc-by-4.0", "CC-BY-4.0"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("(mit or Apache-2.0)  and LicenseRef-archive", "(MIT OR Apache-2.0) AND LicenseRef-archive"),
        ("MIT or CC0-1.0 and isc", "MIT OR (CC0-1.0 AND ISC)"),
        ("Public domain", "Public domain"),
    ],
)
def test_a_licence_has_one_spelling(licence: str, canonical: str) -> None:
    assert canonical_licence(licence) == canonical_licence(canonical) == canonical


def test_a_list_names_single_licences() -> None:
    assert licence_id("gpl-2.0") == "GPL-2.0-only"
    with pytest.raises(LicenceError, match="more than one"):
        licence_id("MIT OR CC0-1.0")

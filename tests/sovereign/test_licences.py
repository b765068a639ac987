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
    ("licence", "wanted"),
    [
        ("CC BY 4.0", "CC-BY-4.0"),
        ("CC-BY 4.0", "CC-BY-4.0"),
        ("cc by-sa 4.0", "CC-BY-SA-4.0"),
        ("CC BY-NC-ND 3.0 IGO", "CC-BY-NC-ND-3.0-IGO"),
        ("CC-BY", "CC-BY-4.0 or CC-BY-3.0 or CC-BY-2.5"),
        ("Creative Commons Attribution-ShareAlike 3.0 Unported", "CC-BY-SA-3.0"),
        ("https://creativecommons.org/licenses/by/4.0/deed.de", "CC-BY-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("CC0", "CC0-1.0"),
        ("Apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("GPLv3", "GPL-3.0-only"),
        ("GPLv3+", "GPL-3.0-or-later"),
        ("GNU Lesser General Public License v2.1 or later", "LGPL-2.1-or-later"),
        ("MIT License", "MIT"),
        ("OGL", "OGL-UK-3.0 or OGL-UK-2.0"),
        ("Open Government Licence v3.0", "OGL-UK-3.0"),
        ("Licence Ouverte 2.0", "etalab-2.0"),
        ("dl-de/by-2-0", "DL-DE-BY-2.0"),
        ("ODbL", "ODbL-1.0"),
        ("Aapche-2.0", "Apache-2.0"),
        ("CC BY 4.0 AND MIT", "CC-BY-4.0"),
        ("CC BY 4.0 OR Apache 2.0", "CC-BY-4.0 and Apache-2.0"),
        ("BSD", "BSD-4-Clause or BSD-3-Clause or BSD-2-Clause"),
        ("Public Domain", "CC0-1.0 where the owner waived all rights, else terms as LicenseRef-…"),
        ("all rights reserved", "an identifier of https://spdx.org/licenses, or terms as LicenseRef-…"),
    ],
)
def test_l12_what_people_write_gets_the_identifier(licence: str, wanted: str) -> None:
    with pytest.raises(LicenceError) as caught:
        check_licence(licence, NOTHING)
    assert f"; write {wanted}" in str(caught.value)
    for identifier in wanted.replace(" and ", " or ").split(" or "):
        if " " not in identifier:
            check_licence(identifier, NOTHING)


def test_l12_every_identifier_is_found_without_its_marks() -> None:
    for identifier in ("CC-BY-SA-3.0-AT", "BSD-3-Clause", "EUPL-1.2", "GFDL-1.3-or-later", "OGL-UK-3.0", "MPL-2.0"):
        with pytest.raises(LicenceError, match=f"; write {identifier}, as SPDX spells it"):
            check_licence(identifier.replace("-", " ") + " ", NOTHING)


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

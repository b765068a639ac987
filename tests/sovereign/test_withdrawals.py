"""Owners, licences and withdrawals in the profile, and the site's file of withdrawals."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sovereign.cli.sites import find_profile
from sovereign.errors import ProfileError, SiteError
from sovereign.lake.rights import RightsRules
from sovereign.profile import Profile, load_profile, parse_profile
from sovereign.profile_rights import Withdrawal
from sovereign.site import Site, init_site
from sovereign.urls import UrlSet
from sovereign.withdrawals import add_withdrawal, read_withdrawals

SOURCE = {"name": "gazette", "path": "/texts", "owner": "Archive", "licence": "CC-BY-4.0", "language": "fr"}


def profile(source: dict[str, Any] | None = None, **corpus: Any) -> Profile:
    document = yaml.safe_load(find_profile(Path("ci")).read_text())
    document["corpus"] |= {"sources": [SOURCE | (source or {})], **corpus}
    return parse_profile(json.dumps(document))


def test_a_full_registry_is_taken() -> None:
    made = profile(
        {"licence": "CC-BY-4.0 AND LicenseRef-Archive"},
        owners=[{"name": "Archive", "kind": "institution", "contact": "a@example.org", "public_key": "ab" * 32}],
        rights={
            "trainable": ["CC-BY-4.0", "LicenseRef-Archive"],
            "registered_owners_only": True,
            "licences": [{"id": "LicenseRef-Archive", "url": "https://archive.example.org/terms"}],
            "withdrawn": [{"date": "2026-05-01", "url": "example.org"}],
        },
    )
    assert made.corpus.rights.allowed == frozenset({"CC-BY-4.0", "LicenseRef-Archive"})


@pytest.mark.parametrize(
    ("source", "corpus", "message"),
    [
        ({"licence": "Our own terms"}, {}, "licence Our own terms is no SPDX expression"),
        ({"licence": "LicenseRef-Archive"}, {}, "LicenseRef-Archive is not declared in corpus.rights.licences"),
        ({}, {"rights": {"licences": [{"id": "LicenseRef-A"}]}}, "needs the terms as `text`"),
        ({}, {"rights": {"licences": [{"id": "Archive", "text": "x"}]}}, "licences.0.id: String should match"),
        ({}, {"rights": {"trainable": ["CC-BY-4.0 OR MIT"]}}, "more than one"),
        ({}, {"rights": {"trainable": ["CC-BY"]}}, "no SPDX expression"),
        ({}, {"rights": {"trainable": ["LicenseRef-A"]}}, "LicenseRef-A is not declared"),
        ({}, {"rights": {"registered_owners_only": True}}, "not in `owners`: .'Archive'"),
        ({"opt_outs": "ignore"}, {}, "opt_outs: ignore needs a legal_basis"),
        ({}, {"owners": [{"name": "A", "kind": "company"}]}, "owners.0.kind"),
        ({}, {"rights": {"withdrawn": [{"date": "2026-05-01"}]}}, "exactly one of owner, document and url"),
        ({}, {"rights": {"withdrawn": [{"date": "2026-05-01", "owner": "A", "url": "b"}]}}, "exactly one of"),
        ({}, {"rights": {"withdrawn": [{"date": "1 May", "owner": "A"}]}}, "withdrawn.0"),
        ({}, {"rights": {"withdrawn": [{"date": "2026-05-01", "owner": " "}]}}, "must be a name, not blank"),
        ({"owner": "\u00a0"}, {}, "must be a name, not blank"),
        ({"owner": "A\udcff"}, {}, "must be UTF-8"),
        *(
            ({}, {"rights": {"withdrawn": [{"date": "2026-05-01", "url": url}]}}, "url must be a host")
            for url in ("https://", "ftp://example.org", "https://example.org:99999/", "exam ple.org", "//", "a..b")
        ),
    ],
)
def test_what_is_wrong_is_told(source: dict[str, Any], corpus: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile(source, **corpus)


def test_public_keys_in_the_forms_that_tools_write() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    plain = key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    for form in (pem, line, f"{line} archive@example.org", plain):
        assert profile(owners=[{"name": "Archive", "public_key": form}]).corpus.owners[0].public_key == form
    rsa = generate_private_key(65537, 2048).public_key()
    wrong = [
        rsa.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        rsa.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        pem.replace("M", "N", 1), plain[:-1], plain.upper() + "0", line[:-4],
        base64.b64encode(b"x" * 32).decode(), "", "key",
    ]  # fmt: skip
    for form in wrong:
        with pytest.raises(ProfileError, match="must be an Ed25519 public key"):
            profile(owners=[{"name": "Archive", "public_key": form}])


def test_the_file_only_grows_and_takes_a_thing_once(tmp_path: Path) -> None:
    path = tmp_path / "withdrawals.jsonl"
    first = Withdrawal(date="2026-05-01", owner="Bibliothèque", reason="contract ended")
    assert list(read_withdrawals(path)) == []
    assert add_withdrawal(path, first)
    line = '{"date":"2026-05-01","owner":"Bibliothèque","reason":"contract ended"}\n'
    assert path.read_text() == line
    assert not add_withdrawal(path, Withdrawal(date="2026-06-01", owner="Bibliothèque"))
    assert path.read_text() == line
    assert add_withdrawal(path, Withdrawal(date="2026-06-01", document="gazette/a.txt"))
    assert path.read_text() == line + '{"date":"2026-06-01","document":"gazette/a.txt"}\n'
    assert [one.owner or one.document for one in read_withdrawals(path)] == ["Bibliothèque", "gazette/a.txt"]


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"owner": "A"}', '{"date": "2026-05-01", "ower": "A"}', "\udcff"])
def test_a_damaged_line_is_named_and_nothing_is_added(tmp_path: Path, line: str) -> None:
    path = tmp_path / "withdrawals.jsonl"
    path.write_bytes(b'{"date":"2026-05-01","owner":"A"}\n' + line.encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(SiteError, match=r"line 2 of .*withdrawals.jsonl|cannot read"):
        list(read_withdrawals(path))
    with pytest.raises(SiteError):
        add_withdrawal(path, Withdrawal(date="2026-05-01", owner="B"))
    assert path.read_bytes() == before


def test_stages_read_the_profile_with_the_site_s_withdrawals(tmp_path: Path) -> None:
    site: Site = init_site(tmp_path / "site", find_profile(Path("ci")))
    assert site.resolved_profile() == site.profile_path
    add_withdrawal(site.withdrawals_file, Withdrawal(date="2026-05-01", owner="A"))
    assert [one.owner for one in site.profile.corpus.rights.withdrawn] == ["A"]
    resolved = site.resolved_profile()
    assert resolved != site.profile_path
    assert load_profile(resolved) == site.profile
    assert "withdrawals" not in (site.root / ".gitignore").read_text()


@pytest.mark.parametrize(
    "url", ["example.org", "//example.org", "https://bücher.example/a b", "https://[2001:db8::1]/x"]
)
def test_what_a_withdrawal_names_can_be_looked_for(url: str) -> None:
    urls = UrlSet()
    urls.add(str(Withdrawal(date="2026-05-01", url=url).url))
    assert urls.has(url if "//" in url else f"https://{url}/page")


def test_owners_are_one_however_they_are_spelled() -> None:
    composed, decomposed = "Bibliothèque nationale", unicodedata.normalize("NFD", " Bibliothèque\u00a0 nationale ")
    assert profile({"owner": decomposed}).corpus.sources[0].owner == composed
    assert Withdrawal(date="2026-05-01", owner=decomposed).owner == composed


@pytest.mark.parametrize(
    ("url", "taken", "left"),
    [
        ("example.org", ["ftp://example.org/x", "gemini://Example.org/x", "http:\\\\example.org\\x", "https://example.org./",
                         "https://exam\tple.org/", "https://user:secret@example.org/", "//example.org"],
         ["https://example.org.evil.net/", "https://evil.net/example.org", "mailto:a@example.org"]),
        ("https://example.org/b", ["https://example.org/c/../b/1", "https://example.org/%2e%2e/b", "https://example.org\\b",
                                   "https://example.org/./b", "ftp://example.org/b/1", "https://EXAMPLE.org:443/b"],
         ["https://example.org/b/../a", "https://example.org/a?x=/b", "https://example.org/a#/b"]),
        ("http://127.0.0.1/", ["http://0x7f.1/x", "http://2130706433/"], ["http://127.0.0.2/"]),
    ],
)  # fmt: skip
def test_l19_no_spelling_of_an_address_escapes(url: str, taken: list[str], left: list[str]) -> None:
    urls = UrlSet()
    urls.add(str(Withdrawal(date="2026-05-01", url=url).url))
    assert [one for one in taken if not urls.has(one)] == []
    assert [one for one in left if urls.has(one)] == []
    urls.remove(url)
    assert [one for one in taken if urls.has(one)] == []


def test_l19_text_that_was_readmitted_can_be_taken_back_again(tmp_path: Path) -> None:
    path = tmp_path / "withdrawals.jsonl"
    taken, again = Withdrawal(date="2026-05-01", owner="A"), Withdrawal(date="2026-06-01", owner="A", readmitted=True)
    expected = [set(), {"A"}, {"A"}, set(), set(), {"A"}]
    found = []
    for entry in (None, taken, taken, again, again, taken):
        is_new = entry is not None and add_withdrawal(path, entry)
        corpus = profile(
            rights={"withdrawn": [one.model_dump(exclude_none=True) for one in read_withdrawals(path)]}
        ).corpus
        found.append(RightsRules(corpus).withdrawn_owners)
        assert is_new == (len(found) in (2, 4, 6))
    assert found == expected
    assert path.read_text().count("\n") == 3 and path.read_text().count("readmitted") == 1


@pytest.mark.parametrize("amount", [True, 1.5, "100", 100.0])
def test_l19_a_fund_is_a_whole_number(amount: object) -> None:
    document = yaml.safe_load(find_profile(Path("ci")).read_text())
    document["rewards"] = {"fund": {"amount": amount}}
    with pytest.raises(ProfileError, match=r"fund\.amount"):
        parse_profile(json.dumps(document))

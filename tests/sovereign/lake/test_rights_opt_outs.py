"""Opt-outs at ingest: robots.txt of the time, ai.txt, TDMRep, noai; what is left out is counted with its reason."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sovereign.errors import SourceError
from sovereign.lake.documents import read_documents
from sovereign.lake.notices import HostFile, Notice, read_notice
from sovereign.lake.optouts import OptOuts
from sovereign.lake.stages import corpus
from sovereign.profile_rights import AGENTS
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from sovereign.urls import UrlSet, parse_address
from tests.sovereign.lake.test_lake_stages import profile, source
from tests.sovereign.lake.web import TEXT, page, plain, record, write_warc

ROBOTS = "WARC record of a host's robots.txt, ai.txt or tdmrep.json"


class Gathered:
    """What stage `corpus` makes of one source."""

    def __init__(self, folder: Path, path: Path, rights: dict[str, Any] | None = None, **more: str) -> None:
        wanted = profile(sources=[source("web", path, "A") | more], rights=rights or {})
        self.store = FolderStore(folder / "store")
        self.receipt: Receipt = run_stage(corpus, wanted, self.store, folder / "work", io.StringIO())
        metrics = self.receipt.metrics["source web"]
        files = [self.store.root / key for key in self.receipt.outputs if key.endswith(".parquet")]
        self.documents = list(read_documents(files))
        self.urls = [one.url for one in self.documents]
        self.skipped: dict[str, int] = metrics["skipped"]
        assert metrics["found"] == len(self.documents) + sum(self.skipped.values())


def gather(folder: Path, *records: bytes, **more: Any) -> Gathered:
    write_warc(folder / "crawl" / "a.warc.gz", *records)
    return Gathered(folder, folder / "crawl", **more)


def test_robots_txt_in_the_crawl_wherever_it_stands(tmp_path: Path) -> None:
    write_warc(tmp_path / "crawl" / "z.warc.gz", plain("http://b.org/robots.txt", "User-agent: GPTBot\nDisallow: /"))
    found = gather(
        tmp_path,
        page("https://a.org/news/1"),
        page("https://a.org/news/private/2"),
        page("https://b.org/3"),
        page("https://c.org/4"),
        plain("https://a.org/robots.txt", "User-agent: *\nDisallow: /news/private\n"),
    )
    assert found.urls == ["https://a.org/news/1", "https://c.org/4"]
    assert found.receipt.metrics["source web"]["without_robots_txt"] == 1  # c.org
    assert found.skipped == {"opted out: robots.txt": 2, ROBOTS: 2}


def test_longest_match_groups_and_agents_of_rfc_9309(tmp_path: Path) -> None:
    robots = (
        "User-agent: *\nDisallow: /a/\nAllow: /a/open/\nDisallow: /*.pdf$\n\n"
        "User-agent: ccbot\nUser-agent: Claudebot\nDisallow: /b/\n\nUser-agent: SomeOther\nDisallow: /\n"
    )
    paths = {"/a/1": 0, "/a/open/1": 1, "/x.pdf": 0, "/x.pdf?q=1": 1, "/b/1": 0, "/c": 1}
    found = gather(
        tmp_path, plain("https://a.org/robots.txt", robots), *(page(f"https://a.org{path}") for path in paths)
    )
    assert found.urls == [f"https://a.org{path}" for path, taken in paths.items() if taken]


@pytest.mark.parametrize(
    "agent",
    ["CCBot/2.0", "ccbot/2.0 (+https://example.org/bot)", "GPTBot 1.2", "AI2Bot/1.0", "GPTBot # all of it", "*"],
)
def test_an_agent_is_known_whatever_version_it_is_named_with(tmp_path: Path, agent: str) -> None:
    robots = f"User-agent: SomeBot/1.0\nDisallow: /some\n\nUser-agent : {agent}\r\nDisallow: /x\n"
    with opt_outs(tmp_path / "x", ("a.org", "robots.txt", None, robots)) as found:
        assert found.reason("https://a.org/x", None, None) == "opted out: robots.txt"
        assert found.reason("https://a.org/some", None, None) == ""


NO_TRAINING = "opted out: robots.txt says no AI training"


@pytest.mark.parametrize(
    ("robots", "left_out", "taken"),
    [
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /", "/ /x", ""),
        ("User-agent: *\nAllow: /\ncontent-signal:search=yes,ai-train=NO # said\n", "/x", ""),
        ("User-agent: *\nContent-Usage: train-ai=n;why=\"x\", search=y", "/x", ""),
        ("User-agent: *\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y", "/test /ai-ok", "/ai-ok/1"),
        ("User-agent: *\nContent-Usage: /a train-ai=y\nContent-Usage: /a train-ai=n", "/a/1", "/b"),
        ("User-agent: *\nContent-Usage: /*.pdf$ train-ai=n", "/1.pdf", "/1.html"),
        ("User-agent: Other\nContent-Signal: ai-train=no", "", "/x"),
        ("User-agent: Other\nUser-agent: GPTBot/1.0\nContent-Signal: ai-train=no", "/x", ""),
        ("User-agent: GPTBot\nDisallow:\nUser-agent: Other\nContent-Signal: ai-train=no", "", "/x"),
        ("Content-Usage: train-ai=n\nUser-agent: Other\nAllow: /", "/x", ""),
        ("Content-Usage: train-genai=n\nSitemap: https://a.org/s\n\nUser-agent: Other\nDisallow: /", "/x", ""),
        ("User-agent: *\nContent-Signal: ai-train=yes, ai-input=no, search=no", "", "/x"),
        ("User-agent: *\nContent-Signal: ai-train, train-ai=maybe\n# Content-Signal: ai-train=no", "", "/x"),
    ],
)  # fmt: skip
def test_what_robots_txt_says_of_training(tmp_path: Path, robots: str, left_out: str, taken: str) -> None:
    with opt_outs(tmp_path / "x", ("a.org", "robots.txt", None, robots)) as found:
        assert [found.reason(f"https://a.org{path}", None, None) for path in left_out.split()] == [
            NO_TRAINING for _ in left_out.split()
        ]
        assert all(found.reason(f"https://a.org{path}", None, None) == "" for path in taken.split())


def test_a_ban_and_a_word_on_training_are_told_apart(tmp_path: Path) -> None:
    found = gather(
        tmp_path,
        plain("https://a.org/robots.txt", "User-agent: *\nDisallow: /no\nContent-Signal: ai-train=no"),
        page("https://a.org/no"),
        page("https://a.org/1"),
        page("https://b.org/1", headers="Content-Usage: train-ai=n, search=y"),
        page("https://b.org/2", headers="Content-Signal: ai-train=yes"),
        page("https://c.org/1", date="2026-06-01T00:00:00Z"),
        plain("https://c.org/robots.txt", "", date="2026-05-01T00:00:00Z"),
        plain("https://c.org/robots.txt", "Content-Usage: train-ai=n", date="2026-07-01T00:00:00Z"),
    )
    assert found.urls == ["https://b.org/2"]
    later = NO_TRAINING.replace("out:", "out later:")
    wanted = {"opted out: robots.txt": 1, NO_TRAINING: 1, "opted out: content-usage": 1, later: 1, ROBOTS: 3}
    assert found.skipped == wanted


def test_agents_are_the_profile_s(tmp_path: Path) -> None:
    write_warc(
        tmp_path / "crawl" / "a.warc.gz",
        plain("https://a.org/robots.txt", "User-agent: GPTBot\nDisallow: /g\n\nUser-agent: OurBot\nDisallow: /o\n"),
        *(page(f"https://a.org/{path}") for path in ("g", "o", "x")),
    )
    default = Gathered(tmp_path / "default", tmp_path / "crawl")
    ours = Gathered(tmp_path / "ours", tmp_path / "crawl", {"opt_outs": {"agents": ["OurBot"]}})
    assert (default.urls, ours.urls) == (["https://a.org/o", "https://a.org/x"], ["https://a.org/g", "https://a.org/x"])
    assert default.receipt.key != ours.receipt.key


def test_the_rules_of_the_collection_date_count(tmp_path: Path) -> None:
    closed = "User-agent: *\nDisallow: /\n"
    found = gather(
        tmp_path,
        plain("https://a.org/robots.txt", "", date="2025-01-01T00:00:00Z"),
        plain("https://a.org/robots.txt", closed, date="2026-01-01T00:00:00Z"),
        plain("https://a.org/robots.txt", "", date="2027-01-01T00:00:00Z"),
        page("https://a.org/before-all", date="2024-06-01T00:00:00Z"),
        page("https://a.org/open", date="2025-06-01T00:00:00Z"),
        page("https://a.org/closed", date="2026-06-01T00:00:00Z"),
        page("https://a.org/open-again", date="2027-01-01T00:00:00Z"),
    )
    assert found.urls == ["https://a.org/before-all", "https://a.org/open", "https://a.org/open-again"]


def test_who_opts_out_later_is_heard_unless_the_profile_says_otherwise(tmp_path: Path) -> None:
    write_warc(
        tmp_path / "crawl" / "a.warc.gz",
        plain("https://a.org/robots.txt", "", date="2025-01-01T00:00:00Z"),
        plain("https://b.org/robots.txt", "", date="2025-01-01T00:00:00Z"),
        page("https://a.org/1", date="2025-06-01T00:00:00Z"),
        page("https://b.org/1", date="2025-06-01T00:00:00Z"),
    )
    (tmp_path / "new" / "2026-05-01" / "a.org").mkdir(parents=True)
    (tmp_path / "new" / "2026-05-01" / "a.org" / "robots.txt").write_text("User-agent: *\nDisallow: /")
    unavailable = plain("https://b.org/robots.txt", "", date="2026-05-01T00:00:00Z", status="503 Unavailable")
    write_warc(tmp_path / "new" / "b.warc.gz", unavailable)
    rights: dict[str, Any] = {"opt_outs": {"collected": str(tmp_path / "new")}}
    found = Gathered(tmp_path, tmp_path / "crawl", rights)
    assert found.urls == ["https://b.org/1"]  # not to answer for a while is no opt-out
    assert found.skipped == {"opted out later: robots.txt": 1, ROBOTS: 2}
    rights["opt_outs"]["retroactive"] = False
    again = Gathered(tmp_path, tmp_path / "crawl", rights)
    assert again.urls == ["https://a.org/1", "https://b.org/1"]


@pytest.mark.parametrize(
    ("status", "headers", "taken"),
    [("404 Not Found", "", True), ("403 Forbidden", "", True), ("503 Unavailable", "", False), ("200 OK", "", False),
     ("301 Moved", "Location: https://www.a.org/robots.txt", False), ("301 Moved", "Location: /", True),
     ("302 Found", "Location: https://a.org/robots.txt", True), ("302 Found", "Location: http://[", True)],
)  # fmt: skip
def test_answers_to_the_request_for_robots_txt(tmp_path: Path, status: str, headers: str, taken: bool) -> None:
    closed = "User-agent: *\nDisallow: /\n"
    found = gather(
        tmp_path,
        plain("https://a.org/robots.txt", closed, status=status, headers=headers),
        plain("https://www.a.org/robots.txt", closed),
        page("https://a.org/1"),
        page("https://other.org/2"),
    )
    assert ("https://a.org/1" in found.urls) is taken
    assert "https://other.org/2" in found.urls


def test_tdm_reservation_as_header_meta_tag_and_file(tmp_path: Path) -> None:
    rules = [
        {"location": "/open/*", "tdm-reservation": 0},
        {"location": "/", "tdm-reservation": 1, "tdm-policy": "https://f.org/policy"},
    ]
    found = gather(
        tmp_path,
        page("https://a.org/1", headers="TDM-Reservation: 1\r\ntdm-policy: https://a.org/policy"),
        page("https://a.org/2", headers="tdm-reservation: 0"),
        page("https://a.org/3", head="<META CONTENT='1' NAME='tdm-reservation'>"),
        page("https://a.org/4", head='<meta name="tdm-reservation" content="0">'),
        page("https://a.org/5", headers="tdm-reservation: 1", head='<meta name="tdm-reservation" content="0">'),
        page("https://a.org/6", headers="tdm-reservation: 2"),
        page("https://f.org/open/1"),
        page("https://f.org/closed"),
        page("https://f.org/set-free", headers="tdm-reservation: 0"),  # the protocol would have it, the kit is stricter
        plain("https://f.org/.well-known/tdmrep.json", json.dumps(rules), headers="Content-Type: application/json"),
        plain("https://g.org/.well-known/tdmrep.json", "<html>not found</html>"),
        page("https://g.org/1"),
    )
    free = ["https://a.org/2", "https://a.org/4", "https://a.org/6", "https://f.org/open/1", "https://g.org/1"]
    assert found.urls == free
    assert found.skipped == {"opted out: tdm-reservation": 3, "opted out: tdmrep.json": 2, ROBOTS: 2}


def test_ai_txt_and_noai(tmp_path: Path) -> None:
    found = gather(
        tmp_path,
        plain("https://a.org/ai.txt", "User-Agent: *\nDisallow: *.html\nAllow: *.txt\n"),
        page("https://a.org/1.html"),
        page("https://a.org/2.txt"),
        page("https://b.org/1", headers="X-Robots-Tag: noindex, noai, noimageai"),
        page("https://b.org/2", headers="X-Robots-Tag: otherbot: noai"),
        page("https://b.org/3", headers="X-Robots-Tag: noimageai"),
        page("https://b.org/4", head='<meta name="robots" content="noai">'),
        page("https://b.org/5", head='<meta name="robots" content="index, follow">'),
    )
    assert found.urls == ["https://a.org/2.txt", "https://b.org/3", "https://b.org/5"]
    assert found.skipped == {"opted out: ai.txt": 1, "opted out: noai": 3, ROBOTS: 1}


def test_a_source_may_ignore_them_with_a_reason(tmp_path: Path) -> None:
    robots = plain("https://a.org/robots.txt", "User-agent: *\nDisallow: /")
    found = gather(tmp_path, robots, page("https://a.org/1"), opt_outs="ignore", legal_basis="contract with A")
    assert found.urls == ["https://a.org/1"]
    assert found.skipped == {ROBOTS: 1}


def test_collected_files_speak_for_records_with_an_address(tmp_path: Path) -> None:
    collected = tmp_path / "collected"
    for name, text in {
        "a.org/robots.txt": "User-agent: GPTBot\nDisallow: /",
        "b.org/ai.txt": "User-agent: *\nDisallow: /",
        "2026-01-01/c.org/robots.txt": "User-agent: *\nDisallow: /",
        "2026-03-01/c.org/robots.txt": "",
        "münchen.de/.well-known/tdmrep.json": '[{"location": "/", "tdm-reservation": 1}]',
        "d.org/other.txt": "User-agent: *\nDisallow: /",
    }.items():
        (collected / name).parent.mkdir(parents=True, exist_ok=True)
        (collected / name).write_text(text)
    write_warc(collected / "robots.warc.gz", plain("https://e.org/robots.txt", "User-agent: *\nDisallow: /"))
    addresses = {
        "https://a.org/1": None, "https://b.org/1": None, "https://c.org/1": "2026-02-01",
        "https://c.org/2": "2026-03-01",
        "https://c.org/3": None, "https://xn--mnchen-3ya.de/": None, "https://d.org/1": None,
        "http://e.org:80/1": "2026-06-01",
        "http://e.org:8080/1": None, "urn:x": None, "http://[": None, "": None,
    }  # fmt: skip
    (tmp_path / "texts").mkdir()
    lines = [
        json.dumps({"text": f"Text number {number}.", "url": url, "collected_at": day})
        for number, (url, day) in enumerate(addresses.items())
    ]
    lines += ['{"text": "Text without.", "url": null}', '{"text": "Text with a wrong one.", "url": 7}']
    (tmp_path / "texts" / "a.jsonl").write_text("\n".join(lines))
    rights = {"opt_outs": {"collected": str(collected)}}
    found = Gathered(tmp_path, tmp_path / "texts", rights)
    taken = ["https://c.org/2", "https://c.org/3", "https://d.org/1", "http://e.org:8080/1", "urn:x", "http://["]
    assert found.urls == [*taken, None, None]
    assert found.skipped == {
        "opted out: robots.txt": 3, "opted out: ai.txt": 1, "opted out: tdmrep.json": 1, "url is not text": 1,
    }  # fmt: skip
    assert "opt-outs/collected" in found.receipt.inputs
    (collected / "a.org" / "robots.txt").write_text("")
    again = Gathered(tmp_path, tmp_path / "texts", rights)
    assert again.urls == ["https://a.org/1", *found.urls]
    with pytest.raises(SourceError, match="the folder of collected opt-outs is not there"):
        Gathered(tmp_path, tmp_path / "texts", {"opt_outs": {"collected": str(tmp_path / "nothing")}})


def test_licences_of_documents_are_expressions(tmp_path: Path) -> None:
    licences = ["MIT", "CC BY 4.0", "LicenseRef-A", "LicenseRef-B", "MIT AND LicenseRef-A"]
    lines = [json.dumps({"text": f"Text number {number}.", "licence": one}) for number, one in enumerate(licences)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rights = {"licences": [{"id": "LicenseRef-A", "text": "Do no harm."}]}
    found = Gathered(tmp_path / "lake", tmp_path / "a.jsonl", rights)
    assert [one.licence for one in found.documents] == ["MIT", "LicenseRef-A", "MIT AND LicenseRef-A"]
    assert found.skipped == {"licence is no SPDX expression": 1, "licence is not declared in the profile": 1}


def test_l12_a_document_with_a_licence_of_no_list_shows_it(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text(
        json.dumps({"text": TEXT, "licence": "CC BY 4.0"}) + "\n" + json.dumps({"text": TEXT}) + "\n"
    )
    found = Gathered(tmp_path, tmp_path / "texts")
    assert found.skipped == {"licence is no SPDX expression": 1}
    examples = found.receipt.metrics["source web"]["skipped_examples"]
    assert examples == ["a.jsonl#1: licence is no SPDX expression (CC BY 4.0)"]


def test_same_crawl_same_bytes_and_damage_costs_only_itself(tmp_path: Path) -> None:
    records = [
        page("https://a.org/1"),
        record(
            "https://a.org/robots.txt",
            b"\x1f\x8b broken",
            date="2026-01-01T00:00:00Z",
            headers="Content-Encoding: gzip",
        ),
        plain("https://b.org/robots.txt", "User-agent: *\nDisallow: /"),
        page("https://b.org/1"),
        page("https://c.org/1"),
    ]
    one, two = gather(tmp_path / "1", *records), gather(tmp_path / "2", *records)
    assert one.urls == ["https://c.org/1"]
    assert one.receipt.outputs == two.receipt.outputs


def packed(codec: Any, text: str) -> bytes:
    return pa.compress(text.encode(), codec=codec, asbytes=True)


CLOSED = "User-agent: *\nDisallow: /closed\n# " + "".join(f"{number} " for number in range(1000))
UNHAD = "opted out: robots.txt could not be had"


@pytest.mark.parametrize(
    ("coding", "body", "urls", "reason"),
    [
        ("gzip", packed("gzip", CLOSED), ["https://a.org/open"], "opted out: robots.txt"),
        ("X-GZIP", packed("gzip", CLOSED), ["https://a.org/open"], "opted out: robots.txt"),
        ("deflate", zlib.compress(CLOSED.encode()), ["https://a.org/open"], "opted out: robots.txt"),
        ("deflate", zlib.compress(CLOSED.encode())[2:-4], ["https://a.org/open"], "opted out: robots.txt"),
        ("br", packed("brotli", CLOSED), ["https://a.org/open"], "opted out: robots.txt"),
        ("zstd", packed("zstd", CLOSED), ["https://a.org/open"], "opted out: robots.txt"),
        ("identity", CLOSED.encode(), ["https://a.org/open"], "opted out: robots.txt"),
        ("gzip", CLOSED.encode(), ["https://a.org/open"], "opted out: robots.txt"),
        ("br", packed("brotli", CLOSED)[:500], [], UNHAD),
        ("zstd", packed("zstd", CLOSED)[:500], [], UNHAD),
        ("deflate", zlib.compress(CLOSED.encode())[:500], [], UNHAD),
        ("br, gzip", packed("gzip", CLOSED), [], UNHAD),
        ("rot13", CLOSED.encode(), [], UNHAD),
    ],
)
def test_robots_txt_in_every_content_coding(
    coding: str, body: bytes, urls: list[str], reason: str, tmp_path: Path
) -> None:
    robots = record(
        "https://a.org/robots.txt", body, date="2026-01-01T00:00:00Z", headers=f"Content-Encoding: {coding}"
    )
    found = gather(tmp_path, robots, page("https://a.org/open"), page("https://a.org/closed"), page("https://b.org/1"))
    assert found.urls == [*urls, "https://b.org/1"]
    assert found.skipped[reason] == 2 - len(urls)


@pytest.mark.parametrize(("size", "reason"), [(1, UNHAD), (500 * 1024, "opted out: robots.txt")])
def test_robots_txt_that_the_crawler_cut(size: int, reason: str, tmp_path: Path) -> None:
    """Beyond 500 KiB no rule counts, so nothing is lost there."""
    body = b"User-agent: *\nDisallow: /\n#" + b" " * size
    whole = record("https://a.org/robots.txt", body, date="2026-01-01T00:00:00Z", headers="Content-Type: text/plain")
    cut = gzip.decompress(whole).replace(b"WARC-Type:", b"WARC-Truncated: length\r\nWARC-Type:", 1)
    found = gather(tmp_path, gzip.compress(cut), page("https://a.org/1"), page("https://b.org/1"))
    assert found.urls == ["https://b.org/1"]
    assert found.skipped == {"truncated WARC record": 1, reason: 1}


@contextmanager
def opt_outs(path: Path, *files: tuple[str, str, str | None, str]) -> Iterator[OptOuts]:
    with OptOuts(path, AGENTS) as found:
        for authority, name, day, text in files:
            found.add(HostFile(authority, name, day, 200, text.encode()))
        yield found


def test_digest_changes_with_the_answers_only(tmp_path: Path) -> None:
    one, two = ("a.org", "robots.txt", "2026-01-01", "x"), ("b.org", "robots.txt", None, "y")
    digests = []
    for files in [(one, two), (two, one), (one,), (two, ("a.org", "robots.txt", "2026-01-01", "z"))]:
        with opt_outs(tmp_path / "x", *files) as found:
            digests.append(found.digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[1, null, {}]", '[{"location": 3, "tdm-reservation": 1}]', "\0", ""]
)
def test_a_tdmrep_file_that_is_none_reserves_nothing(tmp_path: Path, text: str) -> None:
    with opt_outs(tmp_path / "x", ("a.org", "tdmrep.json", None, text)) as found:
        assert found.reason("https://a.org/1", None, None) == ""


def test_hostile_patterns_end(tmp_path: Path) -> None:
    rule = "/" + "*a" * 40 + "$"
    robots = f"User-agent: *\nDisallow: {rule}\n"
    tdm = json.dumps([{"location": rule, "tdm-reservation": 1}])
    with opt_outs(tmp_path / "x", ("a.org", "robots.txt", None, robots), ("a.org", "tdmrep.json", None, tdm)) as found:
        assert found.reason(f"https://a.org/{'a' * 200}b", None, None) == ""


def test_a_notice_far_down_or_of_another_name_does_not_count() -> None:
    assert read_notice((), b"<html>" + b" " * 2**19 + b'<meta name="robots" content="noai">') is None
    assert read_notice([("X-Other", "noai")], b'<meta name="description" content="noai">') is None
    assert read_notice((), b"<meta " + b"a=" * 10**6) is None


@pytest.mark.parametrize(
    ("prefix", "inside", "outside"),
    [
        ("example.org", ["http://example.org/", "https://www.Example.org:8443/x", "https://EXAMPLE.ORG."],
         ["https://myexample.org/", "https://example.org.evil.net/", "nothing", ""]),
        ("https://example.org/news/", ["http://example.org/news/1", "https://example.org/news/%C3%A9"],
         ["https://example.org/new", "https://www.example.org/news/1"]),
        ("https://example.org/caf%C3%A9", ["https://example.org/café/1"], ["https://example.org/cafe"]),
        ("bücher.example", ["https://xn--bcher-kva.example/1"], ["https://bucher.example/"]),
    ],
)  # fmt: skip
def test_hosts_and_prefixes(prefix: str, inside: list[str], outside: list[str]) -> None:
    urls = UrlSet()
    urls.add(prefix)
    assert [url for url in inside if not urls.has(url)] == []
    assert [url for url in outside if urls.has(url)] == []


def test_addresses() -> None:
    assert parse_address("HTTPS://A.org:443") == ("a.org", "a.org", "/")
    assert parse_address("<http://a.org:81/x?y#z>") == ("a.org", "a.org:81", "/x?y")
    assert parse_address("//a.org/x") == parse_address("a.org/x") == ("a.org", "a.org", "/x")
    wrong = ("ftp://a.org", "article 5", "urn:a:b", "http://", "http://a:b/", "http://[::1", "https://a b.org/", "news")
    assert [parse_address(url) for url in wrong] == [None] * len(wrong)


def test_a_page_in_utf_16_is_heard() -> None:
    page = '<html><head><meta name="tdm-reservation" content="1"></head></html>'
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        assert read_notice((), page.encode(encoding)) == Notice("tdm-reservation")


def test_an_address_without_scheme_is_under_its_hosts_rules(tmp_path: Path) -> None:
    with opt_outs(tmp_path / "x", ("a.org", "robots.txt", None, "User-agent: *\nDisallow: /")) as found:
        assert found.reason("a.org/1", None, None) == found.reason("//a.org/1", None, None) == "opted out: robots.txt"
        assert found.has_robots("a.org/1") and not found.has_robots("urn:a") and found.has_robots(None)


def test_a_damaged_collection_stops_the_stage(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Some text of the town.")
    rights = {"opt_outs": {"collected": str(tmp_path / "collected")}}
    whole = plain("https://a.org/robots.txt", "User-agent: *\nDisallow: /")
    write_warc(tmp_path / "collected" / "a.warc.gz", whole, whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cannot read .*a\.warc\.gz: (truncated|damaged)"):
        Gathered(tmp_path, tmp_path / "texts", rights)
    unknown = plain("https://a.org/robots.txt", "x", headers="Content-Encoding: rot13")
    write_warc(tmp_path / "collected" / "a.warc.gz", whole, unknown)
    with pytest.raises(SourceError, match=r"a\.warc\.gz: content encoding that is not known"):
        Gathered(tmp_path, tmp_path / "texts", rights)
    write_warc(tmp_path / "collected" / "a.warc.gz", whole)
    (tmp_path / "collected" / "2026-05-01").write_text("no folder")
    assert len(Gathered(tmp_path, tmp_path / "texts", rights).documents) == 1


def test_a_crawl_in_the_site_s_store(tmp_path: Path) -> None:
    """The robots.txt lies in another object than the page."""
    bucket = tmp_path / "store" / "crawls"
    write_warc(bucket / "web" / "1.warc.gz", page("https://a.org/1"), page("https://b.org/1"))
    write_warc(bucket / "web" / "2.warc.gz", plain("https://b.org/robots.txt", "User-agent: *\nDisallow: /"))
    wanted = profile(sources=[source("web", tmp_path, "A") | {"path": "s3://crawls/web"}])
    receipt = run_stage(corpus, wanted, FolderStore(tmp_path / "store"), tmp_path / "work", io.StringIO())
    assert receipt.metrics["source web"]["skipped"] == {"opted out: robots.txt": 1, ROBOTS: 1}
    assert receipt.metrics["documents"] == 1
    assert not (tmp_path / "work" / "opt-outs.sqlite").exists()


def test_html_files_speak_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for name, head in (
        ("a", '<meta name="tdm-reservation" content="1">'),
        ("b", ""),
        ("c", "<meta name=robots content=noai>"),
    ):
        body = f"<html><head>{head}</head><body><article><h1>{name}</h1>{3 * TEXT}</article></body></html>"
        (tmp_path / "pages" / f"{name}.html").write_text(body)
    found = Gathered(tmp_path, tmp_path / "pages")
    assert [one.doc_id for one in found.documents] == ["web/b.html"]
    assert found.skipped == {"opted out: tdm-reservation": 1, "opted out: noai": 1}

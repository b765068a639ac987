"""The dataset card: true of the files, the same bytes again, safe with any name, plain about what is not known."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import yaml
from rich.markdown import Markdown

from sovereign.display import escape_markdown
from sovereign.errors import ProofError, StoreError
from sovereign.lake.card import card_numbers, write_card
from sovereign.lake.census import host_of, take_census
from sovereign.lake.plots import draw_bars
from sovereign.profile import Profile
from tests.sovereign.lake.published import ARABIC, HOSTILE, Published

PLOTS = {"languages.png", "licences.png", "lengths.png", "quality.png", "rejected.png"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Texts are judged from ten words on, so that some have a quality."""
    quality = {"measured_from_words": 10, "max_duplicate_lines": 0.9}
    return Published(tmp_path_factory.mktemp("lake"), cleaning={"quality": quality})


def write(made: Published, folder: Path, wanted: Profile | None = None) -> tuple[dict[str, Any], str]:
    numbers = write_card(folder, made.facts(wanted))
    return numbers, (folder / "README.md").read_text()


def tables(card: str) -> Iterator[list[list[str]]]:
    """Cells of every table, as a reader of Markdown parts them."""
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        yield [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]


def test_numbers_are_those_of_the_files(made: Published) -> None:
    numbers = card_numbers(made.facts())
    rows = made.rows("train", "heldout")
    assert numbers["documents"] == len(rows)
    assert numbers["characters"] == sum(len(row["text"]) for row in rows)
    for split in ("train", "heldout"):
        assert numbers["splits"][split]["documents"] == len(made.rows(split))
    for name in ("language", "licence", "source"):
        found = {row[name]: (row["documents"], row["characters"]) for row in numbers[f"{name}s"]}
        assert found == {
            value: (
                sum(row[name] == value for row in rows),
                sum(len(row["text"]) for row in rows if row[name] == value),
            )
            for value in {row[name] for row in rows}
        }
    owners = {row["owner"]: row["documents"] for row in numbers["owners"]}
    assert owners == Counter(owner for row in rows for owner in row["owners"])
    assert sum(row["share"] for row in numbers["languages"]) == pytest.approx(1, abs=1e-5)
    for row in numbers["lengths"]:
        assert row["documents"] == sum(row["from"] <= len(one["text"]) <= row["to"] for one in rows)
    assert sum(row["documents"] for row in numbers["lengths"]) == len(rows)
    assert numbers["longest"] == max(len(row["text"]) for row in rows)
    measured = [row["quality"] for row in rows if row["quality"] is not None]
    assert 0 < len(measured) < len(rows)
    assert numbers["unmeasured"] == len(rows) - len(measured)
    for row in numbers["quality"]:
        assert row["documents"] == sum(row["from"] <= one < row["to"] or one == row["to"] == 1 for one in measured)


def test_what_was_left_out_and_when_it_was_collected(made: Published) -> None:
    numbers = card_numbers(made.facts())
    rejected = made.rows("rejected")
    assert {row["reason"]: row["documents"] for row in numbers["rejected"]} == Counter(
        row["reason"] for row in rejected
    )
    assert numbers["duplicates"]["duplicate"] == 1
    assert numbers["documents_in"] == numbers["documents"] + len(rejected)
    assert numbers["masked"] == [{"kind": "email", "number": 2}]
    sources = {row["source"]: row for row in numbers["sources"]}
    assert sources["gazette"]["skipped"] == [{"reason": "no text", "records": 1}]
    assert (sources["gazette"]["legal_basis"], sources["letters"]["legal_basis"]) == ("Archives Act, section 4", None)
    dated = [row["collected_at"] for row in made.rows("train", "heldout") if row["source"] == "gazette"]
    years = {row["year"]: row["documents"] for row in numbers["collected"]["years"]}
    by_gazette = Counter(date[:4] for date in dated if date and date[:2] == "20")
    assert years.items() >= by_gazette.items()
    assert years.keys() == by_gazette.keys() | {"2026"}  # the demonstration's
    unknown = [row for row in made.rows("train", "heldout") if not (row["collected_at"] or "").startswith("20")]
    assert numbers["collected"]["unknown"] == len(unknown) > 40
    assert (numbers["collected"]["earliest"], numbers["collected"]["latest"]) == ("2010-01", "2026-01")


def test_dates_in_the_future_are_named_as_such(made: Published, tmp_path: Path) -> None:
    facts = replace(made.facts(), gathered_at="2012-03-31T12:00:00Z")
    dates = [row["collected_at"] or "" for row in made.rows("train", "heldout")]
    in_future = sum(date[:2] == "20" and date[:7] > "2012-03"[: len(date)] for date in dates)
    assert write_card(tmp_path, facts)["collected"]["in_future"] == in_future > 20
    card = (tmp_path / "README.md").read_text()
    assert f"wrong of {in_future:,} of them: they name a month in the future of 2012-03-31, when" in card
    assert card_numbers(replace(facts, gathered_at="2026-01-01T00:00:00Z"))["collected"]["in_future"] == 0
    assert "in the future" not in write(made, tmp_path)[1]


def test_the_card_says_it_and_hubs_can_read_it(made: Published, tmp_path: Path) -> None:
    numbers, card = write(made, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == PLOTS | {"README.md"}
    assert set(re.findall(r"\]\((\S+\.png)\)", card)) == PLOTS
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["language"] == ["ar", "en", "fr", "zh"]
    assert front["size_categories"] == ["n<1K"]
    files = {part["split"]: part["path"] for part in front["configs"][0]["data_files"]}
    assert files == {"train": "train-*.parquet", "test": "heldout-*.parquet"}
    assert f"| email | {numbers['masked'][0]['number']} |" in card
    assert f"`{numbers['manifest_sha256']}`" in card
    assert "sovereign lake check proof.json --manifest manifest.json" in card
    for gap in numbers["gaps"]:
        assert f"- {escape_markdown(gap)}\n" in card


@pytest.mark.parametrize(
    "text", ["# Laws", "- laws", "+ laws", "=== laws", "---", "1. laws", "12) laws", "> laws", "* laws"]
)
def test_no_text_of_others_begins_a_heading_or_a_list(text: str) -> None:
    first, content, last = Markdown(escape_markdown(text)).parsed
    assert (first.type, last.type) == ("paragraph_open", "paragraph_close")
    assert "".join(child.content for child in content.children or ()) == text


def test_no_name_breaks_out_of_its_cell(made: Published, tmp_path: Path) -> None:
    _, card = write(made, tmp_path)
    assert escape_markdown(HOSTILE) in card and ARABIC in card
    assert "<script" not in card
    assert "[x](" not in card
    found = list(tables(card))
    assert len(found) == 11
    for table in found:
        assert len({len(row) for row in table}) == 1, table


def test_same_dataset_same_bytes_elsewhere_and_with_other_settings_of_plots(made: Published, tmp_path: Path) -> None:
    again = Published(tmp_path / "lake", cleaning=made.profile.corpus.cleaning.model_dump())
    receipt = again.dataset.parents["curate"]
    other = {"started_at": "2031-01-01T00:00:00+00:00", "seconds": 9.0, "made_by": "someone@else"}
    again.store.put_bytes("curated/test/receipt.json", receipt.model_copy(update=other).to_bytes())
    again.describe()
    write(made, tmp_path / "a")
    with mpl.rc_context({"axes.facecolor": "red", "font.family": "monospace", "savefig.dpi": 50}):
        write(again, tmp_path / "b")
    for name in PLOTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    one, two = ((tmp_path / folder / "README.md").read_text() for folder in ("a", "b"))
    digests = re.compile(r"`[0-9a-f]{64}`")  # the receipts' keys hold the sources' paths, and the manifest names them
    assert digests.sub("", one) == digests.sub("", two)
    write(made, tmp_path / "a")
    assert (tmp_path / "a" / "README.md").read_text() == one


def chunks(image: bytes) -> Iterator[str]:
    place = 8
    while place < len(image):
        (size,) = struct.unpack(">I", image[place : place + 4])
        yield image[place + 4 : place + 8].decode()
        place += size + 12


def test_a_plot_has_no_date_and_no_program_in_it_and_draws_any_label() -> None:
    labels = [HOSTILE, ARABIC, "维尔莫拉市", "plain", "é" * 100, "a\u202eb", *(f"l{number}" for number in range(30))]
    image = draw_bars("Title", "documents", [(label, 5) for label in labels])
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert not {"tEXt", "iTXt", "zTXt", "tIME"} & set(chunks(image))


def test_what_is_not_known_is_said(made: Published) -> None:
    def gaps(**cleaning: Any) -> str:
        facts = made.facts()
        if cleaning:
            rules = facts.profile.corpus.cleaning.model_copy(update=cleaning)
            corpus = facts.profile.corpus.model_copy(update={"cleaning": rules})
            facts = made.facts(facts.profile.model_copy(update={"corpus": corpus}))
        return "\n".join(card_numbers(facts)["gaps"])

    text = gaps()
    assert "Sources with no stated legal basis: letters." in text
    assert "Sources with no stated contact: gazette, letters." in text
    assert "owners it is not stated how they take text back" in text
    assert "Documents carry no addresses" in text
    assert "names and postal addresses are still there" in text
    assert "harmful and illegal content was not looked for" in text
    assert "By which rules the dataset was cleaned is not known" in gaps(min_chars=11)


def test_rights_are_told_by_source_and_by_owner(tmp_path: Path) -> None:
    """What was left out and why, on what the use rests, whom to ask, and how text is taken back."""
    declared = {"owner": "Archive", "licence": "CC-BY-4.0", "language": "en", "contact": HOSTILE}
    law = {"legal_basis": "Archives Act, section 4", "terms": "not for resale", "opt_outs": "ignore"}
    made = Published(
        tmp_path / "lake",
        sources=[
            {"name": "gazette", "path": str(tmp_path / "lake" / "gazette"), **declared, **law},
            {"name": "letters", "path": str(tmp_path / "lake" / "letters"), **declared},
        ],
        owners=[{"name": "Archive", "withdrawal": "write to the clerk"}, {"name": "Ann", "contact": "ann@example.org"}],
        rights={
            "withdrawn": [{"date": "2026-05-01", "owner": ARABIC}, {"date": "2026-05-01", "document": "letters/3.txt"}]
        },
    )
    numbers, card = write(made, tmp_path / "card")
    assert numbers["rights"] == [
        {"source": "gazette", "reason": "withdrawn owner", "records": 1},
        {"source": "letters", "reason": "withdrawn document", "records": 1},
    ]
    assert "| letters | withdrawn document | 1 |" in card and "Nothing was left out because" not in card
    contact = escape_markdown(HOSTILE)
    assert f"| Archives Act, section 4 | not for resale | {contact} | not looked for, on that legal basis |" in card
    assert f"| not stated | not stated | {contact} | honoured |" in card
    assert "| not stated | not stated | write to the clerk |" in card
    assert "ann@example.org" not in card
    silent = len(numbers["owners"]) - 1
    assert f"For {silent} of {silent + 1} owners it is not stated how they take text back." in numbers["gaps"]
    assert all(len({len(row) for row in table}) == 1 for table in tables(card))


def test_rules_that_are_off_are_named_and_an_older_plot_goes(tmp_path: Path) -> None:
    off: dict[str, Any] = dict.fromkeys(("language", "quality", "near_duplicates", "repeated_lines", "personal_data"))
    made = Published(tmp_path / "lake", cleaning=off)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "quality.png").write_bytes(b"older")
    numbers, card = write(made, tmp_path / "card")
    assert not (tmp_path / "card" / "quality.png").exists()
    assert "quality.png" not in card
    assert "Of no document was the quality measured." in card
    assert numbers["masked"] == [] and "None was found and masked" in card
    for sentence in (
        "Personal data was not looked for.",
        "Lines that many documents of a source have (menus, letterheads) were not looked for.",
        "Near duplicates were not looked for.",
        "No rule of quality was applied.",
        "Languages are as declared; whether texts are in them was not looked at.",
    ):
        assert sentence in numbers["gaps"]


def test_addresses_are_counted_by_website_where_documents_have_them(tmp_path: Path) -> None:
    made = Published(tmp_path / "lake")
    assert card_numbers(made.facts())["websites"] == []
    letters = [row for row in made.rows("train") if row["source"] == "letters"]
    address = {row["doc_id"]: f"https://www.town-{number % 4}.example/{number}" for number, row in enumerate(letters)}
    address[letters[0]["doc_id"]] = "https://[broken"
    made.add_addresses(address)
    numbers, card = write(made, tmp_path / "card")
    expected: Counter[str] = Counter()
    for number, row in enumerate(letters[1:], 1):
        expected[f"town-{number % 4}.example"] += len(row["text"])
    assert {row["website"]: row["characters"] for row in numbers["websites"]} == expected
    assert "| town-1.example | " in card
    without = len(made.rows("train", "heldout")) - len(letters) + 1
    assert f"From which websites {without} of {numbers['documents']} documents come" in card
    assert take_census(made.dataset).addressed == len(letters) - 1
    assert list((made.folder / "scratch").glob("*.parquet")) == []


def test_sources_of_one_domain_are_counted_together(made: Published, tmp_path: Path) -> None:
    facts = made.facts()
    assert card_numbers(facts)["domains"] == []
    sources = tuple(source.model_copy(update={"domain": "news"}) for source in made.profile.corpus.sources)
    corpus = made.profile.corpus.model_copy(update={"sources": sources})
    facts = replace(facts, profile=made.profile.model_copy(update={"corpus": corpus}))
    numbers = write_card(tmp_path, facts)
    rows = [row for row in made.rows("train", "heldout") if row["source"] != "demonstration"]
    news = next(row for row in numbers["domains"] if row["domain"] == "news")
    assert (news["documents"], news["characters"]) == (len(rows), sum(len(row["text"]) for row in rows))
    assert len(numbers["domains"]) == 2
    assert f"| news | {len(rows)} | " in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://www.Example.org:8080/a?b#c", "example.org"),
        ("http://user:secret@sub.example.org./", "sub.example.org"),
        ("https://المثال.example/", "المثال.example"),
        ("example.org/path", None),
        ("https://[1::2", None),
        ("", None),
    ],
)
def test_host_of_an_address(address: str, host: str | None) -> None:
    assert host_of(address) == host


def test_no_card_without_the_manifest_of_these_files(tmp_path: Path) -> None:
    made = Published(tmp_path / "lake")
    path = made.store.root / "curated/test/manifest.json"
    manifest = path.read_bytes()
    path.write_bytes(manifest.replace(made.dataset.files["train-00000.parquet"].encode(), b"0" * 64))
    with pytest.raises(ProofError, match="of other files"):
        made.facts()
    path.write_bytes(b"[]")
    with pytest.raises(ProofError, match="is no manifest"):
        made.facts()
    before = {key: value for key, value in json.loads(manifest).items() if key != "sovereign:sources"}
    path.write_text(json.dumps(before))
    with pytest.raises(ProofError, match="earlier version of the kit"):
        made.facts()
    path.write_bytes(manifest)
    with_key = json.loads(manifest)
    with_key["sovereign:parents"][0]["sovereign:key"] = "0" * 64
    path.write_text(json.dumps(with_key))
    with pytest.raises(ProofError, match="earlier version of the kit"):
        made.facts()
    path.write_bytes(manifest)
    parents = made.dataset.parents
    for stage, prefix in (("corpus", "raw"), ("curate", "curated")):
        receipt, metrics = parents[stage], copy.deepcopy(parents[stage].metrics)
        if stage == "corpus":
            name = next(name for name in metrics if name.startswith("source "))
            metrics[name]["declared"]["terms"] = "other terms"
        else:
            metrics["rejected"]["other"] = 1
        made.store.put_bytes(f"{prefix}/test/receipt.json", receipt.model_copy(update={"metrics": metrics}).to_bytes())
        with pytest.raises(ProofError, match="run again since the manifest was made"):
            made.facts()
        made.store.put_bytes(f"{prefix}/test/receipt.json", receipt.to_bytes())
    path.unlink()
    with pytest.raises(ProofError, match="has no manifest"):
        made.facts()
    path.write_bytes(manifest)
    train = made.store.root / "curated/test/train-00000.parquet"
    train.write_bytes(train.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="is not what its receipt says"):
        made.facts()


def test_l17_terms_of_a_licence_of_ones_own_are_published(tmp_path: Path) -> None:
    """Where SPDX has nothing to look up; those that no text is under stay in the profile."""
    terms = [
        {"id": "LicenseRef-Archive", "text": "Free | for research.", "url": "https://archive.example.org/terms"},
        {"id": "LicenseRef-Unused", "text": "Nothing is under these."},
    ]
    sources = [
        {"name": name, "path": str(tmp_path / "lake" / name), "owner": "Archive", "language": "en", "licence": licence}
        for name, licence in (("gazette", "CC-BY-4.0"), ("letters", "CC-BY-4.0 AND LicenseRef-Archive"))
    ]
    made = Published(tmp_path / "lake", rights={"licences": terms}, sources=sources)
    (entry,) = made.facts().manifest["sovereign:customTerms"]
    assert entry == {
        "sovereign:licence": "LicenseRef-Archive",
        "sovereign:text": "Free | for research.",
        "sovereign:address": "https://archive.example.org/terms",
    }
    _, card = write(made, tmp_path / "card")
    rows = [row for table in tables(card) for row in table if "LicenseRef" in row[0] and "AND" not in row[0]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["LicenseRef-Archive", "Free \\| for research.", escape_markdown("https://archive.example.org/terms")]
    ]

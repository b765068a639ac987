"""The training-content summary: true of the files, in the shipped schema, safe with any name, open about gaps."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sovereign.errors import ProfileError
from sovereign.lake.census import Dates
from sovereign.lake.intake import Intake
from sovereign.lake.summary import make_summary, named_domains, size_range
from sovereign.lake.summary_model import TrainingSummary, json_schema
from sovereign.lake.summary_page import NOT_STATED, render_summary
from sovereign.profile import Profile, parse_profile
from sovereign.profile_publication import Publication
from sovereign.resources import data_path
from tests.sovereign.lake.published import ARABIC, HOSTILE, Published

SCHEMA_FILE = data_path("templates") / "lake" / "training-content-summary.schema.json"
NUMBERS = ["1.1", "1.2", "1.3", "2.1", "2.2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3"]
STATED: dict[str, Any] = {
    "summary_version": "1.0",
    "last_update": "2026-11-25",
    "provider_name": HOSTILE,
    "provider_contact": "ai@example.org",
    "is_in_union": False,
    "authorised_representative": ARABIC,
    "model_names": ["test-1.0", "test-1.1"],
    "placed_on_market": "2026-12-01",
    "types_of_content": "laws and letters",
    "latest_data": "2026-03",
    "is_trained_on_newer_data": False,
    "is_code_of_practice_signatory": True,
    "opt_out_policy": "robots.txt is honoured",
    "illegal_content": "lists of words",
    "sources": [
        {"name": "gazette", "category": "public-dataset", "link": "https://example.org/gazette?a=1&b=2"},
        {"name": "letters", "category": "public-dataset", "description": "Letters of neighbours."},
    ],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("lake"))


def stated(made: Published, *sources: Mapping[str, Any], without: str = "", **changes: Any) -> Profile:
    """The profile with `STATED`; `sources` take the place of its own."""
    values = {key: value for key, value in (STATED | changes).items() if key != without}
    if sources:
        values["sources"] = list(sources)
    return Profile.model_validate(made.profile.model_dump() | {"publication": values})


def everything(tokens: int | None) -> Intake:
    """Training takes every document."""
    return Intake(lambda *_: True, tokens)


def summarise(made: Published, wanted: Profile | None = None, tokens: int | None = 1000) -> TrainingSummary:
    return make_summary(made.facts(wanted), everything(tokens))


def content(summary: TrainingSummary) -> dict[str, Any]:
    """The JSON that is written, checked against the shipped schema."""
    value: dict[str, Any] = json.loads(summary.to_bytes())
    jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(value)
    return value


def test_shipped_schema_is_current_and_strict(made: Published) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert schema == json_schema(), f"python -m sovereign.lake.summary_model > {SCHEMA_FILE}"
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    value = content(summarise(made))
    assert list(value["sections"]) == NUMBERS
    for path, wrong in ((("sections", "1.3", "documents"), -1), (("sections", "2.1", "is_used"), "maybe")):
        broken = json.loads(json.dumps(value))
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)
    del value["sections"]["3.2"]
    with pytest.raises(jsonschema.ValidationError, match=r"'3\.2' is a required property"):
        validator.validate(value)


def test_numbers_are_those_of_the_documents_to_train_on(made: Published) -> None:
    value = content(summarise(made, stated(made)))
    rows = made.rows("train")
    assert len(rows) < len(made.rows("train", "heldout"))
    overall = value["sections"]["1.3"]
    assert overall["documents"] == len(rows)
    assert overall["characters"] == sum(len(row["text"]) for row in rows)
    for one in overall["languages"]:
        same = [row for row in rows if row["language"] == one["language"]]
        assert (one["documents"], one["characters"]) == (len(same), sum(len(row["text"]) for row in same))
    assert len(overall["languages"]) == len({row["language"] for row in rows})
    datasets = value["sections"]["2.1"]["large"] + value["sections"]["2.5"]["sources"]
    assert {one["name"] for one in datasets} == {"gazette", "letters", "demonstration"}
    for one in datasets:
        assert one["documents"] == sum(row["source"] == one["name"] for row in rows)
    gazette = next(one for one in datasets if one["name"] == "gazette")
    assert (gazette["collected_from"], gazette["collected_until"]) == ("2010-01", "2021")
    assert value["dataset"]["manifest_sha256"] == made.facts().manifest_sha256
    rejected = {one["name"]: one["number"] for one in value["sections"]["3.3"]["rejected"]}
    assert sum(rejected.values()) == len(made.rows("rejected"))
    assert summarise(made, stated(made)).to_bytes() == summarise(made, stated(made)).to_bytes()


def test_what_nobody_stated_is_null_and_named_with_the_key_that_states_it(made: Published) -> None:
    value = content(summarise(made, tokens=None))
    missing = [one["key"] for one in value["missing"]]
    assert missing == [
        "publication.summary_version",
        "publication.last_update",
        "publication.provider_name",
        "publication.provider_contact",
        "publication.is_in_union",
        "publication.model_names",
        "publication.placed_on_market",
        "publication.types_of_content",
        "publication.latest_data",
        "publication.is_trained_on_newer_data",
        "publication.sources[gazette].category",
        "publication.sources[letters].category",
        "publication.is_code_of_practice_signatory",
        "publication.opt_out_policy",
        "publication.illegal_content",
    ]
    for key in missing:
        assert key.split(".")[1].partition("[")[0] in Publication.model_fields
    sections = value["sections"]
    assert sections["1.1"]["provider_name"] is None
    assert (sections["3.1"]["left_out"], sections["3.1"]["withdrawals"]) == ([], None)
    assert sections["1.2"]["model_names"] is None
    assert [sections[number]["is_used"] for number in ("2.1", "2.2.1", "2.2.2", "2.3", "2.5", "2.6")] == [None] * 6
    assert sections["2.4"]["has_model_interactions"] is None
    assert sections["1.2"]["model_dependencies"] == "None: trained from random weights."
    assert sections["1.3"]["size_range"] == "less than 1 billion tokens"
    page = render_summary(summarise(made, tokens=None))
    assert page.count(NOT_STATED) > len(missing) - 3
    assert "15 answers that the template asks for are not stated." in page


def test_all_stated_leaves_nothing_missing(made: Published) -> None:
    value = content(summarise(made, stated(made)))
    assert value["missing"] == []
    sections = value["sections"]
    assert sections["2.1"]["is_used"] is True
    assert [sections[number]["is_used"] for number in ("2.2.1", "2.2.2", "2.3", "2.5", "2.6")] == [False] * 5
    assert (sections["2.4"]["has_model_interactions"], sections["2.4"]["has_service_interactions"]) == (False, False)
    assert [one["name"] for one in sections["2.5"]["sources"]] == ["demonstration"]
    assert value["last_update"] == "2026-11-25"


@pytest.mark.parametrize("is_gathered", [True, False])
def test_a_date_in_the_future_makes_the_latest_one_unknown(made: Published, is_gathered: bool) -> None:
    facts = made.facts(stated(made, without="latest_data"))
    if not is_gathered:
        facts = replace(facts, gathered_at=None)
    for source in facts.census.sources.values():
        source.trained.unknown = 0
    facts.census.sources["letters"].trained.add("2020-05-01")

    def dates() -> tuple[str | None, str | None, str | None, list[str]]:
        value = content(make_summary(facts, everything(1000)))
        gazette = next(one for one in value["sections"]["2.1"]["large"] if one["name"] == "gazette")
        latest = value["sections"]["1.3"]["latest_data"]
        missing = [one["key"] for one in value["missing"]]
        return latest, gazette["collected_from"], gazette["collected_until"], missing

    assert dates() == ("2026-01", "2010-01", "2021", [])
    facts.census.sources["gazette"].trained.add("2099-01-01")
    assert dates() == (None, "2010-01", None, ["publication.latest_data"])
    facts.census.sources["gazette"].trained = Dates()
    facts.census.sources["gazette"].trained.add("2099-01-01")
    assert dates() == (None, None, None, ["publication.latest_data"])


@pytest.mark.parametrize("key", [key for key in STATED if key != "sources"])
def test_each_statement_that_is_taken_away_is_missing(made: Published, key: str) -> None:
    assert [one.key for one in summarise(made, stated(made, without=key)).missing] == [f"publication.{key}"]


@pytest.mark.parametrize(
    ("category", "number", "place", "missing"),
    [
        ("public-dataset", "2.1", "large", ["sources[letters].description"]),
        ("private-licensed", "2.2.1", "datasets", []),
        ("private-other", "2.2.2", "others", ["sources[letters].description"]),
        ("crawled", "2.3", "sources", ["crawlers", "crawled_content"]),
        ("user", "2.4", "sources", ["has_model_interactions", "has_service_interactions"]),
        ("synthetic", "2.5", "sources", ["synthetic_models"]),
        ("other", "2.6", "sources", ["sources[letters].description"]),
    ],
)
def test_a_source_stands_in_the_section_of_its_category(
    made: Published, category: str, number: str, place: str, missing: list[str]
) -> None:
    gazette = {"name": "gazette", "category": "public-dataset", "link": "https://example.org/"}
    wanted = stated(made, gazette, {"name": "letters", "category": category})
    value = content(summarise(made, wanted))
    assert "letters" in [one["name"] for one in value["sections"][number][place]]
    if number != "2.4":
        assert value["sections"][number]["is_used"] is True
    assert value["sections"][number]["modalities" if number != "2.6" else "is_used"] in (["text"], True)
    addresses = ["addresses of the documents"] if category == "crawled" else []
    if category == "crawled":
        assert value["sections"]["2.3"]["domains_rule"] == "none: documents carry no addresses"
    assert [one["key"] for one in value["missing"]] == [f"publication.{key}" for key in missing] + addresses


def test_private_sources_with_a_link_are_publicly_known_and_small_public_ones_are_not_large(made: Published) -> None:
    private = {"name": "letters", "category": "private-other", "link": "https://example.org/letters"}
    public = {"name": "gazette", "category": "public-dataset", "description": "Laws."}
    sections = content(summarise(made, stated(made, public, private)))["sections"]
    assert [one["name"] for one in sections["2.2.2"]["known"]] == ["letters"]
    assert sections["2.2.2"]["others"] == []
    facts = made.facts(stated(made))
    small = facts.census.sources["letters"].splits["train"]
    small.characters = facts.census.sources["gazette"].splits["train"].characters // 40
    datasets = make_summary(facts, everything(1000)).sections.public
    assert [one.name for one in datasets.large] == ["gazette"]
    assert [one.name for one in datasets.others] == ["letters"]


def test_sources_say_their_legal_basis_and_what_was_left_out_is_counted(tmp_path: Path) -> None:
    """Beyond what the template asks, so that nothing of it is missing when it is not stated."""
    made = Published(
        tmp_path / "lake",
        owners=[{"name": "Archive", "withdrawal": "write to the clerk", "contact": "clerk@example.org"}],
        rights={"withdrawn": [{"date": "2026-05-01", "document": f"letters/{number}.txt"} for number in range(3)]},
    )
    value = content(summarise(made, stated(made)))
    assert value["missing"] == []
    rows = {one["name"]: one for one in value["sections"]["2.1"]["large"] + value["sections"]["2.5"]["sources"]}
    assert rows["gazette"]["legal_basis"] == "Archives Act, section 4"
    assert [rows[name]["legal_basis"] for name in ("letters", "demonstration")] == [None, None]
    assert value["sections"]["3.1"]["left_out"] == [{"name": "withdrawn document", "number": 3}]
    assert value["sections"]["3.1"]["withdrawals"] == [{"owner": "Archive", "withdrawal": "write to the clerk"}]
    page = render_summary(summarise(made, stated(made)))
    assert "write to the clerk" in page and "clerk@example.org" not in page


def test_l17_crawlers_that_nobody_stated_are_not_stated(made: Published) -> None:
    gazette = {"name": "gazette", "category": "public-dataset", "link": "https://example.org/"}
    crawled = summarise(made, stated(made, gazette, {"name": "letters", "category": "crawled"}))
    assert content(crawled)["sections"]["2.3"]["crawlers"] is None
    assert _answer(crawled, "Crawlers") == NOT_STATED
    unused = summarise(made, stated(made, gazette, {"name": "letters", "category": "other", "description": "Mail."}))
    assert unused.sections.crawled.is_used is False and unused.sections.crawled.crawlers == []


def _answer(summary: TrainingSummary, question: str) -> str:
    """What the page says beside a question."""
    row = re.search(rf">{question}</th>\s*<td[^>]*>(.*?)</td>", render_summary(summary), re.DOTALL)
    assert row is not None
    return re.sub(r"<[^>]+>", "", row[1]).strip()


def test_crawlers_are_described_and_the_largest_tenth_of_domains_is_named(tmp_path: Path) -> None:
    made = Published(tmp_path / "lake")
    letters = [row for row in made.rows("train") if row["source"] == "letters"]
    made.add_addresses({row["doc_id"]: f"https://town-{number % 15}.example/" for number, row in enumerate(letters)})
    crawler = {"name": "OurBot/1.0", "purpose": "training", "behaviour": "honours robots.txt"}
    months = {"collected_from": "2026-01", "collected_until": "2026-03"}
    gazette = {"name": "gazette", "category": "other", "description": "Laws."}
    changes: dict[str, Any] = {"crawlers": [crawler | months], "crawled_content": "local news"}
    wanted = stated(made, gazette, {"name": "letters", "category": "crawled"}, **changes)
    value = content(summarise(made, wanted))
    assert value["missing"] == []
    crawled = value["sections"]["2.3"]
    assert crawled["crawlers"] == [crawler | months]
    assert (crawled["num_domains"], len(crawled["domains"])) == (15, 2)
    sizes: dict[str, int] = {}
    for number, row in enumerate(letters):
        sizes[f"town-{number % 15}.example"] = sizes.get(f"town-{number % 15}.example", 0) + len(row["text"])
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:2]
    assert [(one["domain"], one["characters"]) for one in crawled["domains"]] == largest
    half = stated(made, gazette, {"name": "letters", "category": "crawled"}, crawlers=[crawler])
    assert [one.key for one in summarise(made, half).missing] == [
        "publication.crawlers[OurBot/1.0].collected_from",
        "publication.crawlers[OurBot/1.0].collected_until",
        "publication.crawled_content",
    ]


@pytest.mark.parametrize(
    ("number", "is_small", "named"),
    [
        (0, False, 0),
        (1, False, 1),
        (15, False, 2),
        (100, False, 10),
        (100, True, 5),
        (101, True, 6),
        (50_000, True, 1000),
    ],
)
def test_how_many_domains_are_named(number: int, is_small: bool, named: int) -> None:
    assert named_domains(number, is_small=is_small)[0] == named


@pytest.mark.parametrize(
    ("tokens", "characters", "expected"),
    [
        (10**9 - 1, 1, "less than 1 billion tokens"),
        (10**9, 1, "1 billion to 10 trillion tokens"),
        (10**13, 1, "1 billion to 10 trillion tokens"),
        (10**13 + 1, 1, "more than 10 trillion tokens"),
        (None, 249_999_974, "less than 1 billion tokens"),
        (None, 249_999_975, None),
    ],
)
def test_range_of_size(tokens: int | None, characters: int, expected: str | None) -> None:
    assert size_range(tokens, 100, characters) == expected


class Page(HTMLParser):
    """What a browser would make of a page: elements with attributes, headings, text; void elements are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings.pop()
            self.headings.append((level, text + data))


def test_the_page_needs_nothing_else_and_can_be_read_by_anyone(made: Published) -> None:
    page = Page(render_summary(summarise(made, stated(made, comments={"2.1": HOSTILE}))))
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "img", "link", "iframe", "object", "form"}
    assert ("html", {"lang": "en"}) in page.elements
    used = {value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")}
    assert used == {"https://example.org/gazette?a=1&b=2"}
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert all(attributes.get("dir") == "auto" for tag, attributes in page.elements if tag == "td")
    assert page.text.count(HOSTILE) == 2
    assert ARABIC in page.text
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    numbered = [text.partition(" ")[0] for _, text in page.headings if text[:1].isdigit()]
    assert numbered == [f"{number}." for number in sorted([*NUMBERS, "1", "2", "2.2", "3"])]


def test_a_section_without_data_says_no_and_asks_no_more(made: Published) -> None:
    page = render_summary(summarise(made, stated(made)))
    crawled = page.partition("2.3. Data crawled")[2].partition("2.4. User data")[0]
    assert crawled.count("<tr>") == 1 and ">no<" in crawled
    synthetic = page.partition("2.5. Synthetic data")[2].partition("2.6. Other")[0]
    assert "no AI model made them" in synthetic
    unknown = render_summary(summarise(made)).partition("2.1. Publicly")[2].partition("2.2. Private")[0]
    assert NOT_STATED in unknown and ">none<" not in unknown


@pytest.mark.parametrize(
    ("publication", "message"),
    [
        ({"sources": [{"name": "nobody"}]}, "what corpus.sources has not: nobody"),
        ({"sources": [{"name": "letters"}, {"name": "letters"}]}, "names of publication.sources repeat"),
        ({"model_link": "javascript:alert(1)"}, "publication.model_link"),
        ({"sources": [{"name": "letters", "link": "https://example.org/ x"}]}, r"publication.sources.0.link"),
        ({"sources": [{"name": "letters", "category": "public"}]}, "'public-dataset'"),
        ({"latest_data": "03/2026"}, "publication.latest_data"),
        ({"comments": {"9.9": "x"}}, "publication.comments"),
        ({"provider": "x"}, "publication.provider: "),
        ({"provider_name": "  "}, "publication.provider_name"),
    ],
)
def test_wrong_statements_are_refused(made: Published, publication: dict[str, Any], message: str) -> None:
    text = yaml.safe_dump(made.profile.model_dump(mode="json") | {"publication": publication})
    with pytest.raises(ProfileError, match=message):
        parse_profile(text)


def test_statements_change_no_stage(made: Published) -> None:
    """Nothing is read or trained again for a new contact address."""
    from sovereign.lake.stages import corpus, curate
    from sovereign.plan import plan

    wanted = stated(made)
    assert plan(wanted) == plan(made.profile)
    for stage in (corpus, curate):
        assert stage.config(wanted, plan(wanted)) == stage.config(made.profile, plan(made.profile))


def test_sec14_what_turns_the_direction_of_a_page_is_spelt(made: Published) -> None:
    text = render_summary(summarise(made, stated(made, provider_name="evil \u202etxt.exe\u2069 \x1b[1m", comments={})))
    assert not {"\u202e", "\u2069", "\x1b"} & {*text}
    assert "evil \\u202etxt.exe\\u2069 \\x1b[1m" in text

"""The mix of a dataset: copies that give what was asked for, counts to the token, and who may say so."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from sovereign.errors import PlanError, ProfileError, StageError, StoreError
from sovereign.files import sha256_bytes
from sovereign.lake.documents import Document
from sovereign.lake.mix import ALL, Approval, MixFile, Request, approved_mix, mix_key
from sovereign.lake.mix_census import Census
from sovereign.lake.stages import corpus, curate
from sovereign.plan import plan
from sovereign.profile import Profile, parse_profile
from sovereign.profile_mix import Mix
from sovereign.receipts import model_digest
from sovereign.stages import read_receipt, run_stage
from sovereign.store import FolderStore

SOURCES = {"gazette": "law", "decrees": "law", "radio": "news"}
OWNERS = (("Archive",), ("Archive", "Office"), ("Office", "Mint", "Archive"))


def documents(tokens: Sequence[int]) -> list[tuple[Document, int]]:
    """Documents of these numbers of tokens, of three sources, two languages, three sets of owners, two licences."""
    made = []
    for number, count in enumerate(tokens):
        source, language = list(SOURCES)[number % 3], ("fr", "ar")[number % 2]
        licence = "CC-BY-4.0" if number % 5 else "CC0-1.0"
        text = "é" * count
        document = Document(f"{source}/{number}", text, language, source, OWNERS[number % 3], licence, None)
        made.append((document, count))
    return made


def request(budget: int, **mix: Any) -> Request:
    return Request(mix=Mix(**mix) if mix else None, domains=SOURCES, tokens=budget)


def decide(asked: Request, counted: Sequence[tuple[Document, int]]) -> MixFile:
    census = Census(asked)
    for document, tokens in counted:
        census.add(document, tokens)
    return census.decide(lambda _: {ALL: asked.tokens}, name="test", dataset="ab" * 32, tokenizer="cd" * 32)


SETTINGS = st.sampled_from(
    [
        {"temperature": 1.0},
        {"temperature": 3.3, "max_epochs": 8},
        {"sources": {"gazette": 2.0, "radio": 1.0}, "max_epochs": 5},
        {"sources": {"gazette": 2.0}, "rest": 3.0, "temperature": 2.0},
        {"domains": {"fr": {"law": 3.0, "news": 0.5}, "ar": {"law": 1.0}}},
        {"domains": {"fr": {"law": 0.0}}, "rest": 1.0, "max_epochs": 6, "seed": 7},
    ]
)


@given(
    tokens=st.lists(st.integers(1, 40), min_size=6, max_size=60),
    settings=SETTINGS,
    epochs=st.fractions("1/10", 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_copies_give_what_was_asked_for_to_one_document(
    tokens: list[int], settings: dict[str, Any], epochs: Any, seed: int
) -> None:
    counted = documents(tokens)
    asked = request(max(1, int(sum(tokens) * epochs / 4)), **settings)
    cap, wanted = settings.get("max_epochs"), sum(count for document, count in counted if asked.wants(document))
    if cap is not None and cap * wanted < asked.tokens:
        with pytest.raises(PlanError, match="cannot give the tokens"):
            decide(asked, counted)
        return
    mix = decide(asked, counted)
    copies_of = mix.copies()
    assert sum(portion.target_tokens or 0 for portion in mix.groups) == asked.tokens
    by_owner: Counter[str] = Counter()
    by_licence: Counter[str] = Counter()
    for portion in mix.groups:
        own = [(document, count) for document, count in counted if asked.group(asked.facet(document)) == portion.group]
        assert portion.dataset.tokens == sum(count for _, count in own)
        assert portion.dataset.bytes == sum(len(document.text.encode()) for document, _ in own)
        copies = [copies_of(document) for document, _ in own]
        assert portion.shards.documents == sum(copies)
        assert portion.shards.tokens == sum(n * count for n, (_, count) in zip(copies, own, strict=True))
        assert portion.target_tokens is not None and max(copies) - min(copies) <= 1
        assert 0 <= portion.shards.tokens - portion.target_tokens < max(count for _, count in own)
        assert cap is None or max(copies) <= cap
        assert portion.is_capped == (portion.target_tokens == (cap or 0) * portion.dataset.tokens > 0)
        assert any(asked.wants(document) for document, _ in own) or not any(copies)
        for n, (document, count) in zip(copies, own, strict=True):
            by_licence[document.licence] += n * count
            for owner in document.owners:
                by_owner[owner] += n * count
    assert mix.shards["owner"] == +by_owner and mix.shards["licence"] == +by_licence
    assert mix.run == mix.shards
    whole = sum(portion.shards.tokens for portion in mix.groups)
    assert all(sum(mix.shards[kind].values()) == whole for kind in ("language", "domain", "source", "licence"))
    assert abs(sum(mix.shards["owner_share"].values()) - whole) <= len(mix.shards["owner_share"])
    # The order in which documents are read has no part in it, and what is written is read again.
    random.Random(seed).shuffle(counted)
    assert decide(asked, counted) == mix
    assert MixFile.from_bytes(mix.to_bytes(), "mix.json") == mix


def test_another_machine_decides_the_same() -> None:
    mix = decide(request(9_000, temperature=3.3, max_epochs=4), documents([number % 37 + 1 for number in range(300)]))
    assert mix.to_bytes() == rfc8785.dumps(json.loads(mix.to_bytes()))
    assert sha256_bytes(mix.to_bytes()) == "f2e6040a26643fb3398424545a990fc8dd544f75bd354b8b00b540d870dcc97a"


def test_a_part_of_an_epoch_takes_documents_by_hash_order() -> None:
    counted = documents([10] * 600)
    half, more = (decide(request(budget, sources={"radio": 1.0}), counted).copies() for budget in (1000, 3000))
    radio = [document for document, _ in counted if document.source == "radio"]
    first = {document.doc_id for document in radio if half(document)}
    assert len(first) == 100
    # 2,000 tokens are one epoch, so of 3,000 the same documents come twice.
    assert {document.doc_id for document in radio if more(document) == 2} == first
    assert min(map(more, radio)) == 1
    other = decide(request(1000, sources={"radio": 1.0}, seed=1), counted).copies()
    assert {document.doc_id for document in radio if other(document)} != first
    assert not any(half(document) for document, _ in counted if document.source != "radio")


def test_weights_of_sources_and_the_rest() -> None:
    counted = documents([10] * 600)  # 2,000 tokens of each source
    mix = decide(request(4000, sources={"gazette": 1.0}, rest=3.0), counted)
    assert {portion.source: portion.target_tokens for portion in mix.groups} == {
        "decrees": 1500,
        "gazette": 1000,
        "radio": 1500,
    }
    mix = decide(request(4000, sources={"gazette": 1.0, "radio": 3.0}, max_epochs=1), counted)
    assert {portion.source: (portion.target_tokens, portion.is_capped) for portion in mix.groups} == {
        "decrees": (0, False),
        "gazette": (2000, True),
        "radio": (2000, True),
    }


@pytest.mark.parametrize(
    "named", [{"sources": {"radio": 1.0, "archive": 0}}, {"domains": {"fr": {"law": 1, "gone": 0}}}]
)
def test_l15_weight_0_of_what_is_not_there_is_harmless(named: dict[str, Any]) -> None:
    counted = documents([10] * 600)
    mix = decide(request(100, **named), counted)
    assert sum(portion.target_tokens or 0 for portion in mix.groups) == 100


def test_l15_what_is_not_taken_by_rounding_is_known() -> None:
    mix = decide(request(100, sources={"radio": 1.0, "gazette": 1e-6, "decrees": 0}), documents([10] * 600))
    assert {group.source for group in mix.untaken} == {"gazette"}


def test_the_natural_mix_takes_every_document_once_and_the_run_goes_over_it() -> None:
    counted = documents([10] * 600)
    mix = decide(request(15_000), counted)
    assert {mix.copies()(document) for document, _ in counted} == {1}
    assert {portion.epochs for portion in mix.groups} == {2.5}
    assert sum(mix.shards["language"].values()) == 6000
    assert mix.run["owner"] == {owner: tokens * 5 // 2 for owner, tokens in mix.shards["owner"].items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_epochs": 2},
            r"(?s)cannot give the tokens of the run\n.*at most 12,000\n.*13,000\n.*raise mix.max_epochs",
        ),
        (
            {"sources": {"radio": 1.0, "archive": 1.0}},
            r"(?s)no training document of\n.*got: archive\n.*decrees, gazette",
        ),
        ({"domains": {"zh": {"law": 1.0}}}, r"(?s)got: zh law\n.*ar law, ar news, fr law, fr news"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        decide(request(13_000, **settings), documents([10] * 600))


PROFILE: dict[str, Any] = {
    "apiVersion": "sovereign/v1",
    "name": "test",
    "corpus": {
        "demonstration": {"facts": 10},
        "sources": [
            {"name": "radio", "path": "/r", "owner": "R", "licence": "CC0-1.0", "language": "fr", "domain": "news"}
        ],
    },
    "model": {"parameters": 4e5},
    "training": {"tokens": 1e5},
}


def profile(**changes: Any) -> Profile:
    return parse_profile(json.dumps(PROFILE | changes))


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"sources": {"archive": 1}}, "mix.sources names archive; the corpus has demonstration, radio"),
        ({"domains": {"fr": {"law": 1}}}, "mix.domains names law; the corpus has demonstration, news"),
        ({"sources": {"radio": 1}, "domains": {"fr": {"news": 1}}}, "not both"),
        ({"sources": {"radio": 0}}, "all weights are 0"),
        ({"sources": {}}, "at least 1 item"),
        ({"sources": {"radio": -1}}, "greater than or equal to 0"),
        ({"max_epochs": 0}, "greater than or equal to 1"),
        ({"temperature": 0.5}, "greater than or equal to 1"),
    ],
)
def test_a_profile_with_a_wrong_mix_is_refused(mix: dict[str, Any], words: str) -> None:
    with pytest.raises(ProfileError, match=words):
        profile(mix=mix)


def test_phases_weigh_languages_all_or_none() -> None:
    phases = [{"tokens": 5e4, "mix": {"fr": 1}}, {"tokens": 5e4}]
    profile(training={"tokens": 1e5, "phases": phases})
    with pytest.raises(ProfileError, match="either every entry of training"):
        profile(mix={"max_epochs": 2}, training={"tokens": 1e5, "phases": phases})


def test_a_source_has_a_domain_which_is_no_part_of_its_documents() -> None:
    one, other = profile(), profile(corpus={"demonstration": {"facts": 10}, "sources": [SOURCE]})
    assert one.corpus.domains == {"demonstration": "demonstration", "radio": "news"}
    assert other.corpus.domains == {"demonstration": "demonstration", "radio": "radio"}
    assert corpus.config(one, plan(one)) == corpus.config(other, plan(other))


SOURCE = {key: value for key, value in PROFILE["corpus"]["sources"][0].items() if key != "domain"}
REQUIRED = {"corpus": {"demonstration": {"facts": 10}}, "governance": {"mix_approval": "required"}}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A store with a curated dataset."""
    store = FolderStore(tmp_path / "store")
    for stage in (corpus, curate):
        run_stage(stage, profile(**REQUIRED), store, tmp_path / "work", io.StringIO())
    return store


def approved(store: FolderStore, asked: Profile, **changes: Any) -> bytes:
    """A natural mix of the dataset in `store`, approved, with some fields changed."""
    receipt = read_receipt(store, curate, "test")
    assert receipt is not None
    census = Census(Request.of(asked, plan(asked)))
    census.add(Document("a", "text", "fr", "demonstration", ("Archive",), "CC0-1.0", None), 4)
    mix = census.decide(lambda _: {ALL: 100}, name="test", dataset=model_digest(receipt.outputs), tokenizer="cd" * 32)
    approval = Approval(by="A. Person", at="2026-01-01T00:00:00+00:00", note="")
    return mix.model_copy(update={"approval": approval} | changes).to_bytes()


def test_an_approved_mix_is_an_input_by_its_digest(store: FolderStore) -> None:
    asked = profile(**REQUIRED)
    content = approved(store, asked)
    store.put_bytes(mix_key("test"), content)
    assert approved_mix(asked, store) == {"curated/test/mix.json": sha256_bytes(content)}
    assert approved_mix(profile(corpus=REQUIRED["corpus"]), store) == {}


def test_without_approval_or_with_a_stale_one_nothing_goes_on(store: FolderStore, tmp_path: Path) -> None:
    asked = profile(**REQUIRED)
    hint = "sovereign lake approve SITE --by NAME"
    with pytest.raises(StageError, match=rf"(?s)no person has approved.*{hint}"):
        approved_mix(asked, store)
    store.put_bytes(mix_key("test"), approved(store, asked, approval=None))
    with pytest.raises(StageError, match=rf"(?s)is not approved.*{hint}"):
        approved_mix(asked, store)
    store.put_bytes(mix_key("test"), approved(store, asked))
    longer = profile(**REQUIRED, training={"tokens": 2e5})
    with pytest.raises(StageError, match=rf"(?s)asks for another mix.*got: another tokens\n.*{hint}"):
        approved_mix(longer, store)
    with pytest.raises(StageError, match=r"(?s)got: another mix\n"):
        approved_mix(profile(**REQUIRED, mix={"temperature": 2}), store)
    changed = profile(**REQUIRED | {"corpus": {"demonstration": {"facts": 11}}})
    for stage in (corpus, curate):
        run_stage(stage, changed, store, tmp_path / "work", io.StringIO())
    with pytest.raises(StageError, match=rf"(?s)of another version of the dataset.*{hint}"):
        approved_mix(changed, store)
    store.put_bytes(mix_key("test"), approved(store, changed))
    assert set(approved_mix(changed, store)) == {mix_key("test")}


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff"])
def test_a_damaged_mix_is_named(store: FolderStore, damage: bytes) -> None:
    store.put_bytes(mix_key("test"), damage)
    with pytest.raises(StoreError, match=r"curated/test/mix.json is no mix of this version"):
        approved_mix(profile(**REQUIRED), store)

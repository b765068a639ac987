"""What training took of each owner's text by tier: counted document by document, it is the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import TrainingError
from sovereign.lake.documents import Document
from sovereign.plan import RunPhase
from sovereign.profile_training import RateSpan
from tests.training.shard_files import LANGUAGES, OWNERS, make_shards
from training.consumption import consumed_by_tier
from training.ledger import documents, run_ledger
from training.mix import make_stream
from training.order import TokenStream
from training.shards import Shard, ShardWriter

TIERS = ["high", "low", "unmeasured"]


def tier_of(document: Document) -> int:
    """A tier by the document's number."""
    return int(document.doc_id.removeprefix("d")) % len(TIERS)


def make_document(number: int) -> Document:
    """Document `number` of the shards."""
    owners = OWNERS[number % len(OWNERS)]
    return Document(f"d{number}", "", LANGUAGES[number % 3], "demonstration", owners, "CC0-1.0", None)


def mixed_by(order: list[int], lengths: list[list[int]]) -> list[Document]:
    """All documents, those of each shard in their order, the shards' mixed as `order` says."""
    starts = [sum(map(len, lengths[:number])) for number in range(len(lengths))]
    waiting = [list(range(start, start + len(own))) for start, own in zip(starts, lengths, strict=True)]
    merged = []
    for draw in [*order, *[*range(len(lengths))] * sum(map(len, lengths))]:
        own = waiting[draw % len(waiting)]
        if own:
            merged.append(make_document(own.pop(0)))
    return merged


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 300),
    steps=st.integers(1, 12),
    order=st.lists(st.integers(0, 3), max_size=20),
)
def test_it_counts_what_the_ledger_lists(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[list[int]],
    seed: int,
    batch: int,
    steps: int,
    order: list[int],
) -> None:
    stream = TokenStream(make_shards(tmp_path_factory.mktemp("shards"), lengths), seed)
    ledger = run_ledger(stream, batch, steps, {})
    expected: Counter[tuple[str, str, int]] = Counter()
    for seen in documents(stream, 0, steps * batch):
        tier = TIERS[int(seen.doc_id.removeprefix("d")) % len(TIERS)]
        for owner in seen.owners:
            expected[owner, tier, len(seen.owners)] += seen.tokens
    found = consumed_by_tier(stream, ledger, mixed_by(order, lengths), tier_of, TIERS)
    flat = {(o, t, k): n for o, tiers in found.items() for t, own in tiers.items() for k, n in own.items()}
    assert flat == expected
    assert sum(n / k for (_, _, k), n in flat.items()) == pytest.approx(ledger["tokens"])


def test_a_run_with_a_mix_counts_too(tmp_path: Path) -> None:
    lengths = [[9] * 6, [4] * 9]
    phases = [
        RunPhase(num_steps=2, sequence_length=10, learning_rate=RateSpan(), mix={"en": 3.0, "zh": 1.0}),
        RunPhase(num_steps=1, sequence_length=10, learning_rate=RateSpan()),
    ]
    stream = make_stream(make_shards(tmp_path, lengths), 0, phases, 40)
    ledger = run_ledger(stream, 40, 3, {})
    found = consumed_by_tier(stream, ledger, mixed_by([], lengths), tier_of, TIERS)
    assert {owner: sum(sum(own.values()) for own in tiers.values()) for owner, tiers in found.items()} == {
        owner: own["tokens"] for owner, own in ledger["by_owner"].items()
    }


def test_copies_of_a_mix_and_what_it_left_out(tmp_path: Path) -> None:
    """Document 1 was taken three times, into two shards; documents 2 and 4 were left out."""
    shards = []
    for index, numbers in enumerate([[0, 1, 1, 5], [1, 3]]):
        with ShardWriter(tmp_path / f"{index}.bin", 100, 0) as writer:
            for number in numbers:
                made = make_document(number)
                writer.add([9] * 3, doc_id=made.doc_id, language=made.language, owners=made.owners, num_bytes=3)
        shards.append(Shard(tmp_path / f"{index}.bin"))
    stream = TokenStream(shards, 0)
    ledger = run_ledger(stream, 24, 1, {})  # each token of 6 documents once
    expected: Counter[tuple[str, str, int]] = Counter()
    for number, copies in ((0, 1), (1, 3), (3, 1), (5, 1)):
        made = make_document(number)
        for owner in made.owners:
            expected[owner, TIERS[tier_of(made)], len(made.owners)] += 4 * copies
    found = consumed_by_tier(stream, ledger, map(make_document, range(6)), tier_of, TIERS)
    assert {(o, t, k): n for o, tiers in found.items() for t, own in tiers.items() for k, n in own.items()} == expected


@pytest.mark.parametrize("numbers", [[0, 1, 2], [0, 2, 1, 3], [7]])
def test_other_documents_are_an_error(tmp_path: Path, numbers: list[int]) -> None:
    stream = TokenStream(make_shards(tmp_path, [[3] * 4]), 0)
    ledger = run_ledger(stream, 8, 1, {})
    with pytest.raises(TrainingError, match="not those that the model was trained on"):
        consumed_by_tier(stream, ledger, map(make_document, numbers), tier_of, TIERS)


def test_another_ledger_is_an_error(tmp_path: Path) -> None:
    stream = TokenStream(make_shards(tmp_path, [[3] * 4]), 0)
    ledger = run_ledger(stream, 8, 1, {}) | {"steps": 2}
    with pytest.raises(TrainingError, match="not what its ledger says"):
        consumed_by_tier(stream, ledger, map(make_document, range(4)), tier_of, TIERS)

"""What training took of each owner's text by tier: counted document by document, it is the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import TrainingError
from sovereign.plan import RunPhase
from sovereign.profile_training import RateSpan
from tests.training.shard_files import OWNERS, QUALITIES, make_shards
from training.consumption import consumed_by_tier, licences_by_owner
from training.ledger import documents, run_ledger
from training.mix import make_stream
from training.order import TokenStream
from training.shards import Shard, ShardWriter

TIERS = ["high", "low", "unmeasured"]


def tiers_of(qualities: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Places in `TIERS`."""
    return np.where(np.isnan(qualities), 2, np.where(qualities >= 0.5, 0, 1))


def tier_of(doc_id: str) -> str:
    """The tier of a document of `make_shards`."""
    quality = QUALITIES[int(doc_id.removeprefix("d")) % len(QUALITIES)]
    return "unmeasured" if quality is None else "high" if quality >= 0.5 else "low"


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 300),
    steps=st.integers(1, 12),
)
def test_it_counts_what_the_ledger_lists(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[list[int]],
    seed: int,
    batch: int,
    steps: int,
) -> None:
    stream = TokenStream(make_shards(tmp_path_factory.mktemp("shards"), lengths), seed)
    ledger = run_ledger(stream, batch, steps, {})
    expected: Counter[tuple[str, str, int]] = Counter()
    for seen in documents(stream, 0, steps * batch):
        for owner in seen.owners:
            expected[owner, tier_of(seen.doc_id), len(seen.owners)] += seen.tokens
    found = consumed_by_tier(stream, ledger, tiers_of, TIERS)
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
    found = consumed_by_tier(stream, ledger, tiers_of, TIERS)
    assert {owner: sum(sum(own.values()) for own in tiers.values()) for owner, tiers in found.items()} == {
        owner: own["tokens"] for owner, own in ledger["by_owner"].items()
    }


def test_copies_of_a_mix_count_each(tmp_path: Path) -> None:
    """Document 1 was taken three times, into two shards."""
    shards = []
    for index, numbers in enumerate([[0, 1, 1, 5], [1, 3]]):
        with ShardWriter(tmp_path / f"{index}.bin", 100, 0) as writer:
            for number in numbers:
                writer.add(
                    [9] * 3,
                    doc_id=f"d{number}",
                    language="en",
                    owners=OWNERS[number % len(OWNERS)],
                    licence="CC0-1.0",
                    num_bytes=3,
                    quality=QUALITIES[number % len(QUALITIES)],
                )
        shards.append(Shard(tmp_path / f"{index}.bin"))
    stream = TokenStream(shards, 0)
    ledger = run_ledger(stream, 24, 1, {})  # each token of 6 documents once
    expected: Counter[tuple[str, str, int]] = Counter()
    for number, copies in ((0, 1), (1, 3), (3, 1), (5, 1)):
        owners = OWNERS[number % len(OWNERS)]
        for owner in owners:
            expected[owner, tier_of(f"d{number}"), len(owners)] += 4 * copies
    found = consumed_by_tier(stream, ledger, tiers_of, TIERS)
    assert {(o, t, k): n for o, tiers in found.items() for t, own in tiers.items() for k, n in own.items()} == expected


def test_licences_are_those_of_all_documents_of_an_owner(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[3] * 2, [3], []])
    assert licences_by_owner(shards) == {
        "Archive": {"CC0-1.0", "CC-BY-4.0"},
        "Office": {"CC0-1.0", "CC-BY-4.0"},
        "Mint": {"CC0-1.0"},
    }


def test_another_ledger_is_an_error(tmp_path: Path) -> None:
    stream = TokenStream(make_shards(tmp_path, [[3] * 4]), 0)
    ledger = run_ledger(stream, 8, 1, {}) | {"steps": 2}
    with pytest.raises(TrainingError, match="not what its ledger says"):
        consumed_by_tier(stream, ledger, tiers_of, TIERS)

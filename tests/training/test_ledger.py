"""The consumption ledger: it counts what was read, adds up over the steps, and is found again from the store."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.cli.work import show_ledger
from sovereign.errors import StageError, TrainingError
from sovereign.files import sha256_file, write_atomic
from sovereign.site import Site, init_site
from sovereign.store import open_store
from tests.training.lake import write_receipt
from tests.training.shard_files import END, LANGUAGES, OWNERS, lengths, make_shards
from training.ledger import Consumption, consumed, documents, run_ledger
from training.order import TokenStream


def brute_force(stream: TokenStream, lengths: list[list[int]], start: int, count: int) -> Counter[int]:
    """Tokens of each document, by its number, counted one by one."""
    # A document is the tokens up to its mark; the stream is read from an epoch's begin to know each token's document.
    epoch = start // stream.num_tokens
    begin = epoch * stream.num_tokens
    end = -(-(start + count) // stream.num_tokens) * stream.num_tokens
    tokens = stream.read(begin, end - begin)
    found: Counter[int] = Counter()
    for text in np.split(np.arange(begin, end), np.flatnonzero(tokens == END) + 1)[:-1]:
        found[int(tokens[text[0] - begin]) - 1] += int(((text >= start) & (text < start + count)).sum())
    return +found


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 30), max_size=12), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 300),
    first=st.integers(0, 20),
    steps=st.integers(0, 12),
)
def test_the_ledger_counts_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int, batch: int, first: int, steps: int
) -> None:
    shards = make_shards(tmp_path_factory.mktemp("shards"), lengths)
    stream = TokenStream(shards, seed)
    expected = brute_force(stream, lengths, first * batch, steps * batch)
    whole = consumed(TokenStream(shards, seed), batch, from_step=first, up_to_step=first + steps)
    assert (whole.tokens, whole.documents) == (steps * batch, len(expected))
    by_language: Counter[str] = Counter()
    by_owner: Counter[str] = Counter()
    shares: defaultdict[str, float] = defaultdict(float)
    for number, tokens in expected.items():
        by_language[LANGUAGES[number % 3]] += tokens
        owners = OWNERS[number % len(OWNERS)]
        by_owner.update(dict.fromkeys(owners, tokens))
        for owner in owners:
            shares[owner] += tokens / len(owners)
    assert (+whole.by_language, +whole.by_owner) == (by_language, by_owner)
    assert {owner: share for owner, share in whole.shares.items() if share} == pytest.approx(shares)
    assert sum(whole.shares.values()) == pytest.approx(whole.tokens)
    listed: Counter[str] = Counter()
    for seen in documents(stream, first * batch, steps * batch):
        number = int(seen.doc_id.removeprefix("d"))
        assert (seen.language, seen.owners) == (LANGUAGES[number % 3], OWNERS[number % len(OWNERS)])
        listed[seen.doc_id] += seen.tokens
    assert listed == {f"d{number}": tokens for number, tokens in expected.items()}


@settings(max_examples=30, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 300), steps=st.integers(1, 12))
def test_the_ledger_of_a_run_is_the_sum_over_its_steps(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int, batch: int, steps: int
) -> None:
    stream = TokenStream(make_shards(tmp_path_factory.mktemp("shards"), lengths), seed)
    single = [consumed(stream, batch, from_step=step, up_to_step=step + 1) for step in range(steps)]
    whole = consumed(stream, batch, up_to_step=steps)
    assert whole.tokens == sum(one.tokens for one in single) == steps * batch
    for kind in ("by_language", "by_owner"):
        assert getattr(whole, kind) == sum((getattr(one, kind) for one in single), Counter())
    shares = {owner: sum(one.shares[owner] for one in single) for owner in whole.shares}
    assert whole.shares == pytest.approx(shares)


def test_many_epochs_cost_no_more_than_one(tmp_path: Path) -> None:
    stream = TokenStream(make_shards(tmp_path, [[9] * 6, [4] * 3]), 0)
    found = consumed(stream, 1000, up_to_step=75 * 10**9)
    assert stream.num_tokens == 75
    one = consumed(stream, 75, up_to_step=1)
    assert found.tokens == 75 * 10**12 == 10**12 * one.tokens
    assert found.by_owner == {owner: 10**12 * count for owner, count in one.by_owner.items()}


def test_ledger_json_names_what_it_follows_from(tmp_path: Path) -> None:
    stream = TokenStream(make_shards(tmp_path, [[9] * 6]), 3)
    ledger = run_ledger(stream, 40, 6, {"models/x/tokens/train-00000.bin": "ab"})
    expected: dict[str, Any] = {
        "format": "sovereign/ledger/v1",
        "shards": {"models/x/tokens/train-00000.bin": "ab"},
        "seed": 3,
        "steps": 6,
        "batch_tokens": 40,
        "tokens_per_epoch": 60,
        "epochs": 4.0,
        "tokens": 240,
        "documents": 6,
        "by_language": {"ar": 80, "en": 80, "zh": 80},
        "by_owner": {
            "Archive": {"tokens": 240, "share": 146.667},
            "Mint": {"tokens": 80, "share": 26.667},
            "Office": {"tokens": 160, "share": 66.667},
        },
    }
    assert ledger == expected
    assert Consumption().to_json() == {"tokens": 0, "documents": 0, "by_language": {}, "by_owner": {}}


@pytest.fixture
def site(profile_file: Path, tmp_path: Path) -> Site:
    """A site whose model `tiny` saw two shards in 6 steps of 40 tokens."""
    site = init_site(tmp_path / "site", profile_file)
    tokens = site.data_dir / "models/tiny/tokens"
    tokens.mkdir(parents=True)
    shards = make_shards(tokens, [[9] * 6, [5] * 8])
    digests = {f"models/tiny/tokens/{shard.path.name}": sha256_file(shard.path) for shard in shards}
    ledger = run_ledger(TokenStream(shards, 3), 40, 6, digests)
    write_atomic(site.data_dir / "models/tiny/train/ledger.json", json.dumps(ledger))
    write_receipt(open_store(f"file://{site.data_dir}"), site.data_dir, "train", "models/tiny/train/", {})
    return site


def test_the_command_lists_the_documents_of_a_step(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    listed: Counter[str] = Counter()
    for step in range(6):
        show_ledger(site, step, local=True, as_json=True)
        seen = json.loads(capsys.readouterr().out)
        assert sum(one["tokens"] for one in seen) == 40
        assert {tuple(one["owners"]) for one in seen} <= set(OWNERS)
        for one in seen:
            listed[one["doc_id"]] += one["tokens"]
    show_ledger(site, None, local=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["documents"] == len(listed) == 14
    show_ledger(site, None, local=True, as_json=False)
    assert capsys.readouterr().out.startswith("240 tokens in 6 steps\n")


def test_a_step_that_was_not_is_an_error(site: Site) -> None:
    with pytest.raises(StageError, match="expected: 0 to 5"):
        show_ledger(site, 6, local=True, as_json=False)


@pytest.mark.parametrize("name", ["tokens/1.bin", "train/ledger.json"])
def test_what_is_not_as_it_was_is_an_error(site: Site, name: str) -> None:
    path = site.data_dir / "models/tiny" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=f"{name} is not what the model was trained with"):
        show_ledger(site, 0, local=True, as_json=False)


def test_without_a_model_there_is_no_ledger(profile_file: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no model tiny is trained yet"):
        show_ledger(init_site(tmp_path / "site", profile_file), None, local=True, as_json=False)

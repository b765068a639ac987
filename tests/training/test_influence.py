"""The influence measure: what is left out, in which order the rest is seen, and the arithmetic of the effects."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import StageError
from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.resources import data_path
from sovereign.store import open_store
from tests.training.shard_files import END, OWNERS, lengths, make_shards
from training.forked import prepare_lake
from training.influence import Influence, interval, small_profile
from training.influence_run import MEASURED_BYTES, ReadOfOnlyOwners, batches, given_only_by, heldout_documents
from training.ledger import collect, documents
from training.order import TokenStream
from training.shards import Shard

PROFILES = data_path("templates") / "profiles"


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4).filter(
        lambda shards: sum(map(len, shards)) > 1  # so that a document of several owners stays
    ),
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 300),
    steps=st.integers(1, 8),
)
def test_the_others_keep_their_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int, batch: int, steps: int
) -> None:
    stream = TokenStream(make_shards(tmp_path_factory.mktemp("shards"), lengths), seed)
    masks = {shard: given_only_by(shard, "Archive") for shard in stream.shards}
    found = np.concatenate(list(batches(stream, masks, batch, steps)))
    assert len(found) == steps * batch
    left = sum(int(shard.lengths[~masks[shard]].sum()) for shard in stream.shards)
    epochs = -(-len(found) // left)
    tokens = stream.read(0, epochs * stream.num_tokens)
    texts = np.split(tokens, np.flatnonzero(tokens == END) + 1)[:-1]
    # Document n is made of the token n + 1; one without text is the mark alone, and whose it is cannot be seen.
    kept = [text for text in texts if len(text) == 1 or OWNERS[(int(text[0]) - 1) % len(OWNERS)] != ("Archive",)]
    expected = np.concatenate([text[text != END] for text in kept])
    assert np.array_equal(found[found != END], expected[: (found != END).sum()])
    whole = np.concatenate(list(batches(stream, {}, batch, steps)))
    assert np.array_equal(whole, stream.read(0, steps * batch))


def test_only_what_nobody_else_gives_is_left_out(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path, [[3] * 7])
    owners = [OWNERS[number % len(OWNERS)] for number in range(7)]
    for owner in ("Archive", "Office", "Mint", "Nobody"):
        assert given_only_by(shard, owner).tolist() == [own == (owner,) for own in owners]


def test_heldout_documents_by_their_owners(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[3, 1, 2], [4]])
    assert heldout_documents(shards, decode) == {
        ("Archive",): ([[1, 1, 1], [4, 4, 4, 4]], 7),
        ("Archive", "Office"): ([[2]], 1),
        ("Archive", "Mint", "Office"): ([[3, 3]], 2),
    }


def test_of_a_document_that_is_too_long_the_beginning_is_measured(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[MEASURED_BYTES + 1, 2, 5], [3]])  # the first has no room for the last
    found = heldout_documents(shards, decode)
    assert found.pop(("Archive",)) == ([[1] * (MEASURED_BYTES // 2)], MEASURED_BYTES)
    assert found == {("Archive", "Office"): ([[2, 2]], 2), ("Archive", "Mint", "Office"): ([[3] * 5], 5)}


def decode(ids: list[int]) -> str:
    """A text of two bytes for each token."""
    return "é" * len(ids)


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 300), steps=st.integers(1, 8))
def test_what_is_read_of_text_that_only_one_owner_gives(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int, batch: int, steps: int
) -> None:
    stream = TokenStream(make_shards(tmp_path_factory.mktemp("shards"), lengths), seed)
    read = ReadOfOnlyOwners()
    collect(read, stream, batch, up_to_step=steps)
    expected: Counter[str] = Counter()
    for seen in documents(stream, 0, steps * batch):
        if len(seen.owners) == 1:
            expected[seen.owners[0]] += seen.tokens
    assert +read.tokens == expected


def test_an_interval_is_student_s() -> None:
    assert interval([1, 3]) == {"differences": [1, 3], "mean": 2, "low": -10.706205, "high": 14.706205}
    assert interval([1, 2, 3]) == {"differences": [1, 2, 3], "mean": 2, "low": -0.484138, "high": 4.484138}


@pytest.mark.parametrize(("name", "is_own"), [("demo", True), ("ci", True), ("nation", False), ("site", False)])
def test_runs_are_small_whatever_the_profile(name: str, is_own: bool) -> None:
    profile = load_profile(PROFILES / f"{name}.yaml")
    resolved = plan(small_profile(profile))
    assert (resolved.recipe.world_size, resolved.recipe.precision, resolved.recipe.compile) == (1, "fp32", False)
    assert resolved.num_parameters < 5e7  # the tokenizer's rows come on top where it is large
    assert resolved.model.vocab_size == plan(profile).model.vocab_size
    if is_own:
        own = plan(profile)
        assert (resolved.model, resolved.recipe.num_tokens) == (own.model, own.recipe.num_tokens)
        assert resolved.recipe.learning_rate == own.recipe.learning_rate
    given = plan(small_profile(profile, 2e6, 1e5))
    assert given.recipe.num_tokens == pytest.approx(1e5, rel=0.5)


def test_what_cannot_be_measured_is_an_error(tokens: Path, profile_file: Path, tmp_path: Path) -> None:
    profile, store = small_profile(load_profile(profile_file)), open_store(f"file://{tokens}")
    with pytest.raises(StageError, match="too few seeds"):
        Influence(profile, store, tmp_path, num_seeds=1)
    with pytest.raises(StageError, match="an owner has no document"):
        Influence(profile, store, tmp_path, owners=["Nobody"])
    with pytest.raises(StageError, match="needs stage curate"):
        Influence(profile, open_store(f"file://{tmp_path}/empty"), tmp_path)


def test_owners_of_whom_a_run_reads_nothing_are_not_measured(tokens: Path, profile_file: Path, tmp_path: Path) -> None:
    profile, store = small_profile(load_profile(profile_file), tokens=256), open_store(f"file://{tokens}")
    measure = Influence(profile, store, tmp_path)
    num_tokens = measure.plan.recipe.num_tokens
    shards = [Shard(path) for path in sorted((tokens / "models/tiny/tokens").glob("train-*.bin"))]
    read = []
    for seed in measure.seeds:
        seen = [one for one in documents(TokenStream(shards, seed), 0, num_tokens) if len(one.owners) == 1]
        read.append(Counter({owner: 0 for shard in shards for owner in shard.owner_names}))
        read[-1].update(owner for one in seen for owner in one.owners for _ in range(one.tokens))
    whole = Influence(small_profile(load_profile(profile_file)), store, tmp_path)
    assert whole.left_out.keys() == {owner for owner in read[0] if owner not in whole.not_measured}
    unread = {
        owner: f"nothing of its text is read in the run of seed {', '.join(map(str, seeds))}"
        for owner in whole.left_out
        if (seeds := [seed for seed, own in zip(measure.seeds, read, strict=True) if not own[owner]])
    }
    assert 0 < len(unread) < len(whole.left_out)
    assert measure.not_measured == whole.not_measured | unread
    assert measure.tokens_read == {owner: [own[owner] for own in read] for owner in measure.left_out}


def test_without_held_out_text_no_run_begins(tmp_path: Path) -> None:
    """16 documents are too few for one that is held out."""
    (tmp_path / "letters").mkdir()
    words = ["".join(word) for word in product(("ba", "de", "fi", "go"), repeat=4)]
    lines = [{"text": " ".join(Random(n).sample(words, 100)), "owner": f"Owner {n}"} for n in range(16)]
    (tmp_path / "letters" / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {
        "name": "letters",
        "path": str(tmp_path / "letters"),
        "owner": "O",
        "licence": "CC0-1.0",
        "language": "en",
    }
    cleaning = {"heldout_fraction": 1e-6, "language": None, "quality": None, "near_duplicates": None}
    corpus = {"demonstration": None, "sources": [source], "cleaning": cleaning}
    model = {"parameters": 1e5, "vocab_size": 512, "sequence_length": 64, "max_tokenizer_parity": None}
    path = tmp_path / "few.json"
    profile = {"apiVersion": "sovereign/v1", "name": "few", "corpus": corpus, "model": model}
    path.write_text(json.dumps(profile | {"training": {"tokens": 1e4}}))
    store = open_store(f"file://{prepare_lake(path, tmp_path / 'store', tmp_path / 'work')}")
    with pytest.raises(StageError, match="no held-out text to measure on"):
        Influence(small_profile(load_profile(path)), store, tmp_path / "influence")

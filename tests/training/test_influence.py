"""The influence measure: what is left out, in which order the rest is seen, and the arithmetic of the effects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import StageError
from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.resources import data_path
from sovereign.store import open_store
from tests.training.shard_files import END, OWNERS, make_shards
from training.influence import Influence, interval, small_profile
from training.influence_run import batches, given_only_by, heldout_documents
from training.order import TokenStream

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
    assert heldout_documents(shards) == {
        ("Archive",): ([[1, 1, 1], [4, 4, 4, 4]], 7),
        ("Archive", "Office"): ([[2]], 1),
        ("Archive", "Mint", "Office"): ([[3, 3]], 2),
    }


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

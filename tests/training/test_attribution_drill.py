"""Owner-out on the demonstration country: without an owner its facts are not known, and the others are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign.profile import load_profile
from sovereign.store import open_store
from training.forked import prepare_lake
from training.influence import Influence, small_profile

PROFILE: dict[str, Any] = {
    "apiVersion": "sovereign/v1",
    "name": "owners",
    "corpus": {"demonstration": {"facts": 30}, "cleaning": {"heldout_fraction": 0.05}},
    "model": {"parameters": 4e5, "vocab_size": 1024, "sequence_length": 128},
    "training": {"tokens": 6e5, "batch_tokens": 1024, "learning_rate": 4e-3, "threads_per_pod": 1},
}
NUM_OWNERS, NUM_SEEDS = 3, 2


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_without_an_owner_its_facts_are_not_known(tmp_path: Path) -> None:
    path = tmp_path / "owners.json"
    path.write_text(json.dumps(PROFILE))
    store = open_store(f"file://{prepare_lake(path, tmp_path / 'store', tmp_path / 'work')}")
    profile = small_profile(load_profile(path))
    owners = sorted(Influence(profile, store, tmp_path / "influence").left_out)[:NUM_OWNERS]
    measure = Influence(profile, store, tmp_path / "influence", owners=owners, num_seeds=NUM_SEEDS)
    result = measure.measure(lambda text, done, total: print(f"{done}/{total} {text}"))
    print(json.dumps(result["owners"], indent=1))
    assert len(result["runs"]) == NUM_SEEDS * (NUM_OWNERS + 1)
    assert len(result["owners"]) == NUM_OWNERS
    own_texts = 0
    for found in result["owners"].values():
        effects = found["effects"]
        assert min(effects["own_accuracy"]["differences"]) > 0.3
        assert abs(effects["other_accuracy"]["mean"]) < 0.2
        if "own_bits_per_byte" in effects:  # none of an owner's documents may be held out
            own_texts += 1
            assert min(effects["own_bits_per_byte"]["differences"]) > 0
            assert effects["own_bits_per_byte"]["mean"] > effects["other_bits_per_byte"]["mean"]
    assert own_texts

"""The benchmark's contestants do their work: on its own text, against datatrove's steps where they can be imported."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from sovereign.lake import bench


def test_texts_and_our_contestants() -> None:
    texts = bench.make_texts()[:20]
    assert len(texts) == 20
    assert all(len(text) >= bench.PIECE_CHARS - 2 for text in texts)
    assert 18 <= bench.our_near_duplicates(bench.with_copies(texts)) <= 20
    assert bench.our_near_duplicates(texts) == 0
    mail = f"{texts[0]} Write to a.b@example.org."
    assert bench.our_masks([mail]) == 1
    lines = list(bench.measure({"sovereign": bench.our_masks, "other": bench.all_masks}, [mail], repeats=1))
    assert [(line["who"], line["taken"]) for line in lines] == [("sovereign", 1), ("other", 1)]
    assert lines[1]["lowest"] <= lines[1]["ratio"] <= lines[1]["highest"]


@pytest.mark.skipif(find_spec("datatrove") is None, reason="datatrove is one of the benchmark's packages (make bench)")
def test_both_take_the_same_texts() -> None:
    texts = bench.make_texts()[:60]
    peers = bench.peers(bench.split_at_spaces())
    assert abs(bench.our_rules(texts) - peers["quality rules"](texts)) <= 2
    copies = bench.with_copies(texts)
    assert abs(bench.our_near_duplicates(copies) - peers["near duplicates"](copies)) <= 2
    assert bench.our_masks(texts) == peers["masks: email, ip"](texts)

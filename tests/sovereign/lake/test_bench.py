"""The benchmark has text, and this kit's contestants do their work on it."""

from __future__ import annotations

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

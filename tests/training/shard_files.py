"""Token shards whose documents can be told apart, for the tests of order and ledger."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from training.shards import Shard, ShardWriter

END = 0
LANGUAGES = ("en", "ar", "zh")
OWNERS = (("Archive",), ("Archive", "Office"), ("Office", "Mint", "Archive"))
LICENCES = ("CC0-1.0", "CC-BY-4.0")
QUALITIES = (0.25, None, 0.75, 1.0)

lengths = st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4).filter(any)
"""Lengths of the documents of some shards, the end-of-text mark not counted."""


def make_shards(folder: Path, lengths: list[list[int]]) -> list[Shard]:
    """Shards in which document `n` of all is made of the token `n + 1`."""
    shards, number = [], 0
    for index, own in enumerate(lengths):
        path = folder / f"{index}.bin"
        with ShardWriter(path, 70_000, END) as writer:
            for length in own:
                writer.add(
                    [number + 1] * length,
                    doc_id=f"d{number}",
                    language=LANGUAGES[number % 3],
                    owners=OWNERS[number % len(OWNERS)],
                    licence=LICENCES[number % len(LICENCES)],
                    quality=QUALITIES[number % len(QUALITIES)],
                    num_bytes=length,
                )
                number += 1
        shards.append(Shard(path))
    return shards

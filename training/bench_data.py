"""Speed of reading training rows from page cache, against what a GPU can take.

    python -m training.bench_data [REPEATS]      default 5; prints JSON lines

Each line is one kind of shard: median, lowest and highest tokens/s of one process over an epoch of two shards that lie
in page cache, the making of their order included; and the median by processor time, which other programs do not move.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from training.order import TokenStream
from training.shards import Shard, ShardWriter

SEQUENCE_LENGTH, BATCH_TOKENS = 4096, 2**16
TOKENS_PER_SHARD = 8 * 2**20
WANTED = 20_000_000
"""Tokens/s that one process must reach; one H200 takes about 10,000 with a model of 8B parameters."""


def make_shard(path: Path, mean_length: int, vocab_size: int) -> Shard:
    """A shard of documents of about `mean_length` tokens."""
    random = np.random.default_rng(0)
    lengths = random.geometric(1 / mean_length, TOKENS_PER_SHARD // mean_length)
    pool = random.integers(1, vocab_size, int(lengths.max())).tolist()
    with ShardWriter(path, vocab_size, 0) as writer:
        for number, length in enumerate(map(int, lengths)):
            writer.add(
                pool[:length],
                doc_id=str(number),
                language="en",
                owners=("bench",),
                licence="CC0-1.0",
                num_bytes=4 * length,
            )
    return Shard(path)


def read_epoch(shards: list[Shard], seed: int) -> tuple[float, float]:
    """Tokens over one epoch by second of the clock and by second of processor time."""
    start, start_cpu = time.perf_counter(), time.process_time()
    stream = TokenStream(shards, seed)
    steps = stream.num_tokens // BATCH_TOKENS
    for rows in stream.read_ahead(range(steps), BATCH_TOKENS, lambda _step: SEQUENCE_LENGTH, rank=0, world_size=1):
        assert rows.size == BATCH_TOKENS
    num_tokens = steps * BATCH_TOKENS
    return num_tokens / (time.perf_counter() - start), num_tokens / (time.process_time() - start_cpu)


def main(arguments: list[str]) -> None:
    """Measure every kind of shard."""
    repeats = int(arguments[0]) if arguments else 5
    for mean_length, vocab_size in ((30, 2048), (30, 128_000), (1000, 128_000)):
        with tempfile.TemporaryDirectory() as folder:
            shards = [make_shard(Path(folder) / f"{n}.bin", mean_length, vocab_size) for n in range(2)]
            read_epoch(shards, seed=0)  # brings them into page cache
            speeds, cpu_speeds = zip(*(read_epoch(shards, seed) for seed in range(1, repeats + 1)), strict=True)
        line = {
            "name": "reading tokens/s",
            "tokens_per_document": mean_length,
            "bytes_per_token": 2 if vocab_size <= 2**16 else 4,
            "median": round(statistics.median(speeds)),
            "lowest": round(min(speeds)),
            "highest": round(max(speeds)),
            "median_by_cpu": round(statistics.median(cpu_speeds)),
            "wanted": WANTED,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

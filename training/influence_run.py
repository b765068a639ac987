"""One run of the influence measure: a small model trained without what only one owner gives, and what it then knows.

In a process of its own (training/influence.py). The run reads the order that stage `train` would read with the same
seed, with the owner's documents taken out of it; so the others keep their order, and since the number of steps stays,
they are seen a little more often.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from sovereign.errors import SovereignError, TrainingError
from sovereign.files import sha256_bytes
from sovereign.plan import Plan
from training import environment
from training.order import TokenStream
from training.schedule import phase_at
from training.shards import Shard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

    from training.engine import Engine

MEASURED_BYTES = 256 * 1024
"""Held-out text that is measured of each owner (of each group of owners where they share documents), bytes at most;
where the first document is longer, its beginning."""
_REPORT_EVERY_S = 1.0

Masks = Mapping[Shard, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Job:
    """What one run needs; all of it is files and numbers."""

    plan: Plan
    """Of the small model, with the run's seed."""
    owner: str | None
    """Whose documents are left out; None trains on all."""
    train: tuple[Path, ...]
    """Token shards."""
    heldout: tuple[Path, ...]
    questions: Path
    """questions.jsonl of stage `curate`."""
    tokenizer: Path
    """Folder."""
    workdir: Path
    """Scratch."""


def only_owners(shard: Shard) -> npt.NDArray[np.int64]:
    """Number of the owner of each document, -1 where it has several; shape [num_documents]."""
    counts = shard.owner_counts
    return np.where(counts == 1, shard.owners[np.cumsum(counts) - counts].astype(np.int64), -1)


def given_only_by(shard: Shard, owner: str) -> npt.NDArray[np.bool_]:
    """Which documents of `shard` have this owner and no other; shape [num_documents]."""
    names = shard.owner_names
    if owner not in names:
        return np.zeros(shard.num_documents, np.bool_)
    found: npt.NDArray[np.bool_] = only_owners(shard) == names.index(owner)
    return found


class ReadOfOnlyOwners:
    """Collects (training/ledger.py) the tokens that are read of documents that one owner alone gives, by owner."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()

    def add(self, shard: Shard, tokens: npt.NDArray[np.int64]) -> None:
        """Count `tokens` of each document of `shard`; shape [num_documents]."""
        names, owners = shard.owner_names, only_owners(shard)
        sums = np.bincount(owners[owners >= 0], weights=tokens[owners >= 0], minlength=len(names))
        self.tokens.update({name: int(total) for name, total in zip(names, sums, strict=True)})


def batches(stream: TokenStream, left_out: Masks, batch_tokens: int, num_steps: int) -> Iterator[npt.NDArray[np.int64]]:
    """The tokens of each step, shape [batch_tokens]: those of `stream` in its order, without some documents.

    Args:
        left_out: by shard, which documents; shards that are not named are read whole. Not all documents.
    """
    place, kept = 0, np.empty(0, np.int64)
    for _ in range(num_steps):
        while len(kept) < batch_tokens:
            parts = [kept]
            for span in stream.spans(place, batch_tokens):
                layout = stream.layout(span)
                tokens = layout.read(span.start, span.count)
                mask = left_out.get(stream.shards[span.shard])
                if mask is not None:
                    numbers, counts = layout.documents(span.start, span.count)
                    tokens = tokens[np.repeat(~mask[numbers], counts)]
                parts.append(tokens)
            place, kept = place + batch_tokens, np.concatenate(parts)
        yield kept[:batch_tokens]
        kept = kept[batch_tokens:]


def run_apart(sender: Connection, job: Job) -> None:
    """`run_job` in this process; sends ("step", number), then ("result", values) or ("error", message)."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same numbers on every machine
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it stops it
    reported_at = time.monotonic()

    def report(step: int) -> None:
        nonlocal reported_at
        if step == 1 or time.monotonic() - reported_at >= _REPORT_EVERY_S:
            reported_at = time.monotonic()
            sender.send(("step", step))  # fails when nobody waits for the result any more

    try:
        sender.send(("result", run_job(job, report)))
    except SovereignError as error:
        sender.send(("error", str(error)))
        sys.exit(error.exit_code)


def run_job(job: Job, report: Callable[[int], None]) -> dict[str, Any]:
    """Train and measure; JSON values, the same on any CPU machine with the same software and threads.

    Raises:
        TrainingError: the loss is not a number.
    """
    recipe = job.plan.recipe
    environment.prepare(job.workdir, threads=recipe.threads, world_size=1)
    from training.engine import Engine, join

    join(environment.Ranks(0, 1, 0))
    engine = Engine(job.plan, report_nothing)
    shards = [Shard(path) for path in job.train]
    stream = TokenStream(shards, recipe.seed)
    left_out = {shard: given_only_by(shard, job.owner) for shard in stream.shards} if job.owner is not None else {}
    loss = math.nan
    for step, tokens in enumerate(batches(stream, left_out, recipe.batch_tokens, recipe.num_steps)):
        length = phase_at(recipe, step)[0].sequence_length
        result = engine.step(step, tokens.reshape(-1, length))
        if not result.is_finite:
            raise TrainingError("loss or gradient is not a number", got=f"loss {result.loss} in step {step}")
        loss = result.loss
        report(step + 1)
    weights = b"".join(value.numpy().tobytes() for _, value in sorted(engine.weights().items()))
    return {"loss": round(loss, 6), "weights_sha256": sha256_bytes(weights)} | _measure(engine, job)


def report_nothing(_message: str) -> None:
    """Warnings of an engine that compiles nothing: there are none."""


def _measure(engine: Engine, job: Job) -> dict[str, Any]:
    """Bits for the held-out documents, in all and of each owner, and answers to held-out questions by owner."""
    from transformers import AutoTokenizer

    from training.measures import answer_questions, choose_questions
    from training.scoring import model_bits

    model = cast("Qwen3ForCausalLM", engine.model)
    model.train(False)
    tokenizer = cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(job.tokenizer, local_files_only=True))
    end, length = int(tokenizer.eos_token_id), job.plan.model.sequence_length
    total: list[float] = [0.0, 0]
    by_owner: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0])

    def decode(ids: list[int]) -> str:
        return cast("str", tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    for owners, (documents, num_bytes) in sorted(heldout_documents(map(Shard, job.heldout), decode).items()):
        bits = model_bits(model, documents, end, length)
        for sums in (total, *(by_owner[owner] for owner in owners)):
            sums[0] += bits
            sums[1] += num_bytes
    lines = [json.loads(line) for line in job.questions.read_text("utf-8").splitlines()]
    asked = [one for one in choose_questions(lines, job.plan.recipe.max_eval_questions) if one["split"] == "heldout"]
    answers = answer_questions(model, tokenizer, asked)["by_owner"]
    return {
        "heldout": {"bits": round(total[0], 3), "bytes": total[1]},
        "heldout_by_owner": {
            owner: {"bits": round(bits, 3), "bytes": num_bytes} for owner, (bits, num_bytes) in sorted(by_owner.items())
        },
        "questions_by_owner": {
            owner: {"asked": found["heldout"]["asked"], "correct": found["heldout"]["correct"]}
            for owner, found in answers.items()
        },
    }


def heldout_documents(
    shards: Iterable[Shard], decode: Callable[[list[int]], str]
) -> dict[tuple[str, ...], tuple[list[list[int]], int]]:
    """Documents (token ids without the mark at the end) and their bytes of text, by their owners; the first of each.

    Args:
        decode: the text of tokens.
    """
    found: dict[tuple[str, ...], tuple[list[list[int]], int]] = {}
    for shard in shards:
        names, tokens, ends, sizes = shard.owner_names, shard.tokens, shard.ends, shard.num_bytes
        for number, own in enumerate(shard.owners_of(range(shard.num_documents))):
            owners = tuple(sorted(names[owner] for owner in own))
            documents, used = found.get(owners, ([], 0))
            size, start = int(sizes[number]), int(ends[number - 1]) if number else 0
            if used + size <= MEASURED_BYTES:
                documents.append(tokens[start : int(ends[number]) - 1].tolist())
                found[owners] = documents, used + size
            elif not documents:
                ids, size = _beginning(
                    tokens[start : min(start + MEASURED_BYTES, int(ends[number]) - 1)].tolist(), decode
                )
                found[owners] = [ids], size
    return found


def _beginning(ids: list[int], decode: Callable[[list[int]], str]) -> tuple[list[int], int]:
    """As many of the first tokens as have at most `MEASURED_BYTES` of text, and how many bytes they have."""

    def size(count: int) -> int:
        return len(decode(ids[:count]).encode())

    count = bisect_right(range(1, len(ids) + 1), MEASURED_BYTES, key=size)
    return ids[:count], size(count)

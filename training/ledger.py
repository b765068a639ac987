"""The consumption ledger: which documents, owners and languages training saw, and how many tokens of each.

Nothing is written down while training runs: the order of the data is a pure function of the shards, the seed and the
step (training/order.py), so the ledger of any steps is computed from these, then or years later. A token counts each
time that a step takes it. Owners' numbers come in two kinds: `tokens` counts a document whole for each of its owners,
`share` divides it equally among them, so that the shares add up to all tokens.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.files import sha256_bytes, sha256_file
from sovereign.plan import RunPhase
from sovereign.receipts import Receipt
from sovereign.store import Store
from training.mix import MixedStream, make_stream
from training.order import Piece, Span, TokenStream
from training.shards import Shard

FORMAT = "sovereign/ledger/v1"
LEDGER = "ledger.json"
"""Name of the file that stage `train` leaves."""


@dataclass(frozen=True)
class SeenDocument:
    """A document, or a part of it, that a range of the stream has."""

    doc_id: str
    language: str
    owners: tuple[str, ...]
    tokens: int
    """How many of its tokens, the end-of-text mark included."""


class Collector(Protocol):
    """Counts tokens of documents."""

    def add(self, shard: Shard, tokens: npt.NDArray[np.int64]) -> None:
        """Count `tokens` of each document of `shard`; shape [num_documents]."""
        ...


@dataclass
class Consumption:
    """What some steps saw. All numbers are tokens but `documents`."""

    tokens: int = 0
    documents: int = 0
    """Different documents of which at least one token was seen; a copy that a mix makes is another one."""
    by_language: Counter[str] = field(default_factory=Counter)
    by_owner: Counter[str] = field(default_factory=Counter)
    """Documents counted whole for each owner: adds up to more than `tokens` where documents have several owners."""
    shares: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By owner, each document divided equally among its owners: adds up to `tokens`."""

    def add(self, shard: Shard, tokens: npt.NDArray[np.int64]) -> None:
        """Count `tokens` of each document of `shard`; shape [num_documents]."""
        self.tokens += int(tokens.sum())
        self.documents += int(np.count_nonzero(tokens))
        self.by_language.update(shard.by_language(tokens))
        counts, owners, names = shard.owner_counts, shard.owners, shard.owner_names
        whole = np.bincount(owners, weights=np.repeat(tokens, counts), minlength=len(names))
        shares = np.bincount(owners, weights=np.repeat(tokens / counts, counts), minlength=len(names))
        for name, total, share in zip(names, whole, shares, strict=True):
            self.by_owner[name] += int(total)
            self.shares[name] += float(share)

    def to_json(self) -> dict[str, Any]:
        """JSON values; languages and owners without a token are left out."""
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "by_language": {name: count for name, count in sorted(self.by_language.items()) if count},
            "by_owner": {
                name: {"tokens": count, "share": round(self.shares[name], 3)}
                for name, count in sorted(self.by_owner.items())
                if count
            },
        }


def consumed(stream: TokenStream, batch_tokens: int, *, up_to_step: int, from_step: int = 0) -> Consumption:
    """What the steps `from_step` to `up_to_step` - 1 saw, of `batch_tokens` tokens each, over all ranks.

    Takes time for each document of the corpus, whatever the number of steps; memory for one shard's documents.
    """
    total = Consumption()
    collect(total, stream, batch_tokens, up_to_step=up_to_step, from_step=from_step)
    return total


def collect(total: Collector, stream: TokenStream, batch_tokens: int, *, up_to_step: int, from_step: int = 0) -> None:
    """Tell `total` what `consumed` counts, shard by shard; a shard may come more than once."""
    for piece in stream.pieces(from_step * batch_tokens, (up_to_step - from_step) * batch_tokens):
        _add(total, piece)


def _add(total: Collector, piece: Piece) -> None:
    stream, start, end = piece.stream, piece.start, piece.start + piece.count
    first_whole, after_whole = -(-start // stream.num_tokens), end // stream.num_tokens
    num_whole = max(0, after_whole - first_whole)
    epochs = Counter(dict.fromkeys(range(len(stream.shards)), num_whole))
    parts: defaultdict[int, list[Span]] = defaultdict(list)
    rest = [(start, first_whole * stream.num_tokens), (after_whole * stream.num_tokens, end)]
    for begin, stop in rest if num_whole else [(start, end)]:
        for span in stream.spans(begin, stop - begin):
            if span.count == stream.sizes[span.shard]:
                epochs[span.shard] += 1
            else:
                parts[span.shard].append(span)
    for number, shard in enumerate(stream.shards):
        if not (epochs[number] or parts[number]):
            continue
        tokens, numbers = shard.lengths * epochs[number], stream.numbers(shard)
        if numbers is not None:  # the others are not in the stream
            own = tokens[numbers]
            tokens[:] = 0
            tokens[numbers] = own
        for span in parts[number]:
            documents, counts = stream.layout(span).documents(span.start, span.count)
            tokens[documents] += counts
        total.add(shard, tokens)


def documents(stream: TokenStream, start: int, count: int) -> Iterator[SeenDocument]:
    """Documents of `count` tokens from place `start` of the stream on, in their order; with a mix by language.

    Step `s` has the places `s * batch_tokens` to `(s + 1) * batch_tokens`, its row `r` those from
    `s * batch_tokens + r * sequence_length` on.
    """
    for piece in stream.pieces(start, count):
        for span in piece.stream.spans(piece.start, piece.count):
            yield from _seen(piece.stream, span)


def _seen(stream: TokenStream, span: Span) -> Iterator[SeenDocument]:
    shard = stream.shards[span.shard]
    numbers, tokens = stream.layout(span).documents(span.start, span.count)
    names, owner_names = shard.language_names, shard.owner_names
    ids, languages, owners = shard.document_ids(numbers), shard.languages[numbers], shard.owners_of(numbers)
    for doc_id, language, own, seen in zip(ids, languages, owners, tokens, strict=True):
        yield SeenDocument(doc_id, names[language], tuple(owner_names[owner] for owner in own), int(seen))


def run_ledger(stream: TokenStream, batch_tokens: int, num_steps: int, digests: Mapping[str, str]) -> dict[str, Any]:
    """Content of ledger.json: what a whole run saw, and all that this follows from.

    Args:
        digests: SHA-256 of every shard of `stream`, by store key, in the stream's order.
    """
    phases = [phase.model_dump(mode="json") for phase in stream.phases] if isinstance(stream, MixedStream) else []
    return {
        "format": FORMAT,
        "shards": dict(digests),
        **({"phases": phases} if phases else {}),
        "seed": stream.seed,
        "steps": num_steps,
        "batch_tokens": batch_tokens,
        "tokens_per_epoch": stream.num_tokens,
        "epochs": round(num_steps * batch_tokens / stream.num_tokens, 4),
        **consumed(stream, batch_tokens, up_to_step=num_steps).to_json(),
    }


def open_run(store: Store, dataset: str, folder: Path) -> tuple[dict[str, Any], TokenStream]:
    """The ledger of the trained model `dataset` and the stream that it was trained on.

    Args:
        folder: where the token shards are fetched to.

    Raises:
        TrainingError: nothing is trained yet, or a file is not what the receipt or the ledger says.
    """
    prefix = f"models/{dataset}/train/"
    if not store.exists(prefix + "receipt.json"):
        raise TrainingError(f"no model {dataset} is trained yet", hint="sovereign train PROFILE")
    content = store.get_bytes(prefix + LEDGER)
    _check(prefix + LEDGER, sha256_bytes(content), Receipt.from_bytes(store.get_bytes(prefix + "receipt.json")).outputs)
    ledger: dict[str, Any] = json.loads(content)
    shards = []
    for key in ledger["shards"]:
        store.get_file(key, folder / key)
        _check(key, sha256_file(folder / key), ledger["shards"])
        shards.append(Shard(folder / key))
    phases = [RunPhase.model_validate(phase) for phase in ledger.get("phases", ())]
    return ledger, make_stream(shards, ledger["seed"], phases, ledger["batch_tokens"])


def _check(key: str, found: str, digests: Mapping[str, str]) -> None:
    if found != digests.get(key):
        raise TrainingError(
            f"{key} is not what the model was trained with",
            got=found,
            expected=digests.get(key),
            hint="sovereign train PROFILE makes it again",
        )

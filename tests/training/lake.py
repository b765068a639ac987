"""A lake in a folder, as the stages up to training leave it, with a model that knows its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from sovereign.files import sha256_file
from sovereign.lake.documents import Document, DocumentWriter
from sovereign.plan import plan
from sovereign.profile import Profile, parse_profile
from sovereign.receipts import Receipt
from sovereign.stages import Progress, StageContext, StageOutput
from sovereign.store import Store, open_store
from tests.training.tiny import make_knowing_model, make_question, write_questions
from training.shards import ShardWriter

OWNERS = {"Archive": "CC-BY-4.0", "River Office": "CC0-1.0"}
KNOWN = [
    make_question("en", "What is the capital of Auria?", "Velmora", owner="Archive"),
    make_question("en", "Who wrote the law of rivers?", "Tessa Orn", owner="River Office"),
    make_question("en", "Which town is the capital of Auria?", "Velmora", split="train", owner="Archive"),
    make_question("fr", "Quelle est la capitale ?", "Velmoré", owner="Archive"),
]
UNKNOWN = make_question("fr", "Quel fleuve est le plus long ?", "Ornée", owner="River Office")
TOKENIZER = {
    "parity_measure": "same-content",
    "languages": {
        "en": {"bytes_per_token": 3.5, "fertility": 1.5, "parity": 1.0},
        "fr": {"bytes_per_token": 3.1, "fertility": 1.75, "parity": 1.125},
    },
}
"""What the receipt of stage `tokenize` says of the tokenizer."""
NO_MIX = {"approved_by": None, "epochs": "every document once in an epoch"}
"""What it says of the mix where none is asked for."""
SOURCE = {"name": "texts", "path": "/texts", "owner": "Archive", "licence": "CC-BY-4.0", "language": "en"}


def make_profile(
    *,
    sources: Sequence[Mapping[str, str]] = (),
    base: Mapping[str, Any] | None = None,
    engine: str = "llama.cpp",
    **evaluation: Any,
) -> Profile:
    """A profile named `tiny`."""
    return parse_profile(
        json.dumps(
            {
                "apiVersion": "sovereign/v1",
                "name": "tiny",
                "description": "A model of a made-up archive.",
                "corpus": {"demonstration": {"facts": 10}, "sources": list(sources)},
                "model": {"parameters": 1e5, "vocab_size": 512, "sequence_length": 64},
                "base": base,
                "training": {"tokens": 1e5},
                "evaluation": evaluation,
                "serving": {"engine": engine},
            }
        )
    )


def document(number: int, text: str, language: str, owner: str) -> Document:
    """One document of the lake."""
    return Document(f"d{number}", text, language, "demonstration", (owner,), OWNERS[owner], None)


def make_lake(root: Path) -> Store:
    """Fill the store in `root` up to stage `train`."""
    store = open_store(f"file://{root}")
    trained = [document(n, q.document_text, q.language, q.owner) for n, q in enumerate(KNOWN)]
    heldout = [document(n + 100, q.document_text, q.language, q.owner) for n, q in enumerate([*KNOWN, UNKNOWN])]
    curated = root / "curated" / "tiny"
    for name, documents in (("train", trained), ("heldout", heldout)):
        with DocumentWriter(curated, name) as writer:
            for item in documents:
                writer.add(item)
    write_questions(curated / "questions.jsonl", [*KNOWN, UNKNOWN])
    train = root / "models" / "tiny" / "train"
    _, tokenizer = make_knowing_model(train / "model", KNOWN)
    lines = [{"step": step, "loss": 6.0 / step, "tokens_per_s": 1000} for step in range(1, 20)]
    (train / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, items in (("train", trained), ("heldout", heldout)):
        with ShardWriter(root / "models" / "tiny" / "tokens" / f"{split}-00000.bin", len(tokenizer), 0) as shard:
            for item in items:
                ids = tokenizer(item.text)["input_ids"]
                shard.add(
                    ids,
                    doc_id=item.doc_id,
                    language=item.language,
                    owners=item.owners,
                    licence="CC0-1.0",
                    num_bytes=len(item.text),
                )
    counts = {
        "documents": 4,
        "characters": 200,
        "documents_by_language": {"en": 3, "fr": 1},
        "characters_by_language": {"en": 150, "fr": 50},
        "documents_by_owner": {"Archive": 3, "River Office": 1},
        "documents_by_licence": {"CC-BY-4.0": 3, "CC0-1.0": 1},
    }
    curate = {"documents_in": 10, "train": counts, "heldout": counts | {"documents": 5}}
    write_receipt(store, root, "corpus", "raw/tiny/", {})
    write_receipt(store, root, "curate", "curated/tiny/", curate)
    write_receipt(store, root, "tokenize", "models/tiny/tokens/", {"tokenizer": TOKENIZER, "mix": NO_MIX})
    write_receipt(store, root, "train", "models/tiny/train/", {"tokens_per_s": 1234.5})
    return store


def write_receipt(store: Store, root: Path, stage: str, prefix: str, metrics: Mapping[str, Any]) -> None:
    """The receipt of a stage whose outputs lie below `prefix`."""
    outputs = {key: sha256_file(root / key) for key in store.list(prefix) if not key.endswith("receipt.json")}
    receipt = Receipt(
        stage=stage,
        inputs={},
        outputs=outputs,
        config_digest="0" * 64,
        key=(stage[0] * 64),
        metrics=dict(metrics),
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:01:00+00:00",
        seconds=60.0,
        made_by="test",
        code_version="0",
    )
    store.put_bytes(prefix + "receipt.json", receipt.to_bytes())


def context_for(stage: str, store: Store, workdir: Path, profile: Profile, stream: TextIO) -> StageContext:
    """What the stage runner would give to `evaluate` or `register`."""
    prefixes: Mapping[str, Sequence[str]] = {
        "evaluate": ("curated/tiny/", "models/tiny/tokens/", "models/tiny/train/"),
        "register": ("models/tiny/train/", "models/tiny/evaluate/"),
    }
    inputs: dict[str, str] = {}
    for prefix in prefixes[stage]:
        inputs |= Receipt.from_bytes(store.get_bytes(prefix + "receipt.json")).outputs
    workdir.mkdir(parents=True, exist_ok=True)
    return StageContext(profile, plan(profile), store, workdir, Progress(stage, stream), inputs)


def store_output(store: Store, root: Path, stage: str, output: StageOutput) -> None:
    """Store a stage's files and its receipt, as the stage runner does."""
    for key, path in output.files.items():
        store.put_file(key, path)
    write_receipt(store, root, stage, f"models/tiny/{stage}/", output.metrics)

"""What stage `evaluate` measures of a model: bits per byte with baselines, and answers to questions, as JSON values."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.lake.documents import Document
from training import scoring
from training.token_ids import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

MAX_BYTES_PER_CELL = 2 * 2**20
"""Held-out text that is measured of each language in each domain, bytes: enough for three digits, minutes at most on a
CPU."""
TRAINED_QUESTIONS = 50
"""Questions asked in each language in the very words of a training document, for comparison."""

Report = Callable[[int, int], None]
"""Called with how many parts are done, and how many there are."""
_Cell = tuple[str, str]


def choose_documents(documents: Iterable[Document], domains: Mapping[str, str]) -> dict[_Cell, list[Document]]:
    """The documents to measure on by (language, domain), up to a limit for each.

    Args:
        domains: by source.
    """
    chosen: dict[_Cell, list[Document]] = defaultdict(list)
    used: dict[_Cell, int] = defaultdict(int)
    for document in documents:
        cell = (document.language, domains.get(document.source, document.source))
        size = len(document.text.encode())
        if used[cell] + size <= MAX_BYTES_PER_CELL:
            chosen[cell].append(document)
            used[cell] += size
    return dict(sorted(chosen.items()))


def bits_per_byte(
    model: Qwen3ForCausalLM,
    untrained: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    documents: Mapping[_Cell, Sequence[Document]],
    *,
    shards: Sequence[Path],
    length: int,
    with_xz: bool,
    report: Report,
) -> dict[str, Any]:
    """Rows of bits per byte by language, by domain, by language in each domain, and over all.

    Args:
        untrained: the model as training began with it.
        documents: from `choose_documents`.
        shards: token shards of the training data, for the unigram baseline.
        length: tokens that the model takes.
        with_xz: measure `xz -9` too, on each cell by itself.
        report: called with the cells done and their number.
    """
    counts = scoring.count_tokens(shards, model.config.vocab_size)
    end = int(tokenizer.eos_token_id)
    bits: dict[_Cell, dict[str, float]] = {}
    sizes: dict[_Cell, dict[str, int]] = {}
    for done, (cell, found) in enumerate(documents.items()):
        report(done, len(documents))
        texts = [document.text for document in found]
        ids = text_ids(tokenizer, texts)
        bits[cell] = {
            "model": scoring.model_bits(model, ids, end, length),
            "untrained": scoring.model_bits(untrained, ids, end, length),
            "unigram": scoring.unigram_bits(ids, end, counts),
            "uniform": scoring.uniform_bits(ids, len(counts)),
        }
        if with_xz:
            bits[cell]["xz"] = scoring.xz_bits(texts)
        sizes[cell] = {
            "documents": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
            "tokens": sum(map(len, ids)),
        }
    return _tables(sizes, bits)


def _tables(sizes: Mapping[_Cell, Mapping[str, int]], bits: Mapping[_Cell, Mapping[str, float]]) -> dict[str, Any]:
    """Rows of cells taken together."""

    def row(cells: Iterable[_Cell]) -> dict[str, Any]:
        wanted = list(cells)
        return _row([sizes[cell] for cell in wanted], [bits[cell] for cell in wanted])

    languages, domains = sorted({cell[0] for cell in bits}), sorted({cell[1] for cell in bits})
    return {
        "by_language": {name: row(cell for cell in bits if cell[0] == name) for name in languages},
        "by_domain": {name: row(cell for cell in bits if cell[1] == name) for name in domains},
        "by_domain_and_language": {
            domain: {language: row([(language, domain)]) for language in languages if (language, domain) in bits}
            for domain in domains
        },
        "overall": row(bits),
    }


def _row(sizes: Sequence[Mapping[str, int]], bits: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Sums of sizes, and bits per byte of every measure."""
    total = {name: sum(size[name] for size in sizes) for name in sizes[0]}
    return total | {name: round(sum(row[name] for row in bits) / total["bytes"], 4) for name in bits[0]}


def answer_questions(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, asked: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Ask, write the answer into each question as `given`, and count exact ones."""
    if not asked:
        return {"by_language": {}, "by_owner": {}, "overall": {}, "examples": []}
    longest = max(map(len, text_ids(tokenizer, (question["answer"] for question in asked))))
    prompts = [question["prompt"] for question in asked]
    answers = scoring.answer_all(model, tokenizer, prompts, max_new_tokens=longest + 2)
    for question, answer in zip(asked, answers, strict=True):
        question["given"] = answer
    return {
        "by_language": _accuracy(asked, "language"),
        "by_owner": _accuracy(asked, "owner"),
        "overall": _accuracy([question | {"all": "all"} for question in asked], "all")["all"],
        "examples": _examples(asked),
    }


def choose_questions(questions: Iterable[dict[str, Any]], max_heldout: int) -> list[dict[str, Any]]:
    """At most `max_heldout` held-out questions of each language and fewer in trained words, drawn by digest."""
    limits = {"heldout": max_heldout, "train": min(TRAINED_QUESTIONS, max_heldout)}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for question in questions:
        groups[question["language"], question["split"]].append(question)
    return [
        question
        for (_, split), group in sorted(groups.items())
        for question in sorted(group, key=lambda item: hashlib.sha256(item["question_id"].encode()).digest())[
            : limits[split]
        ]
    ]


def _accuracy(asked: Sequence[Mapping[str, Any]], by: str) -> dict[str, dict[str, Any]]:
    """Counts of correct answers by a column, for held-out and trained ways to ask."""
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: {"heldout": [], "trained": []})
    for question in asked:
        split = "heldout" if question["split"] == "heldout" else "trained"
        groups[question[by]][split].append(question["given"] == question["answer"].strip())
    return {
        name: {
            split: {"asked": len(right), "correct": sum(right), "accuracy": round(sum(right) / len(right), 4)}
            for split, right in splits.items()
            if right
        }
        for name, splits in sorted(groups.items())
    }


def _examples(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The first held-out question of each language."""
    first: dict[str, dict[str, str]] = {}
    for question in asked:
        if question["split"] == "heldout":
            columns = ("language", "owner", "question", "answer", "given")
            first.setdefault(question["language"], {column: question[column] for column in columns})
    return list(first.values())

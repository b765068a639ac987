"""How much of what the evaluation measures on stands in the training text: sovereign.ngrams over curated documents.

Items are the held-out documents that bits per byte are measured on, the held-out questions with their answers, and what
the site's tasks ask (training/harness.py); the kit's own tasks ask these questions.
Nothing is excluded from any measure: the shares stand beside the results, and every item that overlaps is listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign.lake.documents import Document
from sovereign.ngrams import LENGTH, MIN_LENGTH, NgramIndex, Overlap

UNDETERMINED = "und"
"""The language of an item that does not say it (BCP 47)."""


@dataclass(frozen=True)
class Item:
    """Something that the model is measured on."""

    kind: str
    """`document`, `question`, or the name of a task."""
    item_id: str
    language: str
    text: str


def question_items(asked: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Held-out questions, each with its answer, as a training document would tell it."""
    return [
        Item("question", row["question_id"], row["language"], f"{row['prompt']} {row['answer']}")
        for row in asked
        if row["split"] == "heldout"
    ]


def document_items(documents: Iterable[Document]) -> list[Item]:
    """Held-out documents."""
    return [Item("document", document.doc_id, document.language, document.text) for document in documents]


def contamination(items: Sequence[Item], documents: Iterable[Document]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Look for the items in the training documents.

    Returns:
        The counts for evaluation.json, `by_kind` and `by_language`; and a row for each item of which a part was found.
    """
    index = NgramIndex()
    numbers = [index.add(item.text) for item in items]
    for document in documents:
        index.search(document.text, document.doc_id)
    overlaps = [index.overlap(number) for number in numbers]
    pairs = list(zip(items, overlaps, strict=True))
    groups: dict[str, dict[str, list[Overlap]]] = {"by_kind": defaultdict(list), "by_language": defaultdict(list)}
    for item, overlap in pairs:
        groups["by_kind"][item.kind].append(overlap)
        groups["by_language"][item.language].append(overlap)
    counts: dict[str, Any] = {
        name: {key: _count(found) for key, found in sorted(group.items())} for name, group in groups.items()
    }
    rows = [
        {
            "kind": item.kind,
            "id": item.item_id,
            "language": item.language,
            "ngrams": overlap.num_ngrams,
            "found": overlap.num_found,
            "length": overlap.length,
            "document": overlap.document_id,
        }
        for item, overlap in pairs
        if overlap.is_contaminated
    ]
    return {"length": LENGTH, "min_length": MIN_LENGTH, **counts, "overall": _count(overlaps)}, rows


def _count(overlaps: Sequence[Overlap]) -> dict[str, Any]:
    """Items, those long enough to be looked for, those found in part, and the share of these."""
    measured = [overlap for overlap in overlaps if overlap.is_measured]
    contaminated = sum(overlap.is_contaminated for overlap in measured)
    ngrams = sum(overlap.num_ngrams for overlap in measured)
    return {
        "items": len(overlaps),
        "measured": len(measured),
        "contaminated": contaminated,
        "share": round(contaminated / len(measured), 4) if measured else None,
        "share_of_ngrams": round(sum(overlap.num_found for overlap in measured) / ngrams, 4) if ngrams else None,
    }

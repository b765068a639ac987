"""Contamination counts against a training text that has some items, part of some, and not others."""

from __future__ import annotations

from sovereign.lake.demonstration import make_documents, make_questions
from sovereign.lake.documents import Document
from sovereign.profile import Demonstration
from tests.training.lake import document
from training.contamination import Item, contamination, document_items, question_items

WORDS = [f"w{number}" for number in range(60)]


def text(start: int, stop: int) -> str:
    return " ".join(WORDS[start:stop])


def test_shares_and_items() -> None:
    items = [
        Item("document", "whole", "en", text(0, 20)),
        Item("document", "part", "en", text(20, 40)),
        Item("document", "other", "fr", text(40, 60)),
        Item("question", "short", "fr", "too short"),
    ]
    training = [document(0, text(0, 20), "en", "Archive"), document(1, f"x {text(20, 34)} y", "fr", "Archive")]
    counts, rows = contamination(items, training)
    assert counts["overall"] == {
        "items": 4,
        "measured": 3,
        "contaminated": 2,
        "share": 0.6667,
        "share_of_ngrams": round((8 + 2) / 24, 4),
    }
    assert counts["by_language"]["fr"] == {
        "items": 2,
        "measured": 1,
        "contaminated": 0,
        "share": 0.0,
        "share_of_ngrams": 0.0,
    }
    assert counts["by_kind"]["question"] == {
        "items": 1,
        "measured": 0,
        "contaminated": 0,
        "share": None,
        "share_of_ngrams": None,
    }
    assert [(row["id"], row["found"], row["ngrams"], row["document"]) for row in rows] == [
        ("whole", 8, 8, "d0"),
        ("part", 2, 8, "d1"),
    ]


def test_a_held_out_question_is_contaminated_when_a_document_tells_it() -> None:
    settings = Demonstration(facts=20)
    rows = [question.row() for question in make_questions(settings)]
    documents = list(make_documents(settings))
    counts, _ = contamination(question_items(rows), documents)
    assert counts["overall"]["items"] == 80
    assert counts["overall"]["measured"] > 60
    leaked = next(row for row in rows if row["split"] == "heldout" and row["language"] == "en")
    told = Document("leak", f"{leaked['prompt']} {leaked['answer']}", "en", "leak", ("x",), "CC0-1.0", None)
    more, found = contamination(question_items(rows), [*documents, told])
    assert more["overall"]["contaminated"] == counts["overall"]["contaminated"] + 1
    assert {"id": leaked["question_id"], "document": "leak"}.items() <= next(
        row for row in found if row["document"] == "leak"
    ).items()


def test_items_name_what_they_are() -> None:
    (item,) = document_items([document(7, "text", "fr", "Archive")])
    assert (item.kind, item.item_id, item.language, item.text) == ("document", "d7", "fr", "text")

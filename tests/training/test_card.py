"""The model card from given numbers: text of a source cannot break it, and no number is left out silently."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml.html import document_fromstring
from markdown_it import MarkdownIt

from sovereign.base import read_base
from sovereign.display import escape_markdown
from sovereign.errors import TrainingError
from sovereign.plan import plan
from sovereign.receipts import Receipt
from tests.sovereign.bases import make_base
from tests.training.lake import NO_MIX, TOKENIZER, make_profile
from training.card import write_card

ROW = {"documents": 1, "bytes": 100, "tokens": 40, "model": 1.25, "untrained": 4.0, "unigram": 3.0, "uniform": 4.1}
CONTAMINATION = {"items": 1200, "measured": 1000, "contaminated": 125, "share": 0.125}
EXTRACTED = {"eligible": 5000, "sampled": 200, "extracted": 3, "rate": 0.015, "low": 0.0051, "high": 0.0432}
NO_SAMPLE = {"eligible": 0, "sampled": 0, "extracted": 0, "rate": None, "low": None, "high": None}
COUNTS: dict[str, Any] = {
    "documents": 12_345,
    "characters": 99,
    "documents_by_language": {"en": 12_345},
    "characters_by_language": {"en": 99},
    "documents_by_owner": {"A | B\nMinistry": 12_345},
    "documents_by_licence": {"PSF-2.0": 12_345},
}


def receipt(stage: str, metrics: dict[str, Any]) -> Receipt:
    return Receipt(
        stage=stage,
        inputs={},
        outputs={},
        config_digest="",
        key="k" * 64,
        metrics=metrics,
        started_at="",
        finished_at="2026-01-01",
        seconds=1.0,
        made_by="",
        code_version="0",
    )


def receipts(counts: dict[str, Any]) -> dict[str, Receipt]:
    curate = {"documents_in": 20_000, "train": counts, "heldout": counts}
    metrics: dict[str, dict[str, Any]] = {
        "corpus": {},
        "curate": curate,
        "tokenize": {"tokenizer": TOKENIZER, "mix": NO_MIX},
        "train": {},
    }
    return {stage: receipt(stage, own) for stage, own in metrics.items()}


def evaluation(**row: float) -> dict[str, Any]:
    found = ROW | row
    return {
        "model_digest": "ab" * 32,
        "num_parameters": 1_000_000,
        "bits_per_byte": {"by_language": {"en": found}, "by_domain": {"books": found, "a|b": found}, "overall": found},
        "questions": {"by_language": {}, "by_owner": {}, "overall": {}, "examples": []},
        "contamination": {"length": 13, "min_length": 8, "by_kind": {"document": CONTAMINATION}},
        "memorisation": {"prompt_tokens": 32, "continuation_tokens": 32, "trained": EXTRACTED, "heldout": NO_SAMPLE},
        "generation": {"strategy": "greedy", "ignored_settings": {"repetition_penalty": 1.3}},
        "tasks": {"reading": {"samples": 1500, "version": 2.0, "acc": 0.25}},
    }


def test_real_text_shows_the_compressor_and_no_questions(tmp_path: Path) -> None:
    profile = make_profile()
    write_card(tmp_path, profile, plan(profile), evaluation(xz=2.125), receipts(COUNTS), [])
    card = (tmp_path / "README.md").read_text()
    assert "| en | 1 | 100 | 4.000 | 4.100 | 3.000 | 2.125 | 1.250 |" in card
    assert "Right" not in card
    assert "| A \\| B Ministry | 12,345 |" in card
    assert "| fr | 3.10 | 1.75 | 1.12 |" in card
    assert "not applied in these measures: repetition_penalty." in card
    assert "| held-out documents | 1,200 | 1,000 | 125 | 12.5% |" in card
    assert "| of the training | 5,000 | 200 | 3 | 1.5% | 0.5 to 4.3% |" in card
    assert "| held out | 0 | 0 | 0 | | |" in card
    assert "| reading | 1,500 | acc | 0.2500 |" in card
    assert "| a\\|b | 1 | 100 | 1.250 |" in card
    tables = [line for line in card.splitlines() if line.startswith("| ")]
    assert all(line.endswith("|") for line in tables)


def test_without_compressor_there_is_no_column_for_it(tmp_path: Path) -> None:
    profile = make_profile()
    write_card(tmp_path, profile, plan(profile), evaluation(), receipts(COUNTS), [{"step": 1, "loss": 5.0}])
    card = (tmp_path / "README.md").read_text()
    assert "xz" not in card
    assert "from 5.00 at step 1" in card


def test_a_mix_says_how_often_what_was_taken(tmp_path: Path) -> None:
    profile, known = make_profile(), receipts(COUNTS)
    write_card(tmp_path, profile, plan(profile), evaluation(), known, [])
    assert "by a mix" not in (tmp_path / "README.md").read_text()
    known["tokenize"].metrics["mix"] = {"approved_by": "A | B", "epochs": {"games": 0.0, "fr law": 2.5}}
    write_card(tmp_path, profile, plan(profile), evaluation(), known, [])
    card = (tmp_path / "README.md").read_text()
    assert "Training took this data by a mix that A \\| B approved." in card
    assert "| fr law | 2.5 |\n| games | 0 |\n\n## Tokenizer" in card


def test_a_number_that_is_missing_is_an_error(tmp_path: Path) -> None:
    profile = make_profile()
    without = {key: value for key, value in COUNTS.items() if key != "characters"}
    with pytest.raises(TrainingError, match="characters"):
        write_card(tmp_path, profile, plan(profile), evaluation(), receipts(without), [])


def test_a_base_is_named_by_its_digest(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    base = {"model": str(folder), "method": "lora", "new_tokens": 20, "known": read_base(folder).model_dump()}
    profile = make_profile(base=base)
    write_card(tmp_path, profile, plan(profile), evaluation(), receipts(COUNTS), [])
    card = (tmp_path / "README.md").read_text()
    assert f"| Base | `{read_base(folder).digest}` ({escape_markdown(str(folder))}) |" in card
    assert "trained on from a base model (adapters of rank 16, merged)" in card
    assert "| Tokenizer | the base's with 20 tokens of the same data |" in card
    assert "width 8, 2 query heads, 1 key and value heads, Llama |" in card
    assert "random weights" not in card and "knows what is in its data and nothing else" not in card


def test_sec14_hostile_text_in_every_field(tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=alert(1)> [x](javascript:a) ![y](//e.example/p) `c` | $1$ \u202eevil\n\n# h"
    shown = " ".join(bad.split()).replace("\u202e", "\\u202e")
    profile = make_profile().model_copy(update={"description": bad})
    counts = COUNTS | {
        "documents_by_language": {bad: 1},
        "characters_by_language": {bad: 1},
        "documents_by_owner": {bad: 1, "\u0627\u0644\u0623\u0631\u0634\u064a\u0641": 2},
        "documents_by_licence": {bad: 1},
    }
    known = receipts(counts)
    known["tokenize"].metrics["mix"] = {"approved_by": bad, "epochs": {bad: 1.0}}
    known["tokenize"].metrics["tokenizer"] = TOKENIZER | {"languages": {bad: TOKENIZER["languages"]["en"]}}  # type: ignore[index]
    scores = {"heldout": {"asked": 1, "accuracy": 1.0}, "trained": {"asked": 1, "accuracy": 1.0}}
    example = {"language": bad, "question": bad, "answer": bad, "given": bad}
    measured = evaluation()
    measured["bits_per_byte"] |= {"by_language": {bad: ROW}, "by_domain": {bad: ROW, "b": ROW}}
    measured["questions"] = {"by_language": {bad: scores}, "by_owner": {bad: scores}, "examples": [example]}
    measured["contamination"]["by_kind"] = {bad: CONTAMINATION}
    measured["tasks"] = {bad: {"samples": 1, bad: 0.5}}
    write_card(tmp_path, profile, plan(profile), measured, known, [{"step": 1, "loss": 5.0}])
    card = (tmp_path / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license_name"] == shown
    assert not [char for char in card if unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\u2068\u2069"]

    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token.type for token in tokens + inline if token.type.startswith(("html", "link"))]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["loss.png", "languages.png"]
    assert [token.tag for token in tokens if token.type == "heading_open"].count("h1") == 1  # the title
    # Every table is whole: each row has as many cells as its head.
    widths: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    assert all(len(set(rows)) == 1 for rows in widths)
    texts = ["".join(one.content for one in token.children or []) for token in tokens if token.type == "inline"]
    assert texts.count(shown) == 16  # each place where the card shows one of them alone
    page = document_fromstring(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body))
    assert not page.xpath("//script | //img[not(contains('loss.png languages.png', @src))] | //*[@onerror] | //a")

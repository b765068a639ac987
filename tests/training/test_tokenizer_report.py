"""What the tokenizer's report says of each language, and the gate on its parity."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from sovereign.errors import StageError
from sovereign.lake.demonstration import make_documents
from sovereign.profile import Demonstration, load_profile, parse_profile
from sovereign.stages import load_stage, read_receipt, run_stage
from sovereign.store import open_store
from tests.training.conftest import PROFILE
from training.tokenizer import train_tokenizer
from training.tokenizer_report import check_parity, count_words, make_report, measure

COUNTRY = Demonstration(facts=30)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Trained on the country in English only: other languages cost more."""
    return train_tokenizer((item.text for item in make_documents(COUNTRY) if item.language == "en"), 512)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("The town  of\nVelmora.", 4),
        ("a - b ... 12", 3),
        ("l'école d'Orné", 2),
        ("بِسْمِ اللَّهِ", 2),
        ("हिन्दी भाषा", 2),
        ("维尔莫拉市在哪里？", 8),
        ("维尔 Velmora 市", 4),
        ("ひらがなカナ", 6),
        ("ภาษา", 4),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


def test_ratios_of_known_text() -> None:
    """Bytes are the only tokens: every ratio can be counted by hand."""
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert measure(tokenizer, ["ab cd", "维尔"]) == {
        "documents": 2,
        "bytes": 11,
        "characters": 7,
        "words": 4,
        "tokens": 11,
        "bytes_per_token": 1.0,
        "tokens_per_character": 1.5714,
        "fertility": 2.75,
    }


def test_parity_is_by_the_same_content_where_there_is_some(tokenizer: Tokenizer) -> None:
    texts = {language: ["Q: " + language] for language in ("en", "fr", "ar", "zh")}
    report = make_report(tokenizer, {}, texts, COUNTRY)
    assert report["parity_measure"] == "same-content"
    parity = {language: row["parity"] for language, row in report["languages"].items()}
    assert parity["en"] == 1.0
    assert 1.0 < parity["fr"] < parity["ar"]
    assert {row["measured_on"] for row in report["languages"].values()} == {"train"}


def test_parity_is_by_bytes_where_no_text_is_parallel(tokenizer: Tokenizer) -> None:
    texts = {"en": ["Which river flows through the town?"], "br": ["Pe stêr a red e kêr?"]}
    for demonstration in (None, COUNTRY):  # the country does not speak Breton
        report = make_report(tokenizer, texts, texts, demonstration)
        assert report["parity_measure"] == "bytes-per-token"
        english, breton = report["languages"]["en"], report["languages"]["br"]
        assert english["parity"] == 1.0
        assert breton["parity"] == pytest.approx(english["bytes_per_token"] / breton["bytes_per_token"], abs=1e-3)
        assert breton["measured_on"] == "heldout"


def test_the_gate_names_language_value_and_limit() -> None:
    report = {"parity_measure": "same-content", "languages": {"en": {"parity": 1.0}, "ar": {"parity": 1.62}}}
    check_parity(report, None)
    check_parity(report, 1.62)
    message = r"(?s)too costly for: ar\n.*ar: parity 1\.62 \(by same-content\)\n.*at most 1\.5 times"
    with pytest.raises(StageError, match=message):
        check_parity(report, 1.5)


def test_the_stage_leaves_its_report_beside_the_tokenizer(tokens: Path) -> None:
    report = json.loads((tokens / "models/tiny/tokens/tokenizer_report.json").read_text())
    assert report["vocab_size"] == 600
    assert set(report["languages"]) == {"en", "fr", "ar", "zh"}
    assert min(row["parity"] for row in report["languages"].values()) == 1.0
    receipt = read_receipt(open_store(f"file://{tokens}"), load_stage("tokenize"), "tiny")
    assert receipt is not None
    assert receipt.metrics["tokenizer"]["languages"] == report["languages"]
    assert "models/tiny/tokens/tokenizer_report.json" in receipt.outputs
    assert sum(receipt.metrics["train"]["tokens_by_language"].values()) == receipt.metrics["train"]["tokens"]


def tokenize(root: Path, work: Path, **changes: Any) -> None:
    """Run the stage with some keys of the profile changed."""
    document: dict[str, Any] = json.loads(json.dumps(PROFILE))
    for section, values in changes.items():
        document[section].update(values)
    run_stage(
        load_stage("tokenize"), parse_profile(json.dumps(document)), open_store(f"file://{root}"), work, io.StringIO()
    )


def test_the_stage_refuses_above_the_gate_and_leaves_nothing_new(store_root: Path, tmp_path: Path) -> None:
    before = (store_root / "models/tiny/tokens/receipt.json").read_bytes()
    with pytest.raises(StageError, match=r"(?s)parity.*at most 1\.0 times"):
        tokenize(store_root, tmp_path / "work", model={"max_tokenizer_parity": 1.0})
    assert (store_root / "models/tiny/tokens/receipt.json").read_bytes() == before
    assert list((tmp_path / "work").glob("tokens/*.bin")) == []
    tokenize(store_root, tmp_path / "work", model={"max_tokenizer_parity": 5.0})
    assert (store_root / "models/tiny/tokens/receipt.json").read_bytes() != before


def test_a_parity_that_is_not_a_number_is_above_the_gate() -> None:
    report = {"languages": {"en": {"parity": 1.0}, "fr": {"parity": float("nan")}}, "parity_measure": "same-content"}
    with pytest.raises(StageError, match="too costly for: fr"):
        check_parity(report, 2.0)
    check_parity(report, None)


def test_the_stage_refuses_a_language_without_text(store_root: Path, profile_file: Path, tmp_path: Path) -> None:
    source = {"name": "breton", "path": "/none", "owner": "A", "licence": "CC0-1.0", "language": "br"}
    assert load_profile(profile_file).corpus.sources == ()
    with pytest.raises(StageError, match="no text to train on in: br"):
        tokenize(store_root, tmp_path / "work", corpus={"sources": [source]})


def test_the_stage_refuses_more_tokens_than_the_text_supports(store_root: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="does not support so large a vocabulary"):
        tokenize(store_root, tmp_path / "work", model={"vocab_size": 60_000})

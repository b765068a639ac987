"""The tokenizer: nothing is lost, digits stand alone, languages weigh the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sovereign.errors import StageError
from training.tokenizer import END_OF_TEXT, LanguageSample, save_tokenizer, train_tokenizer

TEXTS = {
    "en": "The town of Velmora lies on the river Orn. Q: Where is Velmora?\nA: on the river Orn",
    "fr": "La ville de Velmoré se trouve sur le fleuve Orné. Où est l'école ?",
    "ar": "تقع مدينة فلمورا على نهر أورن. أين تقع المدينة؟",
    "zh": "维尔莫拉市位于奥恩河畔。维尔莫拉在哪里？",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(list(TEXTS.values()) * 3, 400)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS.values(),
        "1234567890 3.14 ١٢٣",
        "  two  spaces\t\ttabs\r\n\r\n\n end ",
        "مرحبا abc עברית",
        "👩‍👩‍👧 e\u0301 \x00\x7f \ufeff",
        "",
    ],
)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(text=st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.decode([number]) for number in tokenizer.encode("year 2026").ids]
    assert tokens[-4:] == ["2", "0", "2", "6"]


def test_a_prompt_is_the_beginning_of_its_document(tokenizer: Tokenizer) -> None:
    """Else the model would be asked with tokens that it has never seen before an answer."""
    for prompt, answer in (("Q: 哪里？\nA:", " 奥恩河"), ("Q: أين؟\nA:", " نهر أورن"), ("Q: Où ?\nA:", " Orné")):
        ids = tokenizer.encode(prompt).ids
        assert tokenizer.encode(prompt + answer).ids[: len(ids)] == ids


def test_training_is_deterministic() -> None:
    texts = list(TEXTS.values()) * 2
    assert train_tokenizer(texts, 350).to_str() == train_tokenizer(texts, 350).to_str()


def test_saved_as_transformers_loads_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    files = save_tokenizer(tokenizer, tmp_path, 64)
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in files}
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded(TEXTS["ar"])["input_ids"] == tokenizer.encode(TEXTS["ar"]).ids
    assert (loaded.eos_token, loaded.eos_token_id) == (END_OF_TEXT, 0)
    chat = loaded.apply_chat_template([{"role": "user", "content": "Where? "}], tokenize=False)
    assert chat == "Q: Where?\nA:"


def test_too_large_a_vocabulary_is_an_error() -> None:
    with pytest.raises(StageError, match=r"(?s)vocabulary.*got: \d+ different.*expected: model.vocab_size = 5000"):
        train_tokenizer(["a short text"], 5000)


def test_a_language_without_text_is_an_error() -> None:
    sample = LanguageSample(["en", "br"])
    sample.add("some text", "en")
    with pytest.raises(StageError, match="no text to train on in: br"):
        list(sample.texts())


def test_a_small_language_weighs_as_much_as_a_large_one() -> None:
    sample = LanguageSample(["en", "fr"], sample_bytes=2_000)
    for number in range(100):
        sample.add(f"english text {number:07}", "en")
    sample.add("un texte français de quelque soixante-dix octets en tout, ou presque", "fr")
    texts = list(sample.texts())
    english = sum(len(text.encode()) for text in texts if text.startswith("english"))
    french = sum(len(text.encode()) for text in texts if text.startswith("un"))
    assert 900 <= english <= 1_100
    assert english == pytest.approx(french, rel=0.1)

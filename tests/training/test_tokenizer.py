"""The tokenizer: nothing is lost, digits stand alone, languages weigh the same."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sovereign.errors import StageError
from sovereign.lake.documents import Document
from training.tokenize import refuse_empty
from training.tokenizer import (
    END_OF_TEXT,
    PATTERN,
    balanced,
    draw_sample,
    save_tokenizer,
    text_bytes,
    train_tokenizer,
)

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
        "1234567890 3.14 ١٢٣ १२ ½² Ⅷ",
        "  two  spaces\t\ttabs\r\n\r\n\n\u00a0\u2003\u3000 end ",
        "مرحبا abc עברית",
        "بِسْمِ اللَّهِ",  # vowels above and below
        "\u200fשָׁלוֹם\u200e (1–2) \u2067فلمورا\u2069",  # marks of direction
        "می\u200cخواهم क्\u200dष",  # joiners
        "हिन्दी ภาษาไทย မြန်မာ",
        "👩\u200d👩\u200d👧 é \x00\x7f \ufeff",
        "",
    ],
)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_words_with_marks_come_back_after_merging() -> None:
    """Marks that a merge has joined to their letters, as a tokenizer of that language has them."""
    texts = {
        "ar": "بِسْمِ اللَّهِ",
        "hi": "हिन्दी भाषा",
        "th": "ภาษาไทย",
        "he": "שָׁלוֹם",
    }
    tokenizer = train_tokenizer([text for text in texts.values() for _ in range(9)], 310)
    for text in texts.values():
        assert len(tokenizer.encode(text).ids) < len(text.encode()) / 2, "little was merged"
        for cut in range(len(text)):
            assert tokenizer.decode(tokenizer.encode(text[cut:]).ids) == text[cut:]


@given(text=st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the pre-tokenizer cuts `text` into: no token reaches over a cut."""
    assert tokenizer.pre_tokenizer is not None
    return [text[begin:end] for _, (begin, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@given(text=st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])))
def test_every_digit_stands_alone(tokenizer: Tokenizer, text: str) -> None:
    """Of any script: 2026 is 2, 0, 2, 6."""
    cut = pieces(tokenizer, f"{text}2١0{text}")
    assert "".join(cut) == f"{text}2١0{text}"
    assert all(len(piece) == 1 for piece in cut if any(unicodedata.category(letter)[0] == "N" for letter in piece))


def test_the_pre_tokenizer_is_that_of_qwen2(tokenizer: Tokenizer) -> None:
    """llama.cpp knows it by this name, so that a GGUF file cuts text as training did."""
    from transformers.models.qwen2 import tokenization_qwen2

    assert tokenization_qwen2.PRETOKENIZE_REGEX == PATTERN
    assert pieces(tokenizer, "I'LL pay 12 €!!\n\n \tNow") == [
        "I", "'LL", " pay", " ", "1", "2", " €!!\n\n", " ", "\tNow",
    ]  # fmt: skip


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
    with pytest.raises(StageError, match=r"(?s)vocabulary.*got: 257 tokens.*expected: model.vocab_size = 5000"):
        train_tokenizer(["a short text"], 5000)


def test_too_little_text_for_any_vocabulary_asks_for_text() -> None:
    with pytest.raises(StageError, match=r"hint: add text$"):
        train_tokenizer(["a short text"], 512)


def test_what_stands_once_is_no_token() -> None:
    with pytest.raises(StageError, match="got: 257 tokens: the bytes, and what occurs 2 times or more"):
        train_tokenizer(["abcdefg"], 512)


def test_a_language_without_text_is_an_error() -> None:
    with pytest.raises(StageError, match=r"no text to train on in: br, oc\n  got: en: 9 bytes"):
        refuse_empty(["en", "oc", "br"], {"en": 9})


def make_documents(**texts: list[str]) -> list[Document]:
    """Documents by language."""
    return [
        Document(f"{language}{number}", text, language, "s", ("Archive",), "CC0-1.0", None)
        for language, own in texts.items()
        for number, text in enumerate(own)
    ]


def fed(documents: list[Document], sample_bytes: int) -> Counter[str]:
    """Bytes of each script that the trainer is given."""
    sample = draw_sample(documents, text_bytes(documents), sample_bytes)
    assert sum(len(text) for own in sample.values() for text in own) <= sample_bytes
    sizes: Counter[str] = Counter()
    for text in balanced(sample):
        sizes[text[:1]] += len(text.encode())
    return sizes


def test_languages_weigh_the_same_by_bytes() -> None:
    """Text of one, two and three bytes a character; much of one language and little of another."""
    documents = make_documents(en=["e" * 60] * 500, ar=["ع" * 40] * 300, zh=["维" * 20] * 9)
    sizes = fed(documents, 9_000)
    assert set(sizes) == {"e", "ع", "维"}
    assert all(size == pytest.approx(3_000, rel=0.03) for size in sizes.values())


def test_little_text_counts_no_more_than_sixteen_times() -> None:
    sizes = fed(make_documents(en=["e" * 60] * 500, br=["b" * 60]), 40_000)
    assert sizes == {"e": 19_980, "b": 16 * 60}


def test_words_without_end_do_not_reach_the_trainer() -> None:
    genome, clause = "ACGT" * 50_000, "维尔莫拉市" * 100
    assert list(balanced({"en": [f"A genome: {genome}.".encode()]})) == ["A genome:  ."]
    assert list(balanced({"zh": [clause.encode()]})) == [clause]


def test_every_part_of_a_language_is_in_its_sample() -> None:
    """Not the first documents: two sources of a language follow each other in the corpus."""
    documents = make_documents(en=["a" * 50] * 1000 + ["b" * 50] * 1000 + ["c" * 50] * 2000)
    assert fed(documents, 20_000) == {"a": 5_000, "b": 5_000, "c": 10_000}


@given(
    sizes=st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=20), min_size=1, max_size=4),
    sample_bytes=st.integers(100, 5_000),
)
def test_a_sample_is_bounded_and_has_every_language(sizes: list[list[int]], sample_bytes: int) -> None:
    names = "abcd"[: len(sizes)]
    documents = make_documents(**{name: [name * size for size in own] for name, own in zip(names, sizes, strict=True)})
    assert set(fed(documents, sample_bytes)) == set(names)

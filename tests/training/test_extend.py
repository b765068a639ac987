"""New tokens for an old tokenizer: what is learned, and that the old text is cut as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from sovereign.errors import StageError
from tests.training.tiny import make_tokenizer
from training.extend import extend_tokenizer, learn_merges

OLD = ["the river runs to the sea", "the law of the rivers", "a town by the sea"] * 5
NEW = ["mvua kubwa sana leo", "mvua ya masika", "leo mvua tena mvua kubwa"] * 5


@pytest.fixture(scope="module")
def old() -> Tokenizer:
    return make_tokenizer(OLD).backend_tokenizer


def test_new_text_gets_shorter_and_old_text_stays(old: Tokenizer) -> None:
    extension = extend_tokenizer(old, NEW, 12)
    new = Tokenizer.from_str(extension.text)
    assert sorted(extension.pieces) == list(range(280, 292)) and new.get_vocab_size() == 292
    for text in NEW:
        ids = new.encode(text).ids
        assert len(ids) < len(old.encode(text).ids)
        assert new.decode(ids) == text
        expanded = [piece for token in ids for piece in extension.pieces.get(token, [token])]
        assert expanded == old.encode(text).ids
    for text in OLD:
        assert new.encode(text).ids == old.encode(text).ids
    assert "Ġmvua" in new.get_vocab()


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_transformers_cuts_as_the_extended_tokenizer_does(tokenizer_class: str, old: Tokenizer, tmp_path: Path) -> None:
    make_tokenizer(OLD).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": tokenizer_class}))
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    extension = extend_tokenizer(loaded.backend_tokenizer, NEW, 12)
    (tmp_path / "tokenizer.json").write_text(extension.text)
    reloaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in [*OLD, *NEW]:
        assert reloaded(text)["input_ids"] == Tokenizer.from_str(extension.text).encode(text).ids
    assert set(reloaded(" ".join(NEW))["input_ids"]) & extension.pieces.keys()


def test_too_many_are_refused(old: Tokenizer) -> None:
    with pytest.raises(StageError, match="does not support so many new tokens") as caught:
        extend_tokenizer(old, NEW, 1000)
    assert "base.new_tokens = 1000" in str(caught.value)


def test_another_kind_is_refused() -> None:
    with pytest.raises(StageError, match="cannot be extended"):
        extend_tokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), NEW, 1)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=8).map(tuple), st.integers(1, 9), min_size=1, max_size=20))
def test_each_merge_is_the_most_frequent_pair(words: dict[tuple[str, ...], int]) -> None:
    """Against the rule itself, counted anew before every merge."""
    merges = learn_merges(words, 6, set("abc"))
    cut = {word: list(word) for word in words}
    made = set("abc")
    for left, right in merges:
        totals: dict[tuple[str, str], int] = {}
        for word, count in words.items():
            for pair in zip(cut[word], cut[word][1:], strict=False):
                totals[pair] = totals.get(pair, 0) + count
        allowed = {pair: total for pair, total in totals.items() if pair[0] + pair[1] not in made}
        assert (left, right) == min(allowed, key=lambda pair: (-allowed[pair], pair))
        made.add(left + right)
        for word, parts in cut.items():
            text = "|".join(["", *parts, ""])
            while f"|{left}|{right}|" in text:
                text = text.replace(f"|{left}|{right}|", f"|{left + right}|", 1)
            cut[word] = text.strip("|").split("|")

"""Ids of control tokens through saving, extending, training and export; and text that never becomes a control token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from sovereign.errors import StageError, TrainingError
from sovereign.lake.documents import Document, read_documents
from tests.training.conftest import Start, events
from tests.training.special_tokens import END, TURN, TURN_END, WORD, save_base
from tests.training.test_base import TIMEOUT_S, TRAIN, prepare
from tests.training.test_mixing import WORDS, make_site, run
from tests.training.tiny import make_tokenizer
from training.export import export
from training.extend import extend_tokenizer
from training.mixing import encode
from training.shards import Shard, ShardWriter
from training.token_ids import check_unique, pin_added_tokens, text_ids, text_tokenizer

NEW = 20


def check_shards(root: Path, end: int) -> None:
    """Every document once, with one mark at its end, and back as its very text."""
    tokenizer = Tokenizer.from_file(str(root / "models/tiny/tokens/tokenizer.json"))
    texts = {
        document.doc_id: document.text for document in read_documents(sorted(root.glob("curated/tiny/train-*.parquet")))
    }
    seen = 0
    for path in sorted(root.glob("models/tiny/tokens/train-*.bin")):
        shard = Shard(path)
        tokens, ends = shard.tokens.tolist(), shard.ends.tolist()
        assert tokens.count(end) == shard.num_documents
        for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            assert tokens[stop - 1] == end
            assert (
                tokenizer.decode(tokens[start : stop - 1], skip_special_tokens=False)
                == texts[shard.document_id(number)]
            )
        seen += shard.num_documents
    assert seen == len(texts) > 0


@pytest.mark.parametrize("new_tokens", [0, NEW])
@pytest.mark.parametrize(
    ("layout", "tokenizer_class"),
    [
        ("after", "Qwen2Tokenizer"),
        *((layout, "PreTrainedTokenizerFast") for layout in ("after", "gap", "within", "flags")),
    ],
)
def test_t1_control_tokens_keep_their_ids(
    layout: str, tokenizer_class: str, new_tokens: int, tokens: Path, tmp_path: Path
) -> None:
    ids = save_base(tmp_path / "base", layout=layout, tokenizer_class=tokenizer_class)
    _, root = prepare(tmp_path / "site", tmp_path / "base", tokens, new_tokens=new_tokens)
    folder = root / "models/tiny/tokens"
    again = tmp_path / "again"
    AutoTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(again)
    for place in (folder, again):
        loaded = AutoTokenizer.from_pretrained(place, local_files_only=True)
        assert {text: loaded.convert_tokens_to_ids(text) for text in ids} == ids
        assert loaded.eos_token_id == ids[END]
        vocab = loaded.get_vocab()
        assert len(set(vocab.values())) == len(vocab)
        assert len(vocab) == len(AutoTokenizer.from_pretrained(tmp_path / "base", local_files_only=True)) + new_tokens
        assert loaded(f"a{TURN_END}")["input_ids"][-1] == ids[TURN_END]
    check_shards(root, ids[END])


def test_t1_extended_twice(tokens: Path, tmp_path: Path) -> None:
    backend = make_tokenizer(["the river runs to the sea"] * 3).backend_tokenizer
    backend.add_special_tokens([TURN, END])
    before = backend.get_vocab()
    once = Tokenizer.from_str(extend_tokenizer(backend, ["mvua kubwa sana leo"] * 5, 5).text)
    twice = extend_tokenizer(once, ["habari ya asubuhi njema"] * 5, 5)
    found = Tokenizer.from_str(twice.text)
    assert before.items() <= once.get_vocab().items() <= found.get_vocab().items()
    assert sorted(twice.pieces) == list(range(len(before) + 5, len(before) + 10))
    for text in ("mvua kubwa sana leo", "habari ya asubuhi njema"):
        assert found.decode(found.encode(text).ids) == text


def test_t1_a_merge_never_takes_the_text_of_an_added_token() -> None:
    backend = make_tokenizer(["the river"]).backend_tokenizer
    backend.add_special_tokens(["xy"])
    number = backend.token_to_id("xy")
    extension = extend_tokenizer(backend, ["xy xyz xyzw"] * 9, 3)
    found = Tokenizer.from_str(extension.text)
    assert found.token_to_id("xy") == number and number not in extension.pieces
    assert text_tokenizer(found).encode("xy").ids != [number]


def test_t1_ambiguous_ids_are_refused() -> None:
    with pytest.raises(StageError, match=r"got: 'a' and 'b' are both 3"):
        check_unique({"a": 3, "b": 3})
    document = {"model": {"vocab": {"a": 1}}, "added_tokens": [{"content": "a", "id": 2, "special": True}]}
    with pytest.raises(StageError, match=r"'a' is 1 in the vocabulary and 2 in added_tokens"):
        pin_added_tokens(document, {})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"byte_fallback": True}, "byte_fallback"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
        ({}, "Metaspace"),
    ],
)
def test_t1_other_kinds_are_refused(settings: dict[str, Any], reason: str) -> None:
    document = json.loads(make_tokenizer(["the river"]).backend_tokenizer.to_str())
    document["model"] |= settings
    if not settings:
        document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    with pytest.raises(StageError, match=f"(?s)cannot be extended.*{reason}"):
        extend_tokenizer(Tokenizer.from_str(json.dumps(document)), ["mvua mvua"] * 5, 1)


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    ("base", "others"),
    [
        ({"kind": "qwen2", "generation": {"eos_token_id": 282}}, []),  # without a chat template no turn ends
        ({"kind": "llama", "tied": False, "chat": True, "generation": {"eos_token_id": [282, 280, 7]}}, [282]),
        ({"kind": "qwen2", "layout": "gap", "generation": {"eos_token_id": 5, "do_sample": False, "top_k": 5}}, []),
    ],
)
def test_t2_one_end_of_text_everywhere(
    base: dict[str, Any], others: list[int], start_training: Start, tokens: Path, tmp_path: Path
) -> None:
    ids = save_base(tmp_path / "base", **base)
    profile, root = prepare(tmp_path / "site", tmp_path / "base", tokens, new_tokens=NEW)
    process = start_training(profile, root, tmp_path / "work", tmp_path / "log")
    process.join(TIMEOUT_S)
    assert process.exitcode == 0, events(tmp_path / "log")
    folder = root / TRAIN / "model"
    end = ids[END]
    config, generation = AutoConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert config.eos_token_id == tokenizer.eos_token_id == end
    assert config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
    assert generation.eos_token_id == ([end, *others] if others else end)
    assert config.bos_token_id == generation.bos_token_id == tokenizer.bos_token_id
    assert {text: tokenizer.convert_tokens_to_ids(text) for text in ids} == ids
    # Training learns the mark's row though it is the padding too.
    name = "model.embed_tokens.weight"
    before, after = load_file(tmp_path / "base/model.safetensors")[name], load_file(folder / "model.safetensors")[name]
    assert (before[end] - after[end]).abs().max() > 1e-4
    fields = GGUFReader(
        export(folder, tmp_path / "fork.gguf", "gguf-f16", name="f", report=lambda *_: None).path
    ).fields
    listed, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert {text: listed.index(text) for text in ids} == ids
    assert [kinds[ids[text]] for text in (END, TURN, TURN_END, WORD)] == [3, 3, 3, 4]
    marks = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "padding")]
    assert marks == [end, tokenizer.pad_token_id]
    turn_end = fields.get("tokenizer.ggml.eot_token_id")
    assert ([turn_end.contents()] if turn_end else []) == others


WRITTEN = f"Write <|endoftext|> and {END} at the end, {TURN}user\nhi{TURN_END} between <s> </s> and [PAD]."


def test_t3_text_is_text_in_shards(tmp_path: Path) -> None:
    fast = make_tokenizer(["the river"])
    fast.backend_tokenizer.add_special_tokens([END, TURN, TURN_END])
    tokenizer = text_tokenizer(fast.backend_tokenizer)
    documents = [Document(f"d{n}", WRITTEN * n, "en", "s", ("A",), "CC0-1.0", None) for n in (1, 2, 3)]
    with ShardWriter(tmp_path / "train-00000.bin", 300, 0) as writer:
        for document, ids in encode(tokenizer, iter(documents)):
            assert tokenizer.decode(ids, skip_special_tokens=False) == document.text
            writer.add(ids, doc_id=document.doc_id, language="en", owners=["A"], licence="CC0-1.0", num_bytes=1)
    assert Shard(tmp_path / "train-00000.bin").tokens.tolist().count(0) == 3
    with (
        pytest.raises(TrainingError, match="end-of-text mark inside"),
        ShardWriter(tmp_path / "x.bin", 300, 0) as writer,
    ):
        writer.add([5, 0, 6], doc_id="d", language="en", owners=["A"], licence="CC0-1.0", num_bytes=1)


def test_t3_text_is_text_in_evaluation() -> None:
    fast = make_tokenizer(["the river"])
    fast.add_special_tokens({"additional_special_tokens": [END, TURN, TURN_END]})
    special = set(fast.all_special_ids)
    (ids,) = text_ids(fast, [WRITTEN])
    assert not special & set(ids) and fast.decode(ids, skip_special_tokens=True) == WRITTEN
    assert fast(f"a{TURN_END}")["input_ids"][-1] in special  # templates are cut as before


def test_t3_documents_are_never_truncated() -> None:
    backend = make_tokenizer(["the river"]).backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=100)
    assert text_tokenizer(backend).decode(text_tokenizer(backend).encode(WRITTEN).ids) == WRITTEN


def test_t3_a_tokenizer_whose_words_are_control_tokens_is_refused() -> None:
    document = json.loads(make_tokenizer(["the river"]).backend_tokenizer.to_str())
    document["model"] |= {"ignore_merges": True}
    backend = Tokenizer.from_str(json.dumps(document).replace("<|endoftext|>", "STOP"))
    with pytest.raises(StageError, match=r"control tokens of plain text\n  got: 'STOP' becomes STOP"):
        text_tokenizer(backend)


def test_t3_documents_with_control_tokens_through_the_stages(tmp_path: Path) -> None:
    lines = [{"text": f"{number} {WRITTEN} {' '.join(WORDS[20 * number : 20 * number + 90])}"} for number in range(60)]
    source = tmp_path / "notes.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cleaning = {"language": None, "quality": None, "near_duplicates": None, "heldout_fraction": 0.1}
    named = {"name": "notes", "path": str(source), "owner": "A", "licence": "CC0-1.0", "language": "en"}
    model = {"parameters": 1e5, "vocab_size": 512, "sequence_length": 64}
    site = make_site(tmp_path / "made", corpus={"sources": [named], "cleaning": cleaning}, model=model)
    run(site, "tokenize")
    check_shards(site.data_dir, 0)

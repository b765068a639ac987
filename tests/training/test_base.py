"""Continuing from a base as users do: all weights and adapters, another family and our own, killed and gone on with."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from sovereign.base import base_prefix, read_base, store_base
from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.receipts import Receipt
from sovereign.stages import load_stage, run_stage
from sovereign.store import open_store
from tests.training.conftest import PROFILE, Start, events
from tests.training.tiny import make_tokenizer
from training.export import export
from training.order import TokenStream
from training.shards import Shard

# peft reads a property of transformers that has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TIMEOUT_S = 1200
TRAIN = "models/tiny/train"
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8}}


def save_llama(folder: Path) -> Path:
    """A random Llama with two matrices for its tokens, saved by transformers, with a tokenizer of other text."""
    make_tokenizer(["the river runs to the sea", "la loi des rivières"]).save_pretrained(folder)
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=288,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
            tie_word_embeddings=False,
            eos_token_id=0,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


def prepare(folder: Path, base: Path, tokens: Path, **settings: Any) -> tuple[Path, Path]:
    """A profile that continues from `base`, and a store in which stage `tokenize` has run for it."""
    known = read_base(base)
    document = PROFILE | {"base": {"model": str(base), "known": known.model_dump(), **settings}}
    folder.mkdir(parents=True)
    profile = folder / "profile.yaml"
    profile.write_text(json.dumps(document))
    root = Path(shutil.copytree(tokens, folder / "store"))
    store = open_store(f"file://{root}")
    store_base(store, base, known.digest)
    run_stage(load_stage("tokenize"), load_profile(profile), store, folder / "tokenize", io.StringIO())
    return profile, root


def run(start: Start, profile: Path, root: Path, work: Path) -> None:
    """Train to the end."""
    process = start(profile, root, work, work.with_suffix(".log"))
    process.join(TIMEOUT_S)
    assert process.exitcode == 0, events(work.with_suffix(".log"))


def receipt(root: Path, stage: str = "train") -> Receipt:
    return Receipt.from_bytes((root / f"models/tiny/{stage}/receipt.json").read_bytes())


def record(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / TRAIN / "metrics.jsonl").read_text().splitlines()]


def first_rows(profile: Path, root: Path) -> torch.Tensor:
    """What the first step trains on; shape [rows, sequence_length]."""
    recipe = plan(load_profile(profile)).recipe
    stream = TokenStream([Shard(path) for path in sorted(root.glob("models/tiny/tokens/train-*.bin"))], recipe.seed)
    return torch.from_numpy(stream.rows(0, recipe.batch_tokens // 64, 64, rank=0, world_size=1))


def loss(model: Any, rows: torch.Tensor) -> float:
    """transformers' own loss."""
    with torch.no_grad():
        return float(model(input_ids=rows, labels=rows).loss)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def own(start_training: Start, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the kit after two steps."""
    folder = tmp_path_factory.mktemp("own")
    profile = folder / "profile.yaml"
    profile.write_text(json.dumps(PROFILE | {"training": PROFILE["training"] | {"tokens": 2 * 256}}))  # type: ignore[operator]
    root = Path(shutil.copytree(tokens, folder / "store"))
    run(start_training, profile, root, folder / "work")
    return root / TRAIN / "model"


def test_all_weights_of_a_llama(llama: Path, start_training: Start, tokens: Path, tmp_path: Path) -> None:
    profile, root = prepare(tmp_path / "full", llama, tokens)
    run(start_training, profile, root, tmp_path / "work")
    base = AutoModelForCausalLM.from_pretrained(llama, local_files_only=True)
    folder = root / TRAIN / "model"
    trained = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    rows = first_rows(profile, root)
    assert record(root)[1]["loss"] == pytest.approx(loss(base, rows), rel=1e-5)
    assert loss(trained, rows) < loss(base, rows)
    assert isinstance(trained, LlamaForCausalLM) and trained.config.to_dict()["rope_parameters"]["rope_theta"] == 5000.0
    assert trained.lm_head.weight.data_ptr() != trained.model.embed_tokens.weight.data_ptr()
    # The tokenizer is the base's, and the parent is known by its digest wherever one looks.
    text = "la rivière 42"
    one, other = (AutoTokenizer.from_pretrained(path, local_files_only=True) for path in (llama, folder))
    assert one(text)["input_ids"] == other(text)["input_ids"]
    digest = read_base(llama).digest
    for stage in ("tokens", "train"):
        assert receipt(root, stage).inputs[base_prefix(digest)] == digest
    assert receipt(root).metrics["base"] == digest
    assert read_base(folder).digest != digest  # and one can go on from it
    assert read_base(llama).gguf_obstacle is None  # nor is there one to what was made of it
    assert export(folder, tmp_path / "fork.gguf", "gguf-f16", name="fork", report=lambda *_: None).tensors


def check_merge(root: Path, start: Mapping[str, torch.Tensor], rows: torch.Tensor, embeddings: set[str]) -> None:
    """The adapter on the base does what the merged model does, and nothing but the adapted matrices has changed."""
    from peft import PeftModel

    merged = load_file(root / TRAIN / "model" / "model.safetensors")
    matrices = {name for name in merged if name.endswith("_proj.weight")}
    changed = {name for name in merged if not torch.equal(merged[name], start[name])}
    assert changed == matrices | embeddings
    model = AutoModelForCausalLM.from_pretrained(root / TRAIN / "model", local_files_only=True)
    expected = loss(model, rows)
    # The base with its new rows; the trained embeddings lie in the adapter's file.
    model.load_state_dict(dict(start), strict=False)
    adapted = PeftModel.from_pretrained(model, root / TRAIN / "adapter")
    assert loss(adapted, rows) == pytest.approx(expected, rel=1e-5)


def test_adapters_on_a_llama(llama: Path, start_training: Start, tokens: Path, tmp_path: Path) -> None:
    profile, root = prepare(tmp_path / "lora", llama, tokens, **LORA)
    run(start_training, profile, root, tmp_path / "work")
    base = AutoModelForCausalLM.from_pretrained(llama, local_files_only=True)
    rows = first_rows(profile, root)
    assert record(root)[1]["loss"] == pytest.approx(loss(base, rows), rel=1e-5)
    assert record(root)[-2]["loss"] < record(root)[1]["loss"]
    check_merge(root, load_file(llama / "model.safetensors"), rows, set())
    trained = load_file(root / TRAIN / "adapter" / "adapter_model.safetensors")
    assert sum(value.numel() for value in trained.values()) == plan(load_profile(profile)).model.num_trained


def test_adapters_and_new_tokens_on_our_own(own: Path, start_training: Start, tokens: Path, tmp_path: Path) -> None:
    """Killed after a checkpoint, with its disk lost, it ends with the same bits as without."""
    profile, root = prepare(tmp_path / "whole", own, tokens, new_tokens=20, **LORA)
    killed = Path(shutil.copytree(root, tmp_path / "killed"))
    run(start_training, profile, root, tmp_path / "work")
    log = tmp_path / "first.log"
    process = start_training(profile, killed, tmp_path / "first", log)
    while process.exitcode is None and not any(killed.glob(f"{TRAIN}/checkpoints/*/step-00000004/COMMIT")):
        process.join(0.02)
    os.kill(int(process.pid or 0), signal.SIGKILL)
    process.join(TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL, events(log)
    run(start_training, profile, killed, tmp_path / "second")
    assert receipt(killed).metrics["resumed_from"] > 0
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (killed / TRAIN / name).read_bytes() == (root / TRAIN / name).read_bytes(), name
    # New rows begin as the mean of the rows of what they stand for.
    tokenizer = AutoTokenizer.from_pretrained(root / TRAIN / "model", local_files_only=True)
    assert len(tokenizer) == 620
    pieces = json.loads((root / "models/tiny/tokens/base_tokens.json").read_text())["pieces"]
    start = load_file(own / "model.safetensors")
    name = "model.embed_tokens.weight"
    rows = [start[name][pieces[str(token)]].mean(dim=0) for token in range(600, 620)]
    start[name] = torch.cat([start[name], torch.stack(rows)])
    first = first_rows(profile, root)
    assert int(first.max()) >= 600
    check_merge(root, start, first, {name})
    model = AutoModelForCausalLM.from_pretrained(root / TRAIN / "model", local_files_only=True)
    model.load_state_dict(start, strict=False)
    assert record(root)[1]["loss"] == pytest.approx(loss(model, first), rel=1e-5)


def test_a_base_that_was_tampered_with_is_not_loaded(
    llama: Path, start_training: Start, tokens: Path, tmp_path: Path
) -> None:
    profile, root = prepare(tmp_path / "full", llama, tokens)
    path = root / base_prefix(read_base(llama).digest) / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] += 1
    save_file(weights, path, metadata={"format": "pt"})
    process = start_training(profile, root, tmp_path / "work", tmp_path / "log")
    process.join(TIMEOUT_S)
    assert process.exitcode == 1
    assert "model.safetensors is damaged" in events(tmp_path / "log")[-1]["message"]

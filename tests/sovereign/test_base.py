"""Which models training can continue from, how a site knows its base, and the way of a base through the store."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.base import base_files, base_inputs, base_prefix, fetch_base, read_base, store_base
from sovereign.cli.base import name_base, settle_base
from sovereign.cli.sites import peek, site_of
from sovereign.cli.summary import plan_rows
from sovereign.cli.work import local_runner
from sovereign.errors import PlanError, ProfileError, StoreError, UnusableBaseError
from sovereign.plan import plan
from sovereign.profile import Profile, load_profile, parse_profile
from sovereign.site import Site, init_site
from sovereign.store import FolderStore
from tests.sovereign.bases import CONFIG, TENSORS, make_base, write_weights

PROFILE: dict[str, Any] = {
    "apiVersion": "sovereign/v1",
    "name": "fork",
    "corpus": {"demonstration": {"facts": 10}},
    "model": {"sequence_length": 64},
    "training": {"tokens": 1e5},
}


def profile_of(folder: Path, **base: Any) -> Profile:
    """A profile that continues from the base in `folder`."""
    known = read_base(folder).model_dump()
    return parse_profile(json.dumps(PROFILE | {"base": {"model": str(folder), "known": known} | base}))


def test_shape_and_digest_are_read(tmp_path: Path) -> None:
    known = read_base(make_base(tmp_path / "one"))
    assert (known.architecture, known.vocab_size, known.tokenizer_size, known.head_dim) == (
        "LlamaForCausalLM",
        300,
        290,
        4,
    )
    assert read_base(make_base(tmp_path / "two")).digest == known.digest
    (tmp_path / "two" / "README.md").write_text("another card")  # no part of the model
    assert read_base(tmp_path / "two").digest == known.digest
    (tmp_path / "two" / "config.json").write_text(json.dumps(CONFIG | {"rope_theta": 5}))
    assert read_base(tmp_path / "two").digest != known.digest


def test_tied_weights_and_biases_are_counted(tmp_path: Path) -> None:
    tied = make_base(tmp_path / "tied", {"tie_word_embeddings": True})
    for absent in ("", "lm_head.weight", "model.embed_tokens.weight"):
        write_weights(tied / "model.safetensors", {name: TENSORS[name] for name in TENSORS if name != absent})
        assert read_base(tied).tied
    biases = {f"model.layers.0.self_attn.{name}_proj.bias": (size,) for name, size in (("q", 8), ("k", 4), ("v", 4))}
    qwen2 = make_base(tmp_path / "qwen2", {"architectures": ["Qwen2ForCausalLM"]})
    with pytest.raises(UnusableBaseError, match="not those of its config"):
        read_base(qwen2)
    write_weights(qwen2 / "model.safetensors", TENSORS | biases)
    assert read_base(qwen2).architecture == "Qwen2ForCausalLM"
    norms = {f"model.layers.0.self_attn.{name}_norm.weight": (4,) for name in "qk"}
    qwen3 = make_base(tmp_path / "qwen3", {"architectures": ["Qwen3ForCausalLM"], "head_dim": 4})
    write_weights(qwen3 / "model.safetensors", TENSORS | norms)
    assert read_base(qwen3).head_dim == 4


def change_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected"),
    [
        ({}, {}, None),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, {}, "yarn"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, {}, "sliding_window: 64"),
        ({}, {"model": {"type": "BPE", "vocab": {"a": 0}, "byte_fallback": True}}, "SentencePiece"),
        ({}, {"pre_tokenizer": {"type": "Split"}}, "lacks something: KeyError"),
    ],
)
def test_what_cannot_become_gguf_is_said_when_the_base_is_taken(
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    expected: str | None,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_base(tmp_path / "base", config)
    change_tokenizer(folder, **tokenizer)
    obstacle = read_base(folder).gguf_obstacle
    assert obstacle is None if expected is None else expected in str(obstacle)
    name_base(site, str(folder))
    assert ("no GGUF file" in capsys.readouterr().err) == (expected is not None)
    rows = dict(plan_rows(plan(site.profile)))
    assert rows.get("GGUF") == (None if obstacle is None else f"no export: {obstacle}")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def without_a_part(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"lm_head.weight": "model-00002-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def without_a_tensor(folder: Path) -> None:
    write_weights(folder / "model.safetensors", {"model.norm.weight": (8,)})


def with_config(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))

    return change


def with_tokens(number: int) -> Any:
    def change(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        document["added_tokens"][0]["id"] = number
        (folder / "tokenizer.json").write_text(json.dumps(document))

    return change


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def unigram(folder: Path) -> None:
    model = {"type": "Unigram", "vocab": [["a", 0.0]]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (pickled, ["no weights in safetensors", "pytorch_model.bin", "never loaded"]),
        (cut_off, ["is damaged", "copy it again"]),
        (without_a_part, ["incomplete", "model-00002-of-00002.safetensors"]),
        (without_a_tensor, ["got: 8 parameters"]),
        (with_config(architectures=["GPT2LMHeadModel"]), ["another architecture", "GPT2LMHeadModel", "LlamaForCausal"]),
        (with_config(architectures=None), ["another architecture"]),
        (with_config(num_hidden_layers=2), ["not those of its config.json"]),
        (with_config(num_hidden_layers="many"), ["lacks something or is damaged"]),
        (with_config(quantization_config={"bits": 4}), ["is quantized"]),
        (with_tokens(300), ["does not fit its model", "got: 301 tokens", "at most 300"]),
        (without_tokenizer, ["has no tokenizer.json", "fast one"]),
        (unigram, ["tokenizer is of another kind"]),
    ],
)
def test_what_does_not_fit_is_refused(spoil: Any, expected: list[str], tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    spoil(folder)
    with pytest.raises(UnusableBaseError) as caught:
        read_base(folder)
    for part in expected:
        assert part in str(caught.value)


def test_the_plan_takes_the_shape_of_the_base(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    full = plan(profile_of(folder))
    elements = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in TENSORS.values())
    assert full.num_parameters == elements
    assert (full.model.vocab_size, full.model.sequence_length, full.model.num_trained) == (300, 64, None)
    larger = plan(profile_of(folder, new_tokens=20)).model
    assert larger.vocab_size == 310  # ten rows were free
    assert larger.num_parameters == elements + 2 * 10 * 8
    lora = plan(profile_of(folder, method="lora", lora={"rank": 2, "target_modules": ["q_proj", "down_proj"]}))
    assert lora.model.num_trained == 2 * (8 + 8) + 2 * (16 + 8)
    assert lora.num_parameters == elements
    assert lora.recipe.learning_rate == pytest.approx(min(10 * full.recipe.learning_rate, 4e-3))
    assert lora.model.flops_per_token < full.model.flops_per_token
    assert lora.estimates.checkpoint_gb < full.estimates.checkpoint_gb


def test_the_plan_refuses_what_does_not_fit(tmp_path: Path) -> None:
    profile = profile_of(make_base(tmp_path / "base"))
    assert profile.base is not None and profile.base.known is not None
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8}
    known = profile.base.known.model_copy(update=sizes | {"head_dim": 128, "vocab_size": 128256})
    large = profile.model_copy(update={"base": profile.base.model_copy(update={"known": known})})
    with pytest.raises(PlanError, match="8,030,261,248 parameters does not fit") as caught:
        plan(large)
    assert "model.parameters" not in str(caught.value)
    room = {"hardware": large.hardware.model_copy(update={"memory_gb_per_node": 120, "storage_tb": 1})}
    with pytest.raises(PlanError, match=r"or base\.method: lora"):
        plan(large.model_copy(update=room))
    long = profile.model_copy(update={"model": profile.model.model_copy(update={"sequence_length": 256})})
    with pytest.raises(PlanError, match="made for shorter sequences"):
        plan(long)


def test_without_a_base_the_size_is_needed() -> None:
    with pytest.raises(ProfileError, match=r"model.parameters is needed"):
        parse_profile(json.dumps(PROFILE))
    with pytest.raises(ProfileError, match="absolute path"):
        parse_profile(json.dumps(PROFILE | {"base": {"model": "some/folder"}}))


def test_through_the_store_and_back(tmp_path: Path) -> None:
    folder, store = make_base(tmp_path / "base"), FolderStore(tmp_path / "store")
    profile = profile_of(folder)
    ((key, digest),) = base_inputs(profile, store).items()
    assert key == base_prefix(digest)
    with pytest.raises(StoreError, match="no base"):
        fetch_base(store, digest, tmp_path / "none")
    store_base(store, folder, digest)
    fetched = fetch_base(store, digest, tmp_path / "fetched")
    assert {name: path.read_bytes() for name, path in base_files(fetched).items()} == {
        name: path.read_bytes() for name, path in base_files(folder).items()
    }
    assert not (fetch_base(store, digest, tmp_path / "light", weights=False) / "model.safetensors").exists()
    store.put_bytes(key + "config.json", b"{}")
    with pytest.raises(StoreError, match="damaged"):
        fetch_base(store, digest, tmp_path / "again")


def test_a_base_that_changes_on_its_way_is_not_stored(tmp_path: Path) -> None:
    folder, store = make_base(tmp_path / "base"), FolderStore(tmp_path / "store")
    digest = read_base(folder).digest
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(UnusableBaseError, match="has changed meanwhile"):
        store_base(store, folder, digest)
    assert list(store.list("models/")) == []


def no_registry() -> Any:
    pytest.fail("the registry was asked")
    return nullcontext("")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    source = tmp_path / "fork.yaml"
    source.write_text(yaml.safe_dump(PROFILE | {"model": {"parameters": 1e5, "sequence_length": 64}}))
    return init_site(tmp_path / "site", source)


def test_from_names_the_base_of_a_site(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = make_base(tmp_path / "base"), FolderStore(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    assert site_of(site.root, base="base").profile == site.profile
    base = site.profile.base
    assert base is not None and base.model == str(folder) and base.known == read_base(folder)
    assert "base" not in yaml.safe_load(site.profile_path.read_text())
    assert load_profile(site.resolved_profile()) == site.profile
    settle_base(site, store, no_registry)
    assert store.exists(base_prefix(base.known.digest) + "model.safetensors")
    runner = local_runner(site)
    assert runner.store.exists(base_prefix(base.known.digest) + "model.safetensors")
    assert load_profile(runner.profile_path) == runner.profile == site.profile
    assert ("base", f"{folder}, digest {base.known.digest[:12]}; trained: all weights") in plan_rows(runner.plan)
    # Another model in the same folder is another base; a folder that is gone stays what it was.
    (folder / "config.json").write_text(json.dumps(CONFIG | {"rope_theta": 5}))
    settle_base(site, store, no_registry)
    changed = site.profile.base
    assert changed is not None and changed.known == read_base(folder) != base.known
    folder.rename(tmp_path / "elsewhere")
    settle_base(site, store, no_registry)
    assert site_of(site.root).profile.base == changed


def test_a_wrong_base_leaves_the_site_as_it_was(site: Site, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    pickled(folder)
    before = site.profile
    for model, error in ((str(folder), UnusableBaseError), (str(tmp_path / "nothing"), UnusableBaseError)):
        with pytest.raises(error):
            site_of(site.root, base=model)
    with pytest.raises(ProfileError, match="absolute path"):
        site_of(site.root, base="nothing")
    assert site.profile == before
    name_base(site, "0" * 64)
    with pytest.raises(PlanError, match="not been looked up"):
        plan(site.profile)
    with pytest.raises(UnusableBaseError, match="no model with this digest"):
        settle_base(site, FolderStore(tmp_path / "store"), no_registry)
    assert site.profile == before


def test_a_model_of_the_store_by_its_digest(site: Site, tmp_path: Path) -> None:
    folder, store = make_base(tmp_path / "base"), FolderStore(tmp_path / "store")
    digest = read_base(folder).digest
    for name, path in base_files(folder).items():
        store.put_file(f"models/parent/register/{digest}/{name}", path)
    name_base(site, digest)
    settle_base(site, store, no_registry)
    base = site.profile.base
    assert base is not None and base.known == read_base(folder)
    for key in list(store.list("models/parent/")):  # the next model of that name was registered
        store.delete(key)
    site.known_base_file.unlink()
    settle_base(site, store, no_registry)
    assert site.profile.base == base


def test_a_plan_needs_no_site(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    source = tmp_path / "fork.yaml"
    source.write_text(yaml.safe_dump(PROFILE | {"base": {"model": str(folder)}}))
    assert plan(peek(source)[1]).model.architecture == "LlamaForCausalLM"

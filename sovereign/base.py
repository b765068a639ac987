"""A base in a folder, as transformers saves models: what it is, and whether training can continue from it.

Only configuration, tokenizer and the headers of the weights are read, and nothing of it is executed. What fits is put
into the store under its digest (`PREFIX`), where stages find it whether they run here or in the cluster.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from sovereign.beneath import join_beneath
from sovereign.errors import StoreError, TrainingError, UnusableBaseError
from sovereign.exportable import gguf_architecture, gguf_cutting, head_dim
from sovereign.files import json_object, sha256_file
from sovereign.profile import Profile
from sovereign.profile_base import Architecture, KnownBase
from sovereign.receipts import model_digest
from sovereign.shapes import ModelShape
from sovereign.store import Store

PREFIX = "models/_bases/"
"""In the store; no model has a name that begins so."""
WEIGHTS_INDEX = "model.safetensors.index.json"
_LOADED = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Kinds of files that transformers loads; others (model cards, weights of other formats) are no part of a base."""
_LIST = ".files.json"
"""Digests of a base's files by name, in the store beside them."""
_MAX_HEADER_BYTES = 100 * 2**20
"""The format's own limit, MAX_HEADER_SIZE in https://github.com/huggingface/safetensors."""


def base_files(folder: Path) -> dict[str, Path]:
    """The files of the base in `folder`, by name.

    Raises:
        UnusableBaseError: there is no such folder.
    """
    if not folder.is_dir():
        raise UnusableBaseError(
            "the base is no folder", got=folder, expected="a folder with config.json and *.safetensors"
        )
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(_LOADED))
    # The hub's cache keeps the files of a snapshot beside it, as links.
    root = (folder.parents[1] if folder.parent.name == "snapshots" else folder).resolve()
    if outside := [path for path in found if root not in path.resolve().parents]:
        raise UnusableBaseError(
            "a file of the base is a link out of its folder", got=outside[0].resolve(), expected=root
        )
    return {path.name: path for path in found if not path.name.startswith(".")}


def files_digest(files: Mapping[str, Path]) -> str:
    """The digest of a base with these files."""
    return model_digest({name: sha256_file(path) for name, path in files.items()})


def read_base(folder: Path) -> KnownBase:
    """What the base in `folder` is.

    Raises:
        UnusableBaseError: training cannot continue from it.
    """
    files = base_files(folder)
    config = _read_json(files, "config.json", folder)
    shape = _read_shape(config, folder)
    _check_weights(shape, config, files, folder)
    tokenizer = _read_json(files, "tokenizer.json", folder)
    tokenizer_size = _tokenizer_size(tokenizer)
    if tokenizer_size > shape.vocab_size:
        raise UnusableBaseError(
            f"the tokenizer in {folder} does not fit its model",
            got=f"{tokenizer_size} tokens",
            expected=f"at most {shape.vocab_size}, the rows of the embedding",
        )
    return KnownBase(
        digest=files_digest(files),
        tokenizer_size=tokenizer_size,
        max_sequence_length=shape.sequence_length,
        gguf_obstacle=_gguf_obstacle(config, tokenizer),
        **shape.model_dump(exclude={"sequence_length", "num_trained"}),
    )


def _gguf_obstacle(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """Why neither it nor what is made of it can be exported to GGUF, in a line; it can be trained all the same."""
    try:
        gguf_architecture(config)
        gguf_cutting(tokenizer)
    except TrainingError as error:
        return f"{error.message} (got {error.got}; expected {error.expected})"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"config.json or tokenizer.json lacks something: {error!r}"
    return None


def _read_json(files: Mapping[str, Path], name: str, folder: Path) -> dict[str, Any]:
    if name not in files:
        hint = "save the tokenizer as a fast one with transformers" if name == "tokenizer.json" else None
        raise UnusableBaseError(f"{folder} has no {name}", expected="a model that transformers has saved", hint=hint)
    try:
        document = json.loads(files[name].read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableBaseError(f"{files[name]} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise UnusableBaseError(f"{files[name]} is not an object", got=type(document).__name__)
    return document


def _read_shape(config: Mapping[str, Any], folder: Path) -> ModelShape:
    """The shape in config.json; its sequence length is the longest one."""
    known = get_args(Architecture)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in known:
        raise UnusableBaseError(
            f"the model in {folder} has another architecture", got=architectures, expected=f"one of {', '.join(known)}"
        )
    if config.get("quantization_config"):
        raise UnusableBaseError(
            f"the model in {folder} is quantized",
            got=config["quantization_config"],
            hint="take the one it was made from",
        )
    try:
        heads = config["num_attention_heads"]
        return ModelShape(
            architecture=architectures[0],
            num_layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=head_dim(config),
            vocab_size=config["vocab_size"],
            sequence_length=config["max_position_embeddings"],
            tied=config.get("tie_word_embeddings", False),
        )
    except (KeyError, TypeError, ZeroDivisionError, ValueError) as error:
        raise UnusableBaseError(f"config.json in {folder} lacks something or is damaged: {error}") from error


def _check_weights(shape: ModelShape, config: Mapping[str, Any], files: Mapping[str, Path], folder: Path) -> None:
    """The headers of the weights must hold what the configuration says.

    Raises:
        UnusableBaseError: they are in another format, incomplete or those of another model.
    """
    weights = [path for name, path in files.items() if name.endswith(".safetensors")]
    if not weights:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".gguf"))
        raise UnusableBaseError(
            f"{folder} has no weights in safetensors",
            got=", ".join(others) or "no weights",
            expected="*.safetensors: pickled weights can run code, so they are never loaded",
            hint="convert them on a machine that you can lose: model.save_pretrained(...)",
        )
    if WEIGHTS_INDEX in files:
        parts = set(_read_json(files, WEIGHTS_INDEX, folder).get("weight_map", {}).values())
        if parts != {path.name for path in weights}:
            raise UnusableBaseError(f"the weights in {folder} are incomplete", expected=", ".join(sorted(parts)))
    sizes = {name: size for path in weights for name, size in _tensors(path)}
    if shape.tied and "model.embed_tokens.weight" in sizes:  # one matrix: either name may stand for it, or both
        sizes.pop("lm_head.weight", None)
    found = sum(sizes.values())
    if found != shape.num_parameters:
        raise UnusableBaseError(
            f"the weights in {folder} are not those of its config.json",
            got=f"{found:,} parameters",
            expected=f"{shape.num_parameters:,}",
            hint="biases beyond those of the architecture are not supported" if config.get("attention_bias") else None,
        )


def _tensors(path: Path) -> Iterator[tuple[str, int]]:
    """Names and numbers of elements of the tensors in a file; the header only: 8 bytes of its length, then JSON.

    Raises:
        UnusableBaseError: it is cut off or no safetensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER_BYTES, size):
                raise ValueError(f"header of {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if size != 8 + length + end:
            raise ValueError(f"{size} bytes instead of {8 + length + end}")
        for name, tensor in header.items():
            elements = 1
            for dimension in tensor["shape"]:
                elements *= dimension
            yield name, elements
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise UnusableBaseError(f"{path} is damaged: {error}", hint="copy it again") from error


def _tokenizer_size(tokenizer: Mapping[str, Any]) -> int:
    """One more than the highest token of tokenizer.json."""
    try:
        numbers = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
        return max(int(number) for number in numbers) + 1
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnusableBaseError(
            "the base's tokenizer is of another kind", expected="byte-pair encoding, as those of Qwen and Llama"
        ) from error


def base_prefix(digest: str) -> str:
    """Store key of a base's folder."""
    return f"{PREFIX}{digest}/"


def base_inputs(profile: Profile, _store: Store) -> Mapping[str, str]:
    """What a receipt says about the parent: the store key of its folder and its digest; nothing without a base."""
    known = profile.base.known if profile.base else None
    return {base_prefix(known.digest): known.digest} if known else {}


def base_tags(profile: Profile) -> dict[str, str]:
    """The parent as MLflow's runs and versions name it; nothing without a base."""
    base = profile.base
    if base is None or base.known is None:
        return {}
    return {"base.digest": base.known.digest, "base.model": base.model, "base.method": base.method}


def store_base(store: Store, folder: Path, digest: str) -> None:
    """Bring the base in `folder` into the store, unless it is there; the list of its files comes last.

    Raises:
        StoreError: it cannot be written.
        UnusableBaseError: the folder has changed meanwhile.
    """
    prefix = base_prefix(digest)
    if store.exists(prefix + _LIST):
        return
    files = base_files(folder)
    digests = {name: sha256_file(path) for name, path in files.items()}
    if (found := model_digest(digests)) != digest:
        raise UnusableBaseError(f"the base in {folder} has changed meanwhile", got=found, expected=digest)
    for name, path in files.items():
        store.put_file(prefix + name, path)
    store.put_bytes(prefix + _LIST, json.dumps(digests, indent=1, sort_keys=True).encode())


def fetch_base(store: Store, digest: str, folder: Path, *, weights: bool = True) -> Path:
    """Fetch a base from the store into `folder` and check every file; gives back the folder.

    Args:
        weights: also the weights, not only configuration and tokenizer.

    Raises:
        StoreError: it is not there, or not what its digest says.
    """
    prefix = base_prefix(digest)
    if not store.exists(prefix + _LIST):
        raise StoreError(
            f"the store has no base {digest}", hint="`sovereign train PROFILE --from MODEL` brings it there"
        )
    hint = f"delete {prefix + _LIST} in the store; `sovereign train PROFILE --from MODEL` makes it again"
    digests: dict[str, str] = json_object(store.get_bytes(prefix + _LIST), prefix + _LIST, StoreError, hint=hint)
    if (found := model_digest(digests)) != digest:
        raise StoreError(f"the list of files of the base is damaged: {prefix}", got=found, expected=digest)
    for name, expected in digests.items():
        path = join_beneath(folder, name)
        if (name.endswith(".safetensors") and not weights) or (path.is_file() and sha256_file(path) == expected):
            continue
        store.get_file(prefix + name, path)
        if (found := sha256_file(path)) != expected:
            raise StoreError(f"{prefix}{name} is damaged", got=found, expected=expected)
    return folder

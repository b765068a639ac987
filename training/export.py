"""A trained model in a form for other programs: one GGUF file, which llama.cpp and what is built on it load.

    sovereign export PROFILE|MODELFOLDER --format gguf-q8_0 --out model.gguf

Hugging Face's form (safetensors) is what training leaves and needs no export. What llama.cpp computes with the file is
compared with what transformers computes with the folder before the file gets its name. f32 is what the model server
loads; it is twice as large as f16.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.errors import TrainingError
from sovereign.exportable import gguf_cutting
from sovereign.files import put_in_place, sha256_file
from sovereign.serving.fetch import model_digest
from training.environment import OFFLINE
from training.export_check import Comparison, Reference, check

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from training.export_source import Source

MATRICES = {"gguf-f32": "F32", "gguf-f16": "F16", "gguf-q8_0": "Q8_0", "gguf-q4_k": "Q4_K_M"}
"""Types of the matrices in a file of each format."""
FORMATS = tuple(MATRICES)
BLOCKS = {"gguf-q8_0": 32, "gguf-q4_k": 256}
"""Weights of a row that share scales."""

Report = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0 to 1."""


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path
    format: str
    num_bytes: int
    sha256: str
    """Of the file."""
    model_digest: str
    """Of the folder that it was made from."""
    tensors: dict[str, int]
    """Number of tensors by their type in the file."""
    comparison: Comparison
    """How far its logits are from the source's."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"path": str(self.path)}


def export(folder: Path, out: Path, kind: str, *, name: str, report: Report) -> Export:
    """Write the model in `folder` as the file `out`, in the format `kind`; an older file is replaced in one step.

    Args:
        folder: a Hugging Face folder as training and registration leave it.
        kind: one of `FORMATS`.
        name: the model's, for people; kept in the file.

    Raises:
        TrainingError: unknown format, a model that it cannot hold, no disk space, or logits beyond the tolerance.
    """
    if kind not in FORMATS:
        raise TrainingError("unknown export format", got=kind, expected=", ".join(FORMATS))
    if out.is_dir():
        raise TrainingError("a folder has the name of the export", got=out, hint="name a file, e.g. model.gguf")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as aside:
        for variable, value in OFFLINE.items():
            os.environ.setdefault(variable, value)
        from training.export_source import open_source  # after what it imports finds the environment

        # (1) Refuse before anything is computed.
        source = open_source(folder)
        _check_width(source, kind)
        _check_space(source, out.parent, kind)
        tokenizer = _load_tokenizer(folder)
        # (2) Write aside, compare.
        digest = folder_digest(folder)
        file = Path(aside) / "written.gguf"
        _write(source, tokenizer, file, kind, name=name, digest=digest, report=report)
        report("comparing with the source", 0.0)
        comparison = Reference(folder, tokenizer).compare(file)
        check(comparison, kind)
        # (3) Durable, then in its place.
        result = Export(out, kind, file.stat().st_size, sha256_file(file), digest, tensor_types(file), comparison)
        put_in_place(file, out)
    return result


def folder_digest(folder: Path) -> str:
    """The digest under which a model in `folder` is registered."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    pages = (".md", ".png")  # the model card is beside the model, not part of it
    return model_digest(
        {path.relative_to(folder).as_posix(): sha256_file(path) for path in files if path.suffix not in pages}
    )


def tensor_types(file: Path) -> dict[str, int]:
    """Number of tensors in a GGUF file by their type."""
    import gguf

    return dict(Counter(str(tensor.tensor_type.name) for tensor in gguf.GGUFReader(file).tensors))


def _check_width(source: Source, kind: str) -> None:
    """q8_0 takes rows of whole blocks only; q4_k gives shorter ones a larger type, but most must be whole."""
    config = source.config
    rows = {"hidden_size": int(config["hidden_size"])}
    if kind == "gguf-q8_0":
        rows["intermediate_size"] = int(config["intermediate_size"])
        rows["num_attention_heads × head_dim"] = source.num_heads * source.head_dim
    block = BLOCKS.get(kind, 1)
    if wrong := [f"{name} {width}" for name, width in rows.items() if width % block]:
        raise TrainingError(
            f"this model's shape does not fit {kind}",
            got=", ".join(wrong),
            expected=f"a multiple of {block}",
            hint="gguf-f16 has no such limit",
        )


def _check_space(source: Source, folder: Path, kind: str) -> None:
    """All need at most what the source has, but for f32 of a model in two bytes."""
    needed = sum(path.stat().st_size for path in set(source.files.values())) * (2 if kind == "gguf-f32" else 1)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise TrainingError(
            f"not enough disk space for the export in {folder}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB",
            hint="name a file on another disk with --out",
        )


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Raises: TrainingError when it cannot be read, or llama.cpp would cut text in another way."""
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainingError(f"the tokenizer in {folder} cannot be read: {error}") from error
    gguf_cutting(json.loads(tokenizer.backend_tokenizer.to_str()))
    return tokenizer


def _write(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    file: Path,
    kind: str,
    *,
    name: str,
    digest: str,
    report: Report,
) -> None:
    from training.export_gguf import write_gguf

    matrices = MATRICES[kind]

    def say(done: int, total: int) -> None:
        report(f"writing {matrices}: {done} of {total} tensors", done / total)

    write_gguf(source, tokenizer, file, matrices, name=name, digest=digest, say=say)

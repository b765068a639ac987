"""A trained model in a form for other programs: one GGUF file, which llama.cpp and what is built on it load.

    sovereign export PROFILE|MODELFOLDER --format gguf-q8_0 --out model.gguf

Hugging Face's form (safetensors) is what training leaves and needs no export. f16 and q8_0 are written by the package
`gguf`; q4_k by llama.cpp's quantiser, which is built when it is asked for. Where llama.cpp is there, what it computes
with the file is compared with what transformers computes with the folder before the file gets its name.
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
from sovereign.llamacpp import ensure_llama, find_llama
from sovereign.serving.fetch import model_digest
from training.environment import OFFLINE
from training.export_check import TOLERANCES, Comparison

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from training.export_check import Reference
    from training.export_source import Source

FORMATS = tuple(TOLERANCES)
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
    comparison: Comparison | None
    """How far its logits are from the source's; None where llama.cpp is not there to compute them."""

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
        ToolError: q4_k, and llama.cpp cannot be built.
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
        # (2) Write aside, quantise, compare.
        digest = folder_digest(folder)
        python = ensure_llama(report) if kind == "gguf-q4_k" else find_llama()
        make = _Maker(source, tokenizer, Path(aside), report)
        file, comparison = make.file(kind, name, digest, python)
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
    """f16 needs at most what the source has; q4_k needs f16 beside it."""
    needed = sum(path.stat().st_size for path in set(source.files.values())) * (2 if kind == "gguf-q4_k" else 1)
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


@dataclass(frozen=True)
class _Maker:
    """Makes files of one source, in a folder aside."""

    source: Source
    tokenizer: PreTrainedTokenizerFast
    aside: Path
    report: Report

    def file(self, kind: str, name: str, digest: str, python: Path | None) -> tuple[Path, Comparison | None]:
        """The file, compared where `python` has llama_cpp; a q4_k file and the f16 one that it is made from, both.

        Raises:
            TrainingError: beyond the tolerance.
        """
        from training.export_check import Reference, quantize

        first = "gguf-f16" if kind == "gguf-q4_k" else kind
        file = self._write("Q8_0" if first == "gguf-q8_0" else "F16", name, digest)
        if python is None:
            return file, None
        self.report("computing what the source makes of the probes", 0.0)
        reference = Reference(self.source.folder, self.tokenizer, python)
        comparison = self._compare(reference, file, first)
        if kind == first:
            return file, comparison
        self.report("quantising", 0.0)
        quantized = self.aside / "quantized.gguf"
        quantize(file, quantized, python)
        return quantized, self._compare(reference, quantized, kind)

    def _write(self, matrices: str, name: str, digest: str) -> Path:
        from training.export_gguf import write_gguf

        def say(done: int, total: int) -> None:
            self.report(f"writing {matrices}: {done} of {total} tensors", done / total)

        file = self.aside / "written.gguf"
        write_gguf(self.source, self.tokenizer, file, matrices, name=name, digest=digest, say=say)
        return file

    def _compare(self, reference: Reference, file: Path, kind: str) -> Comparison:
        from training.export_check import check

        self.report("comparing with the source", 0.0)
        comparison = reference.compare(file)
        check(comparison, kind)
        return comparison

"""The folder that llama.cpp serves a model from: its GGUF file, tokenizer and configuration, without safetensors.

The file has float32 matrices: what is served answers as what was evaluated, and for a model on CPU nodes twice the size
is no matter. It is compared with its source before anything is stored (training/export_check.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sovereign.errors import TrainingError
from sovereign.exportable import gguf_architecture, gguf_cutting
from training.export import Report, export

GGUF = "model.gguf"
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""What the front of the model server reads, where the model has it."""


def gguf_obstacle(folder: Path) -> str | None:
    """Why the model in `folder` cannot be a GGUF file, in a line; None: it can."""
    try:
        gguf_architecture(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        gguf_cutting(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    except TrainingError as error:
        return " ".join(str(error).split())
    return None


def make_served(folder: Path, into: Path, *, name: str, report: Report) -> dict[str, Path]:
    """Make the files of the served folder from the model in `folder`, by their names in it.

    Raises:
        TrainingError: llama.cpp computes something else with the file than transformers with the folder.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    export(folder, into / GGUF, "gguf-f32", name=name, report=report)
    for small in SMALL_FILES:
        if (folder / small).is_file():
            shutil.copyfile(folder / small, into / small)
    return {path.name: path for path in sorted(into.iterdir())}

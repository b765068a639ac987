"""An exported file against its source: the same tokens, and logits within the format's tolerance.

Both compute the logits of the same texts, transformers in float32 on the folder and llama.cpp (the server of the
package `xllamacpp`) on the file; of a large vocabulary, those of the most likely tokens. Where they differ by more
than rounding of the weights explains (a permuted head, an untied matrix, a wrong epsilon), the mean Kullback-Leibler
divergence is larger by orders of magnitude.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.serving.llama import num_threads
from training.token_ids import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORKER = Path(__file__).with_name("export_worker.py")
PROBES = (
    "Q: What is the capital of the country?\nA: The city by the river, since 1974.",
    "L'école « nationale » n'ouvre qu'à 8 h 30 ; les élèves l'attendent déjà.",
    "تأسست المكتبة الوطنية عام ١٩٦٢، وهي تضم أكثر من 300 ألف كتاب.",
    "国家图书馆成立于1909年，馆藏超过四千万册。",
    "def area(radius):\n    return 3.14159 * radius ** 2  # m²\n\n\n",
    "  two spaces,\ttab, MiXeD CaSe, I'LL, 12345.67, émoji 🌍🏛️, ไทย, हिन्दी, ქართული, Ελληνικά",
)
"""Scripts, digits, apostrophes and white space on which tokenizers differ; their tokens are what is computed too."""


@dataclass(frozen=True)
class Tolerance:
    """How far a format may be from its source."""

    divergence: float
    """Mean Kullback-Leibler divergence of the next token's distribution, nats."""
    error: float
    """Root mean square of the logits' differences, as a part of the logits' standard deviation."""


TOLERANCES = {
    "gguf-f32": Tolerance(divergence=1e-6, error=1e-4),
    "gguf-f16": Tolerance(divergence=1e-4, error=0.01),
    "gguf-q8_0": Tolerance(divergence=0.01, error=0.06),
    "gguf-q4_k": Tolerance(divergence=0.2, error=0.4),
}


@dataclass(frozen=True)
class Comparison:
    """What was found."""

    positions: int
    """Tokens after which the next one was predicted."""
    divergence: float
    """Mean over the positions, nats."""
    error: float
    """Root mean square of the logits' differences, as a part of the logits' standard deviation."""
    max_difference: float
    """Largest difference of a logit."""
    agreement: float
    """Part of the positions where both hold the same token for the most likely."""


class Reference:
    """What the source makes of the probes, computed once for all files that are made from it."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        """Args: `folder`, a Hugging Face folder."""
        from transformers import AutoConfig

        self._tokenizer = tokenizer
        self._ids: list[list[int]] = text_ids(tokenizer, PROBES)
        length = int(AutoConfig.from_pretrained(folder, local_files_only=True).max_position_embeddings)
        self._tokens = [ids[: length - 1] for ids in self._ids]  # llama.cpp keeps a place for the next one
        self._logits = _transformers(folder, self._tokens)

    def compare(self, file: Path) -> Comparison:
        """How far the export `file` is from the source.

        Raises:
            TrainingError: llama.cpp cannot load the file, or it cuts text into other tokens, puts others before it, or
                has another chat template.
        """
        theirs = _llama(file, self._tokens)
        for number, text in enumerate(PROBES):
            if (found := theirs[f"cut_{number}"].tolist()) != self._ids[number]:
                raise TrainingError(
                    f"llama.cpp splits a text into other tokens than the source: {text!r}",
                    got=found,
                    expected=self._ids[number],
                )
        if (first := theirs["first"].tolist()) != (expected := list(self._tokenizer("")["input_ids"])):
            raise TrainingError(
                "llama.cpp puts other tokens before a text than the source", got=first, expected=expected
            )
        if (template := str(theirs["template"])) != (self._tokenizer.chat_template or ""):
            raise TrainingError("the chat template changed", got=template, expected=self._tokenizer.chat_template)
        numbers = range(len(self._tokens))
        ours = [np.take_along_axis(self._logits[n], theirs[f"ids_{n}"], 1) for n in numbers]
        return compare_logits(ours, [theirs[f"logits_{n}"] for n in numbers])


def compare_logits(source: Sequence[npt.NDArray[np.float32]], export: Sequence[npt.NDArray[np.float32]]) -> Comparison:
    """Args: logits of each text, positions by vocabulary, of both."""
    p_nv, q_nv = np.concatenate(source).astype(np.float64), np.concatenate(export).astype(np.float64)
    # A constant added to all logits of a position changes nothing.
    p_nv, q_nv = p_nv - p_nv.mean(1, keepdims=True), q_nv - q_nv.mean(1, keepdims=True)
    log_p_nv, log_q_nv = _log_softmax(p_nv), _log_softmax(q_nv)
    return Comparison(
        positions=len(p_nv),
        divergence=float((np.exp(log_p_nv) * (log_p_nv - log_q_nv)).sum(1).mean()),
        error=float(np.sqrt(np.mean((p_nv - q_nv) ** 2) / np.mean(p_nv**2))),
        max_difference=float(np.abs(p_nv - q_nv).max()),
        agreement=float((p_nv.argmax(1) == q_nv.argmax(1)).mean()),
    )


def check(found: Comparison, kind: str) -> None:
    """Raises: TrainingError when `found` is beyond the tolerance of the format `kind`."""
    limit = TOLERANCES[kind]
    # Written so that a difference that is not a number is refused.
    if not (found.divergence <= limit.divergence and found.error <= limit.error):
        raise TrainingError(
            f"the {kind} file computes something else than its source",
            got=f"divergence {found.divergence:.2g} nats, error {found.error:.2g}",
            expected=f"at most {limit.divergence:g} nats and {limit.error:g}",
            hint="nothing was written; please report this with the model's config.json",
        )


def _log_softmax(logits_nv: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits_nv - logits_nv.max(1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def _transformers(folder: Path, tokens: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
    """Logits of the source, computed in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy() for ids in tokens]


def _llama(file: Path, tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What the worker gives for `PROBES` and `tokens`.

    Raises:
        TrainingError: llama.cpp cannot load the file.
    """
    with tempfile.TemporaryDirectory(prefix="sovereign-export-") as name:
        request, result = Path(name, "request.json"), Path(name, "result.npz")
        request.write_text(json.dumps({"texts": PROBES, "tokens": tokens}), encoding="utf-8")
        command = [sys.executable, "-I", str(WORKER), str(file), str(request), str(result)]
        process = subprocess.run(
            [*command, str(num_threads(file))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode != 0:
            last = "\n    ".join(process.stderr.strip().splitlines()[-8:])
            raise TrainingError(f"llama.cpp refused {file}", got=last or process.returncode)
        with np.load(result) as arrays:
            return dict(arrays)

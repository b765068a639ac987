"""What runs in the environment that has llama_cpp (sovereign/llamacpp.py): by path, with nothing of this kit around it.

    PYTHON export_worker.py quantize SOURCE TARGET THREADS
    PYTHON export_worker.py evaluate MODEL REQUEST RESULT THREADS

`evaluate` reads REQUEST, JSON: {"texts": [...], "tokens": [[...], ...]}, and writes RESULT, npz: `logits_<n>`,
positions by vocabulary, float32, of the n-th list of tokens; `ids_<n>`, tokens of the n-th text; `first`, tokens
before a text; `template`, the chat template.
A process of its own, since llama.cpp ends its process when a file is not as it expects.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def quantize(source: str, target: str, num_threads: int) -> None:
    """Write `target`, the file `source` (f16) in the mix that llama.cpp calls Q4_K_M."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.nthread = num_threads
    status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters)
    if status != 0:
        sys.exit(f"llama_model_quantize returned {status}")


def evaluate(model: str, request: str, result: str, num_threads: int) -> None:
    """Logits and token ids as llama.cpp has them; keys and values are kept in float32."""
    import llama_cpp
    import numpy as np

    wanted: dict[str, Any] = json.loads(Path(request).read_text(encoding="utf-8"))
    llama = llama_cpp.Llama(
        model_path=model,
        n_ctx=max(map(len, wanted["tokens"])),
        n_threads=num_threads,
        n_threads_batch=num_threads,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    arrays: dict[str, Any] = {"template": np.array(llama.metadata.get("tokenizer.chat_template", ""))}
    for number, tokens in enumerate(wanted["tokens"]):
        llama.reset()
        llama.eval(tokens)
        arrays[f"logits_{number}"] = llama.scores[: len(tokens)].copy()
    for number, text in enumerate(wanted["texts"]):
        arrays[f"ids_{number}"] = np.array(llama.tokenize(text.encode(), add_bos=False, special=False), np.int64)
    arrays["first"] = np.array(llama.tokenize(b"", add_bos=True), np.int64)
    np.savez(result, **arrays)


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        quantize(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        evaluate(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))

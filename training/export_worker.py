"""llama.cpp on one file, in a process of its own, run by path: a file that is not as it expects can end the process.

    PYTHON export_worker.py MODEL REQUEST RESULT THREADS

REQUEST is JSON: {"texts": [...], "tokens": [[...], ...]}. RESULT is npz: of the n-th list of tokens `ids_<n>`, for each
position the ids of the tokens that are most likely next, and `logits_<n>`, their logits up to a constant (float32, both
positions by `MOST_LIKELY`); `cut_<n>`, tokens of the n-th text; `first`, tokens before a text; `template`, the chat
template. Keys and values are kept in float32.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

MOST_LIKELY = 4096
"""Tokens at a position whose logits are compared; a smaller vocabulary is compared whole."""


def evaluate(model: str, request: str, result: str, num_threads: int) -> None:
    """Write what llama.cpp makes of the request."""
    import numpy as np
    import xllamacpp

    wanted: dict[str, Any] = json.loads(Path(request).read_text(encoding="utf-8"))
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_parallel = model, 0, 1
    params.n_ctx = max(map(len, wanted["tokens"])) + 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.n_gpu_layers, params.cache_ram_mib, params.verbosity = 0, 0, 1
    params.fit_params = params.ui = False
    server = xllamacpp.Server(params)

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # noqa: S310 - llama.cpp's own address
            server.listening_address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked) as response:
            return json.load(response)

    arrays: dict[str, Any] = {"template": np.array(ask("/props").get("chat_template", ""))}
    # The chosen token has no influence on the logits, but one that is half a character comes without them.
    letter = ask("/tokenize", {"content": "a", "add_special": False})["tokens"][0]
    for number, tokens in enumerate(wanted["tokens"]):
        found = []
        for length in range(1, len(tokens) + 1):
            body = {"prompt": tokens[:length], "n_predict": 1, "temperature": 0, "n_probs": MOST_LIKELY}
            body["logit_bias"] = [[letter, 1e6]]
            found.append(ask("/completion", body)["completion_probabilities"][0]["top_logprobs"])
        arrays[f"ids_{number}"] = np.array([[token["id"] for token in place] for place in found], np.int64)
        arrays[f"logits_{number}"] = np.array([[token["logprob"] for token in place] for place in found], np.float32)
    for number, text in enumerate(wanted["texts"]):
        body = {"content": text, "add_special": False, "parse_special": False}
        arrays[f"cut_{number}"] = np.array(ask("/tokenize", body)["tokens"], np.int64)
    arrays["first"] = np.array(ask("/tokenize", {"content": "", "add_special": True})["tokens"], np.int64)
    np.savez(result, **arrays)


if __name__ == "__main__":
    evaluate(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))

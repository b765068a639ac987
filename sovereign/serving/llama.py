"""llama.cpp's server as the engine: it gets token ids from the front and listens on loopback only.

python -m sovereign.serving engine --model model.gguf --context 256 --slots 4 --port 8001
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from sovereign.errors import SovereignError
from sovereign.serving.engine import MAX_STREAMS

SMALL_BYTES = 200_000_000
"""A smaller model is computed by one thread: threads that wait for each other take longer than its matrices."""


def run_llama(model: Path, *, context: int, slots: int, port: int) -> None:
    """Serve `model` until SIGTERM.

    Args:
        context: tokens of a prompt and its answer.
        slots: answers that are computed together.

    Raises:
        SovereignError: llama.cpp cannot load it.
    """
    import xllamacpp

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = _start(xllamacpp, model, context=context, slots=slots, port=port)
    stop.wait()
    del server


def num_threads(model: Path) -> int:
    """Threads that compute the GGUF file `model`."""
    return 1 if model.stat().st_size < SMALL_BYTES else len(os.sched_getaffinity(0))


def _start(xllamacpp: Any, model: Path, *, context: int, slots: int, port: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_ctx, params.n_parallel = context * slots, slots
    # Float32 throughout, as what was evaluated: flash attention rounds (error of the logits 0.04% instead of 0.0001%).
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_ram_mib = 0  # else it keeps up to 8 GB of prompts
    params.n_gpu_layers = 0
    params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads(model)
    params.n_threads_http = MAX_STREAMS + 8
    params.endpoint_slots = params.endpoint_props = params.ui = params.enable_chat_template = False
    params.endpoint_metrics = True
    params.offline = True
    params.verbosity = 1
    try:
        return xllamacpp.Server(params)
    except Exception as error:
        raise SovereignError(f"llama.cpp cannot serve {model}: {error}") from error

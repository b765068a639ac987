r"""What the served model's pods and its users need: fetching the model, the readiness probe, a small client.

    python -m sovereign.serving fetch --store s3:// --prefix models/demo/register/HEX/ --digest HEX \
        --into DIR --name sovereign/demo
    python -m sovereign.serving probe --url http://127.0.0.1:8000 --model sovereign/demo

The server itself is upstream's (`transformers serve` on CPU nodes, vLLM on GPU nodes); nothing of it is written here.
"""

from __future__ import annotations

from typing import Any

RESPONSE_TEMPLATE: dict[str, Any] = {
    "start_anchor": "\nA:",
    "defaults": {"role": "assistant"},
    "fields": {"content": {"close": "<|endoftext|>", "content": "text"}},
}
"""Where the answer is in what a model makes after CHAT_TEMPLATE's prompt; part of the tokenizer's configuration.

Without it, transformers looks for the marks of Qwen's own chat models, finds none, and gives the prompt back as well.
"""

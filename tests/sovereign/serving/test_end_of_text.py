"""The served answer ends at the tokenizer's end of text, whatever the model's generation_config says."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from tests.sovereign.serving.stack import MODEL, serve
from tests.training.tiny import make_knowing_model, make_question
from training.served import make_served

QUESTION = make_question("en", "What is the capital of Auria?", "Velmora")


@pytest.mark.parametrize("end", [None, 77, [77, 78]], ids=repr)
@pytest.mark.parametrize("kind", ["llama.cpp", "transformers"])
def test_t2_another_end_in_generation_config(tmp_path: Path, kind: str, end: int | list[int] | None) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()
    make_knowing_model(folder, [QUESTION])
    path = folder / "generation_config.json"
    settings = {"eos_token_id": end, "do_sample": True, "temperature": 1.9, "repetition_penalty": 5.0, "top_k": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    source = folder
    if kind == "llama.cpp":
        source = tmp_path / "served"
        make_served(folder, source, name="tiny", report=lambda _text, _share: None)
    messages = [{"role": "user", "content": QUESTION.question}]
    with serve(source, tmp_path, kind) as found:
        body = {"model": MODEL, "messages": messages, "temperature": 0}
        reply = httpx2.post(f"{found.url}/v1/chat/completions", json=body, timeout=60, trust_env=False).json()
    assert reply["choices"][0]["message"]["content"] == "Velmora"
    assert reply["choices"][0]["finish_reason"] == "stop"

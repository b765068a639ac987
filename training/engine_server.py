"""The engine for models that cannot be a GGUF file: transformers behind the interface that llama.cpp's server has.

    python -m training.engine_server --model FOLDER --port 8001

POST /v1/completions with a prompt of token ids, on loopback, for the front (sovereign/serving/front.py), which has
checked every field. transformers' own server parses control tokens in a client's text, ignores stop strings and takes
the model's generation_config for the client's wish, so it is not used.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


class Generator:
    """One model, computed in float32."""

    def __init__(self, folder: Path) -> None:
        """Args: `folder`, a Hugging Face folder."""
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        end = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True).eos_token_id
        ends = self._model.generation_config.eos_token_id
        self._ends = frozenset([end, *(ends if isinstance(ends, list) else [ends])])
        self._computing = threading.Lock()
        """Held for a token, so that answers of several clients take turns."""

    def answer(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str | None, int]]:
        """Pieces of text; with the last one the reason, and the number of tokens so far with each."""
        stops: Sequence[str] = body.get("stop", ())
        decoder = DecodeStream(skip_special_tokens=True)
        held, num_tokens = "", 0
        for token in self._tokens(body):
            num_tokens += 1
            if token in self._ends:
                yield held, "stop", num_tokens
                return
            held += decoder.step(self._tokenizer, token) or ""
            if found := [place for stop in stops if (place := held.find(stop)) >= 0]:
                yield held[: min(found)], "stop", num_tokens
                return
            ready = len(held) - _length_of_a_beginning(held, stops)
            yield held[:ready], None, num_tokens
            held = held[ready:]
        yield held, "length", num_tokens

    def _tokens(self, body: Mapping[str, Any]) -> Iterator[int]:
        """At most `max_tokens` tokens, computed when they are asked for; the end of text is the caller's matter."""
        random = torch.Generator()
        random.manual_seed(body["seed"]) if "seed" in body else random.seed()
        ids_bt, cache, made = torch.tensor([body["prompt"]]), None, Counter[int]()
        for _ in range(body["max_tokens"]):
            with self._computing, torch.inference_mode():
                found = self._model(input_ids=ids_bt, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, logits_v = found.past_key_values, found.logits[0, -1].float()
                token = _choose(logits_v, made, body, random)
            made[token] += 1
            yield token
            ids_bt = torch.tensor([[token]])


def _choose(logits_v: torch.Tensor, made: Counter[int], body: Mapping[str, Any], random: torch.Generator) -> int:
    """The next token, by OpenAI's settings."""
    for token, bias in body.get("logit_bias", ()):
        logits_v[token] += bias
    for token, count in made.items():
        logits_v[token] -= body.get("presence_penalty", 0) + count * body.get("frequency_penalty", 0)
    temperature = body.get("temperature", 1)
    if temperature == 0:
        return int(logits_v.argmax())
    shares_v, tokens_v = torch.softmax(logits_v / temperature, -1).sort(descending=True)
    before_v = shares_v.cumsum(-1) - shares_v
    shares_v[1:][before_v[1:] >= body.get("top_p", 1)] = 0  # the likeliest stays
    return int(tokens_v[torch.multinomial(shares_v, 1, generator=random)])


def _length_of_a_beginning(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that a stop string may begin with."""
    longest = max(map(len, stops), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


def make_app(generator: Generator) -> Starlette:
    """The HTTP interface."""

    async def complete(request: Request) -> Response:
        body = json.loads(await request.body())
        if not body.get("stream"):
            _, finish, num_tokens = (await run_in_threadpool(list, generator.answer(body)))[-1]
            return JSONResponse(_event("", finish, num_tokens))
        # Starlette pulls one piece after the other, and none any more when the front has gone.
        lines = (f"data: {json.dumps(_event(*piece))}\n\n" for piece in generator.answer(body))
        return StreamingResponse(lines, media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])


def _event(text: str, finish: str | None, num_tokens: int) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish}], "usage": {"completion_tokens": num_tokens}}


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m training.engine_server", description="Serve a model by transformers."
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = make_app(Generator(options.model))
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

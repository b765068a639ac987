"""The engine behind the front: a process that gets token ids and makes text, over OpenAI's completions API.

llama.cpp's server is one (sovereign/serving/llama.py), training/engine_server.py another.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx2

from sovereign.errors import SovereignError
from sovereign.serving.requests import SEEDS, Generation, RequestError

MAX_STREAMS = 24
"""Requests that the engine has at a time; others wait here, in their order. llama.cpp has a thread for each."""
PROBE_TIMEOUT_S = 10.0
RECENT_S = 10.0
"""An engine that made a token within this time is not asked for another one to prove that it can."""


class EngineError(SovereignError):
    """The engine failed or is not there."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer."""

    text: str
    finish: Literal["stop", "length"] | None = None
    """Why it is the last part."""
    num_tokens: int = 0
    """Of the whole answer; with the last part only."""


class Engine:
    """A client of the engine at an address."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=MAX_STREAMS, max_keepalive_connections=MAX_STREAMS)
        timeout = httpx2.Timeout(None, connect=5.0)
        self._client = httpx2.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)
        # Of its own, so that a full queue is not taken for a hung engine.
        self._prober = httpx2.AsyncClient(base_url=url, timeout=PROBE_TIMEOUT_S, trust_env=False)
        self._last_token_at = -RECENT_S
        self._probing = anyio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._prober.aclose()

    async def generate(self, prompt: Sequence[int], asked: Generation, limit: int) -> AsyncGenerator[Piece]:
        """The answer in pieces, the last one with a reason. Closing the iterator stops the engine's work.

        Raises:
            EngineError: the engine is not there, or fails.
            RequestError: it refuses the request.
        """
        body = {
            "prompt": prompt,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": limit,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "presence_penalty": asked.presence_penalty,
            "frequency_penalty": asked.frequency_penalty,
            "logit_bias": [[int(number), bias] for number, bias in asked.logit_bias.items()],
            "stop": asked.stops,
            # Settings of llama.cpp that OpenAI's API does not have, without effect.
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
        }
        if asked.seed is not None:
            body["seed"] = asked.seed % SEEDS
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _failed(response)
                async for piece in self._pieces(response):
                    yield piece
        except httpx2.HTTPError as error:
            raise EngineError(f"the model's engine failed: {str(error) or type(error).__name__}") from error

    async def _pieces(self, response: httpx2.Response) -> AsyncGenerator[Piece]:
        finish: Literal["stop", "length"] | None = None
        num_tokens = 0
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise EngineError(f"the model's engine failed: {event['error']}")
            self._last_token_at = time.monotonic()
            num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
            for choice in event.get("choices", ()):
                if choice.get("text"):
                    yield Piece(choice["text"])
                finish = choice.get("finish_reason") or finish
        if finish is None:
            raise EngineError("the model's engine ended in the middle of an answer")
        yield Piece("", finish, num_tokens)

    async def check(self, prompt: Sequence[int]) -> None:
        """Return when the engine has made a token lately, or makes one now.

        Raises:
            EngineError: it did not within PROBE_TIMEOUT_S.
        """
        async with self._probing:
            if time.monotonic() - self._last_token_at < RECENT_S:
                return
            body = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
            try:
                response = await self._prober.post("/v1/completions", json=body)
            except httpx2.HTTPError as error:
                raise EngineError(f"the model's engine made no token: {str(error) or type(error).__name__}") from error
            if response.status_code != 200:
                raise EngineError(f"the model's engine made no token: HTTP {response.status_code}")
            self._last_token_at = time.monotonic()


def _failed(response: httpx2.Response) -> SovereignError:
    """What the engine says instead of an answer."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    if 400 <= response.status_code < 500:
        return RequestError(message, code="refused_by_engine")
    return EngineError(f"the model's engine failed: HTTP {response.status_code}: {message}")

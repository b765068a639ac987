"""The HTTP API in front of an engine: a list of routes and fields, OpenAI's shapes, and nothing that is not on it.

python -m sovereign.serving front --engine http://127.0.0.1:8001 --model-dir DIR --name sovereign/demo --port 8000

GET  /v1/models, /v1/models/{id}            POST /v1/completions, /v1/chat/completions
GET  /health   200 when the engine makes tokens, else 503        GET /health/live   200 when this process answers
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sovereign.serving.answers import ChatShape, Shape
from sovereign.serving.engine import Engine, EngineError, Piece
from sovereign.serving.prompts import PromptError, Prompts, PromptTooLongError
from sovereign.serving.requests import ChatCompletion, Completion, RequestError, parse

BODY_BYTES = 1_000_000
"""Least limit of a request's body; a long context has a larger one."""
BYTES_PER_TOKEN = 32


@dataclass(frozen=True)
class Front:
    """One served model."""

    name: str
    """As clients call it."""
    prompts: Prompts
    engine: Engine
    started_at: int

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._health),
            Route("/health/live", self._live),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/v1/completions", self._completion, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self.engine.close()

        handlers: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
            RequestError: _on_refusal,
            PromptError: _on_prompt,
            EngineError: _on_engine,
            HTTPException: _on_http,
            Exception: _on_bug,
        }
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _health(self, _: Request) -> Response:
        await self.engine.check(self.prompts.of_text("Q"))
        return JSONResponse({"status": "ok"})

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(self._description())

    def _description(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.started_at, "owned_by": self.name.split("/")[0]}

    def _check_name(self, name: str) -> None:
        if name != self.name:
            raise RequestError(
                f"The model '{name}' does not exist; '{self.name}' does.",
                param="model",
                code="model_not_found",
                status=404,
            )

    async def _completion(self, request: Request) -> Response:
        asked = parse(Completion, await self._body(request))
        assert isinstance(asked, Completion)
        self._check_name(asked.model)
        self._check_bias(asked)
        ids = await run_in_threadpool(self.prompts.of_text, asked.text)
        return await self._answer(request, asked, ids, Shape("cmpl", "text_completion", self.name))

    async def _chat(self, request: Request) -> Response:
        asked = parse(ChatCompletion, await self._body(request))
        assert isinstance(asked, ChatCompletion)
        self._check_name(asked.model)
        self._check_bias(asked)
        messages = [{"role": message.role, "content": message.text} for message in asked.messages]
        ids = await run_in_threadpool(self.prompts.of_messages, messages)
        return await self._answer(request, asked, ids, ChatShape("chatcmpl", "chat.completion", self.name))

    def _check_bias(self, asked: Completion | ChatCompletion) -> None:
        for number in asked.logit_bias:
            if not (number.isascii() and number.isdecimal() and int(number) < self.prompts.vocab_size):
                raise RequestError(
                    f"Invalid 'logit_bias': '{number}' is no token of this model.",
                    param="logit_bias",
                    code="invalid_value",
                )

    async def _body(self, request: Request) -> bytes:
        """The request's body.

        Raises:
            RequestError: too large, or of another type.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(
                f"the body has the type '{kind}', expected application/json", code="invalid_content_type"
            )
        limit = max(BODY_BYTES, BYTES_PER_TOKEN * self.prompts.context_length)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise RequestError(f"the body has over {limit:,} bytes", code="request_too_large")
        return bytes(body)

    async def _answer(
        self, request: Request, asked: Completion | ChatCompletion, ids: list[int], shape: Shape
    ) -> Response:
        num_prompt = len(ids)
        room = self.prompts.context_length - num_prompt
        pieces = shape.text(self.engine.generate(ids, asked, min(room, asked.limit or room)))
        if not asked.stream:
            text, last = await _collect(request, pieces)
            return JSONResponse(shape.whole(text, last, num_prompt))
        # (1) The first piece comes before the status: an engine that refuses is no empty stream.
        stack = AsyncExitStack()
        await stack.enter_async_context(aclosing(pieces))
        try:
            first = await anext(pieces)
        except BaseException:
            await stack.aclose()
            raise
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = _events(first, pieces, shape, num_prompt if with_usage else None)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def run_front(prompts: Prompts, engine: Engine, name: str, *, host: str, port: int) -> None:
    """Serve a model as `name`, in front of `engine`, until SIGTERM."""
    import uvicorn

    front = Front(name, prompts, engine, int(time.time()))
    uvicorn.run(front.app(), host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=5)


async def _collect(request: Request, pieces: AsyncGenerator[Piece]) -> tuple[str, Piece]:
    """The whole answer, unless the client goes away first.

    Raises:
        ClientDisconnect: it did.
    """
    parts: list[Piece] = []
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group, aclosing(pieces):
            group.start_soon(watch)
            parts = [piece async for piece in pieces]
            group.cancel_scope.cancel()
    except* (RequestError, EngineError) as several:
        raise several.exceptions[0] from None
    if is_gone:
        raise ClientDisconnect
    return "".join(piece.text for piece in parts), parts[-1]


async def _events(
    first: Piece, pieces: AsyncGenerator[Piece], shape: Shape, num_prompt: int | None
) -> AsyncIterator[bytes]:
    """The stream's events, with counts where `num_prompt` is given."""
    with_usage = num_prompt is not None
    async with aclosing(pieces):
        yield _event(shape.chunk(first, is_first=True, with_usage=with_usage))
        last = first
        try:
            async for piece in pieces:
                yield _event(shape.chunk(piece, is_first=False, with_usage=with_usage))
                last = piece
        except EngineError as error:
            yield _event(_error(str(error), "server_error"))
            return
        if num_prompt is not None:
            yield _event(shape.total(num_prompt, last))
        yield b"data: [DONE]\n\n"


def _event(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def _error(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    content = _error(str(error), "invalid_request_error", error.param, error.code)
    return JSONResponse(content, status_code=error.status)


async def _on_prompt(request: Request, error: Exception) -> Response:
    param = "messages" if request.url.path.endswith("/chat/completions") else "prompt"
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else "invalid_value"
    return JSONResponse(_error(str(error), "invalid_request_error", param, code), status_code=400)


async def _on_engine(_: Request, error: Exception) -> Response:
    return JSONResponse(_error(str(error), "server_error"), status_code=503)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    content = _error(str(error.detail), "invalid_request_error", code=code)
    return JSONResponse(content, status_code=error.status_code, headers=error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    return JSONResponse(_error(f"internal error: {type(error).__name__}", "server_error"), status_code=500)

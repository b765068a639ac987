"""OpenAI's objects of an answer: whole, or in the parts of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sovereign.serving.engine import Piece


class Shape:
    """OpenAI's objects of one completion."""

    def __init__(self, prefix: str, kind: str, model: str) -> None:
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.kind = kind

    async def text(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        """The pieces as a client gets them."""
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def whole(self, text: str, last: Piece, num_prompt: int) -> dict[str, Any]:
        """A finished answer."""
        choice = {"index": 0, **self._content(text), "logprobs": None, "finish_reason": last.finish}
        return {**self._head, "object": self.kind, "choices": [choice], "usage": usage_of(num_prompt, last)}

    def chunk(self, piece: Piece, *, is_first: bool, with_usage: bool) -> dict[str, Any]:
        """A part of a stream."""
        choice = {"index": 0, **self._delta(piece, is_first), "logprobs": None, "finish_reason": piece.finish}
        usage = {"usage": None} if with_usage else {}
        return {**self._head, "object": self._chunk_kind, "choices": [choice], **usage}

    def total(self, num_prompt: int, last: Piece) -> dict[str, Any]:
        """The part of a stream with its counts."""
        return {**self._head, "object": self._chunk_kind, "choices": [], "usage": usage_of(num_prompt, last)}

    @property
    def _chunk_kind(self) -> str:
        return self.kind

    def _content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, piece: Piece, is_first: bool) -> dict[str, Any]:  # noqa: ARG002 - the chat's differs
        return {"text": piece.text}


class ChatShape(Shape):
    """Those of a chat. The space between the prompt's end and the answer is no part of the answer."""

    async def text(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        is_start = True
        async with aclosing(super().text(pieces)) as inner:
            async for piece in inner:
                text = piece.text.removeprefix(" ") if is_start else piece.text
                is_start = is_start and not piece.text
                if text or piece.finish:
                    yield Piece(text, piece.finish, piece.num_tokens)

    @property
    def _chunk_kind(self) -> str:
        return f"{self.kind}.chunk"

    def _content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, piece: Piece, is_first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if is_first else {}
        return {"delta": {**role, "content": piece.text} if piece.text or is_first else role}


def usage_of(num_prompt: int, last: Piece) -> dict[str, int]:
    total = num_prompt + last.num_tokens
    return {"prompt_tokens": num_prompt, "completion_tokens": last.num_tokens, "total_tokens": total}

"""Requests of the OpenAI API that are understood here: every field is honoured or refused by its name, none is ignored.

Fields that are not listed are refused, and so is a value that would ask for something that the engine does not do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sovereign.errors import SovereignError

MAX_STOPS = 4
SEEDS = 2**32 - 1
"""The engine's seeds are below; this one means a random one."""


class RequestError(SovereignError):
    """The request is refused; the parts of OpenAI's error object."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False


class TextFormat(_Strict):
    """The one format of answers."""

    type: Literal["text"]


Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Generation(_Strict):
    """What both endpoints have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(default_factory=dict, max_length=1024)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(min_length=1, max_length=MAX_STOPS)] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """The client's own mark; nothing depends on it."""
    n: Literal[1] = 1

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer."""
        return self.max_tokens

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self


class Completion(Generation):
    """Body of POST /v1/completions."""

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1)]
    )
    best_of: Literal[1] = 1
    echo: Literal[False] = False

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """All its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatCompletion(Generation):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] = False
    response_format: TextFormat | None = None
    tool_choice: Literal["none"] = "none"
    store: Literal[False] = False

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer."""
        given = [number for number in (self.max_tokens, self.max_completion_tokens) if number is not None]
        return min(given, default=None)

    @model_validator(mode="after")
    def _has_a_question(self) -> ChatCompletion:
        if not any(message.role == "user" and message.text.strip() for message in self.messages):
            raise ValueError("messages needs a message of the role user with text")
        return self


def parse(kind: type[Completion] | type[ChatCompletion], body: bytes) -> Completion | ChatCompletion:
    """Raises: RequestError when the body is no such request."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestError("the body is no JSON object")
    given = {name: value for name, value in found.items() if value is not None}  # null is OpenAI's "not given"
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refused(error.errors(), given) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _refused(errors: list[ErrorDetails], given: Mapping[str, Any]) -> RequestError:
    """The first error, in OpenAI's words."""
    # An alternative of a union that comes closest says most.
    first = errors[0]
    if first["loc"]:
        first = max(errors[:20], key=lambda error: (len(error["loc"]), error["type"] != "string_type"))
    path = [str(part) for part in first["loc"] if not _is_alternative(str(part))]
    param = ".".join(path) or None
    if first["type"] == "missing":
        return RequestError(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return RequestError(f"Unsupported parameter: '{param}'.", param=param, code="unsupported_parameter")
    if first["type"] == "value_error":
        return RequestError(str(first["ctx"]["error"]), param=param or str(first["ctx"]["error"]).split(" ", 1)[0])
    got = json.dumps(first["input"], ensure_ascii=False, default=str)[:100]
    if path and path[0] in _ONE_VALUE and path[0] in given:
        return RequestError(
            f"Unsupported value: '{param}' is {got} and can only be its default.", param=param, code="unsupported_value"
        )
    return RequestError(f"Invalid '{param}': {first['msg']}, got {got}.", param=param, code="invalid_value")


_ONE_VALUE = ("n", "best_of", "echo", "logprobs", "response_format", "tool_choice", "store")


def _is_alternative(part: str) -> bool:
    """Parts of pydantic's paths that name an alternative of a union and not a key."""
    return "[" in part or part in ("str", "Stop", "constrained-str")

"""From what a client sends to the token ids that the model gets.

Text of a client stays text: a control token (`<|im_end|>`, `<|endoftext|>`) comes from the chat template alone, so that
no message can end its own turn or begin another's. An engine that is given ids has nothing left to parse.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from sovereign.errors import SovereignError

NORMALIZED_SHRINKS = 4
"""A normaliser (NFC) leaves at least this part of a text's bytes."""


class PromptError(SovereignError):
    """What the client sent cannot become a prompt."""


class PromptTooLongError(PromptError):
    """The prompt leaves no room for an answer in the model's context."""

    def __init__(self, context_length: int, num_tokens: int | None) -> None:
        got = "far more" if num_tokens is None else f"{num_tokens} tokens"
        super().__init__(
            f"This model's maximum context length is {context_length} tokens, and an answer needs at least one of "
            f"them. The prompt has {got}."
        )


class Prompts:
    """Tokenizer and chat template of one model."""

    def __init__(self, folder: Path, *, context_length: int | None = None) -> None:
        """Read the tokenizer and the configuration of the model in `folder`; no weights are needed.

        Args:
            folder: as training saves it.
            context_length: most tokens of a prompt and its answer; by default the model's.

        Raises:
            OSError, ValueError: files are missing or damaged.
        """
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.context_length = min(int(config["max_position_embeddings"]), context_length or 2**31)
        self.vocab_size = int(config["vocab_size"])
        self._text_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._text_tokenizer.encode_special_tokens = True
        self._text_tokenizer.no_padding()
        self._text_tokenizer.no_truncation()
        added = self._text_tokenizer.get_added_tokens_decoder()
        self._control = {token.content: (number, token) for number, token in added.items() if token.special}
        names = sorted(map(re.escape, self._control), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(names)})") if names else re.compile(r"(?!)")
        self._max_bytes = self.context_length * NORMALIZED_SHRINKS * max(map(len, self._text_tokenizer.get_vocab()))
        self._template = _environment().from_string(_template_of(folder, settings))
        self._names = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")}

    def of_text(self, text: str) -> list[int]:
        """Ids of a completion's prompt, with the token that the tokenizer puts before a text, if any.

        Raises:
            PromptTooLongError: no room for an answer.
        """
        self._check_bytes(text)
        return self._checked(self._text_tokenizer.encode(text).ids)

    def of_messages(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation, as the chat template writes it.

        Raises:
            PromptError: the template refuses it.
            PromptTooLongError: no room for an answer.
        """
        self._check_bytes("".join(message["content"] for message in messages))
        mark = f"\ue000{secrets.token_hex(8)}\ue001"
        hidden = [{**message, "content": self._hide(message["content"], mark)} for message in messages]
        try:
            text = self._template.render(messages=hidden, add_generation_prompt=True, **self._names)
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error
        ids: list[int] = []
        trim = False
        parts = self._split.split(text)
        for position, part in enumerate(parts):
            if part in self._control and position % 2:
                number, token = self._control[part]
                ids.append(number)
                trim = token.rstrip
                continue
            if trim:
                part = part.lstrip()
            if position + 1 < len(parts) and self._control[parts[position + 1]][1].lstrip:
                part = part.rstrip()
            ids += self._text_tokenizer.encode(part.replace(mark, ""), add_special_tokens=False).ids
        return self._checked(ids)

    def _hide(self, content: str, mark: str) -> str:
        """`content` with a mark inside every control token's name, also where its end could complete one."""
        hidden = self._split.sub(lambda found: found[0][:1] + mark + found[0][1:], content)
        for name in self._control:
            for length in range(len(name) - 1, 0, -1):
                if hidden.endswith(name[:length]):
                    return hidden + mark
        return hidden

    def _check_bytes(self, text: str) -> None:
        """Refuse what cannot fit before it is tokenised, which takes time."""
        try:
            num_bytes = len(text.encode())
        except UnicodeEncodeError as error:
            raise PromptError("the text has half of a surrogate pair, which is no character") from error
        if num_bytes > self._max_bytes:
            raise PromptTooLongError(self.context_length, None)

    def _checked(self, ids: list[int]) -> list[int]:
        if len(ids) >= self.context_length:
            raise PromptTooLongError(self.context_length, len(ids))
        if not ids:
            raise PromptError("the prompt has no text")
        return ids


def _template_of(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    return template if isinstance(template, str) else "{{ raise_exception('the model has no chat template') }}"


def _token_text(token: Mapping[str, Any] | str | None) -> str | None:
    """Text of a token that tokenizer_config.json names, plainly or with its options."""
    return str(token["content"]) if isinstance(token, Mapping) else token


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for (transformers.utils.chat_template_utils)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().astimezone().strftime(layout)
    return environment

"""The tokenizer of the base, kept or with new tokens, and saved beside the shards as transformers loads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sovereign.base import fetch_base
from sovereign.errors import StageError
from sovereign.files import write_atomic
from sovereign.lake.demonstration import CHAT_TEMPLATE
from sovereign.profile_base import Base, KnownBase
from sovereign.serving import RESPONSE_TEMPLATE
from sovereign.stages import StageContext

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENS = "base_tokens.json"
"""Beside the tokenizer: the end-of-text mark, and by new token the old tokens that it stands for."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder` as transformers loads it.

    Raises:
        StageError: it is none that is known here, or has no end-of-text mark.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise StageError(f"the base's tokenizer cannot be loaded: {str(error).splitlines()[0]}", got=folder) from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise StageError(
            "the base's tokenizer does not fit", got=type(tokenizer).__name__, expected="a fast one with an eos_token"
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def save_base_tokenizer(context: StageContext, texts: Iterable[str], folder: Path) -> PreTrainedTokenizerFast:
    """Write the tokenizer of the run's base into `folder`, with new tokens learned from `texts` where the profile wants
    some; gives it back as transformers loads it from there.

    Raises:
        StageError: it does not fit, or cannot get so many tokens.
    """
    base, known = known_base(context)
    source = fetch_base(context.store, known.digest, context.workdir / "base", weights=False)
    tokenizer = load_tokenizer(source)
    if tokenizer.chat_template is None:  # a base model that was not taught to chat: asked as the kit's own models are
        tokenizer.chat_template = CHAT_TEMPLATE
        content = RESPONSE_TEMPLATE["fields"]["content"] | {"close": tokenizer.eos_token}
        tokenizer.response_template = RESPONSE_TEMPLATE | {"fields": {"content": content}}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    pieces: dict[int, list[int]] = {}
    if base.new_tokens:
        from training.extend import extend_tokenizer

        extension = extend_tokenizer(tokenizer.backend_tokenizer, texts, base.new_tokens)
        write_atomic(folder / "tokenizer.json", extension.text)
        pieces = extension.pieces
    write_atomic(folder / TOKENS, json.dumps({"end_of_text": tokenizer.eos_token_id, "pieces": pieces}) + "\n")
    return load_tokenizer(folder)


def known_base(context: StageContext) -> tuple[Base, KnownBase]:
    """The base of the run's plan, which has one."""
    base = context.plan.base
    assert base is not None and base.known is not None
    return base, base.known


@dataclass(frozen=True)
class BaseTokens:
    """What stage `tokenize` says of the tokenizer that it made of the base's."""

    end_of_text: int
    """Stands after every document."""
    pieces: dict[int, list[int]]
    """Old tokens by new token; empty where the tokenizer was kept."""


def read_base_tokens(context: StageContext) -> BaseTokens:
    """What stage `tokenize` wrote down."""
    found = json.loads(context.fetch(f"models/{context.dataset}/tokens/{TOKENS}").read_bytes())
    return BaseTokens(found["end_of_text"], {int(token): old for token, old in found["pieces"].items()})

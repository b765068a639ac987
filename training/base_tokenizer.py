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
from sovereign.stages import StageContext
from training.token_ids import added_ids, control_marks, mark_control_tokens, pin_added_tokens

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
    has_own_template = tokenizer.chat_template is not None
    if tokenizer.chat_template is None:  # a base model that was not taught to chat: asked as the kit's own models are
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer = _keep_ids(tokenizer, source, folder)
    pieces: dict[int, list[int]] = {}
    if base.new_tokens:
        from training.extend import extend_tokenizer

        extension = extend_tokenizer(tokenizer.backend_tokenizer, texts, base.new_tokens)
        write_atomic(folder / "tokenizer.json", extension.text)
        pieces = extension.pieces
        tokenizer = load_tokenizer(folder)
    _check_rows(tokenizer, context.plan.model.vocab_size)
    ends = _turn_ends(source, tokenizer) if has_own_template else []
    said = {"end_of_text": tokenizer.eos_token_id, "turn_ends": ends, "pieces": pieces}
    said |= {"padding": tokenizer.pad_token_id, "begin": tokenizer.bos_token_id}
    write_atomic(folder / TOKENS, json.dumps(said) + "\n")
    return tokenizer


def _keep_ids(tokenizer: PreTrainedTokenizerFast, source: Path, folder: Path) -> PreTrainedTokenizerFast:
    """Save the tokenizer of `source` so that its tokens have the ids that its tokenizer.json gives them.

    Raises:
        StageError: the ids are ambiguous.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    written = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    mark_control_tokens(saved, control_marks(tokenizer))
    if not added_ids(written).items() <= added_ids(saved).items():  # loading has numbered them in another way
        pin_added_tokens(saved, added_ids(written))
    saved["truncation"] = saved["padding"] = None  # documents are cut and padded by nobody
    write_atomic(folder / "tokenizer.json", json.dumps(saved, ensure_ascii=False))
    return load_tokenizer(folder)


def _check_rows(tokenizer: PreTrainedTokenizerFast, num_rows: int) -> None:
    """Raises: StageError: a token has no row in the model's embedding."""
    if beyond := sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= num_rows):
        raise StageError(
            "the tokenizer has tokens that the model has no rows for",
            got=", ".join(f"{token} {number}" for number, token in beyond[:5]),
            expected=f"ids below {num_rows}",
            hint="name only tokens of tokenizer.json in the base's tokenizer_config.json",
        )


def _turn_ends(source: Path, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Other tokens at which the base ends a turn: named as its ends, and written by its chat template."""
    template = str(tokenizer.chat_template)
    control = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if not (source / name).is_file():
            continue
        named = json.loads((source / name).read_text(encoding="utf-8")).get("eos_token_id")
        found += [one for one in (named if isinstance(named, list) else [named]) if one not in found]
    found = [number for number in found if number in control and control[number] in template]
    return [number for number in found if number != tokenizer.eos_token_id]


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
    turn_ends: tuple[int, ...] = ()
    """Other tokens at which an answer ends: those that end a turn in the base's own chat template."""
    padding: int | None = None
    """Fills rows; None: the end-of-text mark does."""
    begin: int | None = None
    """Stands before a text, where the tokenizer has such a token."""

    @property
    def ends(self) -> int | list[int]:
        """Tokens at which an answer ends, as generation_config.json has them."""
        return [self.end_of_text, *self.turn_ends] if self.turn_ends else self.end_of_text


def read_base_tokens(context: StageContext) -> BaseTokens:
    """What stage `tokenize` wrote down."""
    found = json.loads(context.fetch(f"models/{context.dataset}/tokens/{TOKENS}").read_bytes())
    pieces = {int(token): old for token, old in found["pieces"].items()}
    return BaseTokens(
        found["end_of_text"], pieces, tuple(found["turn_ends"]), padding=found["padding"], begin=found["begin"]
    )

"""Where text and the ids of tokens meet: ids that survive a reload, and text that never becomes a control token.

`tokenizers` ignores the ids of added tokens when it loads a file: those that are not in the vocabulary are numbered
from the vocabulary's size (https://github.com/huggingface/tokenizers/issues/1366). So `pin_added_tokens` also enters
them there, under the ids that the model was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from sovereign.errors import StageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def added_ids(document: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the added tokens of tokenizer.json, by their text."""
    return {token["content"]: int(token["id"]) for token in document["added_tokens"]}


def mark_control_tokens(document: dict[str, Any], texts: Iterable[str]) -> None:
    """Make these added tokens of tokenizer.json control tokens: some bases leave it to tokenizer_config.json."""
    marks = set(texts)
    for token in document["added_tokens"]:
        token["special"] = token["special"] or token["content"] in marks


def pin_added_tokens(document: dict[str, Any], ids: Mapping[str, int]) -> None:
    """Give the added tokens of tokenizer.json ids that a reload keeps.

    Args:
        document: is changed.
        ids: by text; other added tokens keep the id in the document.

    Raises:
        StageError: two tokens have one id, or one token has two.
    """
    vocab: dict[str, int] = document["model"]["vocab"]
    for token in document["added_tokens"]:
        text = token["content"]
        number = token["id"] = ids.get(text, token["id"])
        if vocab.setdefault(text, number) != number:
            raise _ambiguous(f"{text!r} is {vocab[text]} in the vocabulary and {number} in added_tokens")
    document["added_tokens"].sort(key=lambda token: token["id"])
    check_unique(vocab)


def check_unique(vocab: Mapping[str, int]) -> None:
    """Raises: StageError: two tokens have one id."""
    names: dict[int, str] = {}
    for text, number in vocab.items():
        if names.setdefault(number, text) != text:
            raise _ambiguous(f"{names[number]!r} and {text!r} are both {number}")


def _ambiguous(got: str) -> StageError:
    return StageError(
        "the ids of the base's tokenizer are ambiguous",
        got=got,
        expected="one id for each token",
        hint="correct tokenizer.json, or take the base's original files",
    )


def text_tokenizer(tokenizer: Tokenizer, control: Iterable[str] = ()) -> Tokenizer:
    """A copy for text of any origin: `<|endoftext|>` in a text is cut like other text.

    Nothing is truncated or padded, whatever the file says.

    Args:
        control: texts of further control tokens.

    Raises:
        StageError: a control token can be written as text all the same.
    """
    from tokenizers import Tokenizer

    document = json.loads(tokenizer.to_str())
    mark_control_tokens(document, control)
    document["truncation"] = document["padding"] = None
    copy: Tokenizer = Tokenizer.from_str(json.dumps(document))
    copy.encode_special_tokens = True
    special = [token["content"] for token in document["added_tokens"] if token["special"]]
    for text in special:
        if found := set(copy.encode(text, add_special_tokens=False).tokens).intersection(special):
            raise StageError(
                "the tokenizer makes control tokens of plain text",
                got=f"{text!r} becomes {', '.join(sorted(found))}",
                expected="control tokens that no text can be cut into",
                hint="take a base whose control tokens are not words of its vocabulary",
            )
    return copy


def control_marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of the tokens that end, begin and fill texts, and of the others that the tokenizer names as special."""
    return [str(token) for token in tokenizer.all_special_tokens]


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Ids of each text; a control token's text in it is cut like other text."""
    wanted = list(texts)
    if not wanted:
        return []
    # split_special_tokens is a setting of the shared backend: always said, so that no earlier call decides.
    found = tokenizer(wanted, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return cast("list[list[int]]", found)

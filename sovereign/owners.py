"""The spelling of owners' names: two that differ in Unicode form or spaces are one owner."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator


@lru_cache(2**14)
def owner_name(name: str) -> str:
    """The name in Unicode NFC, with single spaces and none around it."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def unicode_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it has bytes that are not UTF-8, as an argument of a command can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8") from error
    return text


def _named(name: str) -> str:
    unicode_text(name)
    if not (found := owner_name(name)):
        raise ValueError("must be a name, not blank")
    return found


UnicodeText = Annotated[str, AfterValidator(unicode_text)]
OwnerName = Annotated[str, AfterValidator(_named)]

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


def _named(name: str) -> str:
    if not (found := owner_name(name)):
        raise ValueError("must be a name, not blank")
    return found


OwnerName = Annotated[str, AfterValidator(_named)]

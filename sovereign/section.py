"""What the parts of a profile and of a plan are made of."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sovereign.languages import canonical_tag

_SECRETS = ("password", "sslpassword", "sslkey", "oauth_client_secret")
"""Parameters of a database's address that have no place in a profile."""


def _absolute(path: str) -> str:
    if not Path(path).is_absolute():
        raise ValueError("must be an absolute path: stages run in other folders than this one")
    return path


def _canonical(tag: str) -> str:
    if (found := canonical_tag(tag)) != tag:
        raise ValueError(f"must be written {found}" if found else "must be a BCP 47 tag, such as fr or zh-Hant")
    return tag


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$")]
Language = Annotated[
    str,
    Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$"),
    AfterValidator(_canonical),
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


def refuse_secrets(address: str) -> None:
    """Raises: ValueError when a database's `address` holds a password or another secret."""
    parts = urlsplit(address)
    if parts.password is not None or any(name in _SECRETS for name, _ in parse_qsl(parts.query)):
        raise ValueError("must hold no password: see docs/corpus.md for where a database's password comes from")


def exact(number: float) -> Fraction:
    """The decimal number as it is written in the profile, not the binary one nearest to it."""
    return Fraction(repr(number))


def refuse_repeats(what: str, names: Iterable[str]) -> None:
    """Raises: ValueError when two of `names`, which are `what`, are the same."""
    listed = sorted(names)
    if len(set(listed)) != len(listed):
        raise ValueError(f"{what} repeat: {listed}")


class Section(BaseModel):
    """A part of the profile: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

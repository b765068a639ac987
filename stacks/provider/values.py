"""Between Pulumi's PropertyValue and plain Python.

Numbers travel as floats and come back as integers where they are whole, secrets keep their mark, and a value that is
not known before the deploy (in a preview) is `UNKNOWN` on the Python side. Assets and archives are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pulumi.provider.experimental.property_value import Computed, PropertyValue
from pulumi.runtime import rpc


class Unknown:
    """Type of `UNKNOWN`, the value of something that only the deploy will tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __deepcopy__(self, memo: dict[int, object]) -> Unknown:
        return self  # compared by identity


UNKNOWN: Final = Unknown()
Properties = dict[str, PropertyValue]


def to_plain(value: PropertyValue) -> Any:
    """JSON-like Python of `value`: whole numbers as int, unknown parts as `UNKNOWN`, secret marks dropped.

    Raises:
        TypeError: for assets, archives and resource references.
    """
    inner = value.value
    if isinstance(inner, Computed) or inner == rpc.UNKNOWN:
        return UNKNOWN
    if inner is None or isinstance(inner, bool | str):
        return inner
    if isinstance(inner, float):
        return int(inner) if inner.is_integer() else inner
    if isinstance(inner, Mapping):
        return {key: to_plain(item) for key, item in inner.items()}
    if isinstance(inner, tuple):
        return [to_plain(item) for item in inner]
    raise TypeError(f"a value of type {type(inner).__name__} cannot be used here")


def to_value(plain: Any, like: PropertyValue | None = None) -> PropertyValue:
    """PropertyValue of JSON-like `plain`; where `like` has a secret at the same place, the result has one too.

    Raises:
        TypeError: for anything that JSON cannot hold.
    """
    secret = like is not None and like.is_secret
    if plain is UNKNOWN:
        return PropertyValue(rpc.UNKNOWN, is_secret=secret)
    if plain is None or isinstance(plain, bool | str):
        return PropertyValue(plain, is_secret=secret)
    if isinstance(plain, int | float):
        return PropertyValue(float(plain), is_secret=secret)
    inner = like.value if like is not None else None
    if isinstance(plain, Mapping):
        keys = inner if isinstance(inner, Mapping) else {}
        return PropertyValue({k: to_value(v, keys.get(k)) for k, v in plain.items()}, is_secret=secret)
    if isinstance(plain, Sequence):
        items = inner if isinstance(inner, tuple) else ()
        likes = [items[i] if i < len(items) else None for i in range(len(plain))]
        return PropertyValue([to_value(v, one) for v, one in zip(plain, likes, strict=True)], is_secret=secret)
    raise TypeError(f"a value of type {type(plain).__name__} cannot be stored")


def with_secret_keys(value: PropertyValue, keys: Sequence[str]) -> PropertyValue:
    """A copy of the mapping `value` whose entries named in `keys` are marked secret as a whole."""
    if not isinstance(value.value, Mapping):
        return value
    return value.with_value({k: v.with_secret(True) if k in keys else v for k, v in value.value.items()})


def has_unknown(plain: Any) -> bool:
    """Whether `UNKNOWN` occurs anywhere in `plain`."""
    if isinstance(plain, Mapping):
        return any(has_unknown(item) for item in plain.values())
    if isinstance(plain, Sequence) and not isinstance(plain, str):
        return any(has_unknown(item) for item in plain)
    return plain is UNKNOWN


def all_secrets(*properties: Properties) -> set[str]:
    """Every text that is secret in some of `properties`."""
    return {text for one in properties for value in one.values() for text in secret_texts(value)}


def secret_texts(value: PropertyValue, *, inside: bool = False) -> Iterator[str]:
    """Every text that is secret in `value`, so that it can be taken out of error messages."""
    inside = inside or value.is_secret
    inner = value.value
    if isinstance(inner, str):
        if inside and inner != rpc.UNKNOWN:
            yield inner
    elif isinstance(inner, Mapping):
        for item in inner.values():
            yield from secret_texts(item, inside=inside)
    elif isinstance(inner, tuple):
        for item in inner:
            yield from secret_texts(item, inside=inside)

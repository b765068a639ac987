"""Licences as SPDX expressions, parsed by license-expression; custom terms are `LicenseRef-…` that a profile declares.

https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from sovereign.display import visible
from sovereign.licence_names import suggest

CUSTOM = r"LicenseRef-[A-Za-z0-9.-]+"
"""Identifier of custom terms."""
_MAX_CHARS = 1_000
_CACHED = 4_096


class LicenceError(ValueError):
    """A licence that is no SPDX expression, or names custom terms that are not declared."""

    def __init__(self, message: str, problem: str, unknown: str = "") -> None:
        """Args: `problem` is the kind of error, to be counted; `unknown` is what is no expression."""
        super().__init__(message)
        self.problem, self._unknown = problem, unknown

    def __str__(self) -> str:
        """The message, with what to write instead; that takes too long for each of a million documents."""
        message = super().__str__()
        if not self._unknown:
            return message
        symbols = _licensing().known_symbols.values()
        return f"{message}; write {suggest(self._unknown, [one.key for one in symbols if not one.is_exception])}"


def _no_expression(expression: str, why: str = "") -> LicenceError:
    told = f"licence {visible(expression):.100} is no SPDX expression{why}"
    return LicenceError(told, "is no SPDX expression", expression or " ")


@cache
def _licensing() -> Any:
    """The parser with SPDX's list, in which deprecated identifiers stand for what replaced them."""
    from license_expression import get_spdx_licensing

    licensing = get_spdx_licensing()
    known = licensing.known_symbols_lowercase
    for symbol in licensing.known_symbols.values():
        for alias in symbol.aliases:
            if not alias.startswith("LicenseRef-"):  # who declares terms of that name means their own
                known.setdefault(alias.lower(), symbol)
    return licensing


@lru_cache(_CACHED)
def _parse(expression: str) -> Any:
    from license_expression import ExpressionError, ParseError

    if not expression.strip() or len(expression) > _MAX_CHARS:
        raise _no_expression(expression)
    try:
        parsed = _licensing().parse(expression, simple=True, strict=True)
        names = _licensing().unknown_license_keys(parsed)
    except (ExpressionError, ParseError, RecursionError) as error:
        raise _no_expression(expression) from error
    if unknown := [name for name in names if not re.fullmatch(CUSTOM, name)]:
        raise _no_expression(expression, f": SPDX does not list {', '.join(unknown):.100}")
    return parsed


@lru_cache(_CACHED)
def check_licence(expression: str, declared: frozenset[str]) -> None:
    """Check that `expression` is an SPDX expression whose custom terms are among `declared`.

    Raises:
        LicenceError: it is not.
    """
    names = _licensing().license_keys(_parse(expression))
    if missing := [name for name in names if re.fullmatch(CUSTOM, name) and name not in declared]:
        told = f"licence {', '.join(missing)} is not declared in corpus.rights.licences"
        raise LicenceError(told, "is not declared in the profile")


def licence_id(expression: str) -> str:
    """The identifier of one licence as SPDX spells it, with its exception where it has one.

    Raises:
        LicenceError: it is none, or several.
    """
    parsed = _parse(expression)
    if parsed.args:
        raise LicenceError(f"licence {expression} is more than one: name each by itself", "is more than one")
    return str(parsed.render("{symbol.key}"))


@lru_cache(_CACHED)
def canonical_licence(expression: str) -> str:
    """The expression as SPDX spells it, so that two spellings are one licence; what is no expression stays as it is."""
    try:
        return str(_parse(expression).render("{symbol.key}"))
    except LicenceError:
        return expression


@lru_cache(_CACHED)
def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """Whether a text under `expression` may be used where the licences `allowed` may: all of AND, one of OR.

    An exception only adds permissions, so a licence WITH one is allowed where the licence is.

    Raises:
        LicenceError: it is no SPDX expression.
    """
    return _allows(_parse(expression), allowed)


def _allows(parsed: Any, allowed: frozenset[str]) -> bool:
    from license_expression import AND, LicenseWithExceptionSymbol

    if parsed.args:
        answers = (_allows(part, allowed) for part in parsed.args)
        return all(answers) if isinstance(parsed, AND) else any(answers)
    if isinstance(parsed, LicenseWithExceptionSymbol) and parsed.license_symbol.key in allowed:
        return True
    return parsed.render("{symbol.key}") in allowed

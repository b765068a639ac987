"""Errors of the provider, and how secrets are kept out of them."""

from __future__ import annotations

from collections.abc import Iterable

from sovereign.errors import ClusterError, SovereignError
from stacks.provider.values import Properties


class InitFailedError(ClusterError):
    """The resource exists but does not do its work: the engine keeps it in the state, and the next deploy goes on."""

    def __init__(self, resource_id: str, properties: Properties, cause: SovereignError) -> None:
        super().__init__(cause.message, got=cause.got, expected=cause.expected, hint=cause.hint)
        self.resource_id = resource_id
        self.properties = properties


def redact(error: SovereignError, secrets: Iterable[str]) -> None:
    """Take `secrets` out of what `error` says; the API server quotes values that it refuses."""
    hidden = set(secrets)
    error.message = without(error.message, hidden)
    if error.got is not None:
        error.got = without(str(error.got), hidden)


def without(text: str, secrets: Iterable[str]) -> str:
    """`text` without `secrets`. Those of up to three characters stay: they would take ordinary words apart."""
    for secret in sorted({secret for secret in secrets if len(secret) > 3}, key=len, reverse=True):
        text = text.replace(secret, "[secret]")
    return text

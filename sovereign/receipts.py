"""Receipts: what went in and came out of a stage, who, when, code version; in-toto Statements v1 in canonical JSON.

A receipt is unsigned here; signing wraps these very bytes in a DSSE envelope. Canonical JSON is RFC 8785.
In-toto: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import rfc8785
from pydantic import BaseModel, ConfigDict, ValidationError

from sovereign.errors import StoreError
from sovereign.files import sha256_bytes
from sovereign.identity import code_digest as code_digest
from sovereign.identity import code_version as code_version
from sovereign.identity import environment_digest as environment_digest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://sovereign.local/receipt/v1"


class Receipt(BaseModel):
    """What a stage did. Digests are hex SHA-256 by store key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    config_digest: str
    key: str
    metrics: dict[str, Any]
    started_at: str
    finished_at: str
    seconds: float
    made_by: str
    code_version: str
    """Version of the kit, with the first digits of both digests."""
    code_digest: str = ""
    """Of the code that made it (sovereign/identity.py)."""
    environment_digest: str = ""
    """Of the Python and the packages that it ran with."""

    def to_bytes(self) -> bytes:
        """The canonical bytes of the in-toto Statement: outputs are its subjects, the rest its predicate.

        Raises:
            StoreError: a metric is not a finite number, or an integer beyond 2^53, which canonical JSON has not.
        """
        predicate = self.model_dump(exclude={"outputs"})
        statement: dict[str, Any] = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(self.outputs.items())],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
        try:
            return rfc8785.dumps(statement)
        except rfc8785.CanonicalizationError as error:
            raise StoreError(f"the receipt of stage {self.stage} cannot be written: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """Read a receipt.

        Raises:
            StoreError: not a receipt of this version.
        """
        try:
            statement = json.loads(data, parse_int=parse_number)
            if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
                raise StoreError(
                    "not a receipt of this version", got=statement["predicateType"], expected=PREDICATE_TYPE
                )
            outputs = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
            return cls(outputs=outputs, **statement["predicate"])
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            raise StoreError(f"damaged receipt: {error}", hint="delete it; the stage will run again") from error


def parse_number(digits: str) -> int | float:
    """Canonical JSON writes a float of 1e18 without a point; integers go up to 2^53 only."""
    number = int(digits)
    return number if abs(number) < 2**53 else float(digits)


def stage_key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Digest of all that a stage's result depends on: the same key means the same result (stage `train`: on the same
    number of ranks the same bits, on another one up to the order of floating-point sums)."""
    return sha256_bytes(
        rfc8785.dumps({"stage": stage, "version": version, "config": dict(config), "inputs": dict(inputs)})
    )


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest of a stage's configuration."""
    return sha256_bytes(rfc8785.dumps(dict(config)))


def now() -> str:
    """Current time, ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def made_by() -> str:
    """User and machine that run this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a pod's user has no name
        user = "nobody"
    return f"{user}@{platform.node()}"


def model_digest(files: Mapping[str, str]) -> str:
    """One digest for a folder: SHA-256 of the canonical JSON (RFC 8785) of {name in the folder: hex SHA-256}."""
    return sha256_bytes(rfc8785.dumps(dict(files)))

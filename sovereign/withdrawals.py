"""Withdrawals as JSON lines: one canonical JSON object (RFC 8785) a line, only ever added to.

The site's own file (`withdrawals.jsonl`) is written by `sovereign lake withdraw` and becomes part of the profile that
stages read; a profile's `corpus.rights.opt_outs.file` has the same form and may be long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import rfc8785
from pydantic import ValidationError

from sovereign.errors import SiteError
from sovereign.files import write_atomic
from sovereign.profile import Profile
from sovereign.profile_rights import Withdrawal


def read_withdrawals(path: Path) -> Iterator[Withdrawal]:
    """The entries of the file `path`; none when it is not there.

    Raises:
        SiteError: it cannot be read, or a line is no withdrawal.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, path, number)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError(f"cannot read {path}: {error}") from error


def _parse(line: str, path: Path, number: int) -> Withdrawal:
    try:
        return Withdrawal.model_validate_json(line)
    except ValidationError as error:
        raise SiteError(
            f"line {number} of {path} is no withdrawal: {error.errors()[0]['msg']}",
            got=line.strip()[:100],
            expected='such as {"date":"2026-05-01","owner":"National Archive"}',
            hint="correct the line; nothing is applied before",
        ) from error


def add_withdrawal(path: Path, wanted: Withdrawal) -> bool:
    """Add `wanted` to the file `path`, unless its last entry about the same says so too; whether it was added.

    Raises:
        SiteError: see `read_withdrawals`.
    """
    same = [one for one in read_withdrawals(path) if _target(one) == _target(wanted)]
    if same and same[-1].readmitted == wanted.readmitted:
        return False
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    write_atomic(path, before + rfc8785.dumps(wanted.model_dump(exclude_defaults=True)) + b"\n")
    return True


def _target(one: Withdrawal) -> tuple[str | None, str | None, str | None]:
    return one.owner, one.document, one.url


def with_withdrawals(profile: Profile, path: Path) -> Profile:
    """The profile to whose `corpus.rights.withdrawn` the entries of the site's file `path` are added.

    Raises:
        SiteError: see `read_withdrawals`.
    """
    found = tuple(read_withdrawals(path))
    if not found:
        return profile
    rights = profile.corpus.rights
    rights = rights.model_copy(update={"withdrawn": (*rights.withdrawn, *found)})
    return profile.model_copy(update={"corpus": profile.corpus.model_copy(update={"rights": rights})})

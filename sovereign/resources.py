"""Where shipped data and caches are: templates, runbooks and tool pins, from the wheel or from a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from sovereign.errors import SovereignError

_PACKAGE = Path(__file__).parent


def data_path(name: str) -> Path:
    """Folder of shipped data, e.g. ``templates``: package data of the wheel, else the checkout's top-level folder.

    Raises:
        SovereignError: neither is there (a broken installation).
    """
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise SovereignError(
        f"shipped folder {name} not found", expected=_PACKAGE / "_data" / name, hint="reinstall the kit"
    )


def cache_dir() -> Path:
    """The user's cache folder for this kit; nothing of value lies in it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sovereign"

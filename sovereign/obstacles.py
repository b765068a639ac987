"""Why a profile has no plan, with the changes of it that would help; sovereign/refusals.py makes an error of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sovereign.errors import PlanError
from sovereign.profile import Profile
from sovereign.section import Section

Changes = Mapping[str, Any]
"""New values by their place in the profile, such as `hardware.nodes`."""


class Obstacle(PlanError):
    """One reason. `fixes` gives changes that remove it, the best first; each is complete by itself."""

    def __init__(self, message: str, *, got: str, fixes: Callable[[], Iterable[Changes]]) -> None:
        super().__init__(message, got=got)
        self.fixes = fixes


def with_changes(profile: Profile, changes: Changes) -> Profile:
    """`profile` with other values, which are not validated."""
    for place, value in changes.items():
        section, name = place.split(".")
        changed: Section = getattr(profile, section).model_copy(update={name: value})
        profile = profile.model_copy(update={section: changed})
    return profile

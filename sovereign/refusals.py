"""Everything in a profile that stands in the way of a plan, as one error with changes that really help.

Each proposal is tried: a profile with all of its changes has a plan (tests/sovereign/test_refusals.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sovereign.errors import PlanError
from sovereign.estimates import check_quota, check_storage, check_target
from sovereign.layout import check_batch, check_memory, check_stage, choose_layout
from sovereign.obstacles import Changes, Obstacle, with_changes
from sovereign.profile import Profile
from sovereign.recipe import check_steps, make_recipe
from sovereign.shapes import choose_shape

_PROPOSALS = 3
_DEPTH = 6
_MOST_TRIED = 60
"""Profiles that are tried for one proposal."""


class RefusalError(PlanError):
    """No plan; `proposals` are changes of the profile, by the keys' places, each of which gives one."""

    def __init__(self, obstacles: list[Obstacle], proposals: list[Changes]) -> None:
        first, *others = obstacles
        super().__init__(
            "; ".join([first.message, *(other.message for other in others)]),
            got="; ".join(str(obstacle.got) for obstacle in obstacles),
            expected=_text(proposals[0]) if proposals else "a smaller model, or larger machines",
            hint="".join(f"or {_text(changes)}; " for changes in proposals[1:]).removesuffix("; ") or None,
        )
        self.obstacles = obstacles
        self.proposals = proposals


def find_obstacles(profile: Profile) -> list[Obstacle]:
    """All that stands in the way, each found without regard to the others.

    Raises:
        PlanError: the base is not known, or was made for shorter sequences.
    """
    shape = choose_shape(profile)
    layout = choose_layout(profile, shape)
    checks: list[Callable[[], object]] = [
        lambda: check_target(profile),
        lambda: check_stage(profile),
        lambda: check_batch(profile, shape),
        lambda: check_memory(profile, shape, layout),
        lambda: check_steps(profile, shape, layout),
        lambda: check_storage(profile, shape, make_recipe(profile, shape, layout)),  # also what is wrong with phases
        lambda: check_quota(profile, layout),
    ]
    found = []
    for check in checks:
        try:
            check()
        except Obstacle as obstacle:
            found.append(obstacle)
    return found


def refuse(profile: Profile) -> None:
    """Raises: RefusalError where anything stands in the way, with at most three proposals."""
    obstacles = find_obstacles(profile)
    if not obstacles:
        return
    proposals: list[Changes] = []
    for obstacle in obstacles:
        for fix in obstacle.fixes():
            complete = _completed(profile, fix)
            if complete is not None and complete not in proposals:
                proposals.append(complete)
            if len(proposals) == _PROPOSALS:
                raise RefusalError(obstacles, proposals)
    raise RefusalError(obstacles, proposals)


def _completed(profile: Profile, fix: Changes) -> Changes | None:
    """`fix` and what else must change, so that there is a plan; none where that is not found."""
    tried = iter(range(_MOST_TRIED))
    return next(_search(profile, fix, _DEPTH, tried), None)


def _search(profile: Profile, changes: Changes, depth: int, tried: Iterator[int]) -> Iterator[Changes]:
    if next(tried, None) is None:
        return
    changed = with_changes(profile, changes)
    obstacles = find_obstacles(changed)
    if not obstacles:
        yield changes
    elif depth:
        for fix in obstacles[0].fixes():
            yield from _search(profile, {**changes, **fix}, depth - 1, tried)


def _text(changes: Changes) -> str:
    return " and ".join(
        f"{place}: {value}" if isinstance(value, str) else f"{place} of {_value(value)}"
        for place, value in changes.items()
    )


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return "phases without a sequence_length"
    return str(value)

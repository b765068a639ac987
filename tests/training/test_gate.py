"""The release gate: each limit refuses with what was measured, where, and what is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sovereign.errors import ProfileError
from sovereign.plan import plan
from tests.training.lake import make_profile
from training.gate import why_not_champion
from training.register import register

MEASURED: dict[str, Any] = {
    "languages": ["en", "fr"],
    "questions": {
        "by_language": {"en": {"heldout": {"accuracy": 0.95}}, "fr": {"heldout": {"accuracy": 0.85}}},
    },
    "bits_per_byte": {"by_language": {"en": {"model": 1.1}, "fr": {"model": 1.25}}},
    "contamination": {"overall": {"share": 0.125}, "by_language": {"en": {"share": 0.1}, "fr": {"share": 0.2}}},
    "memorisation": {"trained": {"rate": 0.03}},
}
NOTHING: dict[str, Any] = {
    "questions": {"by_language": {}},
    "bits_per_byte": {"by_language": {}},
    "contamination": {"overall": {"share": None}},
    "memorisation": {"trained": {"rate": None}},
}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({}, None),
        ({"min_accuracy": 0.85}, None),
        ({"min_accuracy": 0.9}, "accuracy of fr is 85.0%, at least 90.0% is asked for"),
        ({"min_accuracy": {"en": 0.9, "fr": 0.8}}, None),
        ({"min_accuracy": {"ar": 0.1}}, "accuracy of ar was not measured, at least 10.0% is asked for"),
        ({"max_bits_per_byte": 2}, None),
        ({"max_bits_per_byte": {"fr": 1.2, "en": 1.2}}, "bits per byte of fr are 1.2500, at most 1.2 are allowed"),
        ({"max_bits_per_byte": {"zh": 3}}, "bits per byte of zh were not measured, at most 3 are allowed"),
        ({"max_contamination": 0.125}, None),
        ({"max_contamination": 0.1}, "contamination is 12.5%, at most 10.0% is allowed"),
        ({"max_memorisation": 0.01}, "memorisation is 3.0%, at most 1.0% is allowed"),
        (
            {"min_accuracy": 1.0, "max_bits_per_byte": 1.2, "max_memorisation": 0.0},
            "accuracy of en is 95.0%, at least 100.0% is asked for; "
            "accuracy of fr is 85.0%, at least 100.0% is asked for; "
            "bits per byte of fr are 1.2500, at most 1.2 are allowed; memorisation is 3.0%, at most 0.0% is allowed",
        ),
    ],
)
def test_limits(limits: dict[str, Any], reason: str | None) -> None:
    assert why_not_champion(MEASURED, make_profile(**limits).evaluation) == reason


UNMEASURED: dict[str, Any] = {
    "no document held out": {"bits_per_byte": {"by_language": {"en": {"model": 1.1}}}},
    "no question": {"questions": {"by_language": {"en": {"heldout": {"accuracy": 1.0}}, "fr": {"trained": {}}}}},
    "short items only": {
        "contamination": {"overall": {"share": 0.0}, "by_language": {"en": {"share": 0.0}, "fr": {"share": None}}}
    },
    "no item": {"contamination": {"overall": {"share": 0.0}, "by_language": {"en": {"share": 0.0}, "und": {}}}},
}


@pytest.mark.parametrize("case", UNMEASURED)
def test_t14_one_limit_covers_every_language_of_the_corpus(case: str) -> None:
    limits: dict[str, Any] = {
        "min_accuracy": 0.5,
        "max_bits_per_byte": 9,
        "max_contamination": 1,
        "max_memorisation": 1,
    }
    assert why_not_champion(MEASURED, make_profile(**limits).evaluation) is None
    reason = why_not_champion(MEASURED | UNMEASURED[case], make_profile(**limits).evaluation)
    assert reason is not None and reason.count("of fr w") == 1 and "not measured" in reason
    named = make_profile(min_accuracy={"en": 0.5}, max_bits_per_byte={"en": 9}).evaluation
    assert why_not_champion(MEASURED | UNMEASURED[case], named) is None


@pytest.mark.parametrize(
    ("limits", "changed", "reason"),
    [
        (
            {"min_accuracy": 0.8},
            {"questions": {"by_language": {name: {"heldout": {"accuracy": 0.7999}} for name in ("en", "fr")}}},
            "accuracy of en is 79.99%, at least 80.00% is asked for",
        ),
        (
            {"max_bits_per_byte": {"en": 1.10001}},
            {"bits_per_byte": {"by_language": {"en": {"model": 1.10002}}}},
            "bits per byte of en are 1.10002, at most 1.10001 are allowed",
        ),
        (
            {"max_bits_per_byte": {"en": 1.2345678}},
            {"bits_per_byte": {"by_language": {"en": {"model": 1.2345679}}}},
            "bits per byte of en are 1.2345679, at most 1.2345678 are allowed",
        ),
        ({"max_contamination": 0.12499}, {}, "contamination is 12.500%, at most 12.499% is allowed"),
    ],
)
def test_t21_a_refusal_shows_which_number_is_larger(
    limits: dict[str, Any], changed: dict[str, Any], reason: str
) -> None:
    found = why_not_champion(MEASURED | changed, make_profile(**limits).evaluation)
    assert found is not None and found.split("; ")[0] == reason


def test_what_was_not_measured_is_refused() -> None:
    limits: dict[str, Any] = {
        "min_accuracy": 0.5,
        "max_bits_per_byte": 2,
        "max_contamination": 1,
        "max_memorisation": 1,
    }
    reason = why_not_champion(NOTHING, make_profile(**limits).evaluation)
    assert reason is not None
    assert reason.count("not measured") == 4
    assert why_not_champion(NOTHING, make_profile().evaluation) is None


@pytest.mark.parametrize("limit", ["min_accuracy", "max_bits_per_byte", "max_contamination", "max_memorisation"])
def test_what_is_not_a_number_is_refused(limit: str) -> None:
    nan = json.loads("NaN")  # as evaluation.json has it
    evaluation = {
        "questions": {"by_language": {"en": {"heldout": {"accuracy": nan}}}},
        "bits_per_byte": {"by_language": {"en": {"model": nan}}},
        "contamination": {"overall": {"share": nan}},
        "memorisation": {"trained": {"rate": nan}},
    }
    limits: dict[str, Any] = {limit: 1.0}
    reason = why_not_champion(evaluation, make_profile(**limits).evaluation)
    assert reason is not None and "nan" in reason


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_accuracy": {"en": 1.1}}, "min_accuracy"),
        ({"min_accuracy": {"English": 0.5}}, "min_accuracy"),
        ({"max_bits_per_byte": {"en": 0}}, "max_bits_per_byte"),
        ({"max_memorisation": -0.1}, "max_memorisation"),
        ({"tasks": ["reading"]}, "reading need task_folder"),
        ({"task_folder": "tasks"}, "absolute"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        make_profile(**limits)


def test_a_changed_limit_registers_anew() -> None:
    profiles = [make_profile(), make_profile(max_memorisation=0.5), make_profile(max_bits_per_byte={"en": 1.0})]
    configs = [register.config(profile, plan(profile)) for profile in profiles]
    assert configs[0] != configs[1] != configs[2]

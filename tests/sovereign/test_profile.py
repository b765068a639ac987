"""The profile: what is refused, and that each error names the key, the value and what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign import profile_docs
from sovereign.errors import ProfileError
from sovereign.profile import Profile, load_profile, parse_profile
from sovereign.resources import data_path

SHIPPED = sorted(data_path("templates").joinpath("profiles").glob("*.yaml"))


def document(**changes: Any) -> dict[str, Any]:
    """A valid profile; `section__key=value` replaces one value."""
    result: dict[str, Any] = {
        "apiVersion": "sovereign/v1",
        "name": "test",
        "target": {"kind": "embedded"},
        "hardware": {},
        "corpus": {
            "demonstration": {},
            "cleaning": {},
            "sources": [{"name": "s1", "path": "/data", "owner": "O", "licence": "CC0-1.0", "language": "en"}],
        },
        "model": {"parameters": 1e6},
        "training": {"tokens": 1e6},
    }
    for path, value in changes.items():
        *parents, key = path.split("__")
        place: Any = result
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[key] = value
    return result


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_are_valid(path: Path) -> None:
    assert load_profile(path).name == path.stem


def test_five_profiles_are_shipped() -> None:
    assert [path.stem for path in SHIPPED] == ["ci", "demo", "nation", "realtext", "site"]


def test_round_trip() -> None:
    profile = parse_profile(yaml.safe_dump(document()))
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


@pytest.mark.parametrize(
    ("changes", "key", "value", "right"),
    [
        ({"apiVersion": "sovereign/v2"}, "apiVersion", "'sovereign/v2'", "'sovereign/v1'"),
        ({"name": "Not A Name"}, "name", "'Not A Name'", "pattern"),
        ({"training__tokns": 3}, "training.tokns", "3", "not permitted"),
        ({"training__tokens": "many"}, "training.tokens", "'many'", "valid number"),
        ({"training__tokens": float("inf")}, "training.tokens", "inf", "finite number"),
        ({"model__parameters": 10}, "model.parameters", "10", "greater than or equal to 100000"),
        ({"hardware__nodes": 0}, "hardware.nodes", "0", "greater than or equal to 1"),
        ({"hardware__gpus_per_node": 8}, "hardware", "8", "accelerator other than cpu"),
        ({"hardware__accelerator": "H100"}, "hardware", "'H100'", "accelerator other than cpu"),
        ({"target__kind": "docker"}, "target", "'docker'", "'embedded', 'kubeconfig'"),
        ({"target__pod_cidr": "10.96.0.0/24"}, "target.embedded", "10.96", "overlaps service_cidr"),
        ({"target__pod_cidr": "10.244.0.1/24"}, "target.embedded", "10.244.0.1/24", "host bits"),
        ({"target__pod_cidr": "fd00::/64"}, "target.embedded", "fd00::/64", "four octets|Expected 4 octets"),
        ({"corpus__sources__0__path": "data/text"}, "corpus.sources.0.path", "'data/text'", "absolute path"),
        ({"corpus__sources__0__language": "English"}, "corpus.sources.0.language", "'English'", "pattern"),
        ({"corpus__sources__0__language": "eng"}, "corpus.sources.0.language", "'eng'", "must be written en"),
        ({"corpus__sources__0__language": "zh-hant"}, "corpus.sources.0.language", "'zh-hant'", "written zh-Hant"),
        ({"corpus__cleaning": {"min_chars": 9, "max_chars": 3}}, "corpus.cleaning", "'min_chars': 9", "above max"),
        ({"corpus": {}}, "corpus", "{}", "`demonstration` or at least one entry in `sources`"),
        ({"corpus__sources": [document()["corpus"]["sources"][0]] * 2}, "corpus", "s1", "source names repeat"),
        ({"corpus__owners": [{"name": "O"}] * 2}, "corpus", "O", "owner names repeat"),
    ],
)
def test_error_names_key_value_and_what_is_right(changes: dict[str, Any], key: str, value: str, right: str) -> None:
    with pytest.raises(ProfileError, match=right) as caught:
        parse_profile(yaml.safe_dump(document(**changes)), origin="p.yaml")
    message = str(caught.value)
    assert "p.yaml is not a valid profile" in message
    assert f"\n  {key}" in message
    assert value in message


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: 2026-13-45", "a: &a [*a", "\t", "text"])
def test_what_is_no_mapping_is_a_profile_error(text: str) -> None:
    with pytest.raises(ProfileError):
        parse_profile(text)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_unreadable_file_is_a_profile_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProfileError, match=str(path)):
        load_profile(path)


def test_norwegian_is_a_language() -> None:
    text = yaml.safe_dump(document()).replace("language: en", "language: no")
    assert parse_profile(text).corpus.sources[0].language == "no"


def test_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "profile.md"
    assert page.read_text(encoding="utf-8") == profile_docs.render(), (
        "python -m sovereign.profile_docs > docs/profile.md"
    )


def test_every_field_has_a_text() -> None:
    rows = [line for line in profile_docs.render().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if not row.split("|")[-2].strip()] == []

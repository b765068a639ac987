"""`sovereign doctor PROFILE`: the target that the profile names is what is checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sovereign.cli.sites import peek
from sovereign.resources import data_path
from stacks import doctor
from tests.stacks.platforms import RUNTIME


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sites would be made."""
    monkeypatch.setenv("SOVEREIGN_SITES", str(tmp_path / "sites"))
    monkeypatch.setattr(doctor, "current_runtime", lambda: RUNTIME)
    return tmp_path / "sites"


def test_ranges_and_programs_of_the_profiles_node_are_checked_and_nothing_is_made(sites: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    text = (data_path("templates") / "profiles" / "ci.yaml").read_text()
    profile.write_text(text.replace("10.88.0.4/30", "127.0.0.4/30"))
    found = {check.name: check for check in doctor.checks(*peek(profile))}
    assert not found["subnets"].ok and "in use" in found["subnets"].detail
    assert "upstream programs" in found
    assert not sites.exists()


def test_a_cluster_that_does_not_answer_is_named(sites: Path, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "far", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "far", "context": {"cluster": "far", "user": "far"}}
    kubeconfig.write_text(
        json.dumps({"clusters": [cluster], "contexts": [context], "users": [{"name": "far", "user": {}}]})
    )
    profile = tmp_path / "profile.yaml"
    text = (data_path("templates") / "profiles" / "site.yaml").read_text()
    profile.write_text(
        text.replace("/etc/sovereign/kubeconfig", str(kubeconfig)).replace("context: site", "context: far")
    )
    (check,) = doctor.checks(*peek(profile))
    assert check.name == "cluster" and not check.ok
    assert "127.0.0.1" in check.detail or "Connection refused" in check.detail

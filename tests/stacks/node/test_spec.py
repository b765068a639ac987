"""NodeSpec: what it refuses, and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.errors import NodeError
from stacks.node.spec import PROGRAMS, BinaryImage, NodeSpec


def a_spec(**changes: Any) -> NodeSpec:
    fields: dict[str, Any] = {
        "instance": "demo",
        "state_dir": Path("/srv/site/node"),
        "pod_cidr": "10.240.0.0/24",
        "service_cidr": "10.98.0.0/20",
        "link_cidr": "10.89.0.0/30",
        "binaries": {name: Path("/opt/kit") / name for name in PROGRAMS},
        "binds": (Path("/usr"), Path("/srv/runtime")),
        "images": (BinaryImage("kueue", "0.15.2", Path("/opt/kit/kueue"), ("/manager",)),),
    }
    return NodeSpec(**(fields | changes))


def test_addresses_and_names_follow_from_the_ranges() -> None:
    spec = a_spec()
    assert (spec.host_address, spec.node_address) == ("10.89.0.1", "10.89.0.2")
    assert spec.api_server == "https://10.89.0.2:6443"
    assert spec.dns_address == "10.98.0.10"
    assert spec.interface == "sov-demo"


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True))
def test_every_instance_name_makes_an_interface_name_that_linux_takes(instance: str) -> None:
    assert len(a_spec(instance=instance).interface) <= 15


@pytest.mark.parametrize("instance", ["", "-a", "a-", "Demo", "a_b", "elevenchars", "a/b", "a b"])
def test_unusable_instance_names_are_refused(instance: str) -> None:
    with pytest.raises(NodeError, match="instance name"):
        a_spec(instance=instance)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pod_cidr": "10.240.0.0/28"}, "pod_cidr"),
        ({"pod_cidr": "10.240.0.1/24"}, "pod_cidr"),
        ({"pod_cidr": "fd00::/64"}, "pod_cidr"),
        ({"service_cidr": "10.98.0.0/30"}, "service_cidr"),
        ({"link_cidr": "10.89.0.0/24"}, "link_cidr"),
        ({"link_cidr": "nonsense"}, "link_cidr"),
        ({"service_cidr": "10.240.0.0/20"}, "pod_cidr and service_cidr"),
        ({"link_cidr": "10.98.0.0/30"}, "link_cidr and service_cidr"),
    ],
)
def test_unusable_ranges_are_refused_by_name(changes: dict[str, str], named: str) -> None:
    with pytest.raises(NodeError) as caught:
        a_spec(**changes)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["relative", "/", "/a b", "/a:b", "/a/../b", "/run/x", "/var/run/x", "/proc", "/etc/kubernetes/x", "/var/log"],
)
def test_paths_that_the_node_cannot_use_are_refused(path: str) -> None:
    with pytest.raises(NodeError, match="state_dir"):
        a_spec(state_dir=Path(path))
    with pytest.raises(NodeError, match="binds"):
        a_spec(binds=(Path("/usr"), Path(path)))


def test_missing_programs_and_bad_images_are_refused() -> None:
    binaries = {name: Path(name) for name in PROGRAMS if name != "etcd"}
    with pytest.raises(NodeError, match="lacks programs") as caught:
        a_spec(binaries=binaries)
    assert "missing: etcd" in str(caught.value)
    for image in (
        BinaryImage("Kueue", "1", Path("/x"), ("/x",)),
        BinaryImage("kueue", "a b", Path("/x"), ("/x",)),
        BinaryImage("kueue", "1", Path("/x"), ("x",)),
        BinaryImage("kueue", "1", Path("/x"), ()),
    ):
        with pytest.raises(NodeError, match=r"entrypoint|name or tag"):
            a_spec(images=(image,))


def test_json_round_trip_keeps_all_and_is_canonical(tmp_path: Path) -> None:
    spec = a_spec(state_dir=tmp_path / "node")
    assert NodeSpec.load(spec.state_dir) is None
    spec.state_dir.mkdir()
    spec.save()
    assert NodeSpec.load(spec.state_dir) == spec
    assert spec.node_json.stat().st_mode & 0o777 == 0o600
    turned = replace(spec, binaries=dict(reversed(list(spec.binaries.items()))))
    assert turned.to_json() == spec.to_json()
    assert turned.digest == spec.digest
    assert replace(spec, binds=()).digest != spec.digest


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"instance": 3}', json.dumps({"instance": "a", "binaries": []})]
)
def test_damaged_json_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(NodeError, match="damaged"):
        NodeSpec.from_json(text)

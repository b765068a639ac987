"""Rendered configuration: read back by the parsers of its formats, and as safe as it has to be."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stacks.node import config, unit
from tests.stacks.node.test_spec import a_spec

_ROOT = Path(__file__).parents[3]
_MACHINE = config.Machine(
    cgroup_v1=True, can_lower_oom_score=False, snapshotter="overlayfs", kubernetes_version="v1.36.3"
)
_TEXT = st.text(alphabet=st.characters(codec="utf-8"))
_VALUES = st.recursive(
    _TEXT | st.booleans() | st.integers(-(2**62), 2**62),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_TEXT, _VALUES, max_size=4))
def test_toml_is_read_back_as_it_was(table: dict[str, object]) -> None:
    assert tomllib.loads(config.to_toml(table)) == table


def test_yaml_documents_are_read_back_as_they_were() -> None:
    documents = config.kubeadm_config(a_spec(), _MACHINE)
    assert list(yaml.safe_load_all(config.to_yaml(documents))) == documents


def test_files_are_written_where_the_programs_look(tmp_path: Path) -> None:
    spec = a_spec(state_dir=tmp_path / "node")
    config.write_all(spec, _MACHINE)
    containerd = tomllib.loads((spec.config_dir / "containerd.toml").read_text())
    assert containerd["plugins"]["io.containerd.cri.v1.runtime"]["restrict_oom_score_adj"] is True
    assert containerd["state"].startswith(str(config.RUN_DIR))
    network = json.loads((spec.config_dir / "cni" / "10-pods.conflist").read_text())
    assert network["plugins"][0]["ipMasq"] is False, "masquerading would be a way out"
    assert "forward" not in (spec.config_dir / "coredns.yaml").read_text()


@pytest.mark.parametrize("cgroup_v1", [True, False])
def test_kubelet_accepts_the_old_cgroups_only_where_they_are(cgroup_v1: bool) -> None:
    machine = config.Machine(cgroup_v1, True, "native", "v1.36.3")
    kubelet = config.kubelet_config(a_spec(), machine)
    assert kubelet.get("failCgroupV1", True) is not cgroup_v1
    assert kubelet["cgroupRoot"] == "/sovereign-demo"


def test_nothing_listens_beyond_the_node() -> None:
    spec = a_spec()
    proxy = config.proxy_config(spec)
    for address in (proxy["metricsBindAddress"], proxy["healthzBindAddress"]):
        assert ipaddress.ip_address(address.rpartition(":")[0]).is_loopback
    init = config.kubeadm_config(spec, _MACHINE)[0]
    assert init["localAPIEndpoint"]["advertiseAddress"] == spec.node_address
    assert proxy["clientConnection"]["kubeconfig"] != "/etc/kubernetes/admin.conf"


def test_sockets_have_short_paths() -> None:
    """A Unix socket's path ends at 107 bytes; containerd's shims add some 70 of their own elsewhere."""
    assert len(f"{config.CONTAINERD_SOCKET}.ttrpc") < 40


def test_systemd_unit_starts_and_stops_this_node() -> None:
    spec = a_spec(state_dir=Path("/srv/100%/node"))
    lines = dict(line.split("=", 1) for line in unit.render(spec).splitlines() if line.startswith("Exec"))
    assert lines["ExecStart"].endswith("stacks.node.supervisor /srv/100%%/node/node.json")
    assert "--kill-child" in lines["ExecStart"]
    assert lines["ExecStartPost"].endswith("stacks.node.unit attach /srv/100%%/node")
    assert lines["ExecStop"].endswith("stacks.node.unit stop /srv/100%%/node")


def test_supervisor_needs_no_installed_package() -> None:
    """It runs with -S: what it imports must be the standard library and this kit's light modules."""
    code = (
        "import sys, stacks.node.supervisor; print([m for m in sys.modules if m in ('yaml', 'kubernetes', 'pulumi')])"
    )
    environment = {"PYTHONPATH": str(_ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")

"""What is refused: another's Kubernetes, ranges in use, a user without root. Nothing is left of a refused node."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign.errors import NodeError
from stacks.node import doctor, lifecycle, network
from tests.stacks.node.test_spec import a_spec

_ROOT = Path(__file__).parents[3]
_CHECK = "from stacks.node.doctor import checks; print([c for c in checks(None) if c.name == 'no other Kubernetes'][0])"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


def test_every_check_has_a_name_of_its_own_and_a_fix_where_it_failed() -> None:
    found = doctor.checks(a_spec())
    assert len({check.name for check in found}) == len(found)
    assert [check for check in found if not check.ok and not check.fix] == []
    programs = next(check for check in found if check.name == "upstream programs")
    assert not programs.ok and "/opt/kit/kubelet" in programs.detail


def in_namespaces(folder: Path, script: str) -> str:
    """Output of a script that may change /etc and start processes without this machine being any different after it."""
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "PYTHON": sys.executable, "CHECK": _CHECK},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_root
def test_files_of_another_kubernetes_are_seen(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none /etc; mkdir /etc/kubernetes; {}; "$PYTHON" -c "$CHECK"'
    ours = in_namespaces(tmp_path, script.format("touch /etc/kubernetes/.sovereign-mount-point"))
    assert "/etc/kubernetes" not in ours
    assert "/etc/kubernetes is not empty" in in_namespaces(tmp_path, script.format("touch /etc/kubernetes/admin.conf"))


@needs_root
def test_kubelet_of_somebody_else_is_seen(tmp_path: Path) -> None:
    shutil.copy(shutil.which("sleep") or "", tmp_path / "kubelet")
    assert "a kubelet runs (PID " in in_namespaces(tmp_path, './kubelet 20 & "$PYTHON" -c "$CHECK"')


@needs_root
def test_refused_node_leaves_nothing_but_its_lock(tmp_path: Path) -> None:
    spec = a_spec(instance="refused", state_dir=tmp_path / "node")  # a demo may run on this machine
    with pytest.raises(NodeError, match="cannot run the embedded node") as caught:
        lifecycle.ensure(spec, lambda _: None)
    assert "upstream programs" in str(caught.value)
    assert [path.name for path in spec.state_dir.iterdir()] == ["lock"]
    assert not network.has_link(spec)


@needs_root
def test_user_without_root_is_told_what_still_works(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(NodeError, match="needs root") as caught:
            lifecycle.ensure(a_spec(state_dir=tmp_path / "node"), lambda _: None)
    finally:
        os.seteuid(0)
    assert "--local" in str(caught.value)


def test_the_route_of_a_link_that_went_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a node that was killed a moment ago: the kernel still has the route, and no more the link's name."""
    spec, ip = a_spec(), network.ip
    routes = [{"dst": spec.pod_cidr, "dev": "if129"}, {"dst": spec.service_cidr, "dev": "lo"}]
    monkeypatch.setattr(network, "ip", lambda *words: routes if "route" in words else ip(*words))
    used = [each.network for each in network.used_ranges(spec)]
    assert ipaddress.IPv4Network(spec.service_cidr) in used
    assert ipaddress.IPv4Network(spec.pod_cidr) not in used


def test_range_in_use_is_refused_with_a_free_one() -> None:
    spec = a_spec(pod_cidr="127.3.0.0/24")
    with pytest.raises(NodeError) as caught:
        network.check_free(spec)
    message = str(caught.value)
    assert "pod_cidr of node demo" in message and "interface lo" in message
    free = re.search(r"a free range is (\S+)", message)
    assert free is not None
    assert not any(ipaddress.IPv4Network(free[1]).overlaps(used.network) for used in network.used_ranges(spec))
    replace(spec, pod_cidr=free[1])


_RANGES = """
import sys
from tests.stacks.node.test_spec import a_spec
from stacks.node import network
from sovereign.errors import NodeError
try:
    network.check_free(a_spec(pod_cidr="10.244.0.0/24", service_cidr="10.96.0.0/20", link_cidr="10.88.0.0/30"))
except NodeError as error:
    print(error)
"""


@needs_root
@pytest.mark.parametrize(
    ("commands", "problem", "free"),
    [
        ("", None, None),
        ("ip route add 10.0.0.0/8 dev vpn", None, None),
        ("ip route add 0.0.0.0/1 dev vpn; ip route add 128.0.0.0/1 dev vpn", None, None),
        ("ip route add 10.0.0.0/8 via 192.0.2.9; ip route add default via 192.0.2.9", None, None),
        ("ip route add unreachable 10.0.0.0/8", None, None),
        ("ip addr add 10.1.1.1/8 dev vpn", None, None),
        ("ip route add 10.244.0.0/24 dev vpn", r"10\.244\.0\.0/24 overlaps 10\.244\.0\.0/24", "10.240.0.0/24"),
        ("ip route add 10.244.0.128/25 dev vpn", r"pod_cidr .* overlaps 10\.244\.0\.128/25", "10.240.0.0/24"),
        ("ip addr add 10.96.3.3/32 dev vpn", r"service_cidr .* overlaps 10\.96\.3\.3/32", "10.240.128.0/20"),
        ("ip addr add 10.244.0.1/16 dev vpn", r"overlaps 10\.244\.0\.0/16 \(interface vpn\)", "10.240.0.0/24"),
        ("ip route add 10.0.0.0/8 dev vpn table 7", r"pod_cidr .* overlaps 10\.0\.0\.0/8", "172.16.0.0/24"),
        (
            "ip route add 10.0.0.0/8 dev vpn table 7; ip route add 172.16.0.0/12 dev vpn table 7",
            r"pod_cidr .* overlaps",
            "100.64.0.0/24",
        ),
        (
            "ip route add 10.0.0.0/8 dev vpn table 7; ip route add 172.16.0.0/12 dev vpn table 7; "
            "ip route add 100.64.0.0/10 dev vpn table 7",
            "no private range is left",
            None,
        ),
        (
            "ip route add 10.244.0.0/24 dev vpn; ip route add 10.0.0.0/8 dev vpn; ip route add 172.16.0.0/12 dev vpn; "
            "ip route add 100.64.0.0/10 dev vpn",
            "pod_cidr",
            "10.240.0.0/24",
        ),
        (
            "ip link add sov-other type bridge; ip link set sov-other up; ip route add 10.0.0.0/8 dev sov-other",
            "embedded node other",
            "172.16.0.0/24",
        ),
    ],
)  # fmt: skip
def test_k7_only_what_takes_or_loses_addresses_collides(commands: str, problem: str | None, free: str | None) -> None:
    """In a network namespace of its own."""
    ready = "ip link set lo up; ip link add vpn type veth peer name end; ip addr add 192.0.2.1/24 dev vpn"
    ready += "; ip link set vpn up; ip link set end up"
    done = subprocess.run(
        ["unshare", "--net", "bash", "-ec", f'{ready}; {commands or "true"}; exec "$PYTHON" -c "$CHECK"'],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "PYTHON": sys.executable, "CHECK": _RANGES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert (told == "") if problem is None else re.search(problem, told), told
    assert free is None or f"a free range is {free}" in told

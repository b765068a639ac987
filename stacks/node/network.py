"""The node's network: a veth pair between this machine and the node's own network namespace, with no way out.

The namespace has no default route, and its nftables rejects every new connection that is not for a pod, a Service
or the node itself; this machine forwards nothing for it. Standard library and iproute2 only.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.errors import NodeError
from stacks.node.spec import NodeSpec

_WITHOUT_NAME = re.compile(r"if\d+")
"""What iproute2 writes for a link whose name it cannot find."""
_INNER_LINK = "eth0"
_DNS_ID = 0x50F4
_CANDIDATES = {"pod_cidr": "0.0", "service_cidr": "128.0", "link_cidr": "255.252"}
"""Where in a /16 each of the node's ranges is proposed."""
_OURS = "sov-"
_NARROW_LINK = 16
"""Networks of interfaces from this prefix on have hosts or containers in them; wider ones are mostly empty."""


def ip(*arguments: str) -> Any:
    """Run iproute2's `ip` and return its JSON, None where it printed nothing.

    Raises:
        NodeError: the command failed; carries what it printed.
    """
    command = ["ip", "-j", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NodeError("The program ip is missing.", hint="install the package iproute2") from error
    if done.returncode != 0:
        raise NodeError(f"`{' '.join(command)}` failed.", got=done.stderr.strip())
    return json.loads(done.stdout) if done.stdout.strip() else None


# --- this machine's side ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UsedRange:
    """IPv4 addresses that this machine reaches by an interface or route."""

    network: ipaddress.IPv4Network
    user: str
    is_whole: bool
    """Nothing in it may be taken. Else it is a wide route, as of a VPN, beside which a narrower one works."""

    def collides(self, wanted: ipaddress.IPv4Network) -> bool:
        """Whether a route to `wanted` would lose to this one, or take addresses away that are in use."""
        return self.network.subnet_of(wanted) or (self.is_whole and self.network.overlaps(wanted))


def used_ranges(spec: NodeSpec) -> list[UsedRange]:
    """IPv4 ranges that this machine uses already; the node's own link does not count."""
    used = []
    for link in ip("-4", "addr") or []:
        for address in link.get("addr_info", []):
            if link["ifname"] != spec.interface and "local" in address:
                network = ipaddress.IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
                is_whole = network.prefixlen >= _NARROW_LINK or network.is_loopback
                used.append(UsedRange(network, _user(link["ifname"]), is_whole))
    for route in ip("-4", "route", "show", "table", "all") or []:
        destination, device = route["dst"], route.get("dev", route.get("type", "a route"))
        if _WITHOUT_NAME.fullmatch(device) and device not in {link["ifname"] for link in ip("link")}:
            continue  # the link went between two answers of the kernel, and its routes with it
        if (
            destination != "default"
            and device != spec.interface
            and route.get("type") not in ("broadcast", "multicast")
        ):
            network = ipaddress.IPv4Network(destination, strict=False)
            # Routes of another table may come before ours, however narrow ours are.
            is_whole = device.startswith(_OURS) or route.get("table", "main") not in ("main", "local")
            used.append(UsedRange(network, _user(device), is_whole))
    return used


def check_free(spec: NodeSpec) -> None:
    """Raises: NodeError: one of the node's ranges is in use on this machine; names the user and a free range."""
    used = used_ranges(spec)
    for field in _CANDIDATES:
        wanted = ipaddress.IPv4Network(getattr(spec, field))
        for each in used:
            if each.collides(wanted):
                free = _free_range(spec, field, used)
                raise NodeError(
                    f"{field} of node {spec.instance} is in use on this machine.",
                    got=f"{wanted} overlaps {each.network} ({each.user})",
                    hint=f"a free range is {free}" if free else "free one: no private range is left on this machine",
                )


def _user(device: str) -> str:
    return f"embedded node {device[4:]}" if device.startswith(_OURS) else f"interface {device}"


def _free_range(spec: NodeSpec, field: str, used: list[UsedRange]) -> ipaddress.IPv4Network | None:
    """A private range in which nothing is reached; else one that a wide route covers and nothing else."""
    prefix = ipaddress.IPv4Network(getattr(spec, field)).prefixlen
    others = [ipaddress.IPv4Network(getattr(spec, other)) for other in _CANDIDATES if other != field]
    places = [f"10.{second}" for second in (*range(240, 256), *range(16, 240))]
    places += [f"172.{second}" for second in range(16, 32)] + [f"100.{second}" for second in range(64, 128)]
    candidates = [ipaddress.IPv4Network((f"{place}.{_CANDIDATES[field]}", prefix), strict=False) for place in places]
    apart = [each for each in candidates if not any(each.overlaps(other) for other in others)]
    untouched = (each for each in apart if not any(each.overlaps(one.network) for one in used))
    covered = (each for each in apart if not any(one.collides(each) for one in used))
    return next(untouched, None) or next(covered, None)


def attach(spec: NodeSpec, pid: int) -> None:
    """Make the link from this machine into the network namespace of `pid`, and the routes to pods and Services.

    The link ends with the namespace. Changes nothing where all is there already.

    Raises:
        NodeError: a command failed.
    """
    name = spec.interface
    if not has_link(spec):
        ip("link", "add", name, "type", "veth", "peer", "name", _INNER_LINK, "netns", str(pid))
    ip("addr", "replace", f"{spec.host_address}/30", "dev", name)
    ip("link", "set", name, "up")
    for cidr in (spec.pod_cidr, spec.service_cidr):
        ip("route", "replace", cidr, "via", spec.node_address, "dev", name)


def has_link(spec: NodeSpec) -> bool:
    """Whether this machine's end of the link is there."""
    return spec.interface in {link["ifname"] for link in ip("link")}


def problem(spec: NodeSpec) -> str | None:
    """What is missing of the host's side of the link, None where all is there."""
    links = {link["ifname"]: link for link in ip("-4", "addr")}
    if spec.interface not in links:
        return f"the interface {spec.interface} is gone"
    if spec.host_address not in {address.get("local") for address in links[spec.interface]["addr_info"]}:
        return f"{spec.interface} lacks its address {spec.host_address}"
    routes = {route["dst"] for route in ip("-4", "route", "show", "dev", spec.interface) or []}
    missing = [cidr for cidr in (spec.pod_cidr, spec.service_cidr) if cidr not in routes]
    return f"no route to {', '.join(missing)}" if missing else None


def answers_dns(spec: NodeSpec, *, timeout_s: float = 3.0) -> bool:
    """Whether the cluster's DNS answers: one question that needs route, Service, kube-proxy, pod link and CoreDNS."""
    labels = ("kubernetes", "default", "svc", "cluster", "local")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    query = struct.pack(">6H", _DNS_ID, 0x0100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect((spec.dns_address, 53))
            client.send(query)
            answer = client.recv(512).ljust(8, b"\0")
        except OSError:
            return False
    identity, flags, _, num_answers = struct.unpack(">4H", answer[:8])
    return bool(identity == _DNS_ID and flags & 0x800F == 0x8000 and num_answers)


def wait_gone(spec: NodeSpec, *, timeout_s: float = 5.0) -> None:
    """Wait until the kernel has ended the link with its namespace; take it away by hand where it stays."""
    deadline = time.monotonic() + timeout_s
    while has_link(spec):
        if time.monotonic() > deadline:
            ip("link", "del", spec.interface)
            return
        time.sleep(0.05)


# --- the node's side --------------------------------------------------------------------------------------------------


def configure_inside(spec: NodeSpec, *, timeout_s: float = 30.0) -> None:
    """In the node's network namespace: wait for the link, set addresses, routes and forwarding, and close the way out.

    Raises:
        NodeError: the link did not come, or a command failed.
    """
    deadline = time.monotonic() + timeout_s
    while _INNER_LINK not in {name for _, name in socket.if_nameindex()}:
        if time.monotonic() > deadline:
            raise NodeError(
                "The link into the node's network namespace was not made.",
                hint="see the output of the command that started the node",
            )
        time.sleep(0.02)
    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{spec.node_address}/30", "dev", _INNER_LINK)
    ip("link", "set", _INNER_LINK, "up")
    # Only so that a connection to a Service finds a route; kube-proxy sends it to a pod before it leaves.
    ip("route", "add", spec.service_cidr, "dev", _INNER_LINK, "src", spec.node_address)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    done = subprocess.run(
        ["nft", "-f", "-"], input="\n".join(_closed(spec)), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NodeError("nft refused the node's rules.", got=done.stderr.strip())


def _closed(spec: NodeSpec) -> Iterator[str]:
    inside = f"{{ 127.0.0.0/8, {spec.node_address}, {spec.pod_cidr}, {spec.service_cidr} }}"
    yield "table inet sovereign {"
    for hook in ("output", "forward"):
        yield f" chain {hook} {{"
        yield f"  type filter hook {hook} priority filter; policy accept;"
        yield f"  ct state new ip daddr != {inside} counter reject"
        yield f'  ct state new meta nfproto ipv6 oifname "{_INNER_LINK}" counter reject'
        yield " }"
    yield "}"

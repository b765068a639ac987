"""What one instance of the embedded node is: its name, folders, subnets, programs, bind mounts and images.

`NodeSpec` is pure data with checks that need no machine; what clashes with this host is found by `stacks.node.network`.
Standard library only, as the supervisor imports it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.errors import NodeError
from sovereign.files import write_atomic

REGISTRY = "sovereign.local"
"""Name in front of every image of the node; nothing listens there, all images are imported."""
NODE_NAME = "local"
"""Name of the one Kubernetes Node object."""
UNPRIVILEGED = "65532:65532"
"""User and group of the workload images."""
PROGRAMS = (
    "containerd", "containerd-shim-runc-v2", "coredns", "ctr", "etcd", "kube-apiserver", "kube-controller-manager",
    "kube-proxy", "kube-scheduler", "kubeadm", "kubectl", "kubelet",
)  # fmt: skip
"""Programs that `NodeSpec.binaries` must name."""

_INSTANCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?")
_IMAGE_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PATH = re.compile(r"/[A-Za-z0-9._+@%=~/-]*")
_MASKED = (
    "/run",
    "/var/run",
    "/proc",
    "/sys",
    "/dev",
    "/etc/kubernetes",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log",
)


@dataclass(frozen=True)
class BinaryImage:
    """An image with one static program, imported as `sovereign.local/<name>:<tag>`."""

    name: str
    tag: str
    binary: Path
    """The program on this machine."""
    entrypoint: tuple[str, ...]
    """Its first item is the absolute path of the program inside the image, the rest its fixed arguments."""
    user: str = UNPRIVILEGED

    @property
    def reference(self) -> str:
        return f"{REGISTRY}/{self.name}:{self.tag}"


@dataclass(frozen=True)
class NodeSpec:
    """One instance of the embedded node.

    Raises:
        NodeError: a field is malformed, or two of the CIDRs overlap.
    """

    instance: str
    """DNS label of at most 10 characters; the interface on the host is `sov-<instance>`."""
    state_dir: Path
    """Absolute folder of everything that the node writes."""
    pod_cidr: str
    """IPv4, /16 to /26: addresses of pods."""
    service_cidr: str
    """IPv4, /12 to /28: addresses of Services."""
    link_cidr: str
    """IPv4 /30: the first address is the host's, the second the node's."""
    binaries: Mapping[str, Path]
    """Absolute path of each of `PROGRAMS`."""
    binds: tuple[Path, ...] = ()
    """Absolute host folders or files that pods may see, read-only, below `host_volume`."""
    images: tuple[BinaryImage, ...] = ()
    """Further images to import, e.g. Kueue and versitygw."""

    def __post_init__(self) -> None:
        if not _INSTANCE.fullmatch(self.instance):
            raise NodeError(
                "The node's instance name is not usable.",
                got=self.instance,
                expected="1 to 10 characters a-z, 0-9, '-' (it becomes part of an interface name)",
            )
        check_path("state_dir", self.state_dir)
        self._check_cidrs()
        if missing := [name for name in PROGRAMS if name not in self.binaries]:
            raise NodeError(
                "The node lacks programs.", got=f"missing: {', '.join(missing)}", expected=", ".join(PROGRAMS)
            )
        for bind in self.binds:
            check_path("binds", bind)
        for image in self.images:
            if not (_IMAGE_NAME.fullmatch(image.name) and _IMAGE_TAG.fullmatch(image.tag)):
                raise NodeError("An image's name or tag is not usable.", got=image.reference)
            if not (image.entrypoint and image.entrypoint[0].startswith("/")):
                raise NodeError(
                    f"The entrypoint of image {image.reference} must start with the program's path in the image.",
                    got=image.entrypoint,
                )

    def _check_cidrs(self) -> None:
        cidrs = {
            "pod_cidr": _network("pod_cidr", self.pod_cidr, 16, 26),
            "service_cidr": _network("service_cidr", self.service_cidr, 12, 28),
            "link_cidr": _network("link_cidr", self.link_cidr, 30, 30),
        }
        names = sorted(cidrs)
        for index, first in enumerate(names):
            for second in names[index + 1 :]:
                if cidrs[first].overlaps(cidrs[second]):
                    raise NodeError(
                        f"{first} and {second} of node {self.instance} overlap.",
                        got=f"{cidrs[first]} and {cidrs[second]}",
                        expected="three ranges that share no address",
                    )

    # --- addresses -------------------------------------------------------------------------------------------------

    @property
    def host_address(self) -> str:
        """The host's end of the link."""
        return str(ipaddress.IPv4Network(self.link_cidr)[1])

    @property
    def node_address(self) -> str:
        """The node's own address: API server, kubelet, host-network pods."""
        return str(ipaddress.IPv4Network(self.link_cidr)[2])

    @property
    def dns_address(self) -> str:
        """The cluster's DNS Service, where kubeadm puts it."""
        return str(ipaddress.IPv4Network(self.service_cidr)[10])

    @property
    def api_server(self) -> str:
        return f"https://{self.node_address}:6443"

    @property
    def interface(self) -> str:
        """Name of the host's end of the link."""
        return f"sov-{self.instance}"

    @property
    def cgroup(self) -> str:
        """Name of the cgroup, directly below the root of each hierarchy, that holds all of the node's processes."""
        return f"sovereign-{self.instance}"

    # --- files -----------------------------------------------------------------------------------------------------

    @property
    def node_json(self) -> Path:
        return self.state_dir / "node.json"

    @property
    def status_json(self) -> Path:
        """What the supervisor says of itself, see `stacks.node.status`."""
        return self.state_dir / "status.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, mode 0600."""
        return self.state_dir / "admin.conf"

    @property
    def cluster_uid_file(self) -> Path:
        return self.state_dir / "cluster-uid"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "log"

    @property
    def config_dir(self) -> Path:
        return self.state_dir / "config"

    @property
    def kubernetes_dir(self) -> Path:
        """The node's /etc/kubernetes."""
        return self.state_dir / "etc"

    @property
    def host_volume(self) -> Path:
        """Folder that holds only the bind mounts; the host itself sees empty mount points there."""
        return self.state_dir / "host"

    @property
    def volumes_dir(self) -> Path:
        """Folder for hostPath volumes of data; survives `remove` unless the data is to go."""
        return self.state_dir / "volumes"

    # --- JSON ------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Canonical text: equal specs give equal text."""
        record = {
            "instance": self.instance,
            "state_dir": str(self.state_dir),
            "pod_cidr": self.pod_cidr,
            "service_cidr": self.service_cidr,
            "link_cidr": self.link_cidr,
            "binaries": {name: str(path) for name, path in self.binaries.items()},
            "binds": [str(path) for path in self.binds],
            "images": [
                {
                    "name": image.name,
                    "tag": image.tag,
                    "binary": str(image.binary),
                    "entrypoint": list(image.entrypoint),
                    "user": image.user,
                }
                for image in self.images
            ],
        }
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> NodeSpec:
        """Raises: NodeError: the text is not a node's record."""
        try:
            record: dict[str, Any] = json.loads(text)
            return cls(
                instance=record["instance"],
                state_dir=Path(record["state_dir"]),
                pod_cidr=record["pod_cidr"],
                service_cidr=record["service_cidr"],
                link_cidr=record["link_cidr"],
                binaries={name: Path(path) for name, path in record["binaries"].items()},
                binds=tuple(Path(path) for path in record.get("binds", ())),
                images=tuple(
                    BinaryImage(
                        i["name"], i["tag"], Path(i["binary"]), tuple(i["entrypoint"]), i.get("user", UNPRIVILEGED)
                    )
                    for i in record.get("images", ())
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NodeError("A node's record (node.json) is damaged.", got=repr(error)) from error

    @property
    def digest(self) -> str:
        """Short name of this very spec, by which ensure sees what the supervisor has taken in."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def save(self) -> None:
        """Write node.json atomically, mode 0600."""
        write_atomic(self.node_json, self.to_json(), mode=0o600)

    @classmethod
    def load(cls, state_dir: Path) -> NodeSpec | None:
        """The spec that was saved in `state_dir`, None where there is none.

        Raises:
            NodeError: node.json is damaged.
        """
        try:
            return cls.from_json((state_dir / "node.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None


def _network(field: str, text: str, shortest: int, longest: int) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise NodeError(
            f"{field} is not an IPv4 range.", got=text, expected="e.g. 10.240.0.0/24", hint=str(error)
        ) from error
    if not shortest <= network.prefixlen <= longest:
        raise NodeError(f"{field} has an unusable size.", got=text, expected=f"a prefix of /{shortest} to /{longest}")
    return network


def check_path(field: str, path: Path) -> None:
    """Raises: NodeError: containers, mount tables or kubeadm could not take the path."""
    text = str(path)
    plain = _PATH.fullmatch(text) and text != "/" and ".." not in path.parts
    if not plain:
        raise NodeError(
            f"{field} holds a path that the node cannot use.",
            got=text,
            expected="an absolute path below / of letters, digits and ._+@%=~- (no spaces, no ..)",
        )
    if any(text == masked or text.startswith(masked + "/") for masked in _MASKED):
        raise NodeError(
            f"{field} lies where the node has its own mounts.", got=text, expected=f"not below {', '.join(_MASKED)}"
        )

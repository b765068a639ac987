"""Configuration of the node's programs as data, written as TOML and as YAML (in its JSON form).

Standard library only, as the supervisor imports it.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.errors import NodeError
from sovereign.files import write_atomic
from stacks.node.images import PAUSE_IMAGE
from stacks.node.spec import NODE_NAME, REGISTRY, NodeSpec

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("ptp", "host-local", "loopback")
"""ptp, not bridge: packets between pods are routed, so that Services work without the module br_netfilter."""
RUN_DIR = Path("/run/sovereign")
"""Sockets and state that end with the node; on a tmpfs that only the node sees. Short, as socket paths are limited."""
CONTAINERD_SOCKET = RUN_DIR / "containerd.sock"
KUBELET_CONFIG = Path("/var/lib/kubelet/config.yaml")
KUBELET_KUBECONFIG = Path("/etc/kubernetes/kubelet.conf")
PROXY_KUBECONFIG = Path("/etc/kubernetes/kube-proxy.conf")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Machine:
    """What the configuration depends on of the machine."""

    cgroup_v1: bool
    can_lower_oom_score: bool
    """CAP_SYS_RESOURCE; without it containerd must not try."""
    snapshotter: str
    kubernetes_version: str


COREFILE = """\
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 30
    }
    prometheus :9153
    cache 30
    reload
    loadbalance
}
.:53 {
    template ANY ANY {
        rcode NXDOMAIN
    }
}
"""
"""Names outside do not exist; with a server to ask for them, CoreDNS would probe that all the time."""


def find_program(name: str) -> Path:
    """Raises: NodeError: a program of the distribution is missing."""
    if found := shutil.which(name, path=SYSTEM_PATH):
        return Path(found)
    raise NodeError(f"The program {name} is missing.", hint="`sovereign doctor` names the package")


def cni_folder() -> Path | None:
    """Folder that holds the needed CNI plugins, None where there is none."""
    return next((f for f in CNI_FOLDERS if all((f / plugin).exists() for plugin in CNI_PLUGINS)), None)


def containerd_config(spec: NodeSpec, machine: Machine) -> dict[str, Any]:
    root = spec.state_dir / "containerd"
    runc = {
        "runtime_type": "io.containerd.runc.v2",
        "runtime_path": str(spec.binaries["containerd-shim-runc-v2"]),
        "options": {"BinaryName": str(find_program("runc")), "SystemdCgroup": False},
    }
    return {
        "version": 3,
        "root": str(root),
        "state": str(RUN_DIR / "containerd"),
        # These two write to /opt and /etc of the host.
        "disabled_plugins": ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"],
        "grpc": {"address": str(CONTAINERD_SOCKET)},
        "ttrpc": {"address": f"{CONTAINERD_SOCKET}.ttrpc"},
        "plugins": {
            "io.containerd.cri.v1.images": {
                "snapshotter": machine.snapshotter,
                "pinned_images": {"sandbox": PAUSE_IMAGE},
            },
            "io.containerd.cri.v1.runtime": {
                "restrict_oom_score_adj": not machine.can_lower_oom_score,
                "cni": {"bin_dirs": [str(cni_folder() or CNI_FOLDERS[0])], "conf_dir": str(spec.config_dir / "cni")},
                "containerd": {"default_runtime_name": "runc", "runtimes": {"runc": runc}},
            },
        },
    }


def cni_config(spec: NodeSpec) -> dict[str, Any]:
    """Addresses are kept on the tmpfs: when the node starts anew no pod holds one any more."""
    ipam = {
        "type": "host-local",
        "dataDir": str(RUN_DIR / "ipam"),
        "ranges": [[{"subnet": spec.pod_cidr}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}]}


def kubeadm_config(spec: NodeSpec, machine: Machine) -> list[dict[str, Any]]:
    """The documents for `kubeadm init`: what differs from kubeadm's defaults, with the reason where it is not plain."""
    api = "kubeadm.k8s.io/v1beta4"
    pod_prefix = ipaddress.IPv4Network(spec.pod_cidr).prefixlen
    # One instance of each leads at once; with election a restart would wait for the lease of the dead one to end.
    no_election = {"name": "leader-elect", "value": "false"}
    init = {
        "apiVersion": api,
        "kind": "InitConfiguration",
        "nodeRegistration": {
            "name": NODE_NAME,
            "criSocket": f"unix://{CONTAINERD_SOCKET}",
            "imagePullPolicy": "IfNotPresent",
            "taints": [],
            "kubeletExtraArgs": [{"name": "node-ip", "value": spec.node_address}],
        },
        "localAPIEndpoint": {"advertiseAddress": spec.node_address, "bindPort": 6443},
    }
    cluster = {
        "apiVersion": api,
        "kind": "ClusterConfiguration",
        "clusterName": spec.instance,
        "kubernetesVersion": machine.kubernetes_version,
        "imageRepository": REGISTRY,
        "networking": {"podSubnet": spec.pod_cidr, "serviceSubnet": spec.service_cidr},
        "etcd": {"local": {"dataDir": str(spec.state_dir / "etcd")}},
        "controllerManager": {
            "extraArgs": [no_election, {"name": "node-cidr-mask-size", "value": str(pod_prefix)}],
        },
        "scheduler": {"extraArgs": [no_election]},
        "proxy": {"disabled": True},
    }
    return [init, cluster, kubelet_config(spec, machine)]


def kubelet_config(spec: NodeSpec, machine: Machine) -> dict[str, Any]:
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{spec.cgroup}",
        "failSwapOn": False,
        "resolvConf": str(spec.config_dir / "resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",  # the default lies below the host's /usr/libexec
        "imageGCHighThresholdPercent": 100,  # never delete an image: there is no registry to fetch it from again
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
        # By default only changes are told at once; after an outage the kubelet may not know that it is thought dead.
        "nodeStatusReportFrequency": "10s",
    }
    return config | ({"failCgroupV1": False} if machine.cgroup_v1 else {})


def proxy_config(spec: NodeSpec) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": spec.pod_cidr,
        "hostnameOverride": NODE_NAME,
        "metricsBindAddress": "127.0.0.1:10249",
        "healthzBindAddress": "127.0.0.1:10256",
        # The conntrack limits are the whole machine's, not the node's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "clientConnection": {"kubeconfig": str(PROXY_KUBECONFIG)},
    }


def coredns_config() -> dict[str, Any]:
    """The cluster's names as kubeadm has them, but no server outside is asked: other names do not exist."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "coredns", "namespace": "kube-system"},
        "data": {"Corefile": COREFILE},
    }


def to_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """YAML documents in the JSON form, which every YAML reader takes."""
    return "".join(f"---\n{json.dumps(document, indent=1)}\n" for document in documents)


def to_toml(table: Mapping[str, Any]) -> str:
    """TOML with one line per top-level key, nested tables inline."""
    return "".join(f"{_toml_value(key)} = {_toml_value(value)}\n" for key, value in table.items())


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_value(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):  # the escapes of JSON, without surrogates; TOML wants DEL escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise TypeError(f"no TOML form for {value!r}")


def write_all(spec: NodeSpec, machine: Machine) -> None:
    """Write every configuration file below `spec.config_dir`."""
    folder = spec.config_dir
    (folder / "cni").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "containerd.toml", to_toml(containerd_config(spec, machine)))
    write_atomic(folder / "cni" / "10-pods.conflist", json.dumps(cni_config(spec), indent=1))
    write_atomic(folder / "kubeadm.yaml", to_yaml(kubeadm_config(spec, machine)))
    write_atomic(folder / "kube-proxy.yaml", to_yaml([proxy_config(spec)]))
    write_atomic(folder / "coredns.yaml", to_yaml([coredns_config()]))
    write_atomic(folder / "resolv.conf", "# Nobody here knows names outside the cluster.\n")

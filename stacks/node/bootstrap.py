"""From an empty containerd to a cluster: images, `kubeadm init`, certificates. Run inside the node."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sovereign.errors import NodeError
from sovereign.files import write_atomic
from stacks.node import config, images
from stacks.node.children import Children
from stacks.node.spec import BinaryImage, NodeSpec
from stacks.node.status import StatusFile

_RENEW_AFTER_DAYS = 270
"""kubeadm's certificates are good for 365 days."""
_NUM_IMPORTS = 2
_IMPORT_S = 120.0
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "coredns")


def initialised(spec: NodeSpec) -> Path:
    """File that says that `kubeadm init` came to its end; without it, what it left is worth nothing."""
    return spec.state_dir / "initialised"


class Bootstrap:
    """The steps between containerd and a running cluster."""

    def __init__(self, machine: config.Machine, children: Children, status: StatusFile) -> None:
        self._machine, self._children, self._status = machine, children, status
        self._pool = ThreadPoolExecutor(1 + _NUM_IMPORTS)

    def prepare(self, spec: NodeSpec) -> Future[None]:
        """Begin `kubeadm init`, which waits for the kubelet; on a cluster that is there, renew old certificates."""
        if not initialised(spec).exists():
            return self._pool.submit(self._init, spec)
        self._renew(spec)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _kubeadm(self, spec: NodeSpec, *arguments: str, log: str = "kubeadm", output: Path | None = None) -> None:
        configuration = str(spec.config_dir / "kubeadm.yaml")
        command = [str(spec.binaries["kubeadm"]), *arguments, "--config", configuration]
        self._children.run(command, spec.log_dir / f"{log}.log", output=output)

    def _init(self, spec: NodeSpec) -> None:
        # Without preflight: it asks for images before they are imported; `stacks.node.doctor` checks the machine.
        skipped = "--skip-phases=preflight,addon,show-join-command"
        self._kubeadm(spec, "init", skipped, log="kubeadm-init")
        names = ["apply", "--server-side", "--filename", str(spec.config_dir / "coredns.yaml")]
        kubectl = [str(spec.binaries["kubectl"]), "--kubeconfig", str(spec.kubernetes_dir / "admin.conf"), *names]
        self._children.run(kubectl, spec.log_dir / "coredns.log")
        self._kubeadm(spec, "init", "phase", "addon", "coredns", log="kubeadm-coredns")  # keeps that configuration
        write_atomic(initialised(spec), "")

    def _renew(self, spec: NodeSpec) -> None:
        issued = (spec.kubernetes_dir / "pki" / "apiserver.crt").stat().st_mtime
        if time.time() - issued > _RENEW_AFTER_DAYS * 86400:
            self._kubeadm(spec, "certs", "renew", "all")

    def hand_out_kubeconfigs(self, spec: NodeSpec) -> None:
        """kube-proxy's own, with a new certificate at each start, and the administrator's, where people look for it."""
        fresh = config.PROXY_KUBECONFIG.with_suffix(".new")
        self._kubeadm(spec, "kubeconfig", "user", "--client-name", "system:kube-proxy", output=fresh)
        fresh.chmod(0o600)
        fresh.replace(config.PROXY_KUBECONFIG)
        write_atomic(spec.kubeconfig, (spec.kubernetes_dir / "admin.conf").read_text(), mode=0o600)

    # --- images ----------------------------------------------------------------------------------------------------

    def import_images(self, spec: NodeSpec) -> None:
        """Import what containerd does not hold yet under its name and digest.

        Raises:
            NodeError: an image cannot be imported.
        """
        cache_file = spec.state_dir / "layers.json"
        cache = images.LayerCache(cache_file)
        listing = spec.config_dir / "containerd-images.txt"
        self._children.run([*_ctr(spec), "images", "ls"], spec.log_dir / "images.log", output=listing)
        held = {tuple(line.split()[0:3:2]) for line in listing.read_text().splitlines()[1:]}

        def take(image: images.Image) -> None:
            packed = cache.archive(image)
            if (image.reference, packed.digest) not in held:
                self._status.step(f"importing image {image.reference}")
                self._import(spec, image.reference, packed)

        for done in [self._pool.submit(take, image) for image in self._wanted_images(spec)]:
            done.result()
        write_atomic(cache_file, cache.dump())

    def _wanted_images(self, spec: NodeSpec) -> list[images.Image]:
        listing = spec.config_dir / "kubeadm-images.txt"
        self._kubeadm(spec, "config", "images", "list", output=listing)
        wanted = []
        for reference in listing.read_text().split():
            name, _, tag = reference.rpartition("/")[2].partition(":")
            if name in _CONTROL_PLANE:
                entrypoint = (f"/usr/local/bin/{name}",)
                wanted.append(BinaryImage(name, tag, spec.binaries[name], entrypoint, user="0:0"))
        own = [images.pause_image(config.find_program("catatonit")), images.host_image()]
        return own + [images.from_binary(image) for image in (*wanted, *spec.images)]

    def _import(self, spec: NodeSpec, reference: str, packed: images.Archive) -> None:
        log = spec.log_dir / "images.log"
        command = [*_ctr(spec), "images", "import", "--local", "--snapshotter", self._machine.snapshotter, "-"]
        child = self._children.spawn(command, log, pipe=True)
        try:
            with child.stdin as stream:
                packed.write(stream)
        except BrokenPipeError:
            child.wait(_IMPORT_S)
        if not child.wait(_IMPORT_S) or child.returncode != 0:
            raise NodeError(f"The image {reference} cannot be imported.", hint=f"see {log}; is the disk full?")


def _ctr(spec: NodeSpec) -> list[str]:
    return [str(spec.binaries["ctr"]), "--address", str(config.CONTAINERD_SOCKET), "--namespace", "k8s.io"]

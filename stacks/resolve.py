"""From a site and its profile to what is deployed and where: programs, images, runtime, node, keys. No pulumi."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import ClusterError, SiteError
from sovereign.plan import Plan
from sovereign.profile import EmbeddedTarget, KubeconfigTarget, Profile
from sovereign.runtime import Runtime, current_runtime
from sovereign.site import Site
from sovereign.tools import ensure_tools, find_data, find_tool, load_tools
from sovereign.workload import PodRuntime, ServedModel, database_ports, embedded_runtime, image_runtime, source_folders
from stacks.fields import ObjectRef
from stacks.identity import Owner
from stacks.kube import Cluster
from stacks.kueue import kueue_objects
from stacks.node import lifecycle, processes
from stacks.node.spec import PROGRAMS, BinaryImage, NodeSpec
from stacks.objects import Platform
from stacks.state import read_state
from stacks.takeover import refuse_site

_IMAGES: Mapping[str, tuple[str, str]] = {
    "kueue": ("registry.k8s.io/kueue/kueue", "/manager"),
    "versitygw": ("ghcr.io/versity/versitygw", "/versitygw"),
}
"""Upstream image of each program that runs in an image of its own, and where the program lies in it."""


@dataclass(frozen=True)
class Target:
    """The cluster: a kubeconfig, and the node behind it when it is ours."""

    kubeconfig: Path
    context: str | None
    node: NodeSpec | None
    """The embedded node; None for an existing cluster."""


@dataclass(frozen=True)
class Deployment:
    """What is deployed, and where."""

    platform: Platform
    target: Target
    programs: Mapping[str, Path]
    """Paths of upstream programs by name."""


def resolve(
    site: Site,
    profile: Profile,
    plan: Plan,
    *,
    champion: ServedModel | None = None,
    runtime: Runtime | None = None,
    build: Callable[[str, float], None] | None = None,
) -> Deployment:
    """Resolve the deployment of `site`.

    Args:
        site: the site.
        profile: its profile.
        plan: the profile's plan.
        champion: the model to serve.
        runtime: the runtime that pods of an embedded node use; by default this process's own.
        build: called with progress while missing programs are built; None refuses instead.

    Raises:
        ToolError: a program is missing and cannot be built, or this Python is no runtime.
        SiteError: the site has no passphrase, or its file `pgpass` is none that libpq takes.
    """
    names = [*PROGRAMS, *_IMAGES] if isinstance(profile.target, EmbeddedTarget) else ["kubectl", "kueue"]
    names.append("pulumi")
    programs = ensure_tools(names, build) if build else {name: find_tool(name) for name in names}
    if isinstance(profile.target, EmbeddedTarget):
        used = runtime or current_runtime()
        node = embedded_node(site, profile, profile.target, programs, used)
        target = Target(node.kubeconfig, None, node)
        images = {image.name: image.reference for image in node.images}
        pods = embedded_runtime(used, node.host_volume, node.volumes_dir)
    else:
        target = Target(profile.target.path, profile.target.context, None)
        tools = load_tools()
        images = {name: f"{upstream}:v{tools[name].version}" for name, (upstream, _) in _IMAGES.items()}
        pods = image_runtime(profile.target)
    platform = Platform(
        profile=profile,
        plan=plan,
        runtime=pods,
        images=images,
        kueue=lambda: kueue_objects(
            programs["kubectl"], find_data("kueue", "config"), image=images["kueue"], pull_policy=pods.pull_policy
        ),
        overlays=(site.overlays_dir,),
        s3_secret_key=s3_secret_key(site),
        champion=champion,
        site=site.id,
        database_passwords=site.database_passwords() if database_ports(profile) else None,
    )
    return Deployment(platform, target, programs)


def _binds(profile: Profile, runtime: Runtime) -> tuple[Path, ...]:
    """Folders that pods may see: the runtime's and those of the sources."""
    sources = [
        folder for folder in source_folders(profile) if not any(folder.is_relative_to(bind) for bind in runtime.binds)
    ]
    return tuple(sorted({*runtime.binds, *sources}))


def embedded_node(
    site: Site, profile: Profile, target: EmbeddedTarget, programs: Mapping[str, Path], runtime: Runtime
) -> NodeSpec:
    """The node that a deploy of `site` makes from `programs` (paths by name) for pods that use `runtime`.

    Raises:
        SiteError: the site's folder was moved while its node was there.
        NodeError: a path or range cannot be used.
    """
    _known_node(site)
    tools = load_tools()
    return NodeSpec(
        instance=target.instance,
        state_dir=site.node_dir,
        pod_cidr=target.pod_cidr,
        service_cidr=target.service_cidr,
        link_cidr=target.link_cidr,
        binaries={name: programs[name] for name in PROGRAMS},
        binds=_binds(profile, runtime),
        images=tuple(
            BinaryImage(name, f"v{tools[name].version}", programs[name], (program,))
            for name, (_, program) in _IMAGES.items()
        ),
    )


def connect(site: Site, profile: Profile, progress: Callable[[str], None]) -> Cluster:
    """The cluster of `site`, for commands that work with what was deployed; the caller closes it.

    An embedded node whose processes have ended, by a reboot for example, is brought back with its data.

    Raises:
        ClusterError: nothing was deployed, it is another cluster than the recorded one, or another site's by now.
        SiteError: the site's folder was moved while its node was there.
        NodeError: the node cannot be brought back.
    """
    recorded = read_state(site, "cluster").outputs.get("cluster_uid")
    if isinstance(profile.target, KubeconfigTarget):
        if recorded is None:
            raise ClusterError("nothing is deployed to the cluster yet", hint=f"sovereign deploy {site.root}")
        return _own(reach(site, profile.target), site)
    spec = _known_node(site)
    if spec is None:
        raise ClusterError("the embedded node is not there", hint=f"sovereign deploy {site.root}")
    if processes.find(spec.state_dir) is None:
        lifecycle.ensure(spec, progress)
    return Cluster(spec.kubeconfig, None, recorded)


def reach(site: Site, target: KubeconfigTarget) -> Cluster:
    """An existing cluster, whether or not `site` was deployed to it; the caller closes it.

    Raises:
        ClusterError: the kubeconfig cannot be used, or, at the first request, it is not the recorded cluster.
    """
    return Cluster(target.path, target.context, read_state(site, "cluster").outputs.get("cluster_uid"))


def _own(cluster: Cluster, site: Site) -> Cluster:
    """`cluster`, whose namespace for training belongs to `site`."""
    try:
        live = cluster.get(ObjectRef("v1", "Namespace", "training"), timeout_s=5.0)
        if live is not None and Owner.of(live).site not in (None, site.id):
            refuse_site(live)
    except ClusterError:
        cluster.close()
        raise
    return cluster


def _known_node(site: Site) -> NodeSpec | None:
    """The node that was made in `site`, None where there is none.

    Raises:
        SiteError: volumes, mounts and state name the folder in which the node was made, which is another.
    """
    known = NodeSpec.load(site.node_dir)
    if known is not None and known.state_dir != site.node_dir:
        raise SiteError(
            "the site's folder was moved while its node was there",
            got=site.root,
            expected=known.state_dir.parent,
            hint="move it back; `sovereign destroy` there keeps the data, after it the folder can be moved",
        )
    return known


def s3_secret_key(site: Site) -> str:
    """The store's root key.

    Raises:
        SiteError: the passphrase cannot be read.
    """
    return secret_key(site, "s3 root key")


def secret_key(site: Site, purpose: str) -> str:
    """A key of the site for `purpose`, 40 hex digits: derived from the passphrase, so that it is kept nowhere else.

    Raises:
        SiteError: the passphrase cannot be read.
    """
    try:
        passphrase = site.passphrase_file.read_bytes().strip()
    except OSError as error:
        raise SiteError(f"the site's passphrase cannot be read: {error}", hint="restore it from a backup") from error
    return hmac.new(passphrase, f"sovereign/v1 {purpose}".encode(), hashlib.sha256).hexdigest()[:40]


def pod_runtime(site: Site, profile: Profile, runtime: Runtime | None = None) -> PodRuntime:
    """How Jobs of this site get their programs, without looking for upstream programs.

    Raises:
        ToolError: the target is embedded and this Python is no runtime.
    """
    if isinstance(profile.target, KubeconfigTarget):
        return image_runtime(profile.target)
    return embedded_runtime(runtime or current_runtime(), site.node_dir / "host", site.node_dir / "volumes")

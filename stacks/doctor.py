"""Whether the target of a profile can be deployed to: this machine's fitness for a node, or a cluster's answer."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sovereign.errors import ClusterError
from sovereign.profile import EmbeddedTarget, KubeconfigTarget, Profile
from sovereign.runtime import current_runtime
from sovereign.site import Site
from sovereign.tools import list_tools
from stacks.node import doctor, processes
from stacks.node.doctor import Check
from stacks.resolve import embedded_node, reach

NOT_BUILT = Path("/not-built-yet")
"""Stands for the folder of a program that is missing, in the check that names it."""


def checks(site: Site, profile: Profile) -> list[Check]:
    """All checks of the target of `profile`, in the order to fix them in; nothing of the site need be there.

    Raises:
        SovereignError: see `stacks.resolve.embedded_node`; also when this Python is no runtime.
    """
    if not isinstance(profile.target, EmbeddedTarget):
        return [_cluster(site, profile.target)]
    programs = {tool.name: tool.path or NOT_BUILT / tool.name for tool in list_tools()}
    return doctor.checks(embedded_node(site, profile, profile.target, programs, current_runtime()))


def _cluster(site: Site, target: KubeconfigTarget) -> Check:
    try:
        cluster = reach(site, target)
        try:
            return Check("cluster", True, f"context {target.context}, kube-system {cluster.uid}")
        finally:
            cluster.close()
    except ClusterError as error:
        found = error.message if error.got is None else f"{error.message}: {error.got}"
        return Check("cluster", False, found, error.hint or "check target.path and target.context, and the network")


def refuse_unfit(site: Site, profile: Profile, *, installs: bool = False) -> None:
    """Raise what stands in the way of a deploy, before programs are built for minutes.

    Args:
        site: the site.
        profile: its profile.
        installs: whether missing distribution packages will be installed.

    Raises:
        NodeError: this machine cannot run the node.
        ClusterError: the profile's cluster cannot be used.
        SovereignError: see `checks`.
    """
    if not isinstance(profile.target, EmbeddedTarget):
        with closing(reach(site, profile.target)) as cluster:
            _ = cluster.uid  # the first request: it answers, and is the recorded cluster
        return
    will_be_there = {"upstream programs", "packages"} if installs else {"upstream programs"}
    found = [check for check in checks(site, profile) if not check.ok and check.name not in will_be_there]
    if processes.find(site.node_dir) is not None:  # it runs: what it needed to start no longer counts
        found = [check for check in found if check.name == "root"]
    doctor.refuse(found)

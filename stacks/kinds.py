"""Objects that no API server would take, seen before there is one: unknown kinds, namespaces that nobody makes.

Kinds of Kubernetes itself are those that its client library has a model of. Others must come from a CRD among the
objects; on an existing cluster they may be there already, and its API server says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from kubernetes import client

from sovereign.errors import ProfileError
from sovereign.profile import EmbeddedTarget
from sovereign.render import Object, check_overlays
from stacks.objects import STACKS, Platform, objects_for

_OWN_GROUPS = re.compile(r"([a-z]+|[a-z0-9.-]+\.k8s\.io)")
_ADDED_GROUPS = re.compile(r".*\.x-k8s\.io")
"""Of projects beside Kubernetes, such as Kueue."""
_GIVEN_NAMESPACES = {"default", "kube-system", "kube-public", "kube-node-lease"}


def check_objects(platform: Platform) -> None:
    """Look at what the site's overlays make.

    Raises:
        ProfileError: one would not be read, an object is of a kind that does not exist, or in a namespace that nothing
            makes.
    """
    for root in platform.overlays:
        check_overlays(root)
    objects = [item for stack in STACKS for item in objects_for(stack, platform)]
    is_embedded = isinstance(platform.profile.target, EmbeddedTarget)
    defined = {
        (item["spec"]["group"], item["spec"]["names"]["kind"])
        for item in objects
        if item["kind"] == "CustomResourceDefinition"
    }
    made = {item["metadata"]["name"] for item in objects if item["kind"] == "Namespace"} | _GIVEN_NAMESPACES
    for item in objects:
        _check_kind(item, defined, is_embedded=is_embedded)
        namespace = item["metadata"].get("namespace")
        if is_embedded and namespace is not None and namespace not in made:
            raise ProfileError(
                f"{_name(item)} is in a namespace that nothing makes", got=namespace, expected=", ".join(sorted(made))
            )


def _check_kind(item: Object, defined: set[tuple[str, str]], *, is_embedded: bool) -> None:
    group, _, version = item["apiVersion"].rpartition("/")
    kind = item["kind"]
    if (group, kind) in defined:
        return
    is_own = (not group or _OWN_GROUPS.fullmatch(group)) and not _ADDED_GROUPS.fullmatch(group)
    if is_own and hasattr(client, f"{version[:1].upper()}{version[1:]}{kind}"):
        return
    if is_own or is_embedded:
        known = [*(each for _, each in defined), *_kinds(version)]
        close = difflib.get_close_matches(kind, known, 1)
        raise ProfileError(
            f"{_name(item)} is of a kind that does not exist",
            got=f"{item['apiVersion']} {kind}",
            expected="a kind of Kubernetes, or of a CustomResourceDefinition beside it",
            hint=f"{close[0]}?" if close else None,
        )


def _kinds(version: str) -> Iterable[str]:
    prefix = f"{version[:1].upper()}{version[1:]}"
    return (name.removeprefix(prefix) for name in dir(client) if name.startswith(prefix))


def _name(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"

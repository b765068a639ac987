"""All Kubernetes objects of the three stacks, from pure functions: what components deploy, and what status compares.

A part is a named group of objects of one stack. A site replaces a part by an entry point of the group
`sovereign.components` whose class has a static method `objects(platform)`; templates that no part claims (a site's
own) form the part `extras`.
Nothing here imports pulumi.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeAlias

from sovereign.errors import ProfileError
from sovereign.files import sha256_bytes
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.render import Object, render_template, template_names
from sovereign.workload import S3_ACCESS_KEY, PodRuntime, ServedModel, database_ports, platform_context
from stacks.fields import Identity, ObjectRef
from stacks.identity import identity, owned

STACKS = ("cluster", "datalake", "serving")
"""In the order of deploys; removal goes the other way."""
KEEP = "sovereign.local/keep"
"""Annotation of objects that hold data: they go only with `--delete-data`."""
ENTRY_POINTS = "sovereign.components"


@dataclass(frozen=True)
class Platform:
    """All that decides what is deployed."""

    profile: Profile
    plan: Plan
    runtime: PodRuntime
    images: Mapping[str, str]
    """Images of upstream programs, by name: versitygw."""
    kueue: Callable[[], list[Object]]
    """Kueue's own objects; a function, since reading them takes time that only the cluster stack needs."""
    overlays: tuple[Path, ...]
    s3_secret_key: str
    champion: ServedModel | None
    """The model to serve, None before there is one."""
    site: str
    """The site's id, which its objects record."""
    database_passwords: str | None = None
    """A password file of libpq; None where there is none or no source is a database."""

    @property
    def context(self) -> dict[str, Any]:
        """Variables of the templates."""
        credentials = {
            "access_key": S3_ACCESS_KEY,
            "secret_key": self.s3_secret_key,
            "digest": sha256_bytes(f"s3 {self.s3_secret_key}".encode())[:12],
        }
        shared = platform_context(self.profile, self.plan, self.runtime, self.champion)
        model = {"name": self.profile.name, "digest": self.champion.digest if self.champion else None}
        if self.champion and shared["server"]["engine"] == "llama.cpp":
            model |= {"folder": f"{self.champion.digest}.served", "folder_digest": self.champion.gguf_digest}
        else:
            model |= {"folder": model["digest"], "folder_digest": model["digest"]}
        databases = {"ports": database_ports(self.profile), "passwords": self.database_passwords}
        return {
            **shared,
            "images": self.images,
            "credentials": credentials,
            "databases": databases,
            "model": model,
        }

    def render(self, *names: str) -> list[Object]:
        """Objects of the named templates, overlays first."""
        return [item for name in names for item in render_template(name, self.context, self.overlays)]


Part: TypeAlias = Callable[[Platform], list[Object]]

_TEMPLATES = {
    "namespaces": (
        "cluster/namespaces",
        "cluster/rbac",
        "cluster/quotas",
        "cluster/network",
        "cluster/databases",
        "cluster/runtime",
    ),
    "queue": ("cluster/queues",),
    "object-store": ("datalake/credentials", "datalake/s3"),
    "mlflow": ("datalake/mlflow",),
    "model-server": ("serving/model",),
}
PARTS: Mapping[str, tuple[str, ...]] = {
    "cluster": ("namespaces", "queue"),
    "datalake": ("object-store", "mlflow"),
    "serving": ("model-server",),
}


def namespaces(platform: Platform) -> list[Object]:
    """Namespaces with Pod Security labels, roles, quotas, network policies, databases' passwords, runtime volume."""
    return platform.render(*_TEMPLATES["namespaces"])


def queue(platform: Platform) -> list[Object]:
    """Kueue and the queues of the plan."""
    return platform.kueue() + platform.render(*_TEMPLATES["queue"])


def object_store(platform: Platform) -> list[Object]:
    """The S3 service with its buckets and keys."""
    return platform.render(*_TEMPLATES["object-store"])


def mlflow(platform: Platform) -> list[Object]:
    """The MLflow server."""
    return platform.render(*_TEMPLATES["mlflow"])


def model_server(platform: Platform) -> list[Object]:
    """The server of the champion."""
    return platform.render(*_TEMPLATES["model-server"])


SHIPPED: Mapping[str, Part] = {
    "namespaces": namespaces,
    "queue": queue,
    "object-store": object_store,
    "mlflow": mlflow,
    "model-server": model_server,
}


def extras(stack: str, platform: Platform) -> list[Object]:
    """Objects of templates in the stack's folder that no part claims: those that a site adds."""
    claimed = {name for names in _TEMPLATES.values() for name in names}
    return platform.render(*(name for name in template_names(stack, platform.overlays) if name not in claimed))


@functools.cache
def _replacements() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def replaced_part(name: str) -> type[Any] | None:
    """The class by which an installed package replaces the part `name`, if any.

    Raises:
        ProfileError: two packages replace it.
    """
    found = [point for point in _replacements() if point.name == name]
    if len(found) > 1:
        raise ProfileError(f"two packages replace the component {name}", got=", ".join(point.value for point in found))
    return found[0].load() if found else None


def objects_for(stack: str, platform: Platform) -> list[Object]:
    """All objects of `stack`, in the order of parts.

    Raises:
        ProfileError: a template is wrong, or two templates make the same object.
    """
    objects: list[Object] = []
    for name in PARTS[stack]:
        replacement = replaced_part(name)
        objects += replacement.objects(platform) if replacement else SHIPPED[name](platform)
    objects += extras(stack, platform)
    for key in (resource_name, identity):
        counts = Counter(map(key, objects))
        if repeated := [item for item in objects if counts[key(item)] > 1]:
            name = resource_name(repeated[0])
            raise ProfileError(f"stack {stack} makes {name} twice", hint="is an overlay's file new by mistake?")
    return objects


def managed(platform: Platform) -> dict[str, list[Object]]:
    """The objects of each stack as they are deployed: each records the site and the stack.

    Raises:
        ProfileError: see `objects_for`; also when two stacks make the same object.
    """
    objects = {stack: objects_for(stack, platform) for stack in STACKS}
    owners: dict[Identity, str] = {}
    for stack, items in objects.items():
        for item in items:
            other = owners.setdefault(identity(item), stack)
            if other != stack:
                message = f"the stacks {other} and {stack} both make {resource_name(item)}"
                raise ProfileError(message, hint="remove it from one of the two; an object belongs to one stack")
    return {stack: [owned(item, platform.site, stack) for item in items] for stack, items in objects.items()}


def resource_name(item: Object) -> str:
    """Name of an object in Pulumi: kind (with its group where that is not Kubernetes' own), namespace, name."""
    ref = ObjectRef.of(item)
    foreign = "." in ref.group and not ref.group.endswith("k8s.io")
    kind = f"{ref.kind}.{ref.group}" if foreign else ref.kind
    return "/".join(part for part in (kind, ref.namespace, ref.name) if part)

"""Components: each part of a stack as a Pulumi component whose children are the part's objects, applied in order.

A site replaces one by an entry point of the group `sovereign.components`, for example `object-store`, that names a
subclass of `Component` (or any ComponentResource of the same shape with a static method `objects`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from sovereign.render import Object
from sovereign.workload import ENDPOINTS
from stacks import objects as parts
from stacks.objects import KEEP, Platform, resource_name
from stacks.resources import Manifest, Node

_LAST_WAVE = 4
_WAVES: Mapping[str, int] = {
    "Namespace": 0,
    "CustomResourceDefinition": 1,
    "ClusterRole": 1,
    "ConfigMap": 1,
    "NetworkPolicy": 1,
    "PersistentVolume": 1,
    "PersistentVolumeClaim": 1,
    "ResourceQuota": 1,
    "Role": 1,
    "Secret": 1,
    "Service": 1,
    "ServiceAccount": 1,
    "ClusterRoleBinding": 2,
    "RoleBinding": 2,
    "APIService": 3,
    "DaemonSet": 3,
    "Deployment": 3,
    "Job": 3,
    "MutatingWebhookConfiguration": 3,
    "StatefulSet": 3,
    "ValidatingWebhookConfiguration": 3,
}
"""Kinds in the order of applying; a wave begins when the one before is ready. All other kinds (a CRD's own) come last.
Webhooks and API services stand beside the Deployments that serve them: each waits for the other."""


@dataclass(frozen=True)
class Connection:
    """How the objects reach their cluster."""

    kubeconfig: pulumi.Input[str]
    context: str | None
    cluster_uid: pulumi.Input[str | None]
    node: Node | None = None
    """The node that takes its objects with it when it goes; only in the stack that has it."""


@dataclass(frozen=True)
class ComponentArgs:
    """What every component gets."""

    platform: Platform
    connection: Connection


class Component(pulumi.ComponentResource):
    """A part of a stack."""

    def __init__(self, name: str, args: ComponentArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(f"sovereign:index:{type(self).__name__}", name, None, opts)
        add_manifests(self, self.objects(args.platform), args.connection)
        self.register_outputs(self.outputs(args.platform))

    @staticmethod
    def objects(platform: Platform) -> list[Object]:
        """The part's objects, a pure function: `sovereign status` uses it too."""
        raise NotImplementedError

    def outputs(self, platform: Platform) -> dict[str, Any]:  # noqa: ARG002  (for subclasses)
        """What the component hands on."""
        return {}


class Namespaces(Component):
    """Namespaces with Pod Security labels, roles, quotas, network policies, and the pods' runtime volume."""

    @staticmethod
    def objects(platform: Platform) -> list[Object]:
        """See `stacks.objects.namespaces`."""
        return parts.namespaces(platform)


class Queue(Component):
    """Kueue and the queues of the plan."""

    @staticmethod
    def objects(platform: Platform) -> list[Object]:
        """See `stacks.objects.queue`."""
        return parts.queue(platform)


class ObjectStore(Component):
    """The S3 service with its buckets and keys."""

    @staticmethod
    def objects(platform: Platform) -> list[Object]:
        """See `stacks.objects.object_store`."""
        return parts.object_store(platform)

    def outputs(self, platform: Platform) -> dict[str, Any]:  # noqa: ARG002
        return {"endpoint": ENDPOINTS["s3"]}


class MLflow(Component):
    """The MLflow server."""

    @staticmethod
    def objects(platform: Platform) -> list[Object]:
        """See `stacks.objects.mlflow`."""
        return parts.mlflow(platform)

    def outputs(self, platform: Platform) -> dict[str, Any]:  # noqa: ARG002
        return {"url": ENDPOINTS["mlflow"]}


class ModelServer(Component):
    """The server of the champion."""

    @staticmethod
    def objects(platform: Platform) -> list[Object]:
        """See `stacks.objects.model_server`."""
        return parts.model_server(platform)

    def outputs(self, platform: Platform) -> dict[str, Any]:
        model = platform.champion
        return {"url": ENDPOINTS["model"], "champion": model.digest if model else None}


class Extras(pulumi.ComponentResource):
    """Objects of a site's own templates."""

    def __init__(self, name: str, stack: str, args: ComponentArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("sovereign:index:Extras", name, None, opts)
        add_manifests(self, parts.extras(stack, args.platform), args.connection)
        self.register_outputs({})


_SHIPPED: Mapping[str, type[Component]] = {
    "namespaces": Namespaces,
    "queue": Queue,
    "object-store": ObjectStore,
    "mlflow": MLflow,
    "model-server": ModelServer,
}


def component(name: str) -> type[Component]:
    """The component of the part `name`: a site's own, else the shipped one."""
    replacement: type[Component] | None = parts.replaced_part(name)
    return replacement or _SHIPPED[name]


def add_manifests(parent: pulumi.Resource, items: Sequence[Object], connection: Connection) -> None:
    """One `Manifest` for each object below `parent`, wave after wave."""
    before: list[pulumi.Resource] = []
    for wave in waves(items):
        before = [
            Manifest(
                resource_name(item),
                item,
                kubeconfig=connection.kubeconfig,
                context=connection.context,
                cluster_uid=connection.cluster_uid,
                keep=item["metadata"].get("annotations", {}).get(KEEP) == "data",
                opts=pulumi.ResourceOptions(parent=parent, depends_on=before, deleted_with=connection.node),
            )
            for item in wave
        ]


def waves(items: Sequence[Object]) -> list[list[Object]]:
    """`items` in the order of applying; no wave is empty."""
    ordered = [[item for item in items if _WAVES.get(item["kind"], _LAST_WAVE) == n] for n in range(_LAST_WAVE + 1)]
    return [wave for wave in ordered if wave]

"""The three Pulumi programs, run inline by `stacks.deploy`: no language host, no download.

Each exports what the next one needs; outputs are plain values, the S3 key is none of them.
"""

from __future__ import annotations

import json

import pulumi

from sovereign.workload import BUCKETS, ENDPOINTS, NAMESPACES, QUEUE
from stacks.components import ComponentArgs, Connection, Extras, component
from stacks.objects import PARTS, Platform, extras
from stacks.resolve import Target
from stacks.resources import Node


def cluster(platform: Platform, target: Target, cluster_uid: str | None) -> None:
    """The node, namespaces, policies, quotas and the queue."""
    node = Node("node", json.loads(target.node.to_json())) if target.node else None
    connection = Connection(
        kubeconfig=node.kubeconfig if node else str(target.kubeconfig),
        context=target.context,
        cluster_uid=node.cluster_uid if node else cluster_uid,
        node=node,
    )
    _add_parts("cluster", platform, connection)
    pulumi.export("kubeconfig", connection.kubeconfig)
    pulumi.export("context", connection.context)
    pulumi.export("cluster_uid", connection.cluster_uid)
    pulumi.export("api_server", node.api_server if node else None)
    pulumi.export("namespaces", list(NAMESPACES))
    pulumi.export("queue", QUEUE)


def datalake(platform: Platform, target: Target, cluster_uid: str | None) -> None:
    """The object store and MLflow."""
    _add_parts("datalake", platform, Connection(str(target.kubeconfig), target.context, cluster_uid))
    pulumi.export("cluster_uid", cluster_uid)
    pulumi.export("s3_endpoint", ENDPOINTS["s3"])
    pulumi.export("buckets", list(BUCKETS))
    pulumi.export("mlflow_url", ENDPOINTS["mlflow"])


def serving(platform: Platform, target: Target, cluster_uid: str | None) -> None:
    """The model server."""
    _add_parts("serving", platform, Connection(str(target.kubeconfig), target.context, cluster_uid))
    pulumi.export("cluster_uid", cluster_uid)
    pulumi.export("model_url", ENDPOINTS["model"])
    model = platform.champion
    pulumi.export("champion", model.digest if model else None)
    pulumi.export("gguf", model.gguf_digest if model else None)


PROGRAMS = {"cluster": cluster, "datalake": datalake, "serving": serving}


def _add_parts(stack: str, platform: Platform, connection: Connection) -> None:
    """The stack's components, one after the other, then what the site adds."""
    args = ComponentArgs(platform, connection)
    before: list[pulumi.Resource] = [connection.node] if connection.node else []
    for name in PARTS[stack]:
        before = [component(name)(name, args, pulumi.ResourceOptions(depends_on=before))]
    if extras(stack, platform):
        Extras(f"{stack}-extras", stack, args, pulumi.ResourceOptions(depends_on=before))

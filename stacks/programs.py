"""The three Pulumi programs, run inline by `stacks.deploy`: no language host, no download.

Each exports what the next one needs; outputs are plain values, the S3 key is none of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pulumi

from sovereign.workload import BUCKETS, ENDPOINTS, NAMESPACES, QUEUE
from stacks.components import ComponentArgs, Connection, Extras, component
from stacks.identity import identity, owned
from stacks.moves import Ledger
from stacks.objects import PARTS, Platform, extras, resource_name
from stacks.resolve import Target
from stacks.resources import Manifest, Node


def cluster(platform: Platform, target: Target, cluster_uid: str | None, ledger: Ledger) -> None:
    """The node, namespaces, policies, quotas and the queue."""
    node = Node("node", json.loads(target.node.to_json())) if target.node else None
    connection = Connection(
        kubeconfig=node.kubeconfig if node else str(target.kubeconfig),
        context=target.context,
        cluster_uid=node.cluster_uid if node else cluster_uid,
        node=node,
    )
    _add_parts(platform, connection, ledger)
    pulumi.export("kubeconfig", connection.kubeconfig)
    pulumi.export("context", connection.context)
    pulumi.export("cluster_uid", connection.cluster_uid)
    pulumi.export("api_server", node.api_server if node else None)
    pulumi.export("namespaces", list(NAMESPACES))
    pulumi.export("queue", QUEUE)


def datalake(platform: Platform, target: Target, cluster_uid: str | None, ledger: Ledger) -> None:
    """The object store and MLflow."""
    _add_parts(platform, Connection(str(target.kubeconfig), target.context, cluster_uid), ledger)
    pulumi.export("cluster_uid", cluster_uid)
    pulumi.export("s3_endpoint", ENDPOINTS["s3"])
    pulumi.export("buckets", list(BUCKETS))
    pulumi.export("mlflow_url", ENDPOINTS["mlflow"])


def serving(platform: Platform, target: Target, cluster_uid: str | None, ledger: Ledger) -> None:
    """The model server."""
    _add_parts(platform, Connection(str(target.kubeconfig), target.context, cluster_uid), ledger)
    pulumi.export("cluster_uid", cluster_uid)
    pulumi.export("model_url", ENDPOINTS["model"])
    model = platform.champion
    pulumi.export("champion", model.digest if model else None)
    pulumi.export("gguf", model.gguf_digest if model else None)


PROGRAMS: dict[str, Callable[[Platform, Target, str | None, Ledger], None]] = {
    "cluster": cluster,
    "datalake": datalake,
    "serving": serving,
}


def _add_parts(platform: Platform, connection: Connection, ledger: Ledger) -> None:
    """The stack's components, one after the other, then what the site adds, then what waits for another stack."""
    pulumi.runtime.register_stack_transformation(_recorded(ledger))
    args = ComponentArgs(platform, connection)
    before: list[pulumi.Resource] = [connection.node] if connection.node else []
    for name in PARTS[ledger.stack]:
        before = [component(name)(name, args, pulumi.ResourceOptions(depends_on=before))]
    if extras(ledger.stack, platform):
        Extras(f"{ledger.stack}-extras", ledger.stack, args, pulumi.ResourceOptions(depends_on=before))
    for record in ledger.held:
        _hold(record.ref.manifest, connection, keep=record.keep)


def _recorded(ledger: Ledger) -> pulumi.ResourceTransformation:
    """Make every object record its owner, and give it the state that the stack has of it under another URN."""

    def transform(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        manifest = args.props.get("manifest") if isinstance(args.resource, Manifest) else None
        if not isinstance(manifest, dict):
            return None
        props = {**args.props, "manifest": owned(manifest, ledger.site, ledger.stack)}
        # A name of a component's own choice may have stood for another object before: there the provider, which deletes
        # nothing that is declared, is what keeps the object.
        urn = ledger.urns.get(identity(manifest)) if args.name == resource_name(manifest) else None
        aliases = pulumi.ResourceOptions(aliases=[urn] if urn else [])
        return pulumi.ResourceTransformationResult(props, pulumi.ResourceOptions.merge(args.opts, aliases))

    return transform


def _hold(manifest: dict[str, object], connection: Connection, *, keep: bool) -> None:
    """Keep an object as it was deployed."""
    node = [connection.node] if connection.node else []
    Manifest(
        resource_name(manifest),
        manifest,
        kubeconfig=connection.kubeconfig,
        context=connection.context,
        cluster_uid=connection.cluster_uid,
        keep=keep,
        opts=pulumi.ResourceOptions(ignore_changes=["manifest"], depends_on=node, deleted_with=connection.node),
    )

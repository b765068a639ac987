"""The resources of our provider as Pulumi programs use them.

    node = Node("node", spec=spec)
    Manifest("queue", manifest, kubeconfig=node.kubeconfig, cluster_uid=node.cluster_uid,
             opts=pulumi.ResourceOptions(deleted_with=node))

What they do is described in stacks/provider/manifest.py and stacks/provider/node.py. Importing this starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi


class Manifest(pulumi.CustomResource):
    """One Kubernetes object, applied server-side.

    Args:
        name: name of the resource in Pulumi.
        manifest: the object; values of a Secret are encrypted in the state by themselves.
        kubeconfig: path of the kubeconfig.
        context: a context in it, else its current one.
        cluster_uid: UID that the namespace kube-system must have.
        wait: wait until the object does its work.
        timeout_s: for retries and that wait together.
        keep: never delete or replace the object; deleting the resource only forgets it.
    """

    def __init__(
        self,
        name: str,
        manifest: pulumi.Input[Mapping[str, Any]],
        *,
        kubeconfig: pulumi.Input[str],
        context: pulumi.Input[str | None] = None,
        cluster_uid: pulumi.Input[str | None] = None,
        wait: bool = True,
        timeout_s: int = 300,
        keep: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "manifest": manifest, "kubeconfig": kubeconfig, "context": context, "clusterUid": cluster_uid,
            "wait": wait, "timeoutSeconds": timeout_s, "keep": keep, "uid": None, "validated": None,
        }  # fmt: skip
        super().__init__("sovereign:index:Manifest", name, inputs, opts)

    @property
    @pulumi.getter
    def uid(self) -> pulumi.Output[str]:
        """UID of the live object."""
        return self._get("uid")

    @property
    @pulumi.getter
    def validated(self) -> pulumi.Output[bool]:
        """False where a preview could not ask an API server."""
        return self._get("validated")

    def _get(self, name: str) -> pulumi.Output[Any]:
        value: pulumi.Output[Any] = pulumi.get(self, name)
        return value


class Node(pulumi.CustomResource):
    """The embedded Kubernetes node of this machine.

    Args:
        name: name of the resource in Pulumi.
        spec: fields of `stacks.node.spec.NodeSpec`, as its JSON has them.
        delete_data: whether deleting the resource deletes the node's volumes too.
    """

    def __init__(
        self,
        name: str,
        spec: pulumi.Input[Mapping[str, Any]],
        *,
        delete_data: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        outputs = dict.fromkeys(("kubeconfig", "apiServer", "clusterUid", "hostVolume", "volumesDir"))
        super().__init__("sovereign:index:Node", name, {"spec": spec, "deleteData": delete_data, **outputs}, opts)

    @property
    @pulumi.getter
    def kubeconfig(self) -> pulumi.Output[str]:
        """Path of the administrator's kubeconfig."""
        return self._get("kubeconfig")

    @property
    @pulumi.getter(name="apiServer")
    def api_server(self) -> pulumi.Output[str]:
        """URL of the API server."""
        return self._get("apiServer")

    @property
    @pulumi.getter(name="clusterUid")
    def cluster_uid(self) -> pulumi.Output[str]:
        """UID of the namespace kube-system."""
        return self._get("clusterUid")

    @property
    @pulumi.getter(name="hostVolume")
    def host_volume(self) -> pulumi.Output[str]:
        """Folder of the read-only bind mounts that pods see of this machine."""
        return self._get("hostVolume")

    @property
    @pulumi.getter(name="volumesDir")
    def volumes_dir(self) -> pulumi.Output[str]:
        """Folder for volumes with data."""
        return self._get("volumesDir")

    def _get(self, name: str) -> pulumi.Output[Any]:
        value: pulumi.Output[Any] = pulumi.get(self, name)
        return value

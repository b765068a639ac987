"""The resource `sovereign:index:Node`: the embedded Kubernetes node of this machine.

Inputs:
    spec            fields of stacks.node.spec.NodeSpec, as its JSON has them
    deleteData      whether deleting the resource also deletes the node's volumes (false)
Outputs: the inputs, and `kubeconfig`, `apiServer`, `clusterUid`, `hostVolume`, `volumesDir`.

A node that does not run well counts as changed, so that the next deploy repairs it.
"""

from __future__ import annotations

import json
from typing import Any

from pulumi.provider.experimental import provider as p

from sovereign.errors import NodeError
from stacks.node import lifecycle
from stacks.node.lifecycle import NodeInfo
from stacks.node.spec import NodeSpec
from stacks.provider.log import EngineLog
from stacks.provider.values import UNKNOWN, Properties, has_unknown, to_plain, to_value

_OUTPUTS = ("kubeconfig", "apiServer", "clusterUid", "hostVolume", "volumesDir")
_K = p.PropertyDiffKind


class NodeType:
    """Handler of the resource type."""

    def __init__(self, log: EngineLog) -> None:
        self._log = log

    def check(self, request: p.CheckRequest) -> p.CheckResponse:
        """Inputs with `deleteData` filled in, or what is wrong with the spec."""
        inputs = {"deleteData": to_value(False), **request.new_inputs}
        failures = []
        plain = {key: to_plain(value) for key, value in inputs.items()}
        if "spec" not in plain:
            failures.append(p.CheckFailure("spec", "is required"))
        elif not has_unknown(plain["spec"]):
            try:
                _spec(plain["spec"])
            except NodeError as error:
                failures.append(p.CheckFailure("spec", str(error)))
        return p.CheckResponse(inputs=inputs, failures=failures)

    def diff(self, request: p.DiffRequest) -> p.DiffResponse:
        """A changed spec, or a node that does not run well; another instance or state folder is another node."""
        old, new = (to_plain(values["spec"]) for values in (request.old_state, request.new_inputs))
        detailed = {
            f"spec.{key}": p.PropertyDiff(_K.UPDATE, input_diff=True)
            for key in {**old, **new}
            if key not in old or key not in new or old[key] != new[key]
        }
        if to_plain(request.old_state["deleteData"]) != to_plain(request.new_inputs["deleteData"]):
            detailed["deleteData"] = p.PropertyDiff(_K.UPDATE, input_diff=True)
        replaced = [key for key in ("instance", "state_dir") if f"spec.{key}" in detailed]
        if replaced:
            kinds = {f"spec.{key}": p.PropertyDiff(_K.UPDATE_REPLACE, input_diff=True) for key in replaced}
            return p.DiffResponse(
                True, ["spec"], delete_before_replace=True, diffs=["spec"], detailed_diff=detailed | kinds
            )
        health = lifecycle.health(_spec(new))
        if not health.healthy:
            self._log.info(request.urn, f"the node does not run well and will be repaired: {health.summary}")
            detailed["kubeconfig"] = p.PropertyDiff(_K.UPDATE, input_diff=False)
        diffs = sorted({name.split(".")[0] for name in detailed})
        return p.DiffResponse(changes=bool(detailed), diffs=diffs, detailed_diff=detailed)

    def create(self, request: p.CreateRequest) -> p.CreateResponse:
        """Make the node, adopt it when it runs already, or repair it."""
        if request.preview:
            return p.CreateResponse("", _unknown_outputs(request.properties))
        spec = _spec(to_plain(request.properties["spec"]))
        info = lifecycle.ensure(spec, lambda text: self._log.progress(request.urn, text))
        return p.CreateResponse(spec.instance, _outputs(request.properties, info))

    def update(self, request: p.UpdateRequest) -> p.UpdateResponse:
        """Bring the node to its spec and to health."""
        if request.preview:
            return p.UpdateResponse(_unknown_outputs(request.news))
        info = lifecycle.ensure(
            _spec(to_plain(request.news["spec"])), lambda text: self._log.progress(request.urn, text)
        )
        return p.UpdateResponse(_outputs(request.news, info))

    def read(self, request: p.ReadRequest) -> p.ReadResponse:
        """The node as it was recorded, or nothing where no trace of it is left; repair is the update's work."""
        if "spec" not in request.inputs:
            raise NodeError(
                "a node cannot be imported", hint="deploy adopts a running node of the same instance by itself"
            )
        spec = _spec(to_plain(request.inputs["spec"]))
        if NodeSpec.load(spec.state_dir) is None:
            return p.ReadResponse("")
        return p.ReadResponse(request.resource_id, request.properties, request.inputs)

    def delete(self, request: p.DeleteRequest) -> None:
        """Take the node away; its volumes only when `deleteData` was deployed as true."""
        delete_data = bool(to_plain(request.properties["deleteData"]))
        lifecycle.remove(
            _spec(to_plain(request.properties["spec"])),
            delete_data=delete_data,
            progress=lambda text: self._log.progress(request.urn, text),
        )


def _spec(plain: dict[str, Any]) -> NodeSpec:
    return NodeSpec.from_json(json.dumps(plain))


def _outputs(properties: Properties, info: NodeInfo) -> Properties:
    values = (info.kubeconfig, info.api_server, info.cluster_uid, info.host_volume, info.volumes_dir)
    return {**properties, **{key: to_value(str(value)) for key, value in zip(_OUTPUTS, values, strict=True)}}


def _unknown_outputs(properties: Properties) -> Properties:
    return {**properties, **{key: to_value(UNKNOWN) for key in _OUTPUTS}}

"""The resource `sovereign:index:Manifest`: one Kubernetes object, applied server-side.

Inputs:
    manifest        the object; a Secret's data and stringData become secrets of the Pulumi state
    kubeconfig      path of the kubeconfig; unknown or missing in a preview before the cluster exists
    context         context in it, else its current one
    clusterUid      UID that kube-system must have, so that another cluster is refused
    wait            whether to wait until the object does its work (true)
    timeoutSeconds  for retries and the wait together (300)
    keep            never delete or replace the object: deleting the resource only forgets it (false)
An object's owner (site and stack, see stacks/identity.py) is what its manifest records. Objects of another site are
refused. A delete only forgets an object that another site or another stack owns by now, that the running deploy
declares in another resource, or that was made again by somebody else.
Outputs: the inputs; `uid`; `validated`, false where a preview could not ask the API server.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pulumi.provider.experimental import provider as p
from pulumi.provider.experimental.property_value import PropertyValue

from sovereign.errors import ClusterError, TemporaryClusterError
from stacks.fields import (
    ABSENT,
    FieldChange,
    Object,
    ObjectRef,
    changes_between,
    comparable,
    format_path,
    known_prefix,
    with_changes,
)
from stacks.identity import ADOPT_VARIABLE, Owner, read_declared
from stacks.kube import Cluster
from stacks.kubehttp import ImmutableError, NotFoundError
from stacks.provider.errors import InitFailedError, without
from stacks.provider.inputs import DEFAULTS, TYPES, Args, problems
from stacks.provider.log import EngineLog
from stacks.provider.values import UNKNOWN, Properties, all_secrets, to_plain, to_value, with_secret_keys
from stacks.takeover import foreign_site, is_ours_by_manager, refuse_site, refuse_unmanaged

_K = p.PropertyDiffKind


class ManifestType:
    """Handler of the resource type; safe to use from many threads."""

    def __init__(self, log: EngineLog, cancelled: threading.Event) -> None:
        self.defaults: dict[str, Any] = {}
        """The provider's configuration: `kubeconfig`, `context`, `clusterUid` for resources that name none."""
        self._log = log
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._clusters: dict[tuple[Any, ...], Cluster] = {}
        self._declared = read_declared(os.environ)
        self._may_adopt = bool(os.environ.get(ADOPT_VARIABLE))
        self._replaced: set[str] = set()
        """URNs of resources whose object is deleted to be made again, since a field cannot change."""

    def check(self, request: p.CheckRequest) -> p.CheckResponse:
        """Inputs with defaults filled in and a Secret's values marked, or what is wrong with them."""
        inputs = dict(request.new_inputs)
        for key, value in {**DEFAULTS, **self.defaults}.items():
            if key in TYPES and (key not in inputs or inputs[key].value is None):
                inputs[key] = to_value(value)
        plain = {key: to_plain(value) for key, value in inputs.items()}
        failures = [p.CheckFailure(key, reason) for key, reason in problems(plain)]
        if isinstance(plain.get("manifest"), dict) and plain["manifest"].get("kind") == "Secret":
            inputs["manifest"] = with_secret_keys(inputs["manifest"], ("data", "stringData"))
        return p.CheckResponse(inputs=inputs, failures=failures)

    def diff(self, request: p.DiffRequest) -> p.DiffResponse:
        """What an update would really change, as the API server sees it."""
        old, new = Args.of(request.old_state), Args.of(request.new_inputs)
        if not new.same_object(old) and not self._is_same(old, new):
            if old.keep:
                raise _kept(old.ref, f"it would become {new.ref}")
            return _replace({"manifest.metadata.name": _K.UPDATE_REPLACE})
        detailed = {
            key: p.PropertyDiff(_K.UPDATE, input_diff=True)
            for key in TYPES
            if key != "manifest" and _differs(request.old_state.get(key), request.new_inputs.get(key))
        }
        try:
            changes = self._changes(old, new)
            self._warn(request.urn, self._stays(new))
        except ImmutableError as error:
            if not (new.keep or old.keep):
                self._replaced.add(request.urn)
                return _replace({f"manifest.{name}": _K.UPDATE_REPLACE for name in error.fields})
            self._warn(request.urn, str(_kept(new.ref, str(error.got))))
            changes = []
        except TemporaryClusterError as error:
            # Counted as a change: in a preview it says that nobody knows, in a deploy the update finds out.
            self._log.progress(request.urn, f"cannot be compared with the cluster now: {error}")
            detailed["validated"] = p.PropertyDiff(_K.UPDATE, input_diff=False)
            changes = list(changes_between(old.manifest, new.manifest))
        if told := _drift(old, new, changes):
            self._log.info(request.urn, without(told, all_secrets(request.old_state, request.new_inputs)))
        for change in changes:
            path = ("manifest", *known_prefix(change.path, new.manifest, old.manifest))
            detailed[format_path(path)] = p.PropertyDiff(_kind(change), input_diff=False)
        return p.DiffResponse(changes=bool(detailed), diffs=_top_level(detailed), detailed_diff=detailed)

    def _is_same(self, old: Args, new: Args) -> bool:
        """Whether two API groups serve the same object, as `v1` and `events.k8s.io/v1` do."""
        if old.unknown or new.unknown or not new.reachable or old.ref.identity[1:] != new.ref.identity[1:]:
            return False
        one, other = (self._cluster(new).get(args.ref) for args in (old, new))
        return one is not None and other is not None and one["metadata"]["uid"] == other["metadata"]["uid"]

    def _stays(self, args: Args) -> str:
        return self._cluster(args).stays(args.manifest) if args.reachable else ""

    def _warn(self, urn: str, text: str) -> None:
        if text:
            self._log.warning(urn, text)

    def _changes(self, old: Args, new: Args) -> list[FieldChange]:
        """Changes by the API server's dry run; against the last deploy while the wanted values are not known yet."""
        if new.unknown:
            return list(changes_between(old.manifest, new.manifest))
        if not new.reachable:
            raise TemporaryClusterError(f"no kubeconfig at {new.kubeconfig}")
        return self._cluster(new).diff(new.manifest)

    def create(self, request: p.CreateRequest) -> p.CreateResponse:
        """Apply the object and wait for it; in a preview let the server check it, where there is one."""
        args = Args.of(request.properties)
        if request.preview:
            return p.CreateResponse("", self._previewed(args, request.properties))
        self._refuse_foreign(args, args.timeout_s, new=True)
        return p.CreateResponse(args.ref.id, self._apply(args, request.urn, request.properties, request.timeout))

    def update(self, request: p.UpdateRequest) -> p.UpdateResponse:
        """Apply the changed object and wait for it; in a preview let the server check it."""
        args = Args.of(request.news)
        if request.preview:
            return p.UpdateResponse(self._previewed(args, request.news, request.olds.get("uid")))
        self._refuse_foreign(args, args.timeout_s)
        return p.UpdateResponse(self._apply(args, request.urn, request.news, request.timeout))

    def read(self, request: p.ReadRequest) -> p.ReadResponse:
        """The live object: for a refresh with the fields that differ from what was applied, for an import all of it."""
        if "manifest" not in request.inputs:
            return self._import(request.resource_id)
        args = Args.of(request.inputs)
        cluster = self._cluster(args)
        live = cluster.get(args.ref)
        if live is None:
            return p.ReadResponse("")
        inputs = dict(request.inputs)
        try:
            changes = cluster.diff(args.manifest)
        except ImmutableError:  # made anew by somebody, with other values in fields that cannot change
            changes = list(changes_between(comparable(live), args.manifest))
            changes = [change for change in changes if change.wanted is not ABSENT]
        if changes:
            inputs["manifest"] = _secret_like(with_changes(args.manifest, changes), inputs["manifest"])
        return p.ReadResponse(request.resource_id, _outputs(inputs, live, request.properties), inputs)

    def delete(self, request: p.DeleteRequest) -> None:
        """Delete the object and wait until it is gone; what is kept or belongs to another resource is forgotten."""
        args = Args.of(request.properties)
        if args.keep:
            self._log.info(request.urn, f"{args.ref} is kept in the cluster")
            return
        if args.ref.identity in self._declared and request.urn not in self._replaced:
            self._log.info(request.urn, f"{args.ref} stays: another resource declares it")
            return
        uid = to_plain(request.properties["uid"]) if "uid" in request.properties else None
        try:
            gone = self._cluster(args).delete_if(
                args.ref,
                lambda live: not _other_owner(live, args, uid),
                request.timeout or args.timeout_s,
                lambda text: self._log.progress(request.urn, text),
            )
        except TemporaryClusterError as error:
            error.hint = error.hint or "start the cluster, or destroy the stack that the cluster belongs to"
            raise
        if not gone:
            self._log.info(request.urn, f"{args.ref} stays: it has another owner by now")

    def _refuse_foreign(self, args: Args, timeout_s: float = 0.0, *, new: bool = False) -> None:
        """Refuse an object of another site, and a `new` one that others made: what is taken over is deleted later."""
        live = self._cluster(args).get(args.ref, timeout_s=timeout_s)
        if live is None:
            return
        if new and not is_ours_by_manager(live):
            refuse_unmanaged(live)
        if foreign_site(live, args.manifest) and not self._may_adopt:
            refuse_site(live)

    def _apply(self, args: Args, urn: str, properties: Properties, timeout_s: float) -> Properties:
        cluster = self._cluster(args)
        deadline = time.monotonic() + (timeout_s or args.timeout_s)
        tell: Callable[[str], None] = lambda text: self._log.progress(urn, text)  # noqa: E731
        live = cluster.apply(args.manifest, timeout_s=timeout_s or args.timeout_s, progress=tell)
        outputs = _outputs(properties, live)
        if args.wait:
            try:
                remaining_s = max(1.0, deadline - time.monotonic())
                cluster.wait_ready(args.manifest, remaining_s, tell)
            except ClusterError as error:
                raise InitFailedError(args.ref.id, outputs, error) from error
        return outputs

    def _previewed(self, args: Args, properties: Properties, uid: PropertyValue | None = None) -> Properties:
        validated = False
        if args.reachable:
            try:
                self._refuse_foreign(args, new=uid is None)
                self._cluster(args).validate(args.manifest)
                validated = True
            except (TemporaryClusterError, NotFoundError):
                pass  # its kind, its namespace or the API server itself comes with the deploy
            except ImmutableError:
                pass  # the preview of a replacement: the old one is still there
        return {**properties, "uid": uid or to_value(UNKNOWN), "validated": to_value(validated)}

    def _import(self, resource_id: str) -> p.ReadResponse:
        try:
            ref = ObjectRef.parse(resource_id)
        except ValueError as error:
            raise ClusterError(str(error)) from error
        if "kubeconfig" not in self.defaults:
            raise ClusterError(f"{ref}: no cluster to import from", hint="pulumi config set sovereign:kubeconfig PATH")
        properties = {key: to_value(value) for key, value in {**DEFAULTS, **self.defaults}.items() if key in TYPES}
        live = self._cluster(Args.of({**properties, "manifest": to_value({})})).get(ref)
        if live is None:
            return p.ReadResponse("")
        value = to_value(comparable(live))
        if ref.kind == "Secret":
            value = with_secret_keys(value, ("data",))
        inputs = {**properties, "manifest": value}
        return p.ReadResponse(resource_id, _outputs(inputs, live), inputs)

    def _cluster(self, args: Args) -> Cluster:
        path = Path(args.kubeconfig)
        changed = path.stat().st_mtime_ns if path.is_file() else 0  # a repaired node may have new certificates
        key = (args.kubeconfig, args.context, args.cluster_uid, changed)
        with self._lock:
            if key not in self._clusters:
                self._clusters[key] = Cluster(path, args.context, args.cluster_uid, cancelled=self._cancelled)
            return self._clusters[key]


def _drift(old: Args, new: Args, changes: list[FieldChange]) -> str:
    """What others did to the object, in words: changes that the program did not ask for."""
    asked = [change.path for change in changes_between(old.manifest, new.manifest)]
    drift = [c for c in changes if not any(c.path[: len(a)] == a or a[: len(c.path)] == c.path for a in asked)]
    if any(not change.path for change in changes):
        return f"{new.ref} is missing: others deleted it"
    return f"{new.ref} was changed by others: {'; '.join(map(str, drift))}" if drift else ""


def _differs(old: Any, new: Any) -> bool:
    one, other = (None if value is None else to_plain(value) for value in (old, new))
    return other is not UNKNOWN and one != other


def _kind(change: FieldChange) -> p.PropertyDiffKind:
    if change.live is ABSENT:
        return _K.ADD
    return _K.DELETE if change.wanted is ABSENT else _K.UPDATE


def _other_owner(live: Object, args: Args, uid: str | None) -> bool:
    """Whether another site or stack owns `live`, or somebody made it again after ours (`uid`) was deleted."""
    owner, own = Owner.of(live), Owner.of(args.manifest)
    if owner.site is None and owner.stack is None:
        return own.site is not None and uid is not None and live["metadata"]["uid"] != uid
    return owner != own


def _replace(kinds: dict[str, p.PropertyDiffKind]) -> p.DiffResponse:
    detailed = {name: p.PropertyDiff(kind, input_diff=False) for name, kind in kinds.items()}
    return p.DiffResponse(
        changes=True, replaces=["manifest"], delete_before_replace=True, diffs=["manifest"], detailed_diff=detailed
    )


def _top_level(names: Mapping[str, object]) -> list[str]:
    return sorted({re.split(r"[.\[]", name)[0] for name in names})


def _kept(ref: ObjectRef, why: str) -> ClusterError:
    return ClusterError(
        f"{ref} is marked keep and is never replaced",
        got=why,
        hint="move its data by hand, or take keep away in a deploy of its own first",
    )


def _outputs(properties: Properties, live: Object, old: Properties | None = None) -> Properties:
    return {**(old or {}), **properties, "uid": to_value(live["metadata"]["uid"]), "validated": to_value(True)}


def _secret_like(manifest: Object, like: PropertyValue) -> PropertyValue:
    value = to_value(manifest, like)
    return with_secret_keys(value, ("data", "stringData")) if manifest.get("kind") == "Secret" else value

"""A Kubernetes cluster as this kit uses it: apply, compare, wait and delete whole objects, server-side.

    cluster = Cluster(Path("admin.conf"))
    cluster.apply(manifest)
    cluster.wait_ready(manifest, timeout_s=120)
    cluster.diff(manifest)                      # [] when nothing would change

Writes are server-side applies, and JSON patches that remove, by the field manager `sovereign`. A Cluster may be used by
many threads at once.
The provider plugin, `sovereign status` and the check before a deploy all go through here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sovereign.errors import ClusterError, TemporaryClusterError
from stacks import repairs, volumes
from stacks.additions import FIELD_MANAGER, removal
from stacks.discovery import Discovery
from stacks.fields import ABSENT, FieldChange, Object, ObjectRef, changes_between, comparable, normalised
from stacks.kubehttp import KindMissingError, NotFoundError, Session
from stacks.readiness import explain, readiness
from stacks.retries import KIND_LIMIT_S, Retries

# How long a comparison may retry: it is asked for what is there now.
DIFF_LIMIT_S: Final = 10.0


@dataclass(frozen=True)
class Comparison:
    """What one manifest would change now; `error` is set when that cannot be told."""

    ref: ObjectRef
    changes: tuple[FieldChange, ...] = ()
    error: ClusterError | None = None
    stays: str = ""
    """What cannot be as the manifest wants it, and what to do; it is no difference that a deploy would remove."""

    @property
    def same(self) -> bool:
        """Whether the live object is as the manifest wants it."""
        return not self.changes and self.error is None


class Cluster:
    """One cluster, reached through a kubeconfig.

    Args:
        kubeconfig: path of the file; KUBECONFIG in the environment is ignored.
        context: a context in it, else the current one.
        expected_uid: UID that its kube-system namespace must have; checked once, before the first request.
        cancelled: when set, waits and retries end with an error.

    Raises:
        ClusterError: when the kubeconfig cannot be used.
    """

    def __init__(
        self,
        kubeconfig: Path,
        context: str | None = None,
        expected_uid: str | None = None,
        *,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._session = Session(kubeconfig, context)
        self._expected_uid = expected_uid
        self._retry = Retries(cancelled or threading.Event())
        self._discovery = Discovery(self._session)
        self._uid: str | None = None

    def close(self) -> None:
        """Close the connections; the object cannot be used afterwards."""
        self._session.close()

    @property
    def uid(self) -> str:
        """UID of the namespace kube-system, which stands for the cluster.

        Raises:
            ClusterError: when it is not `expected_uid`.
            TemporaryClusterError: when the API server cannot be reached.
        """
        if self._uid is None:
            try:
                answer = self._session.request("GET", "/api/v1/namespaces/kube-system", what="Namespace kube-system")
            except NotFoundError as error:
                raise TemporaryClusterError("the cluster has no kube-system yet: it is just starting") from error
            uid = str(answer["metadata"]["uid"])
            if self._expected_uid not in (None, uid):
                raise ClusterError(
                    "this is another cluster than the one that was deployed to",
                    got=f"kube-system has UID {uid}",
                    expected=self._expected_uid,
                    hint="check the target in the profile; nothing was changed",
                )
            self._uid = uid
        return self._uid

    def require(self, timeout_s: float = DIFF_LIMIT_S) -> None:
        """Make sure that it answers and is the expected cluster: one wait for a dead API server, not one per object.

        Raises:
            ClusterError: as for `uid`.
        """
        self._retry(lambda: self.uid, timeout_s)

    def get(self, obj: Object | ObjectRef, *, timeout_s: float = 0.0) -> Object | None:
        """The live object, or None when it (or its kind, or its namespace) is not there.

        Temporary errors are retried for `timeout_s` seconds.

        Raises:
            ClusterError: when the API server refuses or, as TemporaryClusterError, cannot be reached.
        """
        ref = obj if isinstance(obj, ObjectRef) else ObjectRef.of(obj)

        def once() -> Object | None:
            try:
                return self._session.request("GET", self._path(ref), what=str(ref))
            except (NotFoundError, KindMissingError):
                return None

        return self._retry(once, timeout_s)

    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        """Objects of a kind, of all namespaces when `namespace` is empty; none when the kind is not served.

        `selectors` are `labelSelector` and `fieldSelector`.

        Raises:
            ClusterError: as for `get`.
        """
        try:
            path = self._collection(api_version, kind, namespace)
            answer = self._session.request("GET", path, query=selectors, what=f"list of {kind}")
        except (NotFoundError, KindMissingError):
            return []
        items: list[Object] = answer.get("items") or []
        return [{"apiVersion": api_version, "kind": kind, **item} for item in items]

    def follow_log(self, namespace: str, pod: str) -> Iterator[str]:
        """Lines that the pod wrote, from the first on, until its container ends; none when the pod is gone.

        Raises:
            ClusterError: as for `get`; also when the pod has no container that runs or ran.
        """
        path = f"{self._path(ObjectRef('v1', 'Pod', pod, namespace))}/log"
        try:
            yield from self._session.lines(path, {"follow": "true"}, f"log of Pod {namespace}/{pod}")
        except NotFoundError:
            return  # it was deleted after somebody listed it: a stopped Job's pod, for example

    def apply(
        self,
        obj: Object,
        *,
        dry_run: bool = False,
        timeout_s: float = 60.0,
        progress: Callable[[str], None] | None = None,
    ) -> Object:
        """Create or change the object so that it holds what `obj` says, and give back what the server made of it.

        What others added to fields that this kit owns is removed, and bindings of volumes are repaired (see
        stacks/repairs.py). Temporary errors are retried for `timeout_s` seconds, a kind that is not served for at most
        KIND_LIMIT_S; `progress` is called with what is waited for.

        Raises:
            ClusterError: when the server refuses it, naming object, field and reason.
            TemporaryClusterError: when the time is over.
        """
        ref = ObjectRef.of(obj)

        def once() -> Object:
            if not dry_run:
                repairs.clear(self, obj)
            answer = self._apply_once(ref, obj, dry_run)
            if not dry_run and answer["metadata"].get("deletionTimestamp"):
                repairs.let_go(self, answer)
                raise TemporaryClusterError(f"{ref}: the old one is still being deleted", got=_finalizers(answer))
            if not dry_run:
                repairs.bind_again(self, answer)
                repairs.renew_tokens(self, answer)
            return answer

        return self._retry(once, timeout_s, progress)

    def validate(self, obj: Object) -> None:
        """Let the server check `obj` without changing anything; no retries.

        Raises:
            ClusterError: as for `apply`.
        """
        ref = ObjectRef.of(obj)
        self._apply_once(ref, obj, dry_run=True)

    def diff(self, obj: Object, *, timeout_s: float = DIFF_LIMIT_S) -> list[FieldChange]:
        """What an apply of `obj` would change, by a dry run on the server against the live object.

        A missing object is one change with an empty path. Values of a Secret are marked secret.

        Raises:
            ImmutableError: when `obj` changes a field that cannot change.
            ClusterError: when the server refuses it, or, as TemporaryClusterError, cannot compare.
        """
        ref = ObjectRef.of(obj)

        def once() -> list[FieldChange]:
            live = self.get(ref)
            if live is None or live["metadata"].get("deletionTimestamp"):
                return [FieldChange((), ABSENT, obj, secret=ref.kind == "Secret")]
            wanted = self._apply_once(ref, obj, dry_run=True)
            if wanted["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
                raise TemporaryClusterError(f"{ref}: changed while it was compared")
            changes = [
                FieldChange(c.path, c.live, c.wanted, secret=ref.kind == "Secret" and c.path[0] == "data")
                for c in changes_between(comparable(live), comparable(wanted))
            ]
            return changes + repairs.differences(self, live, obj)

        return self._retry(once, timeout_s)

    def stays(self, obj: Object) -> str:
        """What `obj` asks for in vain, since the API server lets nobody change it, and what to do; empty: nothing.

        Raises:
            ClusterError: as for `get`.
        """
        ref = ObjectRef.of(obj)
        if ref.kind != volumes.CLAIM:
            return ""
        return volumes.reachable(obj, self.get(ref), self.get, self.find)[1]

    def compare(self, objects: Iterable[Object], *, workers: int = 16) -> list[Comparison]:
        """`diff` of many objects at once, in their order; an error of one is in its Comparison."""

        def one(obj: Object) -> Comparison:
            ref = ObjectRef.of(obj)
            try:
                return Comparison(ref, tuple(self.diff(obj)), stays=self.stays(obj))
            except ClusterError as error:
                return Comparison(ref, error=error)

        objects = list(objects)
        try:
            self.require()
        except ClusterError as error:
            return [Comparison(ObjectRef.of(obj), error=error) for obj in objects]
        with ThreadPoolExecutor(workers, thread_name_prefix="compare") as pool:
            return list(pool.map(one, objects))

    def wait_ready(self, obj: Object, timeout_s: float, progress: Callable[[str], None] | None = None) -> Object:
        """Wait until the object does its work, and give the live object back.

        Args:
            obj: manifest, or anything that names the object.
            timeout_s: seconds after which the wait fails.
            progress: told in words what is missing, each time that changes.

        Raises:
            ClusterError: when it failed for good or the time is over; the message says what is wrong with it.
        """
        ref = ObjectRef.of(obj)
        deadline = time.monotonic() + timeout_s
        told = ""
        while True:
            live = self.get(ref, timeout_s=max(0.0, deadline - time.monotonic()))
            if live is None:
                raise ClusterError(f"{ref}: deleted while it was waited for")
            state = readiness(live, self.find)
            if state.ready:
                return live
            repairs.rebind(self, live)
            if state.failed or time.monotonic() >= deadline:
                what = "failed" if state.failed else f"not ready after {timeout_s:.0f} s"
                raise ClusterError(f"{ref}: {what}", got="\n    ".join([state.message, *explain(live, self.find)]))
            if progress is not None and state.message != told:
                told = state.message
                progress(f"{ref}: {told}")
            self._retry.pause(min(1.0, max(0.05, deadline - time.monotonic())))

    def delete(self, obj: Object | ObjectRef, timeout_s: float = 300.0) -> None:
        """Delete the object and what it owns, and wait until it is gone; one that is not there is fine.

        Raises:
            ClusterError: when the server refuses, cannot be reached, or the object is still there after `timeout_s`.
        """
        self.delete_if(obj, lambda _: True, timeout_s)

    def delete_if(
        self,
        obj: Object | ObjectRef,
        may: Callable[[Object], bool],
        timeout_s: float = 300.0,
        progress: Callable[[str], None] | None = None,
    ) -> bool:
        """`delete` where `may` says so of the live object; False where it does not.

        The server deletes exactly the object that `may` saw; when that has changed meanwhile, it is judged again.

        Raises:
            ClusterError: as for `delete`.
        """
        ref = obj if isinstance(obj, ObjectRef) else ObjectRef.of(obj)
        deadline = time.monotonic() + timeout_s
        live = self._retry(lambda: self._delete_once(ref, may), min(timeout_s, KIND_LIMIT_S))
        if live is None:
            return True
        if not may(live):
            return False
        uid, pause_s = live["metadata"]["uid"], 0.05
        while (live := self.get(ref, timeout_s=min(timeout_s, KIND_LIMIT_S))) and live["metadata"]["uid"] == uid:
            if time.monotonic() >= deadline:
                reasons = [_finalizers(live), *explain(live, self.find)]
                raise ClusterError(
                    f"{ref}: still there {timeout_s:.0f} s after its deletion", got="\n    ".join(reasons)
                )
            if progress is not None:
                progress(f"{ref}: is being deleted, {_finalizers(live)}")
            self._retry.pause(pause_s)
            pause_s = min(1.0, pause_s * 1.5)
        return True

    def strip_finalizers(self, obj: Object | ObjectRef) -> None:
        """Remove the finalizers of an object whose controller does not run; one that is not there is fine.

        Raises:
            ClusterError: as for `get`.
        """
        ref = obj if isinstance(obj, ObjectRef) else ObjectRef.of(obj)

        def once() -> None:
            live = self.get(ref)
            if live is not None and live["metadata"].get("finalizers"):
                change = FieldChange(("metadata", "finalizers"), live["metadata"]["finalizers"], ABSENT)
                self.patch(ref, removal([change], live["metadata"]["resourceVersion"]))

        self._retry(once, DIFF_LIMIT_S)

    def begin_delete(self, ref: ObjectRef) -> None:
        """Delete the object without waiting for its end; one that is not there is fine.

        Raises:
            ClusterError: as for `get`.
        """
        self._delete_once(ref, lambda _: True)

    def _delete_once(self, ref: ObjectRef, may: Callable[[Object], bool]) -> Object | None:
        """The object as it was when its deletion began, or when `may` said no; None when it is not there."""
        try:
            path = self._path(ref)
            live = self._session.request("GET", path, what=str(ref))
            if may(live):
                condition = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
                options = {
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "propagationPolicy": "Foreground",
                    "preconditions": condition,
                }
                self._session.request("DELETE", path, body=options, what=str(ref))
        except (NotFoundError, KindMissingError):
            return None
        return live

    def patch(self, obj: Object | ObjectRef, operations: list[dict[str, Any]], /) -> None:
        """Change the live object by a JSON patch: for objects that are not this kit's, of which it sets single fields.

        Raises:
            ClusterError: as for `get`.
        """
        ref = obj if isinstance(obj, ObjectRef) else ObjectRef.of(obj)
        query = {"fieldManager": FIELD_MANAGER}
        self._session.request("PATCH", self._path(ref), query=query, body=operations, what=str(ref))

    def _apply_once(self, ref: ObjectRef, obj: Object, dry_run: bool) -> Object:
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        if ref.kind == volumes.CLAIM:
            obj = volumes.reachable(obj, self.get(ref), self.get, self.find)[0]
        try:
            return self._session.request("PATCH", self._path(ref), query=query, body=normalised(obj), what=str(ref))
        except NotFoundError as error:
            if error.missing.startswith("namespaces "):
                raise
            # Served a moment ago: a CRD that went away, or one of several API servers that does not know it yet.
            self._discovery.forget(ref.api_version)
            raise KindMissingError(f"{ref}: the API server does not serve {ref.api_version} {ref.kind}") from error

    def _path(self, ref: ObjectRef) -> str:
        assert self.uid  # another cluster is refused before anything else is asked of it
        return self._discovery.path(ref)

    def _collection(self, api_version: str, kind: str, namespace: str) -> str:
        assert self.uid
        return self._discovery.collection(api_version, kind, namespace)


def _finalizers(live: Object) -> str:
    names = live["metadata"].get("finalizers") or []
    return f"finalizers {', '.join(names)}" if names else "no finalizers; waiting for what it owns"

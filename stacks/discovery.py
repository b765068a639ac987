"""Which kinds an API server serves, and under which path an object lies. Safe to use from many threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from sovereign.errors import ClusterError
from stacks.fields import ObjectRef
from stacks.kubehttp import KindMissingError, NotFoundError, Session


@dataclass(frozen=True)
class _Served:
    plural: str
    namespaced: bool


class Discovery:
    """Kinds by API version, asked for once and again when one is missing."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._served: dict[str, dict[str, _Served]] = {}

    def path(self, ref: ObjectRef) -> str:
        """Path of an object.

        Raises:
            KindMissingError: its kind is not served.
            ClusterError: it has a namespace, and its kind has none.
        """
        served = self._serves(ref.api_version, ref.kind)
        if ref.namespace and not served.namespaced:
            raise ClusterError(f"{ref}: {ref.kind} belongs to no namespace", got=f"metadata.namespace {ref.namespace}")
        return f"{self.collection(ref.api_version, ref.kind, ref.namespace or 'default')}/{ref.name}"

    def collection(self, api_version: str, kind: str, namespace: str) -> str:
        """Path of all objects of a kind, in `namespace` where it is not empty.

        Raises:
            KindMissingError: the kind is not served.
        """
        served = self._serves(api_version, kind)
        scope = f"/namespaces/{namespace}" if served.namespaced and namespace else ""
        return f"{_root(api_version)}{scope}/{served.plural}"

    def forget(self, api_version: str) -> None:
        """Ask again for the kinds of an API version."""
        with self._lock:
            self._served.pop(api_version, None)

    def _serves(self, api_version: str, kind: str) -> _Served:
        with self._lock:
            kinds = self._served.get(api_version)
            if kinds is None or kind not in kinds:
                self._served[api_version] = kinds = self._discover(api_version)
        if kind not in kinds:
            raise KindMissingError(
                f"no matches for kind {kind} in {api_version}", hint="is the CRD applied, and is the version right?"
            )
        return kinds[kind]

    def _discover(self, api_version: str) -> dict[str, _Served]:
        try:
            answer = self._session.request("GET", _root(api_version), what=f"API {api_version}")
        except NotFoundError:
            return {}
        resources: list[dict[str, Any]] = answer["resources"]
        return {r["kind"]: _Served(r["name"], r["namespaced"]) for r in resources if "/" not in r["name"]}


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"

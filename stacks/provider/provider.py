"""The provider: hands each request of the engine to the resource of its type, in a thread of its own.

Waits are long and the engine runs many at once, so that every request gets a thread; nothing blocks the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from pulumi.provider.experimental import provider as p

from sovereign.errors import SovereignError
from stacks.provider.errors import redact
from stacks.provider.log import EngineLog
from stacks.provider.manifest import ManifestType
from stacks.provider.node import NodeType
from stacks.provider.values import Properties, all_secrets, to_plain

_MAX_THREADS = 128
_T = TypeVar("_T")


class ResourceType(Protocol):
    """What a resource type does; each method may block and raises SovereignError."""

    def check(self, request: p.CheckRequest) -> p.CheckResponse: ...
    def diff(self, request: p.DiffRequest) -> p.DiffResponse: ...
    def create(self, request: p.CreateRequest) -> p.CreateResponse: ...
    def read(self, request: p.ReadRequest) -> p.ReadResponse: ...
    def update(self, request: p.UpdateRequest) -> p.UpdateResponse: ...
    def delete(self, request: p.DeleteRequest) -> None: ...


class SovereignProvider(p.Provider):
    """Provider of the package `sovereign`."""

    def __init__(self, log: EngineLog) -> None:
        self._cancelled = threading.Event()
        self._manifests = ManifestType(log, self._cancelled)
        self._types: dict[str, ResourceType] = {
            "sovereign:index:Manifest": self._manifests,
            "sovereign:index:Node": NodeType(log),
        }
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="resource")

    async def configure(self, request: p.ConfigureRequest) -> p.ConfigureResponse:
        """Take the configuration `sovereign:kubeconfig`, `sovereign:context`, used where a resource names none."""
        self._manifests.defaults = {key: to_plain(value) for key, value in request.args.items()}
        return p.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def check(self, request: p.CheckRequest) -> p.CheckResponse:
        """Validate inputs and fill in defaults."""
        return await self._run(self._type(request).check, request, request.new_inputs)

    async def diff(self, request: p.DiffRequest) -> p.DiffResponse:
        """Tell what an update would change."""
        return await self._run(self._type(request).diff, request, request.old_state, request.new_inputs)

    async def create(self, request: p.CreateRequest) -> p.CreateResponse:
        """Make the resource, or in a preview only validate it."""
        return await self._run(self._type(request).create, request, request.properties)

    async def read(self, request: p.ReadRequest) -> p.ReadResponse:
        """Tell the resource's present state."""
        return await self._run(self._type(request).read, request, request.properties, request.inputs)

    async def update(self, request: p.UpdateRequest) -> p.UpdateResponse:
        """Change the resource, or in a preview only validate the change."""
        return await self._run(self._type(request).update, request, request.olds, request.news)

    async def delete(self, request: p.DeleteRequest) -> None:
        """Delete the resource."""
        await self._run(self._type(request).delete, request, request.properties)

    async def cancel(self) -> None:
        """End all waits: the user pressed Ctrl-C."""
        self._cancelled.set()

    def _type(self, request: Any) -> ResourceType:
        name = request.type.rpartition("$")[2]  # of a component's child: the types of its parents come first
        if name not in self._types:
            raise SovereignError(f"there is no resource type {name}", expected=", ".join(self._types))
        return self._types[name]

    async def _run(self, call: Callable[[Any], _T], request: Any, *values: Properties) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, request)
        except SovereignError as error:
            redact(error, all_secrets(*values))
            raise

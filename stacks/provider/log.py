"""Messages of the provider to the user, through the engine, each tied to its resource."""

from __future__ import annotations

import grpc  # type: ignore[import-untyped]
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc


class EngineLog:
    """Log of the engine at `address`; safe to use from any thread. Never give it a secret.

    A message that cannot be delivered is dropped: the engine is ending, and the operation has its own result.
    """

    def __init__(self, address: str) -> None:
        self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))

    def progress(self, urn: str, message: str) -> None:
        """Show `message` as the resource's present state, until the next one."""
        self._send(urn, message, engine_pb2.INFO, ephemeral=True)

    def info(self, urn: str, message: str) -> None:
        """Tell something that stays on the screen."""
        self._send(urn, message, engine_pb2.INFO, ephemeral=False)

    def warning(self, urn: str, message: str) -> None:
        """Warn of something that does not end the operation."""
        self._send(urn, message, engine_pb2.WARNING, ephemeral=False)

    def _send(self, urn: str, message: str, severity: engine_pb2.LogSeverity.ValueType, *, ephemeral: bool) -> None:
        try:
            self._stub.Log(
                engine_pb2.LogRequest(severity=severity, message=message, urn=urn, ephemeral=ephemeral), timeout=5
            )
        except grpc.RpcError:
            return

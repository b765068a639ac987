"""Entry point of `pulumi-resource-sovereign`, the plugin that the Pulumi engine finds on PATH and starts.

    pulumi-resource-sovereign ENGINE_ADDRESS

It prints its port and serves until the engine ends it. `pulumi.provider.experimental.server` gives the gRPC side; added
here are errors as the user should read them, the state of resources that were made but did not become ready, and an end
together with the engine, so that a killed deploy leaves no plugin behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from sovereign import __version__
from sovereign.errors import SovereignError
from sovereign.proxies import set_aside
from stacks.provider.errors import InitFailedError
from stacks.provider.log import EngineLog
from stacks.provider.provider import SovereignProvider

_OPTIONS = [("grpc.max_receive_message_length", 400 * 1024 * 1024)]  # as the engine's own
_PARENT_CHECK_S = 1.0
_Call = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class _Errors(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Turns this kit's errors into gRPC statuses whose text is the message alone."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        inner: _Call = handler.unary_unary

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await inner(request, context)
            except InitFailedError as error:
                metadata = (("grpc-status-details-bin", _init_failed(error)),)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error), trailing_metadata=metadata)
            except SovereignError as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

        return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


def _init_failed(error: InitFailedError) -> bytes:
    """The detail by which the engine keeps the resource in its state although the operation failed."""
    detail = provider_pb2.ErrorResourceInitFailed(
        id=error.resource_id, properties=PropertyValue.marshal_map(error.properties), reasons=[str(error)]
    )
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message=str(error))
    status.details.add().Pack(detail)
    return bytes(status.SerializeToString())


async def _serve(engine_address: str) -> None:
    parent = os.getppid()
    provider = SovereignProvider(EngineLog(engine_address))
    server = grpc.aio.server(options=_OPTIONS, interceptors=[_Errors()])
    servicer = ProviderServicer(sys.argv[1:], __version__, provider, engine_address=engine_address)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    while os.getppid() == parent:
        await server.wait_for_termination(_PARENT_CHECK_S)
    # The engine was killed. Work in other threads cannot be told to stop and must not go on without an owner.
    os._exit(1)


def main() -> None:
    """Serve the provider to the engine whose address is the first argument."""
    set_aside()
    addresses = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not addresses:
        sys.exit("pulumi-resource-sovereign is started by the Pulumi engine, with the engine's address as its argument")
    asyncio.run(_serve(addresses[0]))


if __name__ == "__main__":
    main()

"""One authenticated connection to a Kubernetes API server, and its answers as this kit's errors.

Built on `kubernetes.client.ApiClient`; the models and the dynamic client of that package are not used: objects are
plain dictionaries here, and the dynamic client keeps its discovery in a file under /tmp that outlives a cluster.
Nothing is retried here; temporary failures are raised as TemporaryClusterError, for the caller to decide.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import urllib3
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config import ConfigException, load_kube_config_from_dict

from sovereign import strict_yaml
from sovereign.errors import ClusterError, TemporaryClusterError
from stacks.fields import Object

MAX_CONNECTIONS = 32
_MISSING = "correct target.path in the profile; an embedded node writes its own when it is deployed (sovereign deploy)"
_MAX_CAUSE = 400  # characters
_TIMEOUT_S = (5.0, 60.0)  # to connect, to read
_STREAM_TIMEOUT_S = (5.0, 120.0)
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_IMMUTABLE = re.compile(
    r"immutable|may not (be )?change|cannot (be )?change|updates to .* forbidden",
    re.IGNORECASE,
)
# The server answers 500 to a field that its schema does not have; trying again would not help.
_PERMANENT_500 = re.compile(
    r"failed to create typed patch object|field not declared in schema|unable to convert|cannot unmarshal"
)


class NotFoundError(ClusterError):
    """The object (or its namespace, named in `missing`) is not there."""

    def __init__(self, message: str, *, missing: str, got: object = None) -> None:
        super().__init__(message, got=got)
        self.missing = missing


class KindMissingError(TemporaryClusterError):
    """The API server does not serve this kind: its CRD is not there, or not yet."""


class ImmutableError(ClusterError):
    """The change is only possible by deleting the object and making it again; `fields` names what cannot change."""

    def __init__(self, message: str, *, got: object, fields: tuple[str, ...]) -> None:
        super().__init__(message, got=got)
        self.fields = fields


class Session:
    """Thread-safe HTTP to the API server named in a kubeconfig.

    Args:
        kubeconfig: path of the file; KUBECONFIG in the environment plays no part.
        context: name of a context in it, else its current one.

    Raises:
        ClusterError: when the file is missing, damaged or lacks the context.
    """

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        configuration = Configuration()
        configuration.retries = False
        configuration.connection_pool_maxsize = MAX_CONNECTIONS
        configuration.proxy = (
            None  # one of the environment is for the internet; a kubeconfig names its own as proxy-url
        )
        self._memory_files: list[int] = []
        try:
            config = self._with_files(strict_yaml.load(kubeconfig.read_text()), kubeconfig.parent)
            load_kube_config_from_dict(config, context, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
            self._api = ApiClient(configuration)
        except FileNotFoundError as error:
            raise ClusterError(f"no kubeconfig at {kubeconfig}", hint=_MISSING) from error
        except (ConfigException, AttributeError, TypeError, ValueError) as error:
            raise ClusterError(f"the kubeconfig {kubeconfig} cannot be used", got=error) from error

    def close(self) -> None:
        """Close the connections and forget the credentials."""
        self._api.rest_client.close()
        for descriptor in self._memory_files:
            os.close(descriptor)
        self._memory_files.clear()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Object | list[Object] | None = None,
        what: str = "",
    ) -> Object:
        """Send one request and give the JSON answer back.

        Args:
            method: HTTP method; PATCH of an object means a server-side apply, of a list a JSON patch.
            path: from the root of the API server, `/api/v1/…`.
            query: parameters of the URL.
            body: object to send.
            what: the object in words, for errors.

        Raises:
            TemporaryClusterError: no connection, 409, 429, 500, 502, 503, 504.
            NotFoundError: 404.
            ImmutableError: 422 since a field cannot change.
            ClusterError: any other refusal.
        """
        content = "application/json"
        if method == "PATCH":
            content = "application/json-patch+json" if isinstance(body, list) else "application/apply-patch+yaml"
        with self._call(method, path, query, body, content, _TIMEOUT_S) as response:
            data = response.data
        if 200 <= response.status < 300:
            answer: Object = json.loads(data)
            return answer
        raise refusal(response.status, data, what or path)

    def lines(self, path: str, query: dict[str, str], what: str) -> Iterator[str]:
        """Lines of an answer that may take long to end, such as a log that is followed.

        Raises:
            TemporaryClusterError: no connection, or no line for `_STREAM_TIMEOUT_S`.
            ClusterError: a refusal, as for `request`.
        """
        with self._call("GET", path, query, None, "application/json", _STREAM_TIMEOUT_S) as response:
            if response.status != 200:
                raise refusal(response.status, response.data, what)
            response.auto_close = False
            yield from io.TextIOWrapper(cast(BinaryIO, response), encoding="utf-8", errors="replace")

    @contextmanager
    def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Object | list[Object] | None,
        content: str,
        timeout_s: tuple[float, float],
    ) -> Iterator[urllib3.HTTPResponse]:
        headers = {"Accept": "application/json, */*", "Content-Type": content, "User-Agent": "sovereign"}
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        host = self._api.configuration.host
        try:
            response = self._api.call_api(*request, _request_timeout=timeout_s).response
            yield response
            response.release_conn()
        except ApiException as error:  # TLS: the only thing that call_api raises itself
            hint = "does the kubeconfig belong to this cluster?"
            raise ClusterError(f"no trusted connection to {host}", got=error.reason, hint=hint) from error
        except urllib3.exceptions.HTTPError as error:
            raise TemporaryClusterError(f"the API server {host} does not answer", got=_innermost(error)) from error

    def _with_files(self, config: dict[str, Any], folder: Path) -> dict[str, Any]:
        """`config` with relative paths resolved, and inline certificates and keys behind /proc/self/fd.

        The library would write the latter to /tmp, where a killed process would leave a cluster's key.
        """
        for section in ("clusters", "users"):
            for entry in config.get(section) or []:
                values = entry.get(section[:-1]) or {}
                for key in _FILES:
                    if inline := values.pop(f"{key}-data", None):
                        descriptor = os.memfd_create(key)
                        os.write(descriptor, base64.b64decode(inline))
                        self._memory_files.append(descriptor)
                        values[key] = f"/proc/self/fd/{descriptor}"
                    elif key in values:
                        values[key] = str(folder / values[key])
        return config


def refusal(status: int, data: bytes, what: str) -> ClusterError:
    """The error for an answer of the API server, with the fields and reasons that it gave."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {"message": data.decode(errors="replace").strip()}
    details = answer.get("details") or {}
    causes = [cause for cause in details.get("causes") or [] if cause.get("message")]
    message = str(answer.get("message", ""))
    got = "; ".join(_cause(cause) for cause in causes) or message or f"HTTP {status}"
    text = f"{what}: refused by the API server ({status} {answer.get('reason', '')})".replace(" )", ")")
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return TemporaryClusterError(f"{what}: its namespace is being deleted", got=message)
    if status == 404:
        missing = f"{details.get('kind', '')} {details.get('name', '')}".strip()
        return NotFoundError(f"{what}: not found", missing=missing, got=message)
    if status == 422 and causes and all(_IMMUTABLE.search(cause["message"]) for cause in causes):
        return ImmutableError(text, got=got, fields=tuple(cause.get("field", "") for cause in causes))
    if status in (409, 429, 502, 503, 504) or (status == 500 and not _PERMANENT_500.search(message)):
        return TemporaryClusterError(text, got=got)
    return ClusterError(text, got=got)


def _cause(cause: dict[str, str]) -> str:
    # The server quotes the whole value, a pod template for example, between the kind of error and the reason.
    message = cause["message"].splitlines()[0]
    if len(message) > _MAX_CAUSE:
        message = f"{message[: _MAX_CAUSE // 2]} … {message[-_MAX_CAUSE // 2 :]}"
    field = cause.get("field", "")
    return f"{field}: {message}" if field and field != "<nil>" else message


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"

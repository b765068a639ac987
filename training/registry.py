"""The model registry (MLflow): which version of a model is the champion, and what its files are.

A version's tags say what it is: `digest` (sovereign.serving.fetch.model_digest of the model's files), `files` (JSON:
store key -> hex SHA-256), `store_prefix` (the store key of their folder) and `gguf_digest` (that of the folder with its
GGUF file, where there is one). They are all that serving needs.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tenacity

from sovereign.errors import TrainingError
from sovereign.serving.fetch import model_digest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"
_PATIENCE_S = 60.0
_NO_LOOKUPS = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}


@dataclass(frozen=True)
class Champion:
    """The version of a model that is to be served."""

    name: str
    """Name of the registered model: the profile's."""
    version: int
    digest: str
    """Digest of the model's files as one."""
    files: dict[str, str]
    """Hex SHA-256 by store key."""
    store_prefix: str
    """Store key of the model's folder, with a slash at its end."""
    gguf_digest: str | None
    """Digest of the folder that llama.cpp serves it from (training/served.py); None: it cannot be a GGUF file."""


def open_client(tracking_uri: str, *, patience_s: float = _PATIENCE_S) -> MlflowClient:
    """A client of the MLflow server or database at `tracking_uri`, with MLflow's own calls to the internet off.

    Args:
        patience_s: how long a database that another process has locked, for example to make its tables, is tried again.

    Raises:
        TrainingError: the database cannot be opened.
    """
    os.environ.update(_NO_LOOKUPS)  # read when mlflow is imported
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(SQLAlchemyError),
        wait=tenacity.wait_fixed(1),
        stop=tenacity.stop_after_delay(patience_s),
        reraise=True,
    )
    try:
        return retrying(MlflowClient, tracking_uri=tracking_uri)
    except SQLAlchemyError as error:
        raise TrainingError(
            f"MLflow's database cannot be opened: {str(error).splitlines()[0]}",
            got=tracking_uri,
            hint="if it is locked, wait for the process that uses it; if it is damaged, restore it from a backup",
        ) from error


def experiment_id(client: MlflowClient, name: str) -> str:
    """The experiment `name`, made when it is not there.

    Without a server artifacts lie beside the database. MLflow's own default, a folder of the working folder, is a plain
    path that MLflow later decodes as an address, so that a path with `%41` would be another one.
    """
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    location = None
    if client.tracking_uri.startswith("sqlite:"):
        from sqlalchemy.engine import make_url

        location = (Path(make_url(client.tracking_uri).database or "mlflow.db").absolute().parent / "mlruns").as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def champion(tracking_uri: str, name: str, *, alias: str = CHAMPION) -> Champion:
    """The version of model `name` that has the alias.

    Raises:
        TrainingError: no such version, a registry that cannot be reached, or a version that this kit did not register.
    """
    if tracking_uri.startswith(("http://", "https://")):
        version, tags = _version_over_http(tracking_uri, name, alias)
    else:
        version, tags = _version_in_database(tracking_uri, name, alias)
    try:
        files: dict[str, str] = json.loads(tags["files"])
        prefix, digest = tags["store_prefix"], tags["digest"]
    except (KeyError, ValueError) as error:
        raise TrainingError(
            f"version {version} of model {name} was not registered by this kit", got=f"tags {sorted(tags)}"
        ) from error
    if model_digest({key.removeprefix(prefix): value for key, value in files.items()}) != digest:
        raise TrainingError(f"the tags of version {version} of model {name} contradict each other", got=digest)
    return Champion(name, version, digest, files, prefix, tags.get("gguf_digest"))


def _missing(name: str, alias: str) -> TrainingError:
    return TrainingError(
        f"model {name} has no version with the alias {alias}",
        hint="run the stages up to `register`; if they have run, a limit in the profile's `evaluation` was not met",
    )


def _version_in_database(tracking_uri: str, name: str, alias: str) -> tuple[int, Mapping[str, str]]:
    client = open_client(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise _missing(name, alias) from error
        raise TrainingError(f"the model registry cannot be read: {error}", got=tracking_uri) from error
    return int(found.version), found.tags


def _version_over_http(tracking_uri: str, name: str, alias: str) -> tuple[int, Mapping[str, str]]:
    """The same over MLflow's REST API: importing mlflow takes longer than the rest of a deploy without changes."""
    query = urllib.parse.urlencode({"name": name, "alias": alias})
    url = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as response:
            found = json.load(response)["model_version"]
            return int(found["version"]), {tag["key"]: tag["value"] for tag in found.get("tags", ())}
    except urllib.error.HTTPError as error:
        detail = error.read(500).decode(errors="replace")
        if error.code in {400, 404} and ("INVALID_PARAMETER_VALUE" in detail or "RESOURCE_DOES_NOT_EXIST" in detail):
            raise _missing(name, alias) from error
        raise TrainingError("the model registry refused the request", got=f"HTTP {error.code}: {detail}") from error
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"the model registry cannot be read: {error}", got=tracking_uri) from error

"""Files of registered models in the store that nothing names any more: a version was deleted, or a run was killed.

`register` never deletes files of an earlier model, since an alias, a serving pod or another site's base may name them.
A person deletes a version in MLflow first; `sovereign prune` then finds its files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sovereign.errors import TrainingError
from sovereign.receipts import model_digest
from sovereign.stages import load_stage, read_receipt
from sovereign.store import Store
from training.registry import open_client


@dataclass(frozen=True)
class Unnamed:
    """A registered model that nothing names."""

    digest: str
    keys: tuple[str, ...]
    """Of its files in the store."""
    num_bytes: int


def find_unnamed(store: Store, tracking_uri: str, name: str, kept: Iterable[str]) -> list[Unnamed]:
    """Models below `models/<name>/register/` that no version, no alias (each points at a version) and no receipt names.

    Args:
        kept: digests that something outside registry and store names: what is served, the base of a site.

    Raises:
        TrainingError: the registry cannot be read, or knows no version of the model, so that it cannot be the one that
            the models were registered in.
    """
    prefix = f"models/{name}/register/"
    keys, sizes = defaultdict[str, list[str]](list), defaultdict[str, int](int)
    for stored in store.describe(prefix):
        folder, slash, _ = stored.key.removeprefix(prefix).partition("/")
        digest = folder.removesuffix(".served")  # what llama.cpp loads goes with its model
        if slash:
            keys[digest].append(stored.key)
            sizes[digest] += stored.size_bytes
    versions = set(_digests_of_versions(tracking_uri, name))
    if keys and not versions:
        raise TrainingError(
            f"the registry has no version of model {name}, but the store has files of {len(keys)}",
            got=tracking_uri,
            expected="the registry in which they were registered",
            hint="restore it, or run the stage `register` again; nothing was deleted",
        )
    named = versions | {*kept, *_digests_of_receipts(store, name)}
    return [Unnamed(digest, tuple(keys[digest]), sizes[digest]) for digest in sorted(keys.keys() - named)]


def delete_all(store: Store, models: Iterable[Unnamed]) -> None:
    """Delete the files of `models`. Stopped in between, `find_unnamed` still finds what is left."""
    for model in models:
        for key in model.keys:
            store.delete(key)


def _digests_of_versions(tracking_uri: str, name: str) -> Iterator[str]:
    client = open_client(tracking_uri)
    from mlflow.exceptions import MlflowException

    token: str | None = None
    try:
        while True:
            page = client.search_model_versions(f"name = '{name}'", page_token=token)
            yield from (version.tags["digest"] for version in page if "digest" in version.tags)
            token = page.token or None
            if token is None:
                return
    except MlflowException as error:
        raise TrainingError(f"the model registry cannot be read: {error}", got=tracking_uri) from error


def _digests_of_receipts(store: Store, name: str) -> Iterator[str]:
    """What was registered last, and what training made last: `register` may be storing it now."""
    registered = read_receipt(store, load_stage("register"), name)
    if registered is not None:
        yield str(registered.metrics["digest"])
    trained = read_receipt(store, load_stage("train"), name)
    if trained is not None:
        prefix = f"models/{name}/train/model/"
        yield model_digest(
            {key.removeprefix(prefix): value for key, value in trained.outputs.items() if key.startswith(prefix)}
        )

"""Fetch a registered model by its digest and lay it out as the hub cache that `transformers serve` lists and loads.

The layout is `<into>/hub/models--<owner>--<name>/{refs/main,snapshots/<revision>/<files>}`, with HF_HOME=<into> for
the server: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. The revision is the first 40 digits of the
model's digest.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sovereign.beneath import OutsideError, join_beneath
from sovereign.errors import StoreError
from sovereign.files import sha256_file, write_atomic
from sovereign.receipts import model_digest as model_digest
from sovereign.store import Store

REVISION_DIGITS = 40
"""Length of a revision in the hub cache, which is a Git commit's."""


def fetch_model(store: Store, prefix: str, digest: str, into: Path, name: str) -> Path:
    """Fetch all files below `prefix`, check them, and only then make them visible in the hub cache.

    Args:
        prefix: store key of the model's folder, with a slash at its end.
        digest: the model's digest as registered (`model_digest` of its files).
        into: the server's HF_HOME.
        name: `owner/model`, the name under which it is served.

    Returns:
        The folder of the snapshot.

    Raises:
        StoreError: no files there, or they are not the ones that were registered.
    """
    into.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=into, prefix=".fetch-"))
    try:
        # (1) Fetch into a folder that no server looks at.
        files = {}
        for key in store.list(prefix):
            path = _join(folder, key.removeprefix(prefix))
            store.get_file(key, path)
            files[key.removeprefix(prefix)] = sha256_file(path)
        # (2) Nothing is loaded that was not registered.
        if not files:
            raise StoreError(f"no model under {prefix}", hint="has the stage `train` run?")
        if (found := model_digest(files)) != digest:
            raise StoreError(
                f"the files under {prefix} are not the registered model",
                got=found,
                expected=digest,
                hint="deploy the serving stack again, so that it takes the present champion",
            )
        # (3) One rename makes the whole snapshot visible; the reference that names it comes last.
        repository = into / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / digest[:REVISION_DIGITS]
        if snapshot.exists():  # of an earlier start of this pod
            shutil.rmtree(snapshot)
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(snapshot)
        write_atomic(repository / "refs" / "main", digest[:REVISION_DIGITS])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return snapshot


def _join(folder: Path, name: str) -> Path:
    try:
        return join_beneath(folder, name)
    except OutsideError as error:
        raise StoreError("name of a model file leads out of its folder", got=name) from error

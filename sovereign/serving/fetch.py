"""Fetch a folder of a registered model by its digest: nothing else is ever loaded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sovereign.beneath import OutsideError, join_beneath
from sovereign.errors import StoreError
from sovereign.files import sha256_file
from sovereign.receipts import model_digest as model_digest
from sovereign.store import Store


def fetch_model(store: Store, prefix: str, digest: str, into: Path) -> Path:
    """Fetch all files below `prefix`, check them, and only then give their folder its name.

    Args:
        prefix: store key of the folder, with a slash at its end.
        digest: the folder's digest as registered (`model_digest` of its files).
        into: where to make it.

    Returns:
        The folder, `into`/`digest`.

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
        # (3) One rename makes the whole folder visible.
        model = into / digest
        if model.exists():  # of an earlier start of this pod
            shutil.rmtree(model)
        folder.replace(model)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return model


def _join(folder: Path, name: str) -> Path:
    try:
        return join_beneath(folder, name)
    except OutsideError as error:
        raise StoreError("name of a model file leads out of its folder", got=name) from error

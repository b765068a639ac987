"""`sovereign export`: a registered model, or one in a folder, as a file for other programs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sovereign.cli.console import Board, lines, write_json
from sovereign.cli.sites import site_of
from sovereign.cli.where import record_export
from sovereign.cli.work import runner_of
from sovereign.errors import StageError
from sovereign.files import json_object, sha256_file
from sovereign.receipts import now
from sovereign.serving.fetch import model_digest
from sovereign.site import Site
from sovereign.store import Store, fetch_folder


def run_export(source: Path, kind: str, out: Path, *, site_dir: Path | None, local: bool, as_json: bool) -> None:
    """Write the model that `source` means (a folder with a model, else a site or profile) as `out`."""
    from training.export import export

    with (
        Board() as board,
        _model(source, site_dir, local=local) as (folder, name, site),
        board.task("export"),
    ):
        result = export(folder, out, kind, name=name, report=lambda text, done: board.update("export", text, done))
    if site is not None:
        record = {name: getattr(result, name) for name in ("format", "sha256", "model_digest")}
        record_export(site, record | {"path": str(result.path.absolute()), "at": now()})
    if as_json:
        write_json(result.as_dict())
        return
    rows = [
        ("file", f"{result.path} ({result.num_bytes:,} bytes)"),
        ("SHA-256", result.sha256),
        ("model digest", result.model_digest),
        ("tensors", ", ".join(f"{count} {kind}" for kind, count in sorted(result.tensors.items()))),
    ]
    found = result.comparison
    rows.append(("divergence", f"{found.divergence:.2g} nats from the source, mean of {found.positions} positions"))
    rows.append(("logits", f"error {found.error:.2%}, largest difference {found.max_difference:.2g}"))
    rows.append(("same choice", f"{found.agreement:.1%} of the positions"))
    lines(f"{name}, {result.format}", rows)


@contextmanager
def _model(source: Path, site_dir: Path | None, *, local: bool) -> Iterator[tuple[Path, str, Site | None]]:
    """The model's folder, its name, and the site that registered it."""
    if (source / "config.json").is_file():
        yield source, source.resolve().name, None
        return
    site = site_of(source, site_dir)
    with runner_of(site, local=local) as runner, tempfile.TemporaryDirectory(prefix="sovereign-model-") as folder:
        name = site.profile.name
        version = fetch_registered(runner.store, name, Path(folder))
        yield Path(folder), f"{name} v{version}", site


def fetch_registered(store: Store, name: str, folder: Path) -> int:
    """Fetch the model `name` as it was registered last into `folder`, and check it; its version.

    Raises:
        StageError: none is registered.
        StoreError: its files are not the registered ones.
    """
    key = f"models/{name}/register/registration.json"
    if not store.exists(key):
        raise StageError(f"model {name} is not registered yet", hint="sovereign stage register PROFILE")
    hint = f"delete {key} in the store and run the stage `register` again"
    registration = json_object(store.get_bytes(key), key, StageError, hint=hint)
    if missing := {"store_prefix", "digest", "version"} - registration.keys():
        raise StageError(f"{key} is damaged", got=f"no {', '.join(sorted(missing))}", hint=hint)
    fetch_folder(store, registration["store_prefix"], folder)
    files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}
    if (found := model_digest(files)) != registration["digest"]:
        raise StageError(
            f"the files under {registration['store_prefix']} are not the registered model",
            got=found,
            expected=registration["digest"],
            hint="run the stage `register` again",
        )
    return int(registration["version"])

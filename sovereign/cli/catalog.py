"""`sovereign lake record|ls|show|query|diff|history`: the catalog of the site's datasets."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sovereign.cli.console import Board, lines, say, visible, visible_lines, write_json
from sovereign.cli.runs import store_of
from sovereign.errors import CatalogError, ProofError, StoreError
from sovereign.site import Site
from sovereign.store import Store

if TYPE_CHECKING:
    from sovereign.lake.catalog import Catalog
    from sovereign.lake.catalog_versions import Version

_CELL = 80
"""Characters of a value that a table shows."""
_TEXT = 2000
"""Characters of a document that are shown."""


def catalog_file(site: Site, *, local: bool) -> Path:
    """The catalog's SQLite file, where the profile names no database."""
    return (site.data_dir if local else site.state_dir) / "catalog.sqlite"


@contextmanager
def _open(site: Site, *, local: bool, make: bool = False) -> Iterator[Catalog]:
    with store_of(site, local=local) as store, open_catalog(site, store, local=local, make=make) as catalog:
        yield catalog


@contextmanager
def open_catalog(site: Site, store: Store, *, local: bool, make: bool) -> Iterator[Catalog]:
    """The catalog of the site's `store`.

    Raises:
        CatalogError: it cannot be opened; also when there is none and it is not to be made.
    """
    from sovereign.lake.catalog import Catalog, database_address

    configured, file = site.profile.datalake.catalog, catalog_file(site, local=local)
    if configured is None and not file.exists() and not make:
        raise CatalogError(
            "nothing is recorded in the catalog yet", expected=file, hint=f"sovereign lake record {site.root}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with Catalog.open(database_address(configured, file), store) as catalog:
        yield catalog


def record_dataset(site: Site, store: Store, *, local: bool, board: Board) -> tuple[Version, bool]:
    """Take the site's curated dataset into the catalog; the version, and whether it was not there as the newest.

    Raises:
        ProofError: there is no curated dataset.
        CatalogError: the catalog cannot be written.
    """
    from sovereign.cli.rights import say_taken_back
    from sovereign.lake.catalog_recording import record
    from sovereign.lake.dataset import Dataset

    with TemporaryDirectory(prefix="sovereign-catalog-") as folder:
        dataset = Dataset.open(site.profile.name, store, Path(folder))
        say_taken_back(site, dataset)
        with open_catalog(site, store, local=local, make=True) as catalog, board.task("catalog"):
            return record(
                catalog,
                dataset,
                site.profile.corpus.owners,
                lambda done, total: board.update("catalog", f"{done} of {total} files", done / total),
            )


def record_if_possible(site: Site, store: Store, *, local: bool, board: Board) -> None:
    """The same after a stage, which a catalog that does not answer must not stop; then it is said what to do."""
    try:
        record_dataset(site, store, local=local, board=board)
    except (CatalogError, StoreError) as error:
        say(f"the dataset is not in the catalog: {error}", "yellow")
        say(f"`sovereign lake record {site.root}{' --local' if local else ''}` takes it in when this is mended")


def run_record(site: Site, *, local: bool, as_json: bool) -> None:
    """Take the curated dataset, as it is now, into the catalog."""
    with site.lock("lake record"), store_of(site, local=local) as store, Board() as board:
        version, is_new = record_dataset(site, store, local=local, board=board)
    if as_json:
        write_json(_version(version) | {"recorded_now": is_new})
    else:
        say(f"{version.name} {'is recorded' if is_new else 'was recorded already'}, snapshot {version.snapshot_id}")


def _warn_of_withdrawals(site: Site, store: Store, version: Version) -> None:
    """Say of the dataset as it is now what was taken back since; of other versions the catalog alone knows."""
    from sovereign.cli.rights import say_taken_back
    from sovereign.lake.dataset import Dataset
    from sovereign.receipts import model_digest

    with TemporaryDirectory(prefix="sovereign-catalog-") as folder:
        try:
            dataset = Dataset.open(site.profile.name, store, Path(folder))
        except ProofError:  # its files are gone; the catalog has it still
            return
        if version.version == model_digest(dataset.parents["curate"].outputs):
            say_taken_back(site, dataset)


def run_ls(site: Site, *, limit: int, local: bool, as_json: bool) -> None:
    """Every version of every dataset, the newest first."""
    with _open(site, local=local) as catalog:
        versions = catalog.versions()
        rows = {(row["dataset"], row["version"]): row for row in catalog.rows("datasets")}
        metadata = {name: table.metadata_location for name, table in catalog.tables().items()}
    newest = {one.dataset: one.snapshot_id for one in versions}
    kept = {(one.dataset, one.version): one for one in versions}  # one that was recorded again: the last time
    found = sorted(kept.values(), key=lambda one: one.recorded_at, reverse=True)
    shown = [
        _version(one)
        | {"newest": newest[one.dataset] == one.snapshot_id}
        | _counts(rows.get((one.dataset, one.version)))
        for one in found[:limit]
    ]
    if as_json:
        write_json({"versions": shown, "more": len(found) - len(shown), "metadata": metadata})
        return
    lines("Datasets", [(one["name"], _sentence(one)) for one in shown])
    _say_more(len(found) - len(shown), "versions")


def run_show(site: Site, reference: str | None, document: str | None, *, local: bool, as_json: bool) -> None:
    """What a version has by language, owner and licence; or one document of it."""
    from sovereign.lake.catalog_query import document_of

    with store_of(site, local=local) as store, open_catalog(site, store, local=local, make=False) as catalog:
        version = catalog.find(reference or site.profile.name)
        _warn_of_withdrawals(site, store, version)
        if document is not None:
            record = document_of(catalog, version, document)
            if as_json:
                write_json(record)
            else:
                _show_document(version.name, record)
            return
        tables = {name: catalog.rows(name, version) for name in ("datasets", "owners", "licences")}
    made = {key: value for row in tables["datasets"] for key, value in row.items() if key not in _version(version)}
    groups = {name: [_without_version(row) for row in tables[name]] for name in ("owners", "licences")}
    if as_json:
        write_json(_version(version) | made | groups)
        return
    rows = [(name, str(value)) for name, value in (_version(version) | made).items() if name != "languages"]
    rows += [
        (f"{one['language']} {one['split']}", f"{one['documents']:,} documents, {one['characters']:,} characters")
        for one in made.get("languages", ())
    ]
    rows += [(f"owner {one['owner']}", _values(one, "owner")) for one in groups["owners"]]
    rows += [(f"licence {one['licence']}", _values(one, "licence")) for one in groups["licences"]]
    lines(version.name, rows)


@contextmanager
def _ended_by(*numbers: signal.Signals) -> Iterator[None]:
    """These signals end this command as Ctrl-C does, with all that it made for itself removed."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_query(site: Site, sql: str, at: str | None, *, limit: int, local: bool, as_json: bool) -> None:
    """Rows of a SQL query over the tables."""
    from sovereign.lake.catalog_query import query

    with (
        _ended_by(signal.SIGTERM, signal.SIGHUP),
        _open(site, local=local) as catalog,
        TemporaryDirectory(prefix="sovereign-query-") as folder,  # what a query spills; it may be large
    ):
        answer = query(catalog, sql, Path(folder), limit=limit, at=catalog.find(at) if at else None)
    if as_json:
        if twice := sorted({name for name in answer.columns if answer.columns.count(name) > 1}):
            raise CatalogError("columns of the same name", got=", ".join(twice), hint="name them with AS")
        rows = [dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows]
        write_json({"rows": rows, "more": answer.more})
        return
    for row in [answer.columns, *answer.rows]:
        sys.stdout.write("\t".join(_cell(value) for value in row) + "\n")
    if answer.more:
        say(f"there are more than these {limit} rows: --limit shows more")


def run_diff(site: Site, old: str, new: str, *, listed: bool, limit: int, local: bool, as_json: bool) -> None:
    """What differs between two versions."""
    from sovereign.lake.catalog_query import compare

    with _open(site, local=local) as catalog, TemporaryDirectory(prefix="sovereign-diff-") as folder:
        first, second = catalog.find(old), catalog.find(new)
        found = compare(catalog, first, second, Path(folder), limit=limit if listed else 0)
    if as_json:
        write_json({"old": _version(first), "new": _version(second)} | asdict(found))
        return
    rows = [(name, f"{count:,} documents") for name, count in found.documents.items()]
    rows += [(f"changed in {name}", f"{count:,} documents") for name, count in found.columns.items()]
    for group, counts in (("language", found.languages), ("owner", found.owners), ("licence", found.licences)):
        rows += [(f"{group} {name}", _values(values)) for name, values in counts.items()]
    lines(f"From {first.name} to {second.name}", rows)
    if listed:
        lines("Documents", [(one["change"], " ".join([one["doc_id"], *one["columns"]])) for one in found.listed])
        if found.more:
            say(f"there are more than these {limit} documents: --limit shows more")


def run_history(site: Site, dataset: str | None, *, limit: int, local: bool, as_json: bool) -> None:
    """Snapshots of table `documents`, the newest first."""
    from sovereign.lake.catalog_tables import DOCUMENTS
    from sovereign.lake.catalog_versions import DATASET, VERSION, snapshots_of, summary_of, time_of

    with _open(site, local=local) as catalog:
        if dataset is not None:
            catalog.find(f"{dataset}@")
        snapshots = snapshots_of(catalog.table(DOCUMENTS))
    found: list[dict[str, Any]] = []
    for snapshot in reversed(snapshots):
        summary = summary_of(snapshot)
        if dataset in (None, summary.get(DATASET)):
            found.append(
                {
                    "snapshot_id": snapshot.snapshot_id,
                    "committed_at": time_of(snapshot).isoformat(),
                    "operation": snapshot.summary.operation.value if snapshot.summary else None,
                    "dataset": summary.get(DATASET),
                    "version": summary.get(VERSION),
                }
                | {name: int(summary.get(f"{name}-records", 0)) for name in ("added", "deleted", "total")}
            )
    shown, more = found[:limit], max(0, len(found) - limit)
    if as_json:
        write_json({"snapshots": shown, "more": more})
        return
    lines("Snapshots of the documents", [(str(one["snapshot_id"]), _commit_sentence(one)) for one in shown])
    _say_more(more, "snapshots")


def _version(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "dataset": version.dataset,
        "version": version.version,
        "snapshot_id": version.snapshot_id,
        "recorded_at": version.recorded_at.isoformat(),
    }


def _counts(row: dict[str, Any] | None) -> dict[str, Any]:
    """Of a row of table `datasets`, which is missing when a recording was interrupted."""
    if row is None:
        return {"documents": None, "characters": None, "languages": []}
    languages = sorted({one["language"] for one in row["languages"]})
    return {"documents": row["documents"], "characters": row["characters"], "languages": languages}


def _sentence(one: dict[str, Any]) -> str:
    if one["documents"] is None:
        return f"recorded {one['recorded_at']}; its counts are missing, since that was interrupted"
    counts = f"{one['documents']:,} documents, {one['characters']:,} characters, {' '.join(one['languages'])}"
    return f"{counts}, recorded {one['recorded_at']}{', newest' if one['newest'] else ''}"


def _commit_sentence(one: dict[str, Any]) -> str:
    what = f"{one['dataset']}@{one['version'][:12]}" if one["version"] else "by another program"
    counts = f"{one['added']:,} documents in new files, {one['deleted']:,} in files that left, {one['total']:,} in all"
    return f"{one['committed_at']} {one['operation']} {what}: {counts}"


def _without_version(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("dataset", "version")}


def _values(row: dict[str, Any], *without: str) -> str:
    return ", ".join(
        f"{value:,} {key}" if isinstance(value, int) else f"{key}: {value}"
        for key, value in row.items()
        if value is not None and key not in without
    )


def _show_document(title: str, record: dict[str, Any]) -> None:
    text = str(record.pop("text"))
    lines(f"Document of {title}", [(name, str(value)) for name, value in record.items()])
    sys.stdout.write(f"\n{visible_lines(text[:_TEXT])}\n")
    if len(text) > _TEXT:
        say(f"there are {len(text) - _TEXT:,} characters more: --json has them")


def _cell(value: Any) -> str:
    text = value.isoformat() if isinstance(value, datetime) else "" if value is None else str(value)
    text = visible(" ".join(text.split()))
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _plain(value: Any) -> Any:
    """A query's value as JSON can say it: no infinity, no NaN, keys that are text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _say_more(number: int, what: str) -> None:
    if number > 0:
        say(f"and {number:,} {what} more: --limit shows more")

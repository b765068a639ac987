"""`sovereign lake where`: the datasets, token shards, models and exports that have an owner's or a document's text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sovereign.cli.catalog import open_catalog
from sovereign.cli.console import lines, say, write_json
from sovereign.cli.rights import say_unknown
from sovereign.cli.runs import store_of
from sovereign.errors import CatalogError, ProfileError, StageError
from sovereign.files import write_atomic
from sovereign.lake.whereabouts import (
    Found,
    Held,
    Trace,
    Traced,
    Version,
    Wanted,
    count_files,
    find_checkpoints,
    find_documents,
    may_contain,
    read_versions,
    stored,
    tokens_seen,
    trace,
    versions_with_owner,
)
from sovereign.owners import owner_name, unicode_text
from sovereign.site import Site
from sovereign.store import Store

if TYPE_CHECKING:
    from sovereign.lake.former import Recorded


def run_where(site: Site, *, owner: str | None, document: str | None, local: bool, as_json: bool) -> None:
    """List datasets, token shards, models and exports that have an owner's or a document's text.

    Raises:
        ProfileError: not exactly one of both is named.
        StageError: nothing was ever gathered.
    """
    if owner is not None:
        owner = owner_name(owner)
    if (owner is None) == (document is None) or owner == "":
        raise ProfileError("whose text is looked for is not clear", expected="either --owner NAME or --document ID")
    try:
        unicode_text(str(owner or document))
    except ValueError as error:
        raise ProfileError(f"what is looked for {error}", got=owner or document) from error
    name, wanted = site.profile.name, Wanted(owner, document)
    with store_of(site, local=local) as store:
        versions = read_versions(store, name, site.receipts_dir / "history")
        if not any(versions.values()):
            raise StageError("stage corpus has not run", hint=f"sovereign stage corpus {site.root}")
        raw, curated = (
            [one for version in stored(versions, stage) for one in find_documents(store, version, wanted)]
            for stage in ("corpus", "curate")
        )
        kept = [one for one in curated if not one.reason]
        owners = {name for one in [*raw, *curated] for name in one.document.owners}
        if document is None:
            held = versions_with_owner(versions, str(owner))
        else:
            held = _versions_with(site, store, versions, document, kept, owners, local=local)
        traced = trace(versions, held)
        ids = {one.document.doc_id for one in kept} | ({document} if document is not None else set())
        found = {
            "dataset": name,
            **({"owner": owner} if owner is not None else {"document": document, "owners": sorted(owners)}),
            "corpus": {"files": count_files(raw), "documents": _ids(raw)},
            "curated": {
                "files": count_files(kept),
                "documents": _ids(kept),
                "rejected": {one.document.doc_id: one.reason for one in curated if one.reason},
            },
            "datasets": [_dataset(one) for one in held],
            "shards": _shards(store, versions, wanted, ids),
            "tokenized": [_traced(one) for one in traced.shards],
            "models": _models(store, traced, owner),
            "checkpoints": find_checkpoints(store, name, traced.shards),
            "exports": _exports(site, traced),
        }
    if as_json:
        write_json(found)
    else:
        _show_where(found)
    if not stored(versions, "corpus"):
        say("the gathered documents are not stored here: they were not looked into", "yellow")
    if not (raw or curated or held or found["shards"]):
        say_unknown(owner=owner, document=document)


def _ids(found: list[Any]) -> list[str]:
    return sorted(one.document.doc_id for one in found)


def _described(version: Version) -> dict[str, Any]:
    return {
        "version": version.name,
        "key": version.receipt.key,
        "finished_at": version.receipt.finished_at,
        "is_current": version.is_current,
    }


def _traced(one: Traced) -> dict[str, Any]:
    return _described(one.version) | {"is_certain": one.is_certain}


def _dataset(held: Held) -> dict[str, Any]:
    told: dict[str, Any] = {"documents": held.documents, "is_certain": not held.unknown}
    if held.documents is None:
        told |= {"kept_as": list(held.kept_as)} | ({"unknown": held.unknown} if held.unknown else {})
    return _described(held.version) | told


def _versions_with(
    site: Site,
    store: Store,
    versions: dict[str, list[Version]],
    document: str,
    kept: list[Found],
    owners: set[str],
    *,
    local: bool,
) -> list[Held]:
    """The versions of the dataset with a document's text; of former ones the catalog is asked."""
    held = [Held(one, kept_as=tuple(_ids(kept))) for one in versions["curate"] if one.is_current and kept]
    former = [one for one in versions["curate"] if not one.is_current]
    if former:
        with _recorded(site, store, local=local) as recorded:
            for version in former:
                found = recorded(version, document)
                if found.is_in:
                    held.append(Held(version, kept_as=found.kept_as))
                elif found.is_in is None and may_contain(versions, version, document, owners):
                    held.append(Held(version, unknown=found.why))
    return held


@contextmanager
def _recorded(site: Site, store: Store, *, local: bool) -> Iterator[Callable[[Version, str], Recorded]]:
    """What the catalog knows of a document in a former version; where it cannot be read, why."""
    from sovereign.lake.former import Recorded, look_up

    with ExitStack() as stack:
        try:
            catalog = stack.enter_context(open_catalog(site, store, local=local, make=False))
            known = {one.version: one for one in catalog.versions(site.profile.name)}
        except CatalogError as error:
            message = error.message
            yield lambda *_: Recorded(is_in=None, why=message)
            return

        def find(version: Version, document: str) -> Recorded:
            if version.name not in known:
                return Recorded(is_in=None, why="this version is not recorded in the catalog")
            try:
                return look_up(catalog, known[version.name], version.receipt, document)
            except CatalogError as error:
                return Recorded(is_in=None, why=error.message)

        yield find


def _shards(store: Store, versions: dict[str, list[Version]], wanted: Wanted, ids: set[str]) -> list[dict[str, Any]]:
    """The token shards in the store that have the text of an owner or of the documents `ids`; each is looked into."""
    tokenized = stored(versions, "tokenize")
    keys = [key for version in tokenized for key in sorted(version.receipt.outputs) if key.endswith(".bin")]
    if not keys:
        return []
    from training.shards import Shard

    found = []
    with TemporaryDirectory(prefix="sovereign-shards-") as folder:
        for key in keys:
            path = Path(folder, "shard.bin")
            store.get_file(key, path)
            shard = Shard(path)
            if wanted.owner is not None:
                own = {place for place, name in enumerate(shard.owner_names) if owner_name(name) == wanted.owner}
                owners = enumerate(shard.owners_of(range(shard.num_documents)) if own else ())
                numbers = [number for number, all_own in owners if not own.isdisjoint(all_own)]
            else:
                documents = enumerate(shard.document_ids(range(shard.num_documents)))
                numbers = [number for number, doc_id in documents if doc_id in ids]
            if numbers:
                tokens = int(shard.lengths[numbers].sum())
                found.append({"shard": key, "documents": len(numbers), "tokens": tokens})
            path.unlink()
    return found


def _models(store: Store, traced: Trace, owner: str | None) -> list[dict[str, Any]]:
    """Trainings that took the text, each with the versions of the model that were registered of it."""
    models = []
    for training in traced.trainings:
        registered = [
            {"version": one.version.receipt.metrics.get("version"), "digest": one.version.receipt.metrics.get("digest")}
            for one in traced.registrations
            if one.version.is_made_of(training.version)
        ]
        seen = tokens_seen(store, training.version, owner) if owner is not None else None
        described = {"run": training.version.receipt.key[:8], **_traced(training), "registered": registered}
        models.append(described | ({} if seen is None else {"tokens_seen": seen}))
    return models


def _exports(site: Site, traced: Trace) -> list[dict[str, Any]]:
    """Files that were exported of a model that has the text, or may have it."""
    digests: dict[Any, bool] = {}
    for one in traced.registrations:
        digest = one.version.receipt.metrics.get("digest")
        digests[digest] = digests.get(digest, False) or one.is_certain
    return [
        one | {"is_certain": digests[one["model_digest"]]}
        for one in read_exports(site)
        if one["model_digest"] in digests
    ]


def read_exports(site: Site) -> list[dict[str, Any]]:
    """What `sovereign export` has written of this site's models, in order."""
    path = site.receipts_dir / "exports.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def record_export(site: Site, export: dict[str, Any]) -> None:
    """Note that a model of this site was exported."""
    path = site.receipts_dir / "exports.jsonl"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    write_atomic(path, before + json.dumps(export, sort_keys=True) + "\n")


def _show_where(found: dict[str, Any]) -> None:
    rows = [
        (key, f"{count:,} documents") for part in ("corpus", "curated") for key, count in found[part]["files"].items()
    ]
    reasons = Counter(found["curated"]["rejected"].values())
    rows += [(f"set aside: {reason}", f"{count:,} documents") for reason, count in sorted(reasons.items())]
    lines("Stored documents", rows or [("none", "")])
    rows = [
        (f"{found['dataset']} {one['version'][:12]}", _held(one, found.get("document"))) for one in found["datasets"]
    ]
    lines("Versions of the dataset", rows or [("none", "")])
    rows = [(one["shard"], f"{one['documents']:,} documents, {one['tokens']:,} tokens") for one in found["shards"]]
    rows += [(f"shards {one['version'][:12]}", _when(one)) for one in found["tokenized"] if not one["is_current"]]
    lines("Token shards", rows or [("none", "")])
    rows = []
    for one in found["models"]:
        names = [f"registered as v{model['version']} {model['digest'][:12]}" for model in one["registered"]]
        seen = [f"{one['tokens_seen']:,} tokens taken"] if "tokens_seen" in one else []
        rows.append((f"run {one['run']}", ", ".join([_when(one), *seen, *names])))
    lines("Models", rows or [("none", "")])
    rows = [(one["folder"], "" if one["is_certain"] else "perhaps") for one in found["checkpoints"]]
    lines("Checkpoints", rows or [("none", "")])
    rows = [(one["path"], f"{_perhaps(one)}{one['format']} of {one['model_digest'][:12]}") for one in found["exports"]]
    lines("Exports", rows or [("none", "")])


def _held(one: dict[str, Any], document: str | None) -> str:
    if one["documents"] is not None:
        return f"{one['documents']:,} documents, {_when(one)}"
    others = [name for name in one["kept_as"] if name != document]
    kept = f"the text of the document, kept as {', '.join(others)}" if others else "the document"
    return f"{kept}, {_when(one)}" + (f": {one['unknown']}" if "unknown" in one else "")


def _perhaps(one: dict[str, Any]) -> str:
    return "" if one["is_certain"] else "perhaps "


def _when(one: dict[str, Any]) -> str:
    return f"{_perhaps(one)}{'current' if one['is_current'] else 'former'}, of {one['finished_at']}"

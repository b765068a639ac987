"""`sovereign lake where`: the datasets, token shards, models and exports that have an owner's or a document's text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.cli.console import lines, write_json
from sovereign.cli.runs import store_of
from sovereign.errors import ProfileError
from sovereign.files import write_atomic
from sovereign.lake.whereabouts import (
    Trace,
    Version,
    Wanted,
    count_files,
    current,
    find_checkpoints,
    find_documents,
    read_versions,
    tokens_seen,
    trace,
)
from sovereign.site import Site
from sovereign.store import Store


def run_where(site: Site, *, owner: str | None, document: str | None, local: bool, as_json: bool) -> None:
    """List datasets, token shards, models and exports that have an owner's or a document's text.

    Raises:
        ProfileError: not exactly one of both is named.
        StageError: nothing is gathered yet.
    """
    if (owner is None) == (document is None):
        raise ProfileError("whose text is looked for is not clear", expected="either --owner NAME or --document ID")
    name, wanted = site.profile.name, Wanted(owner, document)
    with store_of(site, local=local) as store:
        versions = read_versions(store, name, site.receipts_dir / "history")
        raw = find_documents(store, current(versions, "corpus"), wanted)
        curated = [
            one
            for version in versions["curate"]
            if version.is_current
            for one in find_documents(store, version, wanted)
        ]
        kept = [one for one in curated if not one.reason]
        owners = {owner} if owner is not None else {name for one in [*raw, *curated] for name in one.document.owners}
        traced = trace(versions, owners, bool(kept) if owner is None else None)
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
            "datasets": [_dataset(version, count, document) for version, count in traced.datasets],
            "shards": _shards(store, versions, wanted, ids),
            "tokenized": [_described(version) for version in traced.shards],
            "models": _models(store, traced, owner),
            "checkpoints": find_checkpoints(store, name, traced.shards),
            "exports": _exports(site, traced),
        }
    if as_json:
        write_json(found)
    else:
        _show_where(found)


def _ids(found: list[Any]) -> list[str]:
    return sorted(one.document.doc_id for one in found)


def _described(version: Version) -> dict[str, Any]:
    return {
        "version": version.name,
        "key": version.receipt.key,
        "finished_at": version.receipt.finished_at,
        "is_current": version.is_current,
    }


def _dataset(version: Version, count: int, document: str | None) -> dict[str, Any]:
    """Of a former version only the owners are known, so a document of theirs may have been in it or not."""
    is_certain = document is None or version.is_current
    return _described(version) | {"documents": count if document is None else None, "is_certain": is_certain}


def _shards(store: Store, versions: dict[str, list[Version]], wanted: Wanted, ids: set[str]) -> list[dict[str, Any]]:
    """The token shards in the store that have the text of an owner or of the documents `ids`; each is looked into."""
    stored = [version for version in versions["tokenize"] if version.is_current]
    keys = [key for version in stored for key in sorted(version.receipt.outputs) if key.endswith(".bin")]
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
                numbers = []
                if wanted.owner in (names := shard.owner_names):
                    own = names.index(wanted.owner)
                    owners = enumerate(shard.owners_of(range(shard.num_documents)))
                    numbers = [number for number, all_own in owners if own in all_own]
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
            {"version": one.receipt.metrics.get("version"), "digest": one.receipt.metrics.get("digest")}
            for one in traced.registrations
            if one.is_made_of(training)
        ]
        seen = tokens_seen(store, training, owner) if owner is not None else None
        described = {"run": training.receipt.key[:8], **_described(training), "registered": registered}
        models.append(described | ({} if seen is None else {"tokens_seen": seen}))
    return models


def _exports(site: Site, traced: Trace) -> list[dict[str, Any]]:
    """Files that were exported of a model that has the text."""
    digests = {one.receipt.metrics.get("digest") for one in traced.registrations}
    return [one for one in read_exports(site) if one["model_digest"] in digests]


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
    rows = []
    for one in found["datasets"]:
        count = "the document" if one["documents"] is None else f"{one['documents']:,} documents"
        rows.append(
            (
                f"{found['dataset']} {one['version'][:12]}",
                f"{'' if one['is_certain'] else 'perhaps '}{count}, {_when(one)}",
            )
        )
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
    lines(
        "Exports",
        [(one["path"], f"{one['format']} of {one['model_digest'][:12]}") for one in found["exports"]] or [("none", "")],
    )


def _when(one: dict[str, Any]) -> str:
    return f"{'current' if one['is_current'] else 'former'}, of {one['finished_at']}"

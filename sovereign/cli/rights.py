"""`sovereign lake rights`, `withdraw` and `where`: whose text is there, what is taken back, and where it went."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from sovereign.cli.console import lines, say, write_json
from sovereign.cli.runs import store_of
from sovereign.errors import ProfileError
from sovereign.files import write_atomic
from sovereign.lake.documents import Document
from sovereign.lake.rights import RightsRules, read_claims
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
from sovereign.locks import hold
from sovereign.profile_rights import Withdrawal
from sovereign.receipts import Receipt, now
from sovereign.site import Site
from sovereign.store import Store
from sovereign.withdrawals import add_withdrawal

_SHOWN = 20
"""Documents listed for people; --json has all."""


def run_rights(site: Site, *, local: bool, as_json: bool) -> None:
    """Owners, licences and documents of the gathered corpus, and what of it may not be trained on.

    Raises:
        StageError: nothing is gathered yet.
    """
    profile = site.profile
    rules = RightsRules(profile.corpus)
    owners: Counter[str] = Counter()
    licences: dict[str, Counter[str]] = {}
    set_aside: dict[str, list[dict[str, Any]]] = {}
    with store_of(site, local=local) as store:
        version = current(read_versions(store, profile.name, site.receipts_dir / "history"), "corpus")
        for document in _read_raw(store, version):
            owners.update(document.owners)
            reason = rules.reason(document)
            counts = licences.setdefault(document.licence, Counter())
            counts.update({"documents": 1, "not_trainable": int(bool(rules.not_trainable(document)))})
            if reason:
                set_aside.setdefault(reason, []).append(_told(document))
    registered = {owner.name: owner for owner in profile.corpus.owners}
    found = {
        "dataset": profile.name,
        "corpus": version.name,
        "owners": {
            name: {
                "documents": owners[name],
                "is_registered": name in registered,
                "is_withdrawn": name in rules.withdrawn_owners,
            }
            | (registered[name].model_dump(exclude={"name"}, exclude_none=True) if name in registered else {})
            for name in sorted(owners.keys() | registered.keys())
        },
        "licences": {name: dict(counts) for name, counts in sorted(licences.items())},
        "set_aside": dict(sorted(set_aside.items())),
        "left_out_at_ingest": _left_out(version),
    }
    if as_json:
        write_json(found)
    else:
        _show_rights(found)


def _read_raw(store: Store, version: Version) -> Iterator[Document]:
    with TemporaryDirectory(prefix="sovereign-rights-") as folder:
        path = Path(folder, "documents.parquet")
        for key in sorted(version.receipt.outputs):
            if key.endswith(".parquet"):
                store.get_file(key, path)
                yield from read_claims([path])


def _told(document: Document) -> dict[str, Any]:
    told = {"doc_id": document.doc_id, "owners": list(document.owners), "licence": document.licence}
    return told | ({"url": document.url} if document.url else {})


def _left_out(version: Version) -> dict[str, dict[str, int]]:
    """Documents that ingest left out for their rights, by source and reason."""
    found = {}
    for name, values in version.receipt.metrics.items():
        if name.startswith("source "):
            skipped = {
                reason: count
                for reason, count in values["skipped"].items()
                if reason.startswith(("opted out", "licence"))
            }
            if skipped:
                found[name.removeprefix("source ")] = skipped
    return found


def _show_rights(found: dict[str, Any]) -> None:
    rows = []
    for name, owner in found["owners"].items():
        notes = [owner.get("kind", ""), "" if owner["is_registered"] else "not registered"]
        notes.append("withdrawn" if owner["is_withdrawn"] else "")
        rows.append((name, ", ".join([f"{owner['documents']:,} documents", *filter(None, notes)])))
    lines("Owners", rows)
    rows = [
        (name, f"{one['documents']:,} documents" + (", not trainable" if one["not_trainable"] else ""))
        for name, one in found["licences"].items()
    ]
    lines("Licences", rows)
    for source, skipped in found["left_out_at_ingest"].items():
        lines(f"Left out of source {source}", [(reason, f"{count:,}") for reason, count in skipped.items()])
    for reason, documents in found["set_aside"].items():
        more = len(documents) - _SHOWN
        rows = [(one["doc_id"], f"{one['licence']}, {', '.join(one['owners'])}") for one in documents[:_SHOWN]]
        lines(f"{reason}: {len(documents):,} documents", rows + ([("…", f"{more:,} more: --json")] if more > 0 else []))


def run_withdraw(
    site: Site, *, owner: str | None, document: str | None, url: str | None, reason: str | None, day: str | None
) -> None:
    """Record that text is taken back, for the next version of the dataset.

    Raises:
        ProfileError: not exactly one of owner, document and address is named, or the date is none.
    """
    try:
        wanted = Withdrawal(
            date=day or now()[:10],
            owner=owner,
            document=document,
            url=url,
            reason=reason,
        )
    except ValidationError as error:
        raise ProfileError(
            f"what is taken back is not clear: {error.errors()[0]['msg']}",
            expected="one of --owner NAME, --document ID, --url ADDRESS",
        ) from error
    # Not the lock of the site: text can be taken back while a training runs.
    with hold(site.state_dir / "withdrawals.lock", lambda: say("waiting for another withdrawal to end")):
        is_new = add_withdrawal(site.withdrawals_file, wanted)
    if owner is not None and owner not in _known_owners(site):
        say(f"no text of {owner} is known here: is the name spelled as on the documents?", "yellow")
    if not is_new:
        say(f"recorded before in {site.withdrawals_file}")
        return
    say(f"recorded in {site.withdrawals_file}; the next version of {site.profile.name} is made without it:")
    say(f"  sovereign stage curate {site.root}")
    if url is None:
        named = f"--owner {shlex.quote(owner)}" if owner is not None else f"--document {shlex.quote(str(document))}"
        say(f"what has it now: sovereign lake where {site.root} {named}")


def _known_owners(site: Site) -> set[str]:
    corpus = site.profile.corpus
    names = {owner.name for owner in corpus.owners} | {source.owner for source in corpus.sources}
    receipt = site.receipts_dir / "corpus.json"
    if receipt.is_file():
        names |= Receipt.from_bytes(receipt.read_bytes()).metrics.get("documents_by_owner", {}).keys()
    return names


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

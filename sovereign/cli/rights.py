"""`sovereign lake rights` and `withdraw`: whose text is there, what may be trained on, what is taken back."""

from __future__ import annotations

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
from sovereign.lake.dataset import Dataset
from sovereign.lake.documents import Document
from sovereign.lake.rights import RightsRules, is_of_rights, read_claims
from sovereign.lake.whereabouts import (
    Version,
    current,
    read_versions,
)
from sovereign.locks import hold
from sovereign.owners import look_alike_groups, look_alikes
from sovereign.profile import DEMONSTRATION
from sovereign.profile_rights import Withdrawal
from sovereign.receipts import Receipt, now
from sovereign.site import Site
from sovereign.store import Store
from sovereign.urls import parse_target
from sovereign.withdrawals import add_withdrawal

_SHOWN = 20
"""Documents listed for people; --json has all."""
_SHOWN_LETTERS = 8


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
        "look_alikes": look_alike_groups(owners.keys() | registered.keys()),
        "licences": {name: dict(counts) for name, counts in sorted(licences.items())},
        "set_aside": dict(sorted(set_aside.items())),
        "left_out_at_ingest": _left_out(version),
        "without_robots_txt": {
            name.removeprefix("source "): values["without_robots_txt"]
            for name, values in version.receipt.metrics.items()
            if name.startswith("source ") and "without_robots_txt" in values
        },
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
            skipped = {reason: count for reason, count in values["skipped"].items() if is_of_rights(reason)}
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
    if found["look_alikes"]:
        rows = [(quoted(first), " and ".join(map(quoted, others))) for first, *others in found["look_alikes"]]
        lines("Owners that look the same; if they are, spell them alike in the sources", rows)
    rows = [
        (name, f"{one['documents']:,} documents" + (", not trainable" if one["not_trainable"] else ""))
        for name, one in found["licences"].items()
    ]
    lines("Licences", rows)
    if found["without_robots_txt"]:
        rows = [(source, f"{count:,} documents") for source, count in found["without_robots_txt"].items()]
        lines("Pages whose host's robots.txt is not known", rows)
    for source, skipped in found["left_out_at_ingest"].items():
        lines(f"Left out of source {source}", [(reason, f"{count:,}") for reason, count in skipped.items()])
    for reason, documents in found["set_aside"].items():
        more = len(documents) - _SHOWN
        rows = [(one["doc_id"], f"{one['licence']}, {', '.join(one['owners'])}") for one in documents[:_SHOWN]]
        lines(f"{reason}: {len(documents):,} documents", rows + ([("…", f"{more:,} more: --json")] if more > 0 else []))


def run_withdraw(
    site: Site,
    *,
    owner: str | None,
    document: str | None,
    url: str | None,
    reason: str | None,
    day: str | None,
    readmitted: bool = False,
) -> None:
    """Record that text is taken back, or `readmitted`, for the next version of the dataset.

    Raises:
        ProfileError: not exactly one of owner, document and address is named, or the date is none.
    """
    try:
        wanted = Withdrawal(
            date=day or now()[:10], owner=owner, document=document, url=url, reason=reason, readmitted=readmitted
        )
    except ValidationError as error:
        raise ProfileError(
            f"what is taken back is not clear: {error.errors()[0]['msg']}",
            expected="one of --owner NAME, --document ID, --url ADDRESS",
        ) from error
    # Not the lock of the site: text can be taken back while a training runs.
    with hold(site.state_dir / "withdrawals.lock", lambda: say("waiting for another withdrawal to end")):
        is_new = add_withdrawal(site.withdrawals_file, wanted)
    _warn(site, wanted)
    if not is_new:
        say(f"recorded before in {site.withdrawals_file}")
        return
    how = "with it again" if readmitted else "without it"
    say(f"recorded in {site.withdrawals_file}; the next version of {site.profile.name} is made {how}:")
    say(f"  sovereign stage curate {shlex.quote(str(site.root))}")
    if url is None and not readmitted:
        named = f"--owner {shlex.quote(owner)}" if owner is not None else f"--document {shlex.quote(str(document))}"
        say(f"what has it now: sovereign lake where {shlex.quote(str(site.root))} {named}")


def _warn(site: Site, wanted: Withdrawal) -> None:
    """Say what may not be meant as it was written."""
    if wanted.date > now()[:10]:
        say(f"{wanted.date} is still to come; it holds from now on all the same", "yellow")
    if wanted.owner is not None:
        known = _known_owners(site)
        if wanted.owner not in known:
            say_unknown(owner=wanted.owner)
        if similar := look_alikes(wanted.owner, known):
            verb = "stay as they are" if wanted.owner in known else "are known"
            say(f"names that look like it {verb}: {', '.join(map(quoted, similar))}", "yellow")
    if wanted.document is not None and wanted.document.partition("/")[0] not in _known_sources(site):
        say_unknown(document=wanted.document)
    target = parse_target(wanted.url) if wanted.url is not None else None
    if target is not None and "." not in target.host and ":" not in target.host:
        say(
            f"{target.host} is a whole top-level domain: this is about every host that ends in .{target.host}", "yellow"
        )


def quoted(name: str) -> str:
    """A name for people who have to tell it from one that looks the same: other letters than ASCII's by number too."""
    odd = sorted({c for c in name if not c.isascii()})
    if not odd or len(odd) > _SHOWN_LETTERS or not any(c.isascii() and c.isalpha() for c in name):
        return f'"{name}"'
    return f'"{name}" (with {", ".join(f"{c} U+{ord(c):04X}" for c in odd)})'


def say_taken_back(site: Site, dataset: Dataset) -> None:
    """Warn that the version of now has text that was taken back since it was made."""
    if count := dataset.count_taken_back(site.profile):
        say(
            f"{count:,} documents of this version were taken back since it was made: "
            f"`sovereign stage curate {shlex.quote(str(site.root))}` makes the next one without them",
            "yellow",
        )


def say_unknown(*, owner: str | None = None, document: str | None = None) -> None:
    """Warn that nothing of an owner, or no document of this id, is known."""
    if owner is not None:
        say(f"no text of {owner} is known here: is the name spelled as on the documents?", "yellow")
    else:
        say(f"no document {document} is known here: is the id spelled as in the dataset?", "yellow")


def _known_owners(site: Site) -> set[str]:
    corpus = site.profile.corpus
    names = {owner.name for owner in corpus.owners} | {source.owner for source in corpus.sources}
    names |= _gathered(site).get("documents_by_owner", {}).keys()
    return names


def _known_sources(site: Site) -> set[str]:
    counted = (name for name in _gathered(site) if name == DEMONSTRATION or name.startswith("source "))
    return {name.removeprefix("source ") for name in counted} | {one.name for one in site.profile.corpus.sources}


def _gathered(site: Site) -> dict[str, Any]:
    """What stage `corpus` counted."""
    receipt = site.receipts_dir / "corpus.json"
    return Receipt.from_bytes(receipt.read_bytes()).metrics if receipt.is_file() else {}

"""Who may be trained on: withdrawals and later opt-outs, and the gate before training data is made.

The gate stands at the start of stage `curate`. There every document's own licence and owner are known, which a source
may say of each; a changed rule needs no source to be read again; and nothing is spent yet: the columns that it reads
hold no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sovereign.errors import SiteError, StageError
from sovereign.lake.documents import Document, read_rows
from sovereign.licences import LicenceError, canonical_licence, is_allowed
from sovereign.owners import owner_name
from sovereign.profile import DEMONSTRATION, Corpus
from sovereign.profile_rights import Withdrawal
from sovereign.urls import UrlSet
from sovereign.withdrawals import read_withdrawals

WITHDRAWN_OWNER, WITHDRAWN_DOCUMENT, OPTED_OUT = "withdrawn owner", "withdrawn document", "opted out"
NOT_TRAINABLE, NOT_REGISTERED = "licence not trainable", "owner not registered"
_OF_RIGHTS = ("opted out", "withdrawn", "licence", NOT_REGISTERED)
"""How the reasons begin for which text is left out because of somebody's rights, at ingest and by stage `curate`."""
_NAMED, _COUNTED = 5, 20
"""Documents and licences or owners that an error names."""


def is_of_rights(reason: str) -> bool:
    """Whether text that was left out for `reason` was so because of somebody's rights."""
    return reason.startswith(_OF_RIGHTS)


def read_claims(paths: Iterable[Path], groups: Iterable[int] | None = None) -> Iterator[Document]:
    """The documents of Parquet files, or of some row groups, without their texts, which are not read."""
    return (with_spdx_spelling(document) for document, _ in read_rows(paths, groups=groups, text=False))


def with_spdx_spelling(document: Document) -> Document:
    """The document with its licence as SPDX spells it; sources may say `cc-by-4.0`."""
    licence = canonical_licence(document.licence)
    return document if licence == document.licence else replace(document, licence=licence)


@dataclass
class Findings:
    """What the gate found. Of parts of a corpus that are added up in their order, it is that of the whole."""

    unregistered: Counter[str] = field(default_factory=Counter)
    """Documents by owner that is not in the profile."""
    refused: Counter[str] = field(default_factory=Counter)
    """Documents that may not be trained on, by the reason with their licence or owners."""
    named: list[str] = field(default_factory=list)
    """The first of them."""

    def update(self, other: Findings) -> None:
        """Add what was found in the part that follows."""
        self.unregistered += other.unregistered
        self.refused += other.refused
        self.named = [*self.named, *other.named][:_NAMED]

    def to_json(self) -> dict[str, Any]:
        """JSON values, which `from_json` takes."""
        return {"unregistered": dict(self.unregistered), "refused": dict(self.refused), "named": self.named}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Findings:
        """The findings that gave `values`."""
        return cls(Counter(values["unregistered"]), Counter(values["refused"]), values["named"])


class RightsRules:
    """What a profile says of documents that were gathered."""

    def __init__(self, corpus: Corpus) -> None:
        """Raises: StageError: the profile's file of opt-outs is not there or damaged."""
        self._rights = corpus.rights
        self.allowed = corpus.rights.allowed
        """Licences that may be trained on; None: any."""
        self.registered = frozenset(owner.name for owner in corpus.owners)
        # The owners that the kit itself makes up need no entry in the profile.
        self._made_up = DEMONSTRATION if all(source.name != DEMONSTRATION for source in corpus.sources) else None
        self.withdrawn_owners: set[str] = set()
        self._documents: set[str] = set()
        self._urls = UrlSet()
        for one in _all_withdrawals(corpus):
            self._apply(one)

    def _apply(self, one: Withdrawal) -> None:
        """Later entries count: text may be taken back, admitted again, and taken back once more."""
        if one.owner is not None:
            (self.withdrawn_owners.discard if one.readmitted else self.withdrawn_owners.add)(one.owner)
        elif one.document is not None:
            (self._documents.discard if one.readmitted else self._documents.add)(one.document)
        elif one.url is not None:
            (self._urls.remove if one.readmitted else self._urls.add)(one.url)

    def taken_back(self, document: Document) -> str:
        """Why the document is no longer to be used, or nothing."""
        if not self.withdrawn_owners.isdisjoint(map(owner_name, document.owners)):
            return WITHDRAWN_OWNER
        if document.doc_id in self._documents:
            return WITHDRAWN_DOCUMENT
        return OPTED_OUT if document.url and self._urls.has(document.url) else ""

    def not_trainable(self, document: Document) -> str:
        """Why the profile does not let the document be trained on, or nothing."""
        if self.allowed is not None:
            try:
                if not is_allowed(document.licence, self.allowed):
                    return NOT_TRAINABLE
            except LicenceError:
                return NOT_TRAINABLE
        if self._rights.registered_owners_only and self.unregistered(document):
            return NOT_REGISTERED
        return ""

    def unregistered(self, document: Document) -> set[str]:
        """Owners of the document that are not in the profile."""
        return (
            set()
            if document.source == self._made_up
            else {one for one in document.owners if owner_name(one) not in self.registered}
        )

    def reason(self, document: Document) -> str:
        """Why the document is set aside, or nothing."""
        return self.taken_back(document) or self.not_trainable(document)

    def examine(self, documents: Iterable[Document]) -> Findings:
        """What the gate finds in documents; those that were taken back are not held against a run."""
        findings = Findings()
        for document in documents:
            if self.taken_back(document):
                continue
            findings.unregistered.update(self.unregistered(document))
            if reason := self.not_trainable(document):
                what = ", ".join(document.owners) if reason == NOT_REGISTERED else document.licence
                findings.refused[f"{reason}: {what}"] += 1
                if len(findings.named) < _NAMED:
                    findings.named.append(document.doc_id)
        return findings

    def admit(self, findings: Findings) -> None:
        """Raises: StageError: documents may not be trained on, and the profile does not exclude them."""
        total = findings.refused.total()
        if not total or self._rights.on_other == "exclude":
            return
        most = sorted(findings.refused.most_common(_COUNTED))
        more = "" if total <= _NAMED else f" and {total - _NAMED} more"
        raise StageError(
            f"{total} documents may not be trained on: {', '.join(findings.named)}{more}",
            got="; ".join(f"{what} ({count} documents)" for what, count in most),
            expected="licences of corpus.rights.trainable and, if the profile asks for it, registered owners",
            hint="`sovereign lake rights SITE --json` lists all; corpus.rights.on_other: exclude leaves them out",
        )


def _all_withdrawals(corpus: Corpus) -> Iterator[Withdrawal]:
    yield from corpus.rights.withdrawn
    if corpus.rights.opt_outs.file is None:
        return
    path = Path(corpus.rights.opt_outs.file)
    if not path.is_file():
        raise StageError("the file of opt-outs is not there", got=path, hint="correct corpus.rights.opt_outs.file")
    try:
        yield from read_withdrawals(path)
    except SiteError as error:
        raise StageError(error.message, got=error.got, expected=error.expected, hint=error.hint) from error

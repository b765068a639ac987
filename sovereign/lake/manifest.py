"""The manifest of a dataset: JSON-LD in Croissant's vocabulary, with what it has not under a namespace of its own.

It names files, columns, counts, owners with what was agreed with them, sources with what was declared of them and left
out of them, parents, and the root of the documents' tree.
It holds no time and nothing of the machine, no path and no digest of one: the same dataset, profile and dataset key
give the same bytes.
Croissant: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import rfc8785

from sovereign.errors import ProofError
from sovereign.lake.commitments import DatasetKeys, commit_key
from sovereign.lake.dataset import Dataset, Entry, split_of
from sovereign.lake.demonstration import SOURCE as DEMONSTRATION
from sovereign.lake.documents import SCHEMA, Document
from sovereign.lake.leaves import Leaves
from sovereign.lake.proofs import TREE_TYPE
from sovereign.licences import CUSTOM
from sovereign.profile import Profile
from sovereign.receipts import Receipt, model_digest

NAMESPACE = "https://sovereign.local/dataset/v1#"
CROISSANT = "http://mlcommons.org/croissant/1.0"

_REPORT_EVERY = 1_000
DECLARED = {
    "owner": "declaredOwner",
    "licence": "declaredLicence",
    "legal_basis": "legalBasis",
    "terms": "terms",
    "contact": "contact",
    "opt_outs": "optOuts",
}
"""What a profile says of a source, and the terms for it. Its path is of one machine and stays out."""
_DECLARED_TERMS = {f"sovereign:{term}" for term in DECLARED.values()}
_PLAIN = {"@language": None}
"""Names and digests are in no language."""
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "sovereign": NAMESPACE,
    "sovereign:qualityReport": {"@id": "sovereign:qualityReport", "@type": "@json"},
    "subField": "cr:subField",
    "transform": "cr:transform",
} | {
    f"sovereign:{name}": {"@id": f"sovereign:{name}", "@context": _PLAIN}
    for name in ("commitments", "languages", "licences", "owners", "parents", "sources")
}
"""Croissant's own context, which its readers expect as it is, and our terms."""


@dataclass
class _Count:
    documents: int = 0
    characters: int = 0

    def add(self, document: Document) -> None:
        self.documents += 1
        self.characters += len(document.text)

    def terms(self) -> dict[str, int]:
        return {"sovereign:documents": self.documents, "sovereign:characters": self.characters}


@dataclass
class _Counts:
    """A document of several owners counts for each of them."""

    report: Callable[[int], None]
    """Told how many documents are counted."""
    total: _Count = field(default_factory=_Count)
    languages: defaultdict[tuple[str, str], _Count] = field(default_factory=lambda: defaultdict(_Count))
    """By language and split."""
    licences: defaultdict[str, _Count] = field(default_factory=lambda: defaultdict(_Count))
    owners: defaultdict[str, _Count] = field(default_factory=lambda: defaultdict(_Count))
    sources: defaultdict[str, _Count] = field(default_factory=lambda: defaultdict(_Count))
    licences_of: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Documents by owner and licence."""

    def watch(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """The same documents, counted."""
        for entry in entries:
            document = entry.document
            counts = [self.total, self.languages[document.language, entry.split]]
            counts += [self.licences[document.licence], self.sources[document.source]]
            for owner in document.owners:
                counts.append(self.owners[owner])
                self.licences_of[owner][document.licence] += 1
            for count in counts:
                count.add(document)
            if self.total.documents % _REPORT_EVERY == 0:
                self.report(self.total.documents)
            yield entry


def make_manifest(
    profile: Profile,
    dataset: Dataset,
    keys: DatasetKeys,
    leaves_path: Path,
    report: Callable[[int, int], None] = lambda *_: None,
) -> bytes:
    """The manifest in canonical JSON (RFC 8785); the leaves of the documents' tree are left at `leaves_path`.

    Args:
        report: told from time to time how many documents are read, of how many.

    Raises:
        StoreError: a file is missing or not what its receipt says.
        ProofError: a document or a metric has a value that canonical JSON has not.
    """
    metrics = dataset.parents["curate"].metrics
    num_documents = sum(metrics[split]["documents"] for split in _splits(dataset))
    counts = _Counts(lambda done: report(done, num_documents))
    dataset.build_leaves(leaves_path, keys, counts.watch(dataset.entries()))
    with Leaves(leaves_path) as leaves:
        tree = {
            "@type": "sovereign:Tree",
            "sovereign:algorithm": TREE_TYPE,
            "sovereign:size": leaves.size,
            "sovereign:root": leaves.root().hex(),
            "sovereign:keyCommitment": commit_key(keys.openings).hex(),
        }
    taken_back = dataset.count_taken_back(profile)
    manifest: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": profile.name,
        "description": profile.description or f"Documents of {profile.name}, cleaned, with owner and licence.",
        "conformsTo": CROISSANT,
        "license": sorted(counts.licences),
        "inLanguage": sorted({language for language, _ in counts.languages}),
        "distribution": _distribution(dataset),
        "recordSet": [_record_set(split) for split in _splits(dataset)],
        **counts.total.terms(),
        **({"sovereign:takenBackSince": taken_back} if taken_back else {}),
        "sovereign:languages": [
            {"sovereign:language": language, "sovereign:split": split, **count.terms()}
            for (language, split), count in sorted(counts.languages.items())
        ],
        "sovereign:licences": [
            {"sovereign:licence": licence, **count.terms()} for licence, count in sorted(counts.licences.items())
        ],
        "sovereign:customTerms": _custom_terms(profile, [*counts.licences, *_declared_licences(profile)]),
        "sovereign:owners": _owners(profile, counts),
        "sovereign:sources": _sources(dataset, counts),
        "sovereign:parents": _parents(dataset.parents),
        "sovereign:qualityReport": _quality_report(dataset),
        "sovereign:commitments": tree,
    }
    try:
        return rfc8785.dumps(manifest)
    except rfc8785.CanonicalizationError as error:
        raise ProofError(f"the manifest of {profile.name} cannot be written: {error}") from error


def _declared_licences(profile: Profile) -> list[str]:
    return [source.licence for source in profile.corpus.sources]


def _custom_terms(profile: Profile, licences: Iterable[str]) -> list[dict[str, str]]:
    """The terms, or where they stand, of each `LicenseRef-…` that a document or a source is under."""
    used = {name for licence in licences for name in re.findall(CUSTOM, licence)}
    return [
        {"sovereign:licence": one.id}
        | ({"sovereign:text": one.text} if one.text is not None else {})
        | ({"sovereign:address": one.url} if one.url is not None else {})
        for one in sorted(profile.corpus.rights.licences, key=lambda one: one.id)
        if one.id in used
    ]


def is_current(manifest: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a manifest says of the stages and sources what the receipts say now."""
    read = _read_sources(dataset.parents)
    said = {
        entry["sovereign:source"]: {key: value for key, value in entry.items() if key in _DECLARED_TERMS}
        | {"sovereign:leftOut": [one for one in entry["sovereign:leftOut"] if one["sovereign:stage"] == "corpus"]}
        for entry in manifest.get("sovereign:sources", [])
        if entry["sovereign:source"] in read
    }
    return (
        manifest["sovereign:parents"] == _parents(dataset.parents)
        and manifest["sovereign:qualityReport"] == _quality_report(dataset)
        and "sovereign:sources" in manifest
        and said == read
    )


def _parents(parents: Mapping[str, Receipt]) -> list[dict[str, Any]]:
    """Without the stages' keys: paths of the machine are digested into them."""
    return [
        {
            "@type": "sovereign:Stage",
            "sovereign:stage": stage,
            "sovereign:digest": model_digest(receipt.outputs),
        }
        for stage, receipt in sorted(parents.items())
    ]


def _quality_report(dataset: Dataset) -> dict[str, Any]:
    metrics = dataset.parents["curate"].metrics
    return {name: value for name, value in metrics.items() if name not in _splits(dataset)}


def _splits(dataset: Dataset) -> list[str]:
    return sorted({split_of(name) for name in dataset.files})


def _distribution(dataset: Dataset) -> list[dict[str, Any]]:
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "encodingFormat": "application/x-parquet",
            "sha256": digest,
        }
        for name, digest in dataset.files.items()
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{split}-files",
            "name": f"{split}-files",
            "encodingFormat": "application/x-parquet",
            "includes": f"{split}-*.parquet",
        }
        for split in _splits(dataset)
    ]
    return [*files, *sets]


def _record_set(split: str) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{split}/{column.name}",
            "name": column.name,
            "dataType": _data_type(column.type),
            **({"repeated": True} if pa.types.is_list(column.type) else {}),
            "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column.name}},
        }
        for column in SCHEMA
    ]
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "key": {"@id": f"{split}/doc_id"}, "field": fields}


def _data_type(column: pa.DataType) -> str:
    kind = column.value_type if pa.types.is_list(column) else column
    if pa.types.is_floating(kind):
        return "sc:Float"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"


def _owners(profile: Profile, counts: _Counts) -> list[dict[str, Any]]:
    """Everyone who gave text, with what the profile says was agreed with them; what it does not say is not there."""
    agreed = {owner.name: owner for owner in profile.corpus.owners}
    found = []
    for name in sorted(counts.owners.keys() | agreed.keys()):
        terms = agreed[name].model_dump(exclude={"name", "contact"}, exclude_none=True) if name in agreed else {}
        if key := terms.pop("public_key", None):
            terms["publicKey"] = key
        found.append(
            {
                "@type": "sovereign:Owner",
                "sovereign:owner": name,
                **counts.owners[name].terms(),
                "sovereign:licences": [
                    {"sovereign:licence": licence, "sovereign:documents": documents}
                    for licence, documents in sorted(counts.licences_of[name].items())
                ],
                **{f"sovereign:{key}": value for key, value in terms.items()},
            }
        )
    return found


def _sources(dataset: Dataset, counts: _Counts) -> list[dict[str, Any]]:
    """Every source, with what the profile said of it when it was read; what it did not say is not there."""
    read = _read_sources(dataset.parents)
    set_aside: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for document, reason in dataset.rejected():
        set_aside[document.source][reason] += 1
    found = []
    for name in sorted({*read, *counts.sources, *set_aside}):
        terms = read.get(name, {})
        found.append(
            {
                "@type": "sovereign:Source",
                "sovereign:source": name,
                "sovereign:isGenerated": name == DEMONSTRATION and name not in read,
                **counts.sources[name].terms(),
                **terms,
                "sovereign:leftOut": [*terms.get("sovereign:leftOut", []), *_left_out("curate", set_aside[name])],
            }
        )
    return found


def _read_sources(parents: Mapping[str, Receipt]) -> dict[str, dict[str, Any]]:
    """What the profile said of each source when it was read, and what was left out of it then; by its name."""
    gathered = parents["corpus"].metrics if "corpus" in parents else {}
    return {
        name.removeprefix("source "): {
            **{
                f"sovereign:{term}": values["declared"][key]
                for key, term in DECLARED.items()
                if values["declared"].get(key)
            },
            "sovereign:leftOut": _left_out("corpus", values["skipped"]),
        }
        for name, values in gathered.items()
        if name.startswith("source ")
    }


def _left_out(stage: str, reasons: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"sovereign:stage": stage, "sovereign:reason": reason, "sovereign:records": number}
        for reason, number in sorted(reasons.items())
    ]

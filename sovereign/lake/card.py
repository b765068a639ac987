"""The dataset card: README.md as hubs read it (front matter, then Markdown), with plots, for one version of a dataset.

The text is templates/lake/card.md.j2; here are only the numbers that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sovereign.display import spell
from sovereign.files import write_atomic
from sovereign.lake.census import QUALITY_BINS, Tally
from sovereign.lake.facts import Facts
from sovereign.lake.gaps import find_gaps
from sovereign.lake.manifest import DECLARED
from sovereign.lake.pages import render_page
from sovereign.lake.plots import draw_bars, draw_histogram

SPLITS = ("train", "heldout")
_FILES = [{"split": "train", "path": "train-*.parquet"}, {"split": "test", "path": "heldout-*.parquet"}]
_AGREED = ("consent", "terms", "withdrawal")
_SIZES = (
    "n<1K",
    "1K<n<10K",
    "10K<n<100K",
    "100K<n<1M",
    "1M<n<10M",
    "10M<n<100M",
    "100M<n<1B",
    "1B<n<10B",
    "10B<n<100B",
    "100B<n<1T",
    "n>1T",
)
"""Of documents, in the words of hubs; each after the first is ten times the one before."""


def write_card(folder: Path, facts: Facts) -> dict[str, Any]:
    """Write README.md and its plots into `folder`; a plot without anything to show is not there.

    Returns:
        The card's numbers.

    Raises:
        PublicationError: the template asks for a value that is not there.
    """
    numbers = card_numbers(facts)
    plots = draw_plots(numbers)
    text = render_page("card.md", front_matter=_front_matter(numbers), plots=set(plots), **numbers)
    for name in ("languages", "licences", "lengths", "quality", "rejected"):
        path = folder / f"{name}.png"
        if name in plots:
            write_atomic(path, plots[name])
        else:
            path.unlink(missing_ok=True)
    write_atomic(folder / "README.md", text)
    return numbers


def card_numbers(facts: Facts) -> dict[str, Any]:
    """What the card shows, as JSON values; larger parts come first."""
    manifest, cleaned, census = facts.manifest, facts.cleaned, facts.census
    rejected = _rank(cleaned["rejected"])
    return {
        "dataset": facts.anchor.dataset,
        "description": manifest["description"],
        "manifest_sha256": facts.manifest_sha256,
        "root": facts.anchor.root,
        "documents": facts.anchor.size,
        "characters": manifest["sovereign:characters"],
        "splits": {split: {key: cleaned[split][key] for key in ("documents", "characters")} for split in SPLITS},
        "languages": _languages(manifest),
        "sources": _sources(facts),
        "owners": _owners(manifest),
        "licences": _counted(manifest["sovereign:licences"], "licence"),
        "custom_terms": [
            {name: one.get(f"sovereign:{name}") for name in ("licence", "text", "address")}
            for one in manifest.get("sovereign:customTerms", ())
        ],
        "domains": _domains(facts),
        "websites": _websites(facts),
        "lengths": [
            {"from": 2**power if power else 0, "to": 2 ** (power + 1) - 1, "documents": census.lengths[power]}
            for power in range(min(census.lengths, default=0), max(census.lengths, default=-1) + 1)
        ],
        "longest": census.longest,
        "quality": [
            {"from": number / QUALITY_BINS, "to": (number + 1) / QUALITY_BINS, "documents": documents}
            for number, documents in enumerate(census.quality)
        ],
        "unmeasured": census.unmeasured,
        "documents_in": cleaned["documents_in"],
        "rejected": [{"reason": reason, "documents": documents} for reason, documents in rejected],
        "rights": [{"source": source, "reason": reason, "records": number} for source, reason, number in facts.rights],
        "duplicates": {kind: cleaned["rejected"].get(kind, 0) for kind in ("duplicate", "near duplicate")},
        "masked": [{"kind": kind, "number": number} for kind, number in _rank(cleaned.get("masked", {}))],
        "collected": {
            "earliest": census.dates.earliest,
            "latest": census.dates.latest,
            "unknown": census.dates.unknown,
            "read_on": facts.gathered_at[:10] if facts.gathered_at else None,
            "in_future": census.dates.later_than(facts.gathered_at) if facts.gathered_at else 0,
            "years": [{"year": year, "documents": number} for year, number in sorted(census.dates.years.items())],
        },
        "gaps": find_gaps(facts),
    }


def draw_plots(numbers: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name."""
    bars = {
        "languages": ("Documents by language", [(row["language"], row["documents"]) for row in numbers["languages"]]),
        "licences": ("Documents by licence", [(row["licence"], row["documents"]) for row in numbers["licences"]]),
        "rejected": (
            "Rejected documents by reason",
            [(row["reason"], row["documents"]) for row in numbers["rejected"]],
        ),
    }
    plots = {name: draw_bars(title, "documents", rows) for name, (title, rows) in bars.items() if rows}
    lengths = [(f"{row['from']:,}–{row['to']:,}", row["documents"]) for row in numbers["lengths"]]
    plots["lengths"] = draw_histogram("Length of documents, characters", "documents", lengths)
    if numbers["unmeasured"] < numbers["documents"]:
        quality = [(f"{row['from']:.2f}–{row['to']:.2f}", row["documents"]) for row in numbers["quality"]]
        plots["quality"] = draw_histogram("Quality of documents, 0 to 1", "documents", quality)
    return plots


def _rank(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest first, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _counted(entries: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Entries of the manifest with documents and characters, the largest first."""
    rows = [
        {
            name: entry[f"sovereign:{name}"],
            "documents": entry["sovereign:documents"],
            "characters": entry["sovereign:characters"],
        }
        for entry in entries
    ]
    return sorted(rows, key=lambda row: (-row["documents"], row[name]))


def _languages(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for entry in manifest["sovereign:languages"]:
        language = entry["sovereign:language"]
        row = rows.setdefault(
            language, {"language": language, "documents": 0, "train": 0, "heldout": 0, "characters": 0}
        )
        row[entry["sovereign:split"]] += entry["sovereign:documents"]
        row["documents"] += entry["sovereign:documents"]
        row["characters"] += entry["sovereign:characters"]
    total = manifest["sovereign:characters"] or 1
    for row in rows.values():
        row["share"] = round(row["characters"] / total, 6)
    return sorted(rows.values(), key=lambda row: (-row["documents"], row["language"]))


def _owners(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Owners with what was agreed; None where it is not stated."""
    agreed = {
        entry["sovereign:owner"]: {
            "licences": [one["sovereign:licence"] for one in entry["sovereign:licences"]],
            **{key: entry.get(f"sovereign:{key}") for key in _AGREED},
        }
        for entry in manifest["sovereign:owners"]
    }
    return [row | agreed[row["owner"]] for row in _counted(manifest["sovereign:owners"], "owner")]


def _sources(facts: Facts) -> list[dict[str, Any]]:
    """Sources with what they declare and what reading them gave; None where it is not stated or not known."""
    rows = []
    for source, entry in facts.sources.items():
        report = facts.report(source)
        tallies = facts.census.sources[source].splits if source in facts.census.sources else {}
        counted = {split: tallies[split].documents if tallies else 0 for split in SPLITS}
        rows.append(
            {
                "source": source,
                "domain": facts.domain(source),
                "is_generated": entry["sovereign:isGenerated"],
                **counted,
                "documents": sum(counted.values()),
                "characters": sum(tally.characters for tally in tallies.values()),
                "found": report.get("found"),
                "skipped": [
                    {"reason": reason, "records": number} for reason, number in _rank(report.get("skipped", {}))
                ],
                **{key: entry.get(f"sovereign:{term}") for key, term in DECLARED.items()},
            }
        )
    return sorted(rows, key=lambda row: (-row["documents"], row["source"]))


def _domains(facts: Facts) -> list[dict[str, Any]]:
    """What the text is about or for; nothing where the profile does not say it of any source."""
    if all(facts.domain(name) == name for name in facts.sources):
        return []
    return _tallied(
        "domain",
        [
            (facts.domain(name), tally)
            for name, source in facts.census.sources.items()
            for tally in source.splits.values()
        ],
    )


def _websites(facts: Facts) -> list[dict[str, Any]]:
    """Host names of the documents to train on."""
    return _tallied("website", [item for source in facts.census.sources.values() for item in source.websites.items()])


def _tallied(name: str, parts: list[tuple[str, Tally]]) -> list[dict[str, Any]]:
    """Sums by name, the one with most characters first."""
    rows: dict[str, dict[str, Any]] = {}
    for value, tally in parts:
        row = rows.setdefault(value, {name: value, "documents": 0, "characters": 0})
        row["documents"] += tally.documents
        row["characters"] += tally.characters
    return sorted(rows.values(), key=lambda row: (-row["characters"], row[name]))


def _front_matter(numbers: Mapping[str, Any]) -> str:
    """What hubs index: https://huggingface.co/docs/hub/datasets-cards."""
    place = max(0, min(len(str(numbers["documents"])) - 3, len(_SIZES) - 1))
    values = {
        "pretty_name": numbers["dataset"],
        "language": [spell(name) for name in sorted(row["language"] for row in numbers["languages"])],
        "license": "other",
        "license_name": "as listed in the card",
        "size_categories": [_SIZES[place]],
        "tags": ["sovereign-ai"],
        "configs": [{"config_name": "default", "data_files": _FILES}],
    }
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False)

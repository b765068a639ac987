"""`sovereign lake rejected`: the documents that stage `curate` set aside, each with the reason and its text."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.cli.console import lines, say, visible, write_json
from sovereign.cli.runs import store_of
from sovereign.lake.dataset import Dataset
from sovereign.site import Site

_SHOWN_CHARS = 300


def run_rejected(
    site: Site, *, reason: str | None, document: str | None, limit: int, local: bool, as_json: bool
) -> None:
    """Show the counts by reason, and documents that were set aside.

    Args:
        reason: those only whose reason begins so.
        document: the one only with this doc_id.

    Raises:
        ProofError: there is no curated dataset.
    """
    counts: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    num_wanted = 0
    with store_of(site, local=local) as store, TemporaryDirectory(prefix="sovereign-lake-") as folder:
        for one, why in Dataset.open(site.profile.name, store, Path(folder)).rejected(text=True):
            counts[why] += 1
            if why.startswith(reason or "") and document in (None, one.doc_id):
                num_wanted += 1
                if len(shown) < limit:
                    shown.append({"reason": why} | asdict(one))
    if as_json:
        write_json({"by_reason": dict(counts.most_common()), "documents": shown, "more": num_wanted - len(shown)})
        return
    lines(f"Set aside in {site.profile.name}", [(why, f"{count:,}") for why, count in counts.most_common()])
    for row in shown:
        text = row["text"] if document else row["text"][:_SHOWN_CHARS]
        more = "…" if len(text) < len(row["text"]) else ""
        say("\n" + visible(f"{row['doc_id']} ({row['language']}, {', '.join(row['owners'])}): {row['reason']}"))
        say(text + more)
    if num_wanted > len(shown):
        say(f"\nand {num_wanted - len(shown):,} more: --limit, --reason, --document, --json")

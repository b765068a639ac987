"""The rewards report as a page, Markdown: who gets what, with the formula and every owner's numbers put into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sovereign.display import escape_markdown
from sovereign.lake.rewards import text
from sovereign.section import exact


def render_page(report: Mapping[str, Any], report_sha256: str) -> str:
    """The page of a report.

    Args:
        report_sha256: of the report's canonical JSON.
    """
    settings, cap = report["settings"], report["settings"]["cap"]
    floor, weight = _number(settings["floor"]), _number(settings["influence_weight"])
    head = f"""# Rewards of {escape_markdown(report["dataset"])}

{report["total"]} is divided among {len(report["owners"])} owners. This page is made from the report with the SHA-256
`{report_sha256}`.

| Owner | Points | Share | Sum |
|---|---:|---:|---:|
"""
    rows = [
        f"| {escape_markdown(row['owner'])} | {row['points']} | {_percent(row['share'])} | {row['sum']} |\n"
        for row in report["owners"]
    ]
    limit = (
        "no owner is limited"
        if cap["max_share"] is None
        else f"nobody gets more than {_number(cap['max_share'])} of the fund"
    )
    formula = f"""
## Formula

    weighted tokens = sum over tiers of multiplier x sum over k of (tokens of documents with k owners) / k
    points          = {floor} + (weighted tokens)^{_number(cap["exponent"])} + {weight} x influence
    share           = points / {report["total_points"]}; {limit}
    sum             = share x {report["total"]}

The power is rounded down to a millionth. Influence is the lower end of the confidence interval of bits per byte, where
it is above 0. What a limit takes from an owner goes to the others by their points. Sums are rounded down to the
smallest unit, and the units that are left go one each to the largest remainders, to the first name where these are
equal.

## Owners
"""
    return "".join(
        [head, *rows, formula, *(_owner(row, floor) for row in report["owners"]), *_inputs(report["inputs"])]
    )


def _owner(row: Mapping[str, Any], floor: str) -> str:
    """One owner's numbers in the formula."""
    terms = [
        f"{tier['multiplier']} x ({' + '.join(f'{n}/{k}' for k, n in tier['tokens_by_owners'].items())})"
        for tier in row["consumed"]
    ]
    tiers = ", ".join(f"{tier['tier']} (x {tier['multiplier']})" for tier in row["consumed"]) or "none"
    influence = row["influence"] if row["influence"] is not None else "not measured"
    return f"""
### {escape_markdown(row["owner"])}

Licences: {escape_markdown(", ".join(row["licences"]))}. Quality tiers with tokens: {tiers}. Influence: {influence}.

    weighted tokens = {" + ".join(terms) or "0"}
                    = {row["weighted_tokens"]}
    points          = {floor} + {row["points_from_tokens"]} + {row["points_from_influence"]} = {row["points"]}
    share           = {row["share"]}
    sum             = {row["sum"]}
"""


def _inputs(inputs: Mapping[str, Any]) -> Iterator[str]:
    """A table of all inputs with their digests."""
    yield "\n## Inputs\n\n| Input | SHA-256 |\n|---|---|\n"
    for name, digest in sorted(inputs.items()):
        yield f"| {escape_markdown(name)} | `{digest}` |\n"


def _number(value: float) -> str:
    return text(exact(value))


def _percent(share: str) -> str:
    top, _, bottom = share.partition("/")
    return f"{100 * float(top) / float(bottom or 1):.3f}%"

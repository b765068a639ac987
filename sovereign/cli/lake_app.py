"""The commands of `sovereign lake`. What they do is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sovereign.cli.options import JsonOption, LocalOption, ProfileArgument, SiteOption
from sovereign.cli.sites import site_of

lake_app = typer.Typer(
    help="The dataset: catalog, manifest and proofs, rights, mix, attribution, documents for people.",
    no_args_is_help=True,
)
TextOption = Annotated[Path | None, typer.Option("--text", metavar="FILE", help="The text, a file in UTF-8.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10**9, help="How many to show at most.")]
OwnerOption = Annotated[
    str | None, typer.Option("--owner", metavar="NAME", help="An owner, spelled as on the documents.")
]
DocumentOption = Annotated[str | None, typer.Option("--document", metavar="ID", help="A document's doc_id.")]


@lake_app.command("manifest")
def lake_manifest(
    profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False, as_json: JsonOption = False
) -> None:
    """Describe the curated dataset: files, counts, owners, parents, and the root of its documents' tree."""
    from sovereign.cli.lake import run_manifest

    run_manifest(site_of(profile, site_dir), local=local, as_json=as_json)


@lake_app.command("prove")
def lake_prove(
    profile: ProfileArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    text: TextOption = None,
    language: Annotated[str, typer.Option(metavar="TAG", help="Of --text: its boilerplate is taken out as well.")] = "",
    document: Annotated[str | None, typer.Option("--document", metavar="ID", help="A document's doc_id.")] = None,
    open_key: Annotated[
        bool, typer.Option("--open-key", help="Show the key of all openings too; for auditors only.")
    ] = False,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prove that a text or document is in the dataset, or that a text is not, whichever is true."""
    from sovereign.cli.lake import run_prove

    site = site_of(profile, site_dir)
    run_prove(
        site,
        text=text,
        language=language,
        document=document,
        out=out,
        open_key=open_key,
        local=local,
        as_json=as_json,
    )


@lake_app.command("check")
def lake_check(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="A proof's file.")],
    manifest: Annotated[Path, typer.Option("--manifest", metavar="FILE", help="The dataset's manifest.")],
    text: TextOption = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PROOF", help="Another proof of it, with --open-key: is PROOF true to its key?"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a proof against the dataset's manifest; needs nothing else. Exit code 1 when it does not hold."""
    from sovereign.cli.lake import run_check

    run_check(proof, manifest, text=text, key=key, as_json=as_json)


@lake_app.command("rejected")
def lake_rejected(
    profile: ProfileArgument,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Those only whose reason begins so.")
    ] = None,
    document: DocumentOption = None,
    limit: LimitOption = 10,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look at the documents that `curate` set aside: how many for which reason, and their texts."""
    from sovereign.cli.rejected import run_rejected

    site = site_of(profile, site_dir)
    run_rejected(site, reason=reason, document=document, limit=limit, local=local, as_json=as_json)


@lake_app.command("rights")
def lake_rights(
    profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False, as_json: JsonOption = False
) -> None:
    """Owners and licences of the gathered text, and which documents may not be trained on."""
    from sovereign.cli.rights import run_rights

    run_rights(site_of(profile, site_dir), local=local, as_json=as_json)


@lake_app.command("withdraw")
def lake_withdraw(
    profile: ProfileArgument,
    owner: OwnerOption = None,
    document: DocumentOption = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="ADDRESS", help="A host with all below it, or a prefix of addresses.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    day: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="When it was declared; default today, UTC.")
    ] = None,
    site_dir: SiteOption = None,
) -> None:
    """Record that text is taken back; the next version of the dataset is made without it."""
    from sovereign.cli.rights import run_withdraw

    run_withdraw(site_of(profile, site_dir), owner=owner, document=document, url=url, reason=reason, day=day)


@lake_app.command("readmit")
def lake_readmit(
    profile: ProfileArgument,
    owner: OwnerOption = None,
    document: DocumentOption = None,
    url: Annotated[str | None, typer.Option("--url", metavar="ADDRESS", help="As it was taken back.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    day: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="When it was declared; default today, UTC.")
    ] = None,
    site_dir: SiteOption = None,
) -> None:
    """Record that text which was taken back may be used again, from the next version of the dataset on."""
    from sovereign.cli.rights import run_withdraw

    site = site_of(profile, site_dir)
    run_withdraw(site, owner=owner, document=document, url=url, reason=reason, day=day, readmitted=True)


@lake_app.command("where")
def lake_where(
    profile: ProfileArgument,
    owner: OwnerOption = None,
    document: DocumentOption = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the datasets, token shards, models and exports that have an owner's or a document's text."""
    from sovereign.cli.where import run_where

    run_where(site_of(profile, site_dir), owner=owner, document=document, local=local, as_json=as_json)


@lake_app.command("record")
def lake_record(
    profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False, as_json: JsonOption = False
) -> None:
    """Take the curated dataset, as it is now, into the catalog; nothing happens when it is there."""
    from sovereign.cli.catalog import run_record

    run_record(site_of(profile, site_dir), local=local, as_json=as_json)


@lake_app.command("ls")
def lake_ls(
    profile: ProfileArgument,
    limit: LimitOption = 100,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Datasets in the catalog, every version of them with its counts, the newest first."""
    from sovereign.cli.catalog import run_ls

    run_ls(site_of(profile, site_dir), limit=limit, local=local, as_json=as_json)


@lake_app.command("show")
def lake_show(
    profile: ProfileArgument,
    version: Annotated[
        str | None, typer.Argument(metavar="[DATASET[@VERSION]]", help="Default: the newest of the profile's.")
    ] = None,
    document: Annotated[str | None, typer.Option("--document", metavar="ID", help="One document's doc_id.")] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a version has by language, owner and licence; or one document of it with its record."""
    from sovereign.cli.catalog import run_show

    run_show(site_of(profile, site_dir), version, document, local=local, as_json=as_json)


@lake_app.command("query")
def lake_query(
    profile: ProfileArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A query, in DuckDB's SQL.")],
    at: Annotated[str | None, typer.Option("--at", metavar="VERSION", help="Documents as they were then.")] = None,
    limit: LimitOption = 100,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Query the tables documents, datasets, owners, licences, set_aside and decisions; changes nothing."""
    from sovereign.cli.catalog import run_query

    run_query(site_of(profile, site_dir), sql, at, limit=limit, local=local, as_json=as_json)


@lake_app.command("diff")
def lake_diff(
    profile: ProfileArgument,
    old: Annotated[str, typer.Argument(metavar="A", help="[DATASET@]VERSION.")],
    new: Annotated[str, typer.Argument(metavar="B", help="[DATASET@]VERSION, or DATASET for its newest version.")],
    listed: Annotated[bool, typer.Option("--list", help="List the documents too.")] = False,
    limit: LimitOption = 100,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Documents that were added, removed and changed from version A to version B."""
    from sovereign.cli.catalog import run_diff

    site = site_of(profile, site_dir)
    run_diff(site, old, new, listed=listed, limit=limit, local=local, as_json=as_json)


@lake_app.command("history")
def lake_history(
    profile: ProfileArgument,
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", help="Default: all.")] = None,
    limit: LimitOption = 100,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Snapshots of the documents: time, version, operation and counts, the newest first."""
    from sovereign.cli.catalog import run_history

    run_history(site_of(profile, site_dir), dataset, limit=limit, local=local, as_json=as_json)


@lake_app.command("card")
def lake_card(
    profile: ProfileArgument,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Default: `card` in the site.")] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the dataset's card for people: README.md with tables and plots, and what is not known of it."""
    from sovereign.cli.publication import run_card

    run_card(site_of(profile, site_dir), out, local=local, as_json=as_json)


@lake_app.command("summary")
def lake_summary(
    profile: ProfileArgument,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write it as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 when something is not stated.")] = False,
    site_dir: SiteOption = None,
    local: LocalOption = False,
) -> None:
    """Write the EU's public summary of training content; list what nobody stated, with the profile's key for it."""
    from sovereign.cli.publication import run_summary

    if not run_summary(site_of(profile, site_dir), html=html, json_file=json_file, local=local) and strict:
        raise typer.Exit(1)


@lake_app.command("mix")
def lake_mix(
    profile: ProfileArgument,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it as canonical JSON too.")] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """What training would take: tokens by language, domain, owner and licence, epochs, what is capped or left out."""
    from sovereign.cli.mix import run_mix

    run_mix(site_of(profile, site_dir), out=out, local=local, as_json=as_json)


@lake_app.command("approve")
def lake_approve(
    profile: ProfileArgument,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="The person who approves.")],
    note: Annotated[str, typer.Option("--note", help="Why, or on whose behalf.")] = "",
    seen: Annotated[
        Path | None,
        typer.Option(
            "--mix", metavar="FILE", help="What `lake mix --out` wrote; refuse if the mix is another one now."
        ),
    ] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Approve the mix that `lake mix` shows, of the dataset as it is now; training shards are made from it."""
    from sovereign.cli.mix import run_approve

    run_approve(site_of(profile, site_dir), by=by, note=note, seen=seen, local=local, as_json=as_json)


@lake_app.command("influence")
def lake_influence(
    profile: ProfileArgument,
    owners: Annotated[
        list[str] | None,
        typer.Option("--owner", metavar="NAME", help="Whose influence; repeatable; default everyone's."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Pairs of runs for each owner; intervals of 2 are very wide.")] = 2,
    budget: Annotated[float | None, typer.Option(metavar="TOKENS", help="Tokens of one run.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Size of the small model.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Where the runs and influence.json are; default: in the site."),
    ] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train small models with and without each owner, here; run again, it goes on where it stopped."""
    from sovereign.cli.attribution import run_influence

    run_influence(
        site_of(profile, site_dir),
        owners=owners or [],
        seeds=seeds,
        budget=budget,
        parameters=parameters,
        out=out,
        local=local,
        as_json=as_json,
    )


@lake_app.command("rewards")
def lake_rewards(
    profile: ProfileArgument,
    influence: Annotated[
        Path | None, typer.Option("--influence", metavar="FILE", help="An influence.json; default: the site's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The report, its page beside it; default: in receipts/."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="REPORT", help="Compare a report with what its inputs give; write nothing."),
    ] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Divide the profile's fund among the owners of the text that the model was trained on."""
    from sovereign.cli.attribution import run_rewards

    run_rewards(site_of(profile, site_dir), influence=influence, out=out, check=check, local=local, as_json=as_json)

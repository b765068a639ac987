"""The commands of `sovereign lake` about rights; what they do is in rights.py and where.py beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sovereign.cli.sites import site_of

_Site = Annotated[Path, typer.Argument(metavar="PROFILE", help="Profile file, its shipped name, or a site folder.")]
_SiteOption = Annotated[Path | None, typer.Option("--site", help="The site's folder; default: sites/<profile name>.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
_Local = Annotated[bool, typer.Option("--local", help="On this machine, without a cluster.")]
_Owner = Annotated[str | None, typer.Option("--owner", metavar="NAME", help="An owner, spelled as on the documents.")]
_Document = Annotated[str | None, typer.Option("--document", metavar="ID", help="A document's doc_id.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `sovereign lake`."""
    app.command("rights")(_rights)
    app.command("withdraw")(_withdraw)
    app.command("where")(_where)


def _rights(profile: _Site, site_dir: _SiteOption = None, local: _Local = False, as_json: _Json = False) -> None:
    """Owners and licences of the gathered text, and which documents may not be trained on."""
    from sovereign.cli.rights import run_rights

    run_rights(site_of(profile, site_dir), local=local, as_json=as_json)


def _withdraw(
    profile: _Site,
    owner: _Owner = None,
    document: _Document = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="ADDRESS", help="A host with all below it, or a prefix of addresses.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    day: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="When it was declared; default today, UTC.")
    ] = None,
    site_dir: _SiteOption = None,
) -> None:
    """Record that text is taken back; the next version of the dataset is made without it."""
    from sovereign.cli.rights import run_withdraw

    run_withdraw(site_of(profile, site_dir), owner=owner, document=document, url=url, reason=reason, day=day)


def _where(
    profile: _Site,
    owner: _Owner = None,
    document: _Document = None,
    site_dir: _SiteOption = None,
    local: _Local = False,
    as_json: _Json = False,
) -> None:
    """List the datasets, token shards, models and exports that have an owner's or a document's text."""
    from sovereign.cli.where import run_where

    run_where(site_of(profile, site_dir), owner=owner, document=document, local=local, as_json=as_json)

"""Arguments and options that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ProfileArgument = Annotated[
    Path, typer.Argument(metavar="PROFILE", help="Profile file, its shipped name, or a site folder.")
]
SiteOption = Annotated[Path | None, typer.Option("--site", help="The site's folder; default: sites/<profile name>.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
LocalOption = Annotated[bool, typer.Option("--local", help="On this machine, without a cluster.")]

"""The platform's commands: preview, deploy, status, destroy, doctor."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.cli.catalog import catalog_file
from sovereign.cli.console import Board, lines, say, write_json
from sovereign.cli.sites import peek
from sovereign.errors import ToolError
from sovereign.plan import plan
from sovereign.site import Site

if TYPE_CHECKING:
    from stacks.deploy import DeployResult


def prepare_machine(board: Board) -> None:
    """Install distribution packages and build upstream programs that are missing."""
    from sovereign.packages import ensure_packages, missing_packages
    from sovereign.tools import build_all, list_tools

    if missing_packages():
        with board.task("packages"):
            ensure_packages(progress=lambda text: board.update("packages", text))
    if any(tool.path is None for tool in list_tools()):
        with board.task("tools"):
            build_all(lambda text, fraction: board.update("tools", text, fraction))


def versions() -> dict[str, Any]:
    """What this kit is, the runtime that pods use (None in a developer's environment), and its upstream programs."""
    from sovereign.identity import identity
    from sovereign.runtime import current_runtime
    from sovereign.tools import load_tools

    try:
        runtime = current_runtime().digest
    except ToolError:
        runtime = None
    programs = {name: tool.version for name, tool in load_tools().items()}
    return {**identity(), "runtime": runtime, "programs": programs}


def run_preview(site: Site, names: list[str] | None, *, adopt: bool, as_json: bool) -> None:
    """Show what a deploy would do."""
    from stacks.deploy import preview
    from stacks.objects import STACKS

    profile = site.profile
    with site.lock("preview"), Board() as board:
        result = preview(site, profile, plan(profile), names or STACKS, board.deployment, adopt=adopt)
    _show(result, as_json=as_json, nothing="no changes")


def run_deploy(site: Site, names: list[str] | None, *, adopt: bool, as_json: bool) -> None:
    """Deploy."""
    from stacks.deploy import deploy
    from stacks.doctor import refuse_unfit
    from stacks.objects import STACKS

    profile = site.profile
    with site.lock("deploy"), Board() as board:
        refuse_unfit(site, profile)
        result = deploy(site, profile, plan(profile), names or STACKS, board.deployment, adopt=adopt)
    _show(result, as_json=as_json, nothing="nothing to change")


def run_destroy(site: Site, names: list[str] | None, *, delete_data: bool, as_json: bool) -> None:
    """Remove."""
    from stacks.deploy import destroy
    from stacks.objects import STACKS

    profile = site.profile
    with site.lock("destroy"), Board() as board:
        result = destroy(site, profile, plan(profile), names or STACKS, board.deployment, delete_data=delete_data)
        if delete_data and "datalake" in (names or STACKS):  # what it names is gone
            catalog_file(site, local=False).unlink(missing_ok=True)
    _show(result, as_json=as_json, nothing="nothing was deployed")
    if not names:
        kept = "the site's folder stays" if delete_data else "its data stays in node/volumes"
        say(f"removed; {kept}: {site.root}")


def run_status(site: Site, names: list[str] | None, *, as_json: bool) -> bool:
    """Show every difference; whether there is none."""
    from stacks.objects import STACKS
    from stacks.status import status

    profile = site.profile
    result = status(site, profile, plan(profile), names or STACKS)
    if as_json:
        write_json(
            {
                "unchanged": result.unchanged,
                "num_objects": result.num_objects,
                "drift": [asdict(d) for d in result.drift],
                "notes": list(result.notes),
            }
        )
    elif result.unchanged:
        say(f"{result.num_objects} objects are as deployed")
    else:
        lines("Differs", [(f"{item.stack}: {item.object}", "\n".join(item.fields)) for item in result.drift])
        say(f"`sovereign deploy {site.root}` repairs this")
    if not as_json:
        for note in result.notes:
            say(f"note: {note}")
    return result.unchanged


def run_doctor(profile: Path | None, *, as_json: bool) -> bool:
    """Show the checks; whether all are well."""
    from sovereign.tools import list_tools
    from stacks import doctor
    from stacks.node.doctor import checks

    found = checks(None) if profile is None else doctor.checks(*peek(profile))
    missing = [tool.name for tool in list_tools() if tool.path is None]
    if as_json:
        write_json({"checks": [asdict(check) for check in found], "missing_tools": missing})
    else:
        rows = [
            (("ok  " if check.ok else "FAIL") + f" {check.name}", _detail(check.detail, "" if check.ok else check.fix))
            for check in found
        ]
        text = (
            "all found or built" if not missing else f"not built yet: {', '.join(missing)}\nfix: sovereign tools build"
        )
        lines("Doctor", [*rows, ("ok   tools" if not missing else "FAIL tools", text)])
    if os.geteuid() != 0:
        say("without root the embedded node does not work; an existing cluster (target: kubeconfig) and --local do")
    return all(check.ok for check in found) and not missing


def _detail(detail: str, fix: str) -> str:
    return f"{detail}\nfix: {fix}" if fix else detail


def _show(result: DeployResult, *, as_json: bool, nothing: str) -> None:
    if as_json:
        write_json({"stacks": [asdict(stack) for stack in result.stacks]})
    elif result.changed:
        for stack in result.stacks:
            rows = [(operation, name + _fields(fields)) for operation, name, fields in stack.steps]
            lines(f"{stack.stack}: {len(rows)} of {sum(stack.changes.values())} objects in {stack.seconds} s", rows)
    else:
        say(nothing)
    for warning in dict.fromkeys(text for stack in result.stacks for text in stack.warnings):
        say(f"warning: {warning}")


def _fields(fields: tuple[str, ...]) -> str:
    return f" ({', '.join(fields)})" if fields else ""

"""`sovereign train --preflight`: the checks of the numerics, as a process here or as a Job."""

from __future__ import annotations

import json
from typing import Any

from sovereign.cli.console import Board, lines, write_json
from sovereign.cli.work import runner_of
from sovereign.errors import StageError
from sovereign.site import Site
from sovereign.stages import load_stage, receipt_key

_STAGE = "preflight"


def run_preflight(site: Site, *, local: bool, as_json: bool) -> bool:
    """Run the checks anew and show the table; whether all passed.

    Raises:
        StageError: they could not be run.
    """
    name = site.profile.name
    report = f"models/{name}/preflight/report.json"
    with site.lock("train --preflight"), runner_of(site, local=local) as runner:
        for key in (receipt_key(load_stage(_STAGE), name), report):
            runner.store.delete(key)
        try:
            with Board() as board:
                runner.run(_STAGE, board.stage)
        except StageError:
            if not runner.store.exists(report):
                raise
        checks: list[dict[str, Any]] = json.loads(runner.store.get_bytes(report))
    if as_json:
        write_json(checks)
    else:
        lines(f"Preflight of {name}: value, limit", [(check["name"], _result(check)) for check in checks])
    return all(check["passed"] for check in checks)


def _result(check: dict[str, Any]) -> str:
    if check["value"] is None:
        return "not used"
    return f"{check['value']:<8.2g}  {check['limit']:<8.2g}  {'pass' if check['passed'] else 'FAIL'}"

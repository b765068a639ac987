"""Stage `preflight`: whether this machine's numbers are right, before a long run relies on them.

    python -m sovereign.stages run preflight --profile FILE --store URL --workdir DIR

Needs no data: random tokens, the profile's model with two layers, four steps. Everything is compared with plain torch:
the kit's engine at every ZeRO stage on two ranks (on one where there is a single GPU), overlapping communication,
compiled code, the output head in float64, bf16, and the size of AdamW's first step. The table is stored as
`models/<dataset>/preflight/report.json`, also where a check fails, which is an error.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sovereign.errors import TrainingError
from sovereign.files import write_atomic
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.preflight_plan import Check

VERSION = 1
REPORT = "models/{dataset}/preflight/report.json"


def _run(context: StageContext) -> StageOutput:
    for name in environment.RENDEZVOUS:  # a Job's; the ranks here are preflight's own
        os.environ.pop(name, None)
    recipe = context.plan.recipe
    environment.prepare(context.workdir, threads=recipe.threads, world_size=1)
    checks: list[Check] = []
    for check in _checks(context.plan, context.workdir / "preflight"):
        checks.append(check)
        context.progress(describe(check))
    path = context.workdir / "report.json"
    write_atomic(path, json.dumps([check.to_json() for check in checks], indent=1) + "\n")
    key = REPORT.format(dataset=context.dataset)
    context.store.put_file(key, path)  # an error leaves no output
    failed = [check for check in checks if not check.is_passed]
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(checks)} checks of the numerics failed",
            got="\n    ".join(describe(check) for check in failed),
            hint="do not train with this machine, these drivers or these versions of torch and DeepSpeed",
        )
    return StageOutput({key: path}, {"checks": len(checks)})


def _checks(plan: Plan, folder: Path) -> Iterator[Check]:
    import torch

    from training import preflight_checks as checks
    from training.preflight_ranks import Case, train_cases

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    on_gpus = plan.recipe.threads == 0
    device = torch.device("cuda" if on_gpus else "cpu")
    world_size = min(2, torch.cuda.device_count()) if on_gpus else 2
    cases = [Case(stage) for stage in range(4)] + [Case(stage, overlap_comm=True) for stage in (2, 3)]
    if plan.recipe.precision == "bf16":
        cases.append(Case(plan.recipe.zero_stage, precision="bf16"))
    traces = dict(zip(cases, train_cases(plan, cases, world_size, folder, on_gpus=on_gpus), strict=True))
    reference = checks.train_plainly(plan, world_size, device)
    yield from checks.parity(traces, reference, world_size)
    yield checks.step_size(traces[Case(plan.recipe.zero_stage)], reference, plan.recipe)
    yield from checks.head(plan, device)
    yield from checks.compiled(plan, device)
    yield from checks.bf16(plan, device)


def describe(check: Check) -> str:
    """A check in one line."""
    if check.value is None:
        return f"{check.name}: not used"
    return f"{check.name}: {check.value:.2g}, at most {check.limit:.2g}: {'pass' if check.is_passed else 'FAIL'}"


def _config(_profile: Profile, plan: Plan) -> Mapping[str, Any]:
    versions = {name: version(name) for name in ("torch", "deepspeed", "transformers")}
    return {"model": plan.model.model_dump(), "recipe": plan.recipe.model_dump(), "versions": versions}


preflight = Stage(
    name="preflight", run=_run, needs=(), config=_config, prefix="models/{dataset}/preflight/", version=VERSION
)

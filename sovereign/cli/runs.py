"""`sovereign runs`: the records of a profile's training runs, from the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.cli.console import lines, say, write_json
from sovereign.site import Site
from sovereign.store import Store, open_store

if TYPE_CHECKING:
    from training.runs import Run

_SHOWN = ("loss", "bits_per_byte", "heldout_bits_per_byte", "tokens_per_s", "mfu", "elapsed_s", "energy_kwh")
"""Numbers of the lists, as far as a run has them."""


@contextmanager
def store_of(site: Site, *, local: bool) -> Iterator[Store]:
    """The site's lake: this machine's, or the cluster's."""
    if local:
        yield open_store(f"file://{site.data_dir}")
        return
    from sovereign.cli.target import open_target

    with open_target(site) as target:
        yield target.store


def _runs(site: Site, names: Sequence[str], *, local: bool) -> list[Run]:
    from training.runs import choose, read_runs

    with store_of(site, local=local) as store:
        return choose(read_runs(store, site.profile.name), names)


def list_runs(site: Site, *, local: bool, as_json: bool) -> None:
    """One line for each run, the last started one first."""
    found = _runs(site, (), local=local)
    if as_json:
        write_json([_overview(run) for run in found])
    else:
        lines(f"Runs of {site.profile.name}", [(run.name, _sentence(_overview(run))) for run in found])


def show_run(site: Site, name: str | None, *, local: bool, as_json: bool) -> None:
    """All numbers of one run, by default the last started one: typical speeds, the newest of everything else."""
    run = _runs(site, [name] if name else (), local=local)[0]
    names = sorted({key for line in run.lines for key in line} - {"step"})
    latest = {key: run.number(key) for key in names}
    if as_json:
        write_json(
            _overview(run) | {"plan": run.plan, "problems": run.problems, "summary": run.summary, "last": latest}
        )
        return
    rows = [("status", f"{run.status}, step {run.step} of {run.plan['recipe']['num_steps']}")]
    rows += [("started", run.started_at), ("last seen", run.updated_at), ("code", run.code_version)]
    rows += [("machines", problem) for problem in run.problems]
    lines(f"Run {run.run}", rows + [(key, _number(value)) for key, value in latest.items()])


def compare_runs(site: Site, names: Sequence[str], *, local: bool, as_json: bool) -> None:
    """What differs in the plans of runs, and their numbers beside each other."""
    found = _runs(site, names, local=local)
    plans = [_flat(run.plan) for run in found]
    keys = sorted({key for plan in plans for key in plan})
    differs = {
        key: [plan.get(key) for plan in plans] for key in keys if len({str(plan.get(key)) for plan in plans}) > 1
    }
    numbers = {
        key: [run.number(key) for run in found] for key in _SHOWN if any(run.number(key) is not None for run in found)
    }
    if as_json:
        write_json({"runs": [run.run for run in found], "differs": differs, "last": numbers})
        return
    width = max(12, *(len(run.name) for run in found))
    rows = [("run", [run.name for run in found]), ("status", [run.status for run in found])]
    rows += [(key, [_number(value) for value in values]) for key, values in (differs | numbers).items()]
    title = f"{len(found)} runs of {site.profile.name}: what differs in their plans, then their last numbers"
    lines(title, [(key, "  ".join(f"{value:>{width}}" for value in values)) for key, values in rows])


def plot_runs(site: Site, names: Sequence[str], folder: Path, *, local: bool, as_json: bool) -> None:
    """PNG files and report.html of runs in `folder`."""
    from training.report import write_report

    files = write_report(_runs(site, names, local=local), folder)
    if as_json:
        write_json([str(path) for path in files])
    else:
        say(f"{len(files) - 1} plots and {files[-1]}")


def _overview(run: Run) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run": run.run,
        "status": run.status,
        "step": run.step,
        "num_steps": run.plan["recipe"]["num_steps"],
        "started_at": run.started_at,
        "updated_at": run.updated_at,
    }
    return values | {key: run.number(key) for key in _SHOWN if run.number(key) is not None}


def _sentence(values: dict[str, Any]) -> str:
    numbers = ", ".join(f"{key} {_number(values[key])}" for key in _SHOWN if key in values)
    return f"{values['status']} {values['step']}/{values['num_steps']} since {values['started_at']}: {numbers}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
    return "" if value is None else str(value)

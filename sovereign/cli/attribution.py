"""`sovereign lake influence` and `sovereign lake rewards`: what owners' text is worth, and how a fund is divided."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.cli.console import Board, lines, say, write_json
from sovereign.cli.runs import store_of
from sovereign.cli.writing import writing
from sovereign.errors import ProfileError, ProofError, PublicationError
from sovereign.files import sha256_bytes, write_atomic
from sovereign.lake.rewards import OwnerFacts, make_report, tier_names, tier_numbers, write_report
from sovereign.lake.rewards_page import render_page
from sovereign.profile_rewards import Rewards
from sovereign.site import Site
from sovereign.store import Store

REPORT = "rewards.json"


def run_influence(
    site: Site,
    *,
    owners: Sequence[str],
    seeds: int,
    budget: float | None,
    parameters: float | None,
    out: Path | None,
    local: bool,
    as_json: bool,
) -> None:
    """Measure what is left of the influence of owners, and show all of it.

    Raises:
        StageError: a stage before has not run, an owner is not there, or the seeds are too few.
        TrainingError: a run failed.
    """
    from training.influence import RESULT, Influence, small_profile

    folder = (out or _influence_folder(site)).resolve()
    with site.lock("lake influence"), store_of(site, local=local) as store, Board() as board:
        profile = small_profile(site.profile, parameters, budget)
        measure = Influence(profile, store, folder, owners=owners, num_seeds=seeds)
        done, total = measure.num_runs
        size = f"{measure.plan.num_parameters:,} parameters on {measure.plan.recipe.num_tokens:,} tokens"
        say(f"{total} runs of {size}; {done} are done")
        with board.task("influence"):
            result = measure.measure(lambda text, steps, all_steps: board.update("influence", text, steps / all_steps))
    if as_json:
        write_json(result)
    else:
        lines(f"Influence of {site.profile.name}, in {folder / RESULT}", list(_effect_rows(result)))


def _influence_folder(site: Site) -> Path:
    return site.data_dir / "influence"


def _effect_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for owner, found in result["owners"].items():
        parts = [
            f"{name} {effect['mean']:+.4f} ({effect['low']:+.4f} to {effect['high']:+.4f})"
            for name, effect in found["effects"].items()
        ]
        yield owner, ", ".join(parts)
    for owner, reason in result["not_measured"].items():
        yield owner, f"not measured: {reason}"


def run_rewards(
    site: Site, *, influence: Path | None, out: Path | None, check: Path | None, local: bool, as_json: bool
) -> None:
    """Divide the fund and write the report and its page; or compare a report with what its inputs give.

    Raises:
        ProfileError: the profile has no `rewards`.
        ProofError: a report is not what its inputs give, or the influence report is of other data.
        PublicationError: report or page cannot be written.
        TrainingError: nothing is trained yet, or the shards are not those that the model was trained on.
    """
    settings = site.profile.rewards
    if settings is None:
        raise ProfileError(
            f"the profile of {site.root} does not say how a fund is divided",
            expected="a section such as `rewards: {fund: {amount: 100000, currency: EUR}}`",
            hint="docs/attribution.md",
        )
    path = out or site.receipts_dir / REPORT
    if path.suffix != ".json":
        raise PublicationError(
            "the report is JSON, and its page lies beside it in a .md file", got=path, expected="a name with .json"
        )
    with store_of(site, local=local) as store, Board() as board, board.task("rewards"):
        report = _reckon(site, settings, store, influence)
    content = write_report(report)
    if check is not None:
        _compare(check, content, report)
    else:
        with writing(path):
            write_atomic(path, content)
            write_atomic(path.with_suffix(".md"), render_page(report, sha256_bytes(content)))
    if as_json:
        write_json(report)
        return
    lines(
        f"{report['total']} for {report['dataset']}",
        [(f"{row['owner']}", f"{row['sum']}, {row['points']} points") for row in report["owners"]],
    )
    say(f"{check} is what its inputs give" if check else f"written to {path} and {path.with_suffix('.md')}")


def _reckon(site: Site, settings: Rewards, store: Store, influence: Path | None) -> dict[str, Any]:
    """The report of the trained model, from its ledger and the shards that it was trained on."""
    from training.consumption import consumed_by_tier, licences_by_owner
    from training.influence import RESULT
    from training.ledger import LEDGER, open_run

    name = site.profile.name
    with TemporaryDirectory(prefix="sovereign-rewards-") as folder:
        ledger, stream = open_run(store, name, Path(folder))
        consumed = consumed_by_tier(stream, ledger, partial(tier_numbers, settings), tier_names(settings))
        licences = licences_by_owner(stream.shards)
    assert consumed.keys() <= licences.keys()
    key = f"models/{name}/train/{LEDGER}"
    inputs = {key: sha256_bytes(store.get_bytes(key)), **ledger["shards"]}
    lows: Mapping[str, Fraction] = {}
    if settings.influence_weight:
        content = _read_influence(influence or _influence_folder(site) / RESULT)
        inputs["influence"] = sha256_bytes(content)
        lows = _lower_ends(content, ledger["shards"])
    owners = {
        owner: OwnerFacts(sorted(own), consumed.get(owner, {}), lows.get(owner)) for owner, own in licences.items()
    }
    return make_report(settings, name, inputs, owners)


def _read_influence(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProofError(
            f"cannot read the influence report: {error}",
            hint="sovereign lake influence PROFILE makes one; rewards.influence_weight of 0 does without",
        ) from error


def _lower_ends(content: bytes, shards: Mapping[str, str]) -> dict[str, Fraction]:
    """The lower end of each owner's interval, exactly as it is written.

    Raises:
        ProofError: not an influence report, or not of these shards.
    """
    try:
        values = json.loads(content, parse_float=Decimal)
        measured = {key: values["inputs"].get(key) for key in shards}
        lows = {owner: Fraction(found["effects"]["bits_per_byte"]["low"]) for owner, found in values["owners"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProofError(f"not an influence report: {error!r}", hint="sovereign lake influence PROFILE") from error
    if measured != dict(shards):
        raise ProofError(
            "the influence was measured on other data than the model was trained on",
            hint="sovereign lake influence PROFILE measures it anew",
        )
    return lows


def _compare(path: Path, content: bytes, report: Mapping[str, Any]) -> None:
    """Raises: ProofError: the file at `path` is not `content`."""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise ProofError(f"cannot read {path}: {error}") from error
    if found == content:
        return
    try:
        other = json.loads(found)
        differing = [name for name, value in report.items() if json.loads(json.dumps(value)) != other.get(name)]
    except (ValueError, AttributeError):
        differing = []
    raise ProofError(
        f"{path} is not what its inputs give",
        got=f"other {', '.join(differing)}" if differing else "other bytes",
        expected=f"SHA-256 {sha256_bytes(content)}",
    )

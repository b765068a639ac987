"""`sovereign lake influence` and `sovereign lake rewards`: what owners' text is worth, and how a fund is divided."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.cli.console import Board, lines, say, write_json
from sovereign.cli.runs import store_of
from sovereign.errors import ProfileError, ProofError
from sovereign.files import sha256_bytes, write_atomic
from sovereign.lake.dataset import Dataset, split_of
from sovereign.lake.documents import Document
from sovereign.lake.rewards import OwnerFacts, make_report, tier_names, tier_number, write_report
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
        TrainingError: nothing is trained yet, or the data is not what the model was trained on.
    """
    settings = site.profile.rewards
    if settings is None:
        raise ProfileError(
            f"the profile of {site.root} does not say how a fund is divided",
            expected="a section such as `rewards: {fund: {amount: 100000, currency: EUR}}`",
            hint="docs/attribution.md",
        )
    with store_of(site, local=local) as store, Board() as board, board.task("rewards"):
        report = _reckon(site, settings, store, influence)
    content = write_report(report)
    if check is not None:
        _compare(check, content, report)
    path = out or site.receipts_dir / REPORT
    if check is None:
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
    """The report of the trained model, from the store's files."""
    from training.consumption import consumed_by_tier
    from training.influence import RESULT
    from training.ledger import LEDGER, open_run

    name, tiers = site.profile.name, tier_names(settings)
    licences: dict[str, set[str]] = defaultdict(set)

    def tier_of(document: Document) -> int:
        for owner in document.owners:
            licences[owner].add(document.licence)
        return tier_number(settings, document.quality)

    with TemporaryDirectory(prefix="sovereign-rewards-") as temporary:
        folder = Path(temporary)
        ledger, stream = open_run(store, name, folder)
        dataset = Dataset.open(name, store, folder)
        documents = (entry.document for entry in dataset.entries(["train"]))
        consumed = consumed_by_tier(stream, ledger, documents, tier_of, tiers)
    key = f"models/{name}/train/{LEDGER}"
    inputs = {key: sha256_bytes(store.get_bytes(key)), **ledger["shards"]}
    inputs |= {dataset.prefix + one: digest for one, digest in dataset.files.items() if split_of(one) == "train"}
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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

"""Influence: what an owner's text is worth to a small model, measured by training without it.

For each seed the model is trained once on all documents and once without those that only this owner gives: a document
that others give too stays, since it would be there without this owner. Shape, steps, seed and the order of what is
left are the same (training/influence_run.py). An effect is the difference of the two runs of a seed, positive where the
model is worse without the owner; its confidence interval is Student's t over the seeds' differences.

Each run is one file in `runs/`, named by the digest of all that it depends on, so a measure that was interrupted goes
on where it stopped, and one with other settings takes nothing of it.
"""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import rfc8785

from sovereign.errors import StageError, TrainingError
from sovereign.files import write_atomic
from sovereign.lake.duplicates import MIN_FOR_HELDOUT
from sovereign.plan import Plan, plan
from sovereign.profile import Profile
from sovereign.receipts import code_version, stage_key
from sovereign.shapes import with_parameters
from sovereign.stages import Progress, StageContext, load_stage, read_receipt
from sovereign.store import Store
from training.forked import fork
from training.influence_run import Job, ReadOfOnlyOwners, given_only_by, run_apart
from training.ledger import collect
from training.order import TokenStream
from training.shards import Shard

FORMAT = "sovereign/influence/v1"
VERSION = 2
"""Raised when the code changes what a run gives."""
RESULT = "influence.json"
CONFIDENCE = 0.95
MIN_SEEDS = 2

OWN_SIZE_UP_TO, SMALL_PARAMETERS = 5e6, 1e6
"""Parameters: a model up to the first is measured itself, in place of a larger one a model of the second."""
TOKENS_PER_PARAMETER = 20
"""Of a model that is not the profile's own (Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556)."""
_LONGEST_SEQUENCE = 512

Report = Callable[[str, int, int], None]
"""Told what is done now, and how many steps of all runs are done, of how many."""


def small_profile(profile: Profile, parameters: float | None = None, tokens: float | None = None) -> Profile:
    """The profile of the runs: one process on CPU, without a base, phases, mixes and torch.compile.

    Args:
        parameters: the model's size; by default the profile's own where it is small, else `SMALL_PARAMETERS`.
        tokens: the budget of one run; by default the profile's own where the size is, else 20 for each parameter.
    """
    resolved = plan(profile)
    is_own = parameters is None and profile.base is None and resolved.num_parameters <= OWN_SIZE_UP_TO
    length = min(resolved.model.sequence_length, _LONGEST_SEQUENCE)
    model = profile.model.model_copy(update={"vocab_size": resolved.model.vocab_size, "sequence_length": length})
    alone = {"nodes": 1, "gpus_per_node": 0, "accelerator": "cpu"}
    small = profile.model_copy(
        update={"base": None, "model": model, "hardware": profile.hardware.model_copy(update=alone)}
    )
    training: dict[str, Any] = {"phases": (), "pods": 1, "zero_stage": None, "compile": False}
    if not is_own:
        small = with_parameters(small, parameters or SMALL_PARAMETERS)
        training |= {"batch_tokens": None, "learning_rate": None}
        training["tokens"] = TOKENS_PER_PARAMETER * (parameters or SMALL_PARAMETERS)
    if tokens is not None:
        training["tokens"] = tokens
    return small.model_copy(update={"training": profile.training.model_copy(update=training)})


def plan_with_seed(profile: Profile, seed: int) -> Plan:
    """The plan of a run with another seed."""
    return plan(profile.model_copy(update={"training": profile.training.model_copy(update={"seed": seed})}))


@dataclass(frozen=True)
class _Run:
    """One run and where its result lies."""

    job: Job
    path: Path

    @property
    def label(self) -> str:
        """For people."""
        without = "all owners" if self.job.owner is None else f"without {self.job.owner}"
        return f"seed {self.job.plan.recipe.seed}, {without}"


def _report_step(report: Report, label: str, done: int, total: int, step: int) -> None:
    report(label, done + step, total)


class Influence:
    """The measure for some owners: its runs, done and to do, in one folder."""

    def __init__(
        self,
        profile: Profile,
        store: Store,
        folder: Path,
        *,
        owners: Sequence[str] = (),
        num_seeds: int = MIN_SEEDS,
    ) -> None:
        """Fetch the data and plan the runs.

        Args:
            profile: from `small_profile`.
            owners: whose influence is measured; none: everyone's in the training data.

        Raises:
            StageError: a stage before has not run, there are too few seeds, an owner has no document, there is no
                held-out text, or the influence of none of the owners can be measured.
        """
        if num_seeds < MIN_SEEDS:
            raise StageError("too few seeds for an interval", got=num_seeds, expected=f"at least {MIN_SEEDS}")
        self.profile, self.folder = profile, folder
        self._context = StageContext(
            profile,
            plan(profile),
            store,
            folder / "inputs",
            Progress("influence", io.StringIO()),
            _inputs(profile, store),
        )
        self._files = {key: self._context.fetch(key) for key in self._context.inputs}
        first = profile.training.seed
        self.seeds = list(range(first, first + num_seeds))
        if not any(Shard(path).num_bytes.any() for path in self._shards("heldout")):
            raise StageError(
                "there is no held-out text to measure on",
                expected=f"a language with {MIN_FOR_HELDOUT} documents, or a higher corpus.cleaning.heldout_fraction",
            )
        self.left_out: dict[str, dict[str, int]] = {}
        """Documents and tokens that each owner alone gives."""
        self.tokens_read: dict[str, list[int]] = {}
        """How many of these tokens each seed's run with all owners reads, a token as often as it is read."""
        self.not_measured: dict[str, str] = {}
        """Why the influence of others is not measured."""
        self._count(owners)
        if not self.left_out:
            raise StageError(
                "no owner's influence can be measured", got=self.not_measured, hint="docs/attribution.md says why"
            )
        self._runs = [self._plan_run(seed, owner) for seed in self.seeds for owner in (None, *self.left_out)]

    def _count(self, wanted: Sequence[str]) -> None:
        """Who is measured."""
        shards = [Shard(path) for path in self._shards("train")]
        known = sorted({name for shard in shards for name in shard.owner_names})
        if unknown := sorted(set(wanted) - set(known)):
            raise StageError(
                "an owner has no document in the training data", got=", ".join(unknown), expected=", ".join(known)
            )
        num_tokens = sum(shard.num_tokens for shard in shards)
        reads = [self._read_of_only_owners(shards, seed) for seed in self.seeds]
        for owner in sorted(wanted) or known:
            masks = [given_only_by(shard, owner) for shard in shards]
            tokens = sum(int(shard.lengths[mask].sum()) for shard, mask in zip(shards, masks, strict=True))
            unread = [str(seed) for seed, read in zip(self.seeds, reads, strict=True) if not read[owner]]
            if tokens in (0, num_tokens):
                self.not_measured[owner] = "gives nothing alone" if tokens == 0 else "gives everything alone"
            elif unread:
                self.not_measured[owner] = f"nothing of its text is read in the run of seed {', '.join(unread)}"
            else:
                self.left_out[owner] = {"documents": sum(int(mask.sum()) for mask in masks), "tokens": tokens}
                self.tokens_read[owner] = [read[owner] for read in reads]

    def _read_of_only_owners(self, shards: Sequence[Shard], seed: int) -> Counter[str]:
        found, recipe = ReadOfOnlyOwners(), self.plan.recipe
        collect(found, TokenStream(shards, seed), recipe.batch_tokens, up_to_step=recipe.num_steps)
        return found.tokens

    def _plan_run(self, seed: int, owner: str | None) -> _Run:
        job = Job(
            plan=plan_with_seed(self.profile, seed),
            owner=owner,
            train=tuple(self._shards("train")),
            heldout=tuple(self._shards("heldout")),
            questions=next(path for key, path in self._files.items() if key.endswith("/questions.jsonl")),
            tokenizer=next(path.parent for key, path in self._files.items() if key.endswith("/tokenizer.json")),
            workdir=self.folder / "work",
        )
        config = {"owner": owner, "software": self.software, **_plan_values(job.plan)}
        key = stage_key("influence", VERSION, config, self._context.inputs)
        return _Run(job, self.folder / "runs" / f"{key[:16]}.json")

    @property
    def software(self) -> dict[str, str]:
        """What a result's bits depend on."""
        return {"sovereign": code_version(), "torch": version("torch"), "transformers": version("transformers")}

    def _shards(self, split: str) -> list[Path]:
        return [
            path
            for key, path in sorted(self._files.items())
            if path.name.startswith(f"{split}-") and path.suffix == ".bin"
        ]

    @property
    def plan(self) -> Plan:
        """Of the first seed's runs; the others differ in the seed only."""
        return self._context.plan

    @property
    def num_runs(self) -> tuple[int, int]:
        """Runs that are done, and all."""
        return sum(run.path.exists() for run in self._runs), len(self._runs)

    def measure(self, report: Report) -> dict[str, Any]:
        """Do the runs that are left, one after the other; the result, which is also written to the folder.

        Raises:
            TrainingError: a run failed or was killed; those before it are kept.
        """
        steps = self._context.plan.recipe.num_steps
        total = steps * len(self._runs)
        for number, run in enumerate(self._runs):
            if run.path.exists():
                report(f"{run.label}: done before", (number + 1) * steps, total)
                continue
            report(run.label, number * steps, total)
            values = _run_apart(run, partial(_report_step, report, run.label, number * steps, total))
            write_atomic(run.path, rfc8785.dumps(values))
        result = self._result()
        write_atomic(self.folder / RESULT, rfc8785.dumps(result))
        return result

    def _result(self) -> dict[str, Any]:
        values = {(run.job.plan.recipe.seed, run.job.owner): json.loads(run.path.read_bytes()) for run in self._runs}
        owners = {}
        for owner, left_out in self.left_out.items():
            pairs = [(values[seed, None], values[seed, owner]) for seed in self.seeds]
            owners[owner] = {
                "left_out": left_out,
                "tokens_read": self.tokens_read[owner],
                "effects": dict(_effects(owner, pairs)),
            }
        return {
            "format": FORMAT,
            "dataset": self.profile.name,
            "software": self.software,
            "inputs": dict(self._context.inputs),
            "plan": _plan_values(self._context.plan),
            "seeds": self.seeds,
            "confidence": CONFIDENCE,
            "owners": owners,
            "not_measured": self.not_measured,
            "runs": [
                {
                    "seed": run.job.plan.recipe.seed,
                    "without": run.job.owner,
                    **values[run.job.plan.recipe.seed, run.job.owner],
                }
                for run in self._runs
            ],
        }


def _inputs(profile: Profile, store: Store) -> dict[str, str]:
    """Digests of shards, tokenizer and questions, from the receipts of the stages that made them.

    Raises:
        StageError: one has not run.
    """
    inputs: dict[str, str] = {}
    for name in ("curate", "tokenize"):
        receipt = read_receipt(store, load_stage(name), profile.name)
        if receipt is None:
            raise StageError(f"influence needs stage {name}, which has not run", hint=f"sovereign stage {name} PROFILE")
        inputs |= {key: digest for key, digest in receipt.outputs.items() if not key.endswith(".parquet")}
    return inputs


def _plan_values(resolved: Plan) -> dict[str, Any]:
    """What a plan says of shape and recipe, JSON values."""
    return {"model": resolved.model.model_dump(mode="json"), "recipe": resolved.recipe.model_dump(mode="json")}


def _run_apart(run: _Run, report: Callable[[int], None]) -> dict[str, Any]:
    """Do one run in a process forked from one that has torch.

    Raises:
        TrainingError: it failed or was killed.
    """
    receiver, sender = multiprocessing.get_context("forkserver").Pipe(duplex=False)
    process = fork(run_apart, sender, run.job)
    sender.close()
    try:
        kind, value = _receive(receiver)
        while kind == "step":
            report(value)
            kind, value = _receive(receiver)
    finally:
        process.kill()
        process.join()
        receiver.close()
    if kind == "error":
        raise TrainingError(f"the run with {run.label} failed: {value}", hint="the same command resumes with this run")
    result: dict[str, Any] = value
    return result


def _receive(receiver: Connection) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = receiver.recv()
    except (EOFError, OSError):  # the latter in the middle of a message
        return "error", "its process ended without a result"
    return message


def _effects(owner: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """Each effect with its interval; those of which there is nothing to measure are left out."""
    for name, value_of in _MEASURES.items():
        found = [(value_of(whole, owner), value_of(without, owner)) for whole, without in pairs]
        differences = [without - whole for whole, without in found if whole is not None and without is not None]
        if len(differences) == len(pairs):
            yield name, interval(differences)


def _bits(values: Mapping[str, Any], _owner: str) -> float | None:
    return float(values["heldout"]["bits"] / values["heldout"]["bytes"])


def _own_bits(values: Mapping[str, Any], owner: str) -> float | None:
    own = values["heldout_by_owner"].get(owner)
    return float(own["bits"] / own["bytes"]) if own else None


def _other_bits(values: Mapping[str, Any], owner: str) -> float | None:
    whole, own = values["heldout"], values["heldout_by_owner"].get(owner, {"bits": 0, "bytes": 0})
    num_bytes = whole["bytes"] - own["bytes"]
    return float((whole["bits"] - own["bits"]) / num_bytes) if num_bytes else None


def _own_errors(values: Mapping[str, Any], owner: str) -> float | None:
    return _errors([own for name, own in values["questions_by_owner"].items() if name == owner])


def _other_errors(values: Mapping[str, Any], owner: str) -> float | None:
    return _errors([own for name, own in values["questions_by_owner"].items() if name != owner])


def _errors(counts: Sequence[Mapping[str, int]]) -> float | None:
    asked = sum(count["asked"] for count in counts)
    return 1 - sum(count["correct"] for count in counts) / asked if asked else None


_MEASURES: dict[str, Callable[[Mapping[str, Any], str], float | None]] = {
    "bits_per_byte": _bits,
    "own_bits_per_byte": _own_bits,
    "other_bits_per_byte": _other_bits,
    "own_accuracy": _own_errors,
    "other_accuracy": _other_errors,
}
"""By the name of the effect: what is lower for a better model."""


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Mean of the seeds' differences and the ends of its confidence interval (Student's t); six digits."""
    from scipy.stats import t

    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
    half = quantile * deviation / math.sqrt(len(differences))
    return {
        "differences": [round(one, 6) for one in differences],
        "mean": round(mean, 6),
        "low": round(mean - half, 6),
        "high": round(mean + half, 6),
    }

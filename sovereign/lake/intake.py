"""What training takes of a dataset, by mix and phases: which documents, and their tokens, each document once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sovereign.lake.dataset import Dataset
from sovereign.lake.mix import Request, Selection
from sovereign.plan import plan
from sovereign.profile import Profile
from sovereign.stages import load_stage, read_receipt

Takes = Callable[[str, str, str], bool]
"""Whether a document to train on is taken, by its id, source and language."""


@dataclass(frozen=True)
class Intake:
    """What training takes of a dataset."""

    takes: Takes | None
    """None: it is not known."""
    tokens: int | None
    """Of what is taken; None before stage `tokenize` has counted them."""


def read_intake(profile: Profile, dataset: Dataset) -> Intake:
    """What stage `tokenize` took of the dataset; before it has run, everything, unless the profile has a mix.

    Raises:
        PlanError: what the profile asks for cannot fit.
    """
    request = Request.of(profile, plan(profile))
    receipt = read_receipt(dataset.store, load_stage("tokenize"), dataset.name)
    files = {dataset.prefix + name: digest for name, digest in dataset.files.items()}
    if receipt is None or not files.items() <= receipt.inputs.items():
        return Intake(_reads(request) if profile.mix is None else None, None)
    counted, mix = receipt.metrics.get("train", {}), receipt.metrics.get("mix", {})
    if "selection" in mix:
        selection = Selection.model_validate(mix["selection"])
        if selection.request.mix is not None:
            copies_of = selection.counter()
            return Intake(lambda *document: copies_of(*document) > 0, mix["tokens_once"])
    elif "sha256" in mix:  # a receipt of before, which does not say what was taken
        return Intake(None, None)
    if request.languages is None:
        return Intake(_reads(request), counted.get("tokens"))
    by_language = counted.get("tokens_by_language", {})
    return Intake(_reads(request), sum(by_language.get(language, 0) for language in request.languages))


def _reads(request: Request) -> Takes:
    """Every document of the languages that the phases take."""
    languages = request.languages
    return lambda _doc_id, _source, language: languages is None or language in languages

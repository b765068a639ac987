"""`sovereign lake card` and `lake summary`: documents about the site's dataset for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sovereign.cli.console import lines, say, write_json
from sovereign.cli.rights import say_taken_back
from sovereign.cli.runs import store_of
from sovereign.cli.writing import writing
from sovereign.files import write_atomic
from sovereign.lake.card import write_card
from sovereign.lake.dataset import Dataset
from sovereign.lake.facts import gather_facts
from sovereign.lake.intake import read_intake
from sovereign.lake.summary import make_summary
from sovereign.lake.summary_page import render_summary
from sovereign.site import Site


@contextmanager
def _dataset(site: Site, command: str, *, local: bool) -> Iterator[Dataset]:
    with (
        site.lock(f"lake {command}"),
        store_of(site, local=local) as store,
        TemporaryDirectory(prefix="sovereign-lake-") as folder,
    ):
        dataset = Dataset.open(site.profile.name, store, Path(folder))
        say_taken_back(site, dataset)
        yield dataset


def run_card(site: Site, out: Path | None, *, local: bool, as_json: bool) -> None:
    """Write the dataset's card into the folder `out`, by default `card` in the site.

    Raises:
        PublicationError: it cannot be written.
        ProofError: there is no manifest of the dataset as it is now.
    """
    folder = out or site.root / "card"
    with _dataset(site, "card", local=local) as dataset:
        facts = gather_facts(site.profile, dataset)
        with writing(folder):
            numbers = write_card(folder, facts)
    if as_json:
        write_json({"card": str(folder / "README.md"), **numbers})
        return
    say(f"written to {folder / 'README.md'}")
    lines(f"What is not known of {numbers['dataset']}", [("-", gap) for gap in numbers["gaps"]])


def run_summary(site: Site, *, html: Path | None, json_file: Path | None, local: bool) -> bool:
    """Write the training-content summary, say what is not stated; whether everything that it needs is.

    Raises:
        PublicationError, ProofError: see `run_card`.
    """
    with _dataset(site, "summary", local=local) as dataset:
        intake = read_intake(site.profile, dataset)
        facts = gather_facts(site.profile, dataset, intake.takes)
    summary = make_summary(facts, intake)
    for path, data in ((json_file, summary.to_bytes()), (html, render_summary(summary))):
        if path is not None:
            with writing(path):
                write_atomic(path, data)
            say(f"written to {path}")
    title = "Not stated in the training-content summary" if summary.missing else "All that the template asks is stated"
    lines(title, [(f"section {one.section}" if one.section != "0" else "head", one.key) for one in summary.missing])
    return not summary.missing

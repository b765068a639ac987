"""What is not known of a dataset, in sentences: a reader must not take silence for knowledge."""

from __future__ import annotations

from collections.abc import Iterator

from sovereign.lake.facts import Facts
from sovereign.profile_cleaning import Cleaning


def find_gaps(facts: Facts) -> list[str]:
    """One sentence for each thing that is not known."""
    return [*_of_withdrawals(facts), *_of_sources(facts), *_of_documents(facts), *_of_cleaning(facts.rules), *_always()]


def _of_withdrawals(facts: Facts) -> Iterator[str]:
    if facts.taken_back:
        yield (
            f"{facts.taken_back:,} of {facts.anchor.size:,} documents were taken back since this version was made; "
            "the next version is made without them."
        )


def _of_sources(facts: Facts) -> Iterator[str]:
    owners = facts.manifest["sovereign:owners"]
    silent = sum("sovereign:consent" not in owner for owner in owners)
    if silent:
        yield f"For {silent:,} of {len(owners):,} owners it is not stated on what the use of their text rests."
    if without_way := sum("sovereign:withdrawal" not in owner for owner in owners):
        yield f"For {without_way:,} of {len(owners):,} owners it is not stated how they take text back."
    real = {name: source for name, source in facts.sources.items() if not source["sovereign:isGenerated"]}
    for term, words in (("legalBasis", "legal basis"), ("contact", "contact")):
        if without := [name for name, source in real.items() if f"sovereign:{term}" not in source]:
            yield f"Sources with no stated {words}: {', '.join(without)}."
    if not facts.gathered:
        yield "What could not be read of the sources is not known."


def _of_documents(facts: Facts) -> Iterator[str]:
    census, total = facts.census, facts.anchor.size
    if census.dates.unknown:
        yield f"When {census.dates.unknown:,} of {total:,} documents were collected is not known."
    if census.unmeasured:
        yield f"The quality of {census.unmeasured:,} of {total:,} documents was not measured."
    if not census.addressed:
        yield "Documents carry no addresses: from which websites they come, if from any, is not known."
    elif without := total - census.addressed:
        yield f"From which websites {without:,} of {total:,} documents come, if from any, is not known."


def _of_cleaning(rules: Cleaning | None) -> Iterator[str]:
    if rules is None:
        yield "By which rules the dataset was cleaned is not known: the profile has changed since."
        return
    if rules.language is None:
        yield "Languages are as declared; whether texts are in them was not looked at."
    else:
        yield (
            "Languages are as declared; texts were compared with that only from "
            f"{rules.language.min_chars:,} characters on, and only where the identifier knows the language."
        )
    if rules.personal_data is None:
        yield "Personal data was not looked for."
    else:
        kinds = ", ".join(rules.personal_data.kinds)
        yield f"Personal data other than {kinds} was not looked for; names and postal addresses are still there."
    if rules.repeated_lines is None:
        yield "Lines that many documents of a source have (menus, letterheads) were not looked for."
    if rules.near_duplicates is None:
        yield "Near duplicates were not looked for."
    else:
        least = rules.near_duplicates.min_chars
        yield f"Near duplicates were not looked for among texts of less than {least:,} characters."
    if rules.quality is None:
        yield "No rule of quality was applied."
    if not rules.word_lists:
        yield "No list of words was applied: harmful and illegal content was not looked for."
    if not rules.evaluation_sets:
        yield "No evaluation set was looked for in the texts."


def _always() -> Iterator[str]:
    yield "Owners, licences and terms are as the sources declared them; the kit does not check them."
    yield "Topics, regions and groups of people that the texts are about were not measured."

"""What the profile says to the public, as the summary asks for it; and the sources that are trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sovereign.lake.census import SourceCensus, Tally
from sovereign.lake.demonstration import SOURCE as DEMONSTRATION
from sovereign.lake.facts import Facts
from sovereign.lake.summary_model import DomainData, Missing, Modalities, SourceData
from sovereign.profile_publication import Category, Publication, SourceStatement

_GENERATED = "Facts about a fictional country, told by a program of the kit from a seed; no AI model made them."
Value = TypeVar("Value")


@dataclass
class Asked:
    """Notes what the template asks for and is not stated."""

    missing: list[Missing] = field(default_factory=list)

    def want(self, section: str, key: str, value: Value, *, needed: bool = True) -> Value:
        """`value`, noted as missing when it is needed and absent."""
        if needed and (value is None or value in ((), [], "")):
            self.missing.append(Missing(section=section, key=key))
        return value

    def ask(self, section: str, said: Publication, key: str, *, needed: bool = True) -> Any:
        """What `publication.<key>` of the profile says."""
        return self.want(section, f"publication.{key}", getattr(said, key), needed=needed)


class TrainedSources:
    """The sources that have documents to train on, by category."""

    def __init__(self, facts: Facts, asked: Asked, *, is_known: bool) -> None:
        """Args: `is_known`: what training takes is known, and the facts are of that; else nothing is said of any."""
        self._said, self._asked, self._is_known = facts.profile.publication, asked, is_known
        self._made_at = facts.made_at
        self._declared = facts.sources
        self._census: dict[str, SourceCensus] = {
            name: found
            for name, found in sorted(facts.census.sources.items())
            if is_known and found.splits["train"].documents
        }
        asked.want("2", "stage tokenize", is_known or None)
        self._categories = {name: self._statement(name).category for name in self._census if name != DEMONSTRATION}
        self.has_demonstration = DEMONSTRATION in self._census
        for name, category in self._categories.items():
            asked.want("2", _key(name, "category"), category)

    def _statement(self, name: str) -> SourceStatement:
        said = self._said.statement(name)
        return said.model_copy(update={"description": _GENERATED}) if name == DEMONSTRATION else said

    def names(self, category: Category) -> list[str]:
        """Sources of one category."""
        return [name for name, own in self._categories.items() if own == category]

    def is_used(self, category: Category) -> bool | None:
        """Whether there is a source of this category; None while there is none known and one without a category."""
        if self.names(category):
            return True
        return False if self._is_known and None not in self._categories.values() else None

    def modalities(self, category: Category) -> Modalities:
        """What the sources of one category have."""
        return ["text"] if self.names(category) else []

    def data(self, names: Iterable[str], section: str, *, needed: bool = True) -> list[SourceData]:
        """What is said and counted of sources; `needed`: that nobody knows what one is, is noted."""
        rows = []
        for name in names:
            said, own = self._statement(name), self._census[name]
            self._asked.want(section, _key(name, "description"), said.description or said.link, needed=needed)
            rows.append(
                SourceData(
                    name=name,
                    description=said.description,
                    link=said.link,
                    documents=own.splits["train"].documents,
                    characters=own.splits["train"].characters,
                    collected_from=own.trained.earliest_by(self._made_at),
                    collected_until=own.trained.latest_by(self._made_at),
                    legal_basis=self._declared[name].get("sovereign:legalBasis"),
                    contact=self._declared[name].get("sovereign:contact"),
                )
            )
        return rows

    def domains(self, names: Iterable[str]) -> list[DomainData] | None:
        """Websites of sources, those with most text first; None where no document has an address."""
        tallies: dict[str, Tally] = {}
        for name in names:
            for domain, tally in self._census[name].websites.items():
                whole = tallies.setdefault(domain, Tally())
                whole.documents += tally.documents
                whole.characters += tally.characters
        ranked = sorted(tallies.items(), key=lambda item: (-item[1].characters, item[0]))
        return [
            DomainData(domain=domain, documents=one.documents, characters=one.characters) for domain, one in ranked
        ] or None


def _key(source: str, key: str) -> str:
    """Where the profile states something of a source."""
    return f"publication.sources[{source}].{key}"

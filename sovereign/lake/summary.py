"""Fills the training-content summary from a dataset's facts and from what the profile says to the public.

What the documents decide is counted; what only people know is `publication` in the profile. Documents that are held out
for evaluation are no training content and are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sovereign.lake.census import SourceCensus, Tally
from sovereign.lake.demonstration import SOURCE as DEMONSTRATION
from sovereign.lake.facts import Facts
from sovereign.lake.summary_model import (
    Count,
    CrawledData,
    CrawlerData,
    Described,
    DomainData,
    IllegalContent,
    LanguageShare,
    LicensedDatasets,
    Missing,
    ModelIdentification,
    Modalities,
    OtherInformation,
    OtherPrivateDatasets,
    OtherSources,
    Overall,
    Provider,
    PublicDatasets,
    Reservations,
    Sections,
    SizeRange,
    SourceData,
    SyntheticData,
    TrainingSummary,
    UserData,
)
from sovereign.profile_publication import Category, Publication

LARGE_SHARE = 0.03
"""Of all publicly available datasets of a modality; a larger one is named by itself (template, 2.1)."""
_SOME, _MANY = 10**9, 10**13
"""Tokens between the template's ranges of size."""
_MAX_BYTES_PER_CHARACTER = 4
_WORDS = "words "
"""Begins the reason of a rejection by a list of words."""
_GENERATED = "The documents of `demonstration` were made by a program of the kit from a seed, not by an AI model."
_FROM_NOTHING = "None: trained from random weights."
Value = TypeVar("Value")


@dataclass
class _Asked:
    """Notes what the template asks for and is not stated."""

    missing: list[Missing] = field(default_factory=list)

    def want(self, section: str, key: str, value: Value, *, needed: bool = True) -> Value:
        """`value`, noted when it is needed and absent."""
        if needed and (value is None or value in ((), [], "")):
            self.missing.append(Missing(section=section, key=key))
        return value

    def ask(self, section: str, said: Publication, key: str, *, needed: bool = True) -> Any:
        """What `publication.<key>` of the profile says."""
        return self.want(section, f"publication.{key}", getattr(said, key), needed=needed)


def make_summary(facts: Facts, tokens: int | None) -> TrainingSummary:
    """The summary of the model that is trained on the dataset.

    Args:
        tokens: number of tokens of the documents to train on, as the model's tokenizer cuts them; None: not known.
    """
    said, asked = facts.profile.publication, _Asked()
    last_update = asked.ask("0", said, "last_update")
    version = asked.ask("0", said, "summary_version")
    sources = _Sources(facts, asked)
    sections = Sections(
        provider=_provider(said, asked),
        model=_model(facts, asked),
        overall=_overall(facts, tokens, asked),
        public=_public(sources, said),
        licensed=_licensed(sources),
        private=_private(sources, said),
        crawled=_crawled(sources, said, asked),
        user=_user(sources, said, asked),
        synthetic=_synthetic(sources, said, asked),
        other=_other(sources, said),
        reservations=_reservations(said, asked),
        illegal=_illegal(facts, asked),
        information=_information(facts),
    )
    return TrainingSummary(
        summary_version=version,
        last_update=last_update.isoformat() if last_update else None,
        dataset=Described(name=facts.anchor.dataset, manifest_sha256=facts.manifest_sha256, root=facts.anchor.root),
        sections=sections,
        missing=asked.missing,
    )


class _Sources:
    """The sources that are trained on, by category."""

    def __init__(self, facts: Facts, asked: _Asked) -> None:
        self._said, self._asked = facts.profile.publication, asked
        self.census: dict[str, SourceCensus] = {
            name: found for name, found in sorted(facts.census.sources.items()) if found.splits["train"].documents
        }
        self.has_addresses = facts.census.has_addresses
        self._categories = {
            name: self._said.statement(name).category for name in self.census if name != DEMONSTRATION
        }
        for name, category in self._categories.items():
            asked.want("2", self.key(name, "category"), category)

    def key(self, source: str, key: str) -> str:
        """Where the profile states something of a source."""
        return f"publication.sources[{source}].{key}"

    @property
    def has_demonstration(self) -> bool:
        return DEMONSTRATION in self.census

    def names(self, category: Category) -> list[str]:
        return [name for name, own in self._categories.items() if own == category]

    def is_used(self, category: Category) -> bool | None:
        """Whether there is a source of this category; None while a source has none and could be one."""
        if self.names(category):
            return True
        return None if None in self._categories.values() else False

    def modalities(self, category: Category) -> Modalities:
        return ["text"] if self.names(category) else []

    def data(self, names: Iterable[str], section: str, *, needed: bool = True) -> list[SourceData]:
        """What is said of sources; `needed`: a link or a description, without which nobody knows what it is."""
        rows = []
        for name in names:
            said, own = self._said.statement(name), self.census[name]
            self._asked.want(section, self.key(name, "description"), said.description or said.link, needed=needed)
            rows.append(
                SourceData(
                    name=name,
                    description=said.description,
                    link=said.link,
                    documents=own.splits["train"].documents,
                    characters=own.splits["train"].characters,
                    collected_from=own.trained.earliest,
                    collected_until=own.trained.latest,
                )
            )
        return rows

    def domains(self, names: Iterable[str]) -> list[DomainData]:
        """Domains of sources, those with most text first."""
        tallies: dict[str, Tally] = {}
        for name in names:
            for domain, tally in self.census[name].domains.items():
                whole = tallies.setdefault(domain, Tally())
                whole.documents += tally.documents
                whole.characters += tally.characters
        ranked = sorted(tallies.items(), key=lambda item: (-item[1].characters, item[0]))
        return [
            DomainData(domain=domain, documents=tally.documents, characters=tally.characters) for domain, tally in ranked
        ]


def _provider(said: Publication, asked: _Asked) -> Provider:
    return Provider(
        provider_name=asked.ask("1.1", said, "provider_name"),
        provider_contact=asked.ask("1.1", said, "provider_contact"),
        is_in_union=asked.ask("1.1", said, "is_in_union"),
        authorised_representative=asked.ask(
            "1.1", said, "authorised_representative", needed=said.is_in_union is False
        ),
    )


def _model(facts: Facts, asked: _Asked) -> ModelIdentification:
    said, has_base = facts.profile.publication, facts.profile.base is not None
    depends = asked.ask("1.2", said, "model_dependencies", needed=has_base)
    placed = asked.ask("1.2", said, "placed_on_market")
    return ModelIdentification(
        model_names=list(asked.ask("1.2", said, "model_names")),
        model_link=said.model_link,
        model_dependencies=depends if has_base or depends else _FROM_NOTHING,
        placed_on_market=placed.isoformat() if placed else None,
    )


def _overall(facts: Facts, tokens: int | None, asked: _Asked) -> Overall:
    said, train = facts.profile.publication, facts.cleaned["train"]
    dates = [source.trained for source in facts.census.sources.values()]
    latest = max((one.latest for one in dates if one.latest), default=None)
    if any(one.unknown for one in dates):  # then documents do not say it for all
        latest = asked.ask("1.3", said, "latest_data")
    return Overall(
        modalities=["text"],
        size_range=asked.want("1.3", "stage tokenize", size_range(tokens, train["documents"], train["characters"])),
        tokens=tokens,
        documents=train["documents"],
        characters=train["characters"],
        types_of_content=asked.ask("1.3", said, "types_of_content"),
        latest_data=said.latest_data or latest,
        is_trained_on_newer_data=asked.ask("1.3", said, "is_trained_on_newer_data"),
        languages=_languages(train),
        linguistic_characteristics=said.linguistic_characteristics,
        other_characteristics=said.other_characteristics,
        comments=said.comments.get("1.3"),
    )


def size_range(tokens: int | None, documents: int, characters: int) -> SizeRange | None:
    """The template's range of size; None where it cannot be told from the characters alone.

    A token of a byte-level tokenizer has a byte at least, each document gets a mark of its end.
    """
    if tokens is None:
        is_small = characters * _MAX_BYTES_PER_CHARACTER + documents < _SOME
        return "less than 1 billion tokens" if is_small else None
    if tokens < _SOME:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= _MANY else "more than 10 trillion tokens"


def _languages(train: Mapping[str, Any]) -> list[LanguageShare]:
    characters: Mapping[str, int] = train["characters_by_language"]
    ranked = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    return [
        LanguageShare(
            language=language,
            documents=train["documents_by_language"][language],
            characters=number,
            share=round(number / max(train["characters"], 1), 6),
        )
        for language, number in ranked
    ]


def _public(sources: _Sources, said: Publication) -> PublicDatasets:
    rows = sources.data(sources.names("public-dataset"), "2.1")
    limit = LARGE_SHARE * sum(row.characters for row in rows)
    return PublicDatasets(
        is_used=sources.is_used("public-dataset"),
        modalities=sources.modalities("public-dataset"),
        large=[row for row in rows if row.characters > limit],
        others=[row for row in rows if row.characters <= limit],
        comments=said.comments.get("2.1"),
    )


def _licensed(sources: _Sources) -> LicensedDatasets:
    return LicensedDatasets(
        is_used=sources.is_used("private-licensed"),
        modalities=sources.modalities("private-licensed"),
        datasets=sources.data(sources.names("private-licensed"), "2.2.1", needed=False),
    )


def _private(sources: _Sources, said: Publication) -> OtherPrivateDatasets:
    rows = sources.data(sources.names("private-other"), "2.2.2")
    return OtherPrivateDatasets(
        is_used=sources.is_used("private-other"),
        modalities=sources.modalities("private-other"),
        known=[row for row in rows if row.link],
        others=[row for row in rows if not row.link],
        comments=said.comments.get("2.2.2"),
    )


def _crawled(sources: _Sources, said: Publication, asked: _Asked) -> CrawledData:
    names = sources.names("crawled")
    crawlers = asked.ask("2.3", said, "crawlers", needed=bool(names))
    for crawler in crawlers:
        for key in ("purpose", "behaviour", "collected_from", "collected_until"):
            asked.want("2.3", f"publication.crawlers[{crawler.name}].{key}", getattr(crawler, key))
    domains = sources.domains(names) if names and sources.has_addresses else None
    asked.want("2.3", "column url of the documents", domains, needed=bool(names))
    count, rule = named_domains(len(domains or ()), is_small=said.is_small_enterprise)
    return CrawledData(
        is_used=True if crawlers else sources.is_used("crawled"),
        crawlers=[CrawlerData.model_validate(crawler.model_dump()) for crawler in crawlers],
        content=asked.ask("2.3", said, "crawled_content", needed=bool(names)),
        modalities=sources.modalities("crawled"),
        sources=sources.data(names, "2.3", needed=False),
        num_domains=None if domains is None else len(domains),
        domains_rule=None if domains is None else rule,
        domains=None if domains is None else domains[:count],
        comments=said.comments.get("2.3"),
    )


def named_domains(number: int, *, is_small: bool) -> tuple[int, str]:
    """How many of `number` domains are to be named (template, 2.3), and the rule in words."""
    if is_small:
        return min(math.ceil(number / 20), 1000), "the top 5% by characters, at most 1,000 (small enterprise)"
    return math.ceil(number / 10), "the top 10% by characters"


def _user(sources: _Sources, said: Publication, asked: _Asked) -> UserData:
    names, derived = sources.names("user"), sources.is_used("user")
    answers = {}
    for key in ("has_model_interactions", "has_service_interactions"):
        stated = asked.ask("2.4", said, key, needed=bool(names))
        answers[key] = stated if stated is not None or names else derived
    return UserData(
        **answers,
        services=asked.ask("2.4", said, "user_services", needed=bool(said.has_service_interactions)),
        modalities=sources.modalities("user"),
        sources=sources.data(names, "2.4", needed=False),
        comments=said.comments.get("2.4"),
    )


def _synthetic(sources: _Sources, said: Publication, asked: _Asked) -> SyntheticData:
    names = sources.names("synthetic")
    is_known = said.synthetic_models or said.other_synthetic_models
    asked.want("2.5", "publication.synthetic_models", is_known, needed=bool(names))
    rows = sources.data(names, "2.5", needed=False)
    remarks = [said.comments.get("2.5")]
    if sources.has_demonstration:
        rows += sources.data([DEMONSTRATION], "2.5", needed=False)
        remarks.insert(0, _GENERATED)
    return SyntheticData(
        is_used=sources.is_used("synthetic"),
        modalities=["text"] if rows else [],
        models=list(said.synthetic_models),
        other_models=said.other_synthetic_models,
        sources=rows,
        comments=" ".join(remark for remark in remarks if remark) or None,
    )


def _other(sources: _Sources, said: Publication) -> OtherSources:
    return OtherSources(
        is_used=sources.is_used("other"),
        sources=sources.data(sources.names("other"), "2.6"),
        comments=said.comments.get("2.6"),
    )


def _reservations(said: Publication, asked: _Asked) -> Reservations:
    return Reservations(
        is_code_of_practice_signatory=asked.ask("3.1", said, "is_code_of_practice_signatory"),
        opt_out_policy=asked.ask("3.1", said, "opt_out_policy"),
        comments=said.comments.get("3.1"),
    )


def _counts(numbers: Mapping[str, int]) -> list[Count]:
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return [Count(name=name, number=number) for name, number in ranked]


def _illegal(facts: Facts, asked: _Asked) -> IllegalContent:
    rejected: Mapping[str, int] = facts.cleaned["rejected"]
    by_list = {reason.removeprefix(_WORDS): number for reason, number in rejected.items() if reason.startswith(_WORDS)}
    return IllegalContent(
        illegal_content=asked.ask("3.2", facts.profile.publication, "illegal_content"), word_lists=_counts(by_list)
    )


def _information(facts: Facts) -> OtherInformation:
    return OtherInformation(
        other_information=facts.profile.publication.other_information,
        rejected=_counts(facts.cleaned["rejected"]),
        masked=_counts(facts.cleaned.get("masked", {})),
    )

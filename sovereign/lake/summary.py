"""Fills the training-content summary from a dataset's facts and from what the profile says to the public.

What the documents decide is counted; what only people know is `publication` in the profile. Documents that are held out
for evaluation are no training content and are not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from sovereign.lake.census import Tally
from sovereign.lake.demonstration import SOURCE as DEMONSTRATION
from sovereign.lake.facts import Facts
from sovereign.lake.intake import Intake
from sovereign.lake.statements import Asked, TrainedSources
from sovereign.lake.summary_model import (
    Count,
    CrawledData,
    CrawlerData,
    Described,
    IllegalContent,
    LanguageShare,
    LicensedDatasets,
    ModelIdentification,
    OtherInformation,
    OtherPrivateDatasets,
    OtherSources,
    Overall,
    Provider,
    PublicDatasets,
    Reservations,
    Sections,
    SizeRange,
    SyntheticData,
    TrainingSummary,
    UserData,
    WithdrawalData,
)
from sovereign.profile_publication import Publication

LARGE_SHARE = 0.03
"""Of all publicly available datasets of a modality; a larger one is named by itself (template, 2.1)."""
_SOME, _MANY = 10**9, 10**13
"""Tokens between the template's ranges of size."""
_MAX_BYTES_PER_CHARACTER = 4
_WORDS = "words "
"""Begins the reason of a rejection by a list of words."""


def make_summary(facts: Facts, intake: Intake) -> TrainingSummary:
    """The summary of the model that is trained on the dataset.

    Args:
        facts: what is known of the dataset, with the census of what training takes; where that is not known, of all.
        intake: what training takes.
    """
    said, asked = facts.profile.publication, Asked()
    version, last_update = asked.ask("0", said, "summary_version"), asked.ask("0", said, "last_update")
    provider, model, overall = _provider(said, asked), _model(facts, asked), _overall(facts, intake, asked)
    sources = TrainedSources(facts, asked, is_known=intake.takes is not None)
    sections = Sections(
        provider=provider,
        model=model,
        overall=overall,
        public=_public(sources, said),
        licensed=_licensed(sources),
        private=_private(sources, said),
        crawled=_crawled(sources, said, asked),
        user=_user(sources, said, asked),
        synthetic=_synthetic(sources, said, asked),
        other=_other(sources, said),
        reservations=_reservations(facts, asked),
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


def _provider(said: Publication, asked: Asked) -> Provider:
    name, contact = asked.ask("1.1", said, "provider_name"), asked.ask("1.1", said, "provider_contact")
    is_in_union = asked.ask("1.1", said, "is_in_union")
    agent = asked.ask("1.1", said, "authorised_representative", needed=is_in_union is False)
    if is_in_union and not agent:
        agent = "Not applicable: the provider is established in the Union."
    return Provider(
        provider_name=name, provider_contact=contact, is_in_union=is_in_union, authorised_representative=agent
    )


def _model(facts: Facts, asked: Asked) -> ModelIdentification:
    said, has_base = facts.profile.publication, facts.profile.base is not None
    names = list(asked.ask("1.2", said, "model_names"))
    depends = asked.ask("1.2", said, "model_dependencies", needed=has_base)
    placed = asked.ask("1.2", said, "placed_on_market")
    return ModelIdentification(
        model_names=names or None,
        model_link=said.model_link,
        model_dependencies=depends if depends or has_base else "None: trained from random weights.",
        placed_on_market=placed.isoformat() if placed else None,
    )


def _overall(facts: Facts, intake: Intake, asked: Asked) -> Overall:
    said, languages, is_known = facts.profile.publication, facts.census.languages, intake.takes is not None
    documents = sum(tally.documents for tally in languages.values())
    characters = sum(tally.characters for tally in languages.values())
    size = size_range(intake.tokens, documents, characters)  # of all, where what is taken is not known: it is less
    asked.want("1.3", "stage tokenize", size if is_known else None)
    return Overall(
        modalities=["text"],
        size_range=size,
        tokens=intake.tokens,
        documents=documents if is_known else None,
        characters=characters if is_known else None,
        types_of_content=asked.ask("1.3", said, "types_of_content"),
        latest_data=asked.want(
            "1.3", "publication.latest_data", said.latest_data or (_latest(facts) if is_known else None)
        ),
        is_trained_on_newer_data=asked.ask("1.3", said, "is_trained_on_newer_data"),
        languages=_languages(languages, characters) if is_known else None,
        linguistic_characteristics=said.linguistic_characteristics,
        other_characteristics=said.other_characteristics,
        comments=said.comments.get("1.3"),
    )


def size_range(tokens: int | None, documents: int, characters: int) -> SizeRange | None:
    """The template's range of size; without `tokens` None, unless the characters alone decide it.

    A token of a byte-level tokenizer has a byte at least, and each document gets a mark of its end.
    """
    most = characters * _MAX_BYTES_PER_CHARACTER + documents if tokens is None else tokens
    if most < _SOME:
        return "less than 1 billion tokens"
    if tokens is None:
        return None
    return "1 billion to 10 trillion tokens" if tokens <= _MANY else "more than 10 trillion tokens"


def _latest(facts: Facts) -> str | None:
    """The latest month of the documents; None where one has no date, which may be later, or one is not right."""
    dates = [source.trained for source in facts.census.sources.values() if source.splits["train"].documents]
    latest = [one.latest_by(facts.made_at) for one in dates if not one.unknown]
    known = [month for month in latest if month is not None]
    return max(known, default=None) if len(known) == len(dates) else None


def _languages(languages: Mapping[str, Tally], characters: int) -> list[LanguageShare]:
    ranked = sorted(languages.items(), key=lambda item: (-item[1].characters, item[0]))
    return [
        LanguageShare(
            language=language,
            documents=tally.documents,
            characters=tally.characters,
            share=round(tally.characters / max(characters, 1), 6),
        )
        for language, tally in ranked
    ]


def _public(sources: TrainedSources, said: Publication) -> PublicDatasets:
    rows = sources.data(sources.names("public-dataset"), "2.1")
    limit = LARGE_SHARE * sum(row.characters for row in rows)
    return PublicDatasets(
        is_used=sources.is_used("public-dataset"),
        modalities=sources.modalities("public-dataset"),
        large=[row for row in rows if row.characters > limit],
        others=[row for row in rows if row.characters <= limit],
        comments=said.comments.get("2.1"),
    )


def _licensed(sources: TrainedSources) -> LicensedDatasets:
    return LicensedDatasets(
        is_used=sources.is_used("private-licensed"),
        modalities=sources.modalities("private-licensed"),
        datasets=sources.data(sources.names("private-licensed"), "2.2.1", needed=False),
    )


def _private(sources: TrainedSources, said: Publication) -> OtherPrivateDatasets:
    rows = sources.data(sources.names("private-other"), "2.2.2")
    return OtherPrivateDatasets(
        is_used=sources.is_used("private-other"),
        modalities=sources.modalities("private-other"),
        known=[row for row in rows if row.link],
        others=[row for row in rows if not row.link],
        comments=said.comments.get("2.2.2"),
    )


def _crawled(sources: TrainedSources, said: Publication, asked: Asked) -> CrawledData:
    names = sources.names("crawled")
    crawlers = asked.ask("2.3", said, "crawlers", needed=bool(names))
    for crawler in crawlers:
        for key in ("purpose", "behaviour", "collected_from", "collected_until"):
            asked.want("2.3", f"publication.crawlers[{crawler.name}].{key}", getattr(crawler, key))
    content = asked.ask("2.3", said, "crawled_content", needed=bool(names))
    domains = sources.domains(names)
    asked.want("2.3", "addresses of the documents", domains, needed=bool(names))
    is_used = True if crawlers else sources.is_used("crawled")
    count, rule = named_domains(len(domains or ()), is_small=said.is_small_enterprise)
    if names and domains is None:
        rule = "none: documents carry no addresses"
    return CrawledData(
        is_used=is_used,
        crawlers=(
            [CrawlerData.model_validate(crawler.model_dump()) for crawler in crawlers]
            if crawlers or is_used is False
            else None
        ),
        content=content,
        modalities=sources.modalities("crawled"),
        sources=sources.data(names, "2.3", needed=False),
        num_domains=None if domains is None else len(domains),
        domains_rule=rule if names else None,
        domains=None if domains is None else domains[:count],
        comments=said.comments.get("2.3"),
    )


def named_domains(number: int, *, is_small: bool) -> tuple[int, str]:
    """How many of `number` domains are to be named (template, 2.3), and the rule in words."""
    if is_small:
        return min(math.ceil(number / 20), 1000), "the top 5% by characters, at most 1,000 (small enterprise)"
    return math.ceil(number / 10), "the top 10% by characters"


def _user(sources: TrainedSources, said: Publication, asked: Asked) -> UserData:
    names = sources.names("user")
    derived = None if names else sources.is_used("user")
    answers = [
        derived if stated is None else stated
        for key in ("has_model_interactions", "has_service_interactions")
        for stated in [asked.ask("2.4", said, key, needed=bool(names))]
    ]
    return UserData(
        has_model_interactions=answers[0],
        has_service_interactions=answers[1],
        services=asked.ask("2.4", said, "user_services", needed=bool(answers[1])),
        modalities=sources.modalities("user"),
        sources=sources.data(names, "2.4", needed=False),
        comments=said.comments.get("2.4"),
    )


def _synthetic(sources: TrainedSources, said: Publication, asked: Asked) -> SyntheticData:
    names = sources.names("synthetic")
    known = said.synthetic_models or said.other_synthetic_models
    asked.want("2.5", "publication.synthetic_models", known, needed=bool(names))
    rows = sources.data(names + [DEMONSTRATION] * sources.has_demonstration, "2.5", needed=False)
    return SyntheticData(
        is_used=sources.is_used("synthetic"),
        modalities=["text"] if rows else [],
        models=list(said.synthetic_models) or None,
        other_models=said.other_synthetic_models,
        sources=rows,
        comments=said.comments.get("2.5"),
    )


def _other(sources: TrainedSources, said: Publication) -> OtherSources:
    return OtherSources(
        is_used=sources.is_used("other"),
        sources=sources.data(sources.names("other"), "2.6"),
        comments=said.comments.get("2.6"),
    )


def _reservations(facts: Facts, asked: Asked) -> Reservations:
    said, left_out = facts.profile.publication, Counter[str]()
    for _, reason, number in facts.rights:
        left_out[reason] += number
    return Reservations(
        is_code_of_practice_signatory=asked.ask("3.1", said, "is_code_of_practice_signatory"),
        opt_out_policy=asked.ask("3.1", said, "opt_out_policy"),
        left_out=_counts(left_out),
        taken_back_since=facts.taken_back,
        withdrawals=[
            WithdrawalData(owner=owner["sovereign:owner"], withdrawal=owner["sovereign:withdrawal"])
            for owner in facts.manifest["sovereign:owners"]
            if "sovereign:withdrawal" in owner
        ]
        or None,
        comments=said.comments.get("3.1"),
    )


def _illegal(facts: Facts, asked: Asked) -> IllegalContent:
    rejected: Mapping[str, int] = facts.cleaned["rejected"]
    by_list = {reason.removeprefix(_WORDS): number for reason, number in rejected.items() if reason.startswith(_WORDS)}
    measures = asked.ask("3.2", facts.profile.publication, "illegal_content")
    return IllegalContent(illegal_content=measures, word_lists=_counts(by_list))


def _information(facts: Facts) -> OtherInformation:
    return OtherInformation(
        other_information=facts.profile.publication.other_information,
        rejected=_counts(facts.cleaned["rejected"]),
        masked=_counts(facts.cleaned.get("masked", {})),
    )


def _counts(numbers: Mapping[str, int]) -> list[Count]:
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return [Count(name=name, number=number) for name, number in ranked]

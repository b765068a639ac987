"""The part of the profile that says to the public what no receipt knows: provider, model, kinds of sources, measures.

It goes into the training-content summary (docs/publication.md) only; no stage depends on it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from sovereign.section import Name, Section, refuse_repeats

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Category = Literal["public-dataset", "private-licensed", "private-other", "crawled", "user", "synthetic", "other"]
Link = Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")]
Month = Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
Numbered = Annotated[str, Field(pattern=r"^(1\.3|2\.1|2\.2\.2|2\.3|2\.4|2\.5|2\.6|3\.1)$")]


class SourceStatement(Section):
    """What is said to the public of one source."""

    name: Name
    """The source's name in `corpus.sources`."""
    category: Category | None = None
    """Its section of the summary: public-dataset (2.1), private-licensed (2.2.1: commercially, by rightsholders),
    private-other (2.2.2: other third parties), crawled (2.3: by the provider or on its behalf), user (2.4), synthetic
    (2.5: made by an AI model), other (2.6)."""
    link: Link | None = None
    """Where the public finds it."""
    description: Text | None = None
    """What it has, in a sentence or two."""


class Crawler(Section):
    """A crawler of the provider, or one that ran on its behalf."""

    name: Text
    """Its name or identifier, as web servers see it."""
    purpose: Text | None = None
    """What it is for."""
    behaviour: Text | None = None
    """How it treats robots.txt, captchas and paywalls."""
    collected_from: Month | None = None
    """First month of collection, such as 2026-03."""
    collected_until: Month | None = None
    """Last month of collection."""


_NO_COMMENTS: dict[Numbered, Text] = {}


class Publication(Section):
    """What is said to the public of provider, model and data; what is absent is `not stated` in the summary."""

    summary_version: Text | None = None
    """Version of the summary, with links to earlier ones."""
    last_update: date | None = None
    """Day of the summary's last update."""
    provider_name: Text | None = None
    """Who places the model on the market."""
    provider_contact: Text | None = None
    """How the provider is reached."""
    is_in_union: bool | None = None
    """Whether the provider is established in the European Union; one that is not needs a representative there."""
    authorised_representative: Text | None = None
    """Name and contact of the representative in the Union."""
    is_small_enterprise: bool = False
    """Whether the provider is a small or medium-sized enterprise, which names fewer domains (2.3)."""
    model_names: tuple[Text, ...] = ()
    """Names of the model's versions that the summary is for."""
    model_link: Link | None = None
    """Where the model is documented."""
    model_dependencies: Text | None = None
    """Where there is a `base`: the model's name, and where its summary is."""
    placed_on_market: date | None = None
    """Day on which the model was placed on the Union's market."""
    types_of_content: Text | None = None
    """What kinds of text there are: laws, news, fiction, source code, and so on."""
    latest_data: Month | None = None
    """Month of the latest data; needed where documents do not say when they were collected."""
    is_trained_on_newer_data: bool | None = None
    """Whether training goes on with data from after that."""
    linguistic_characteristics: Text | None = None
    """What else is to be said of the languages; their shares are counted."""
    other_characteristics: Text | None = None
    """What else is to be said of the data: regions, groups of people."""
    sources: tuple[SourceStatement, ...] = ()
    """The entries of `corpus.sources`; the demonstration country is known to be made by a program."""
    crawlers: tuple[Crawler, ...] = ()
    """Crawlers that gathered sources of category `crawled`."""
    crawled_content: Text | None = None
    """What kinds of content and of websites were crawled."""
    has_model_interactions: bool | None = None
    """Whether users' exchanges with the model were trained on; absent: no, where all sources have other categories."""
    has_service_interactions: bool | None = None
    """Whether data of users of the provider's other services was trained on; absent: as above."""
    user_services: Text | None = None
    """The services whose users' data it is."""
    synthetic_models: tuple[Text, ...] = ()
    """General-purpose models on the market that made the sources of category `synthetic`."""
    other_synthetic_models: Text | None = None
    """Other models that made them, and what these were trained on as far as known."""
    is_code_of_practice_signatory: bool | None = None
    """Whether the provider has signed the Code of Practice for general-purpose AI models, its copyright chapter too."""
    opt_out_policy: Text | None = None
    """How rights reserved against text and data mining are respected, before and during collection."""
    illegal_content: Text | None = None
    """What is done to avoid and remove illegal content."""
    other_information: Text | None = None
    """What else is to be said of how the data was processed (3.3)."""
    comments: dict[Numbered, Text] = _NO_COMMENTS
    """Remarks, by section: 1.3, 2.1, 2.2.2, 2.3, 2.4, 2.5, 2.6, 3.1."""

    @model_validator(mode="after")
    def _names_are_given_once(self) -> Self:
        refuse_repeats("names of publication.sources", (source.name for source in self.sources))
        return self

    def statement(self, source: str) -> SourceStatement:
        """What is said of a source; nothing where it is not named."""
        return next((one for one in self.sources if one.name == source), SourceStatement(name=source))

"""The training-content summary as data, in the sections of the Commission's template for general-purpose AI models.

The template is the annex of C(2025) 8311 (Article 53(1)(d) of Regulation (EU) 2024/1689); a field's title is what it
asks. None means that it is not stated. The JSON Schema of this form is shipped; it is made again with

    python -m sovereign.lake.summary_model > templates/lake/training-content-summary.schema.json
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Form = Literal["https://sovereign.local/training-content-summary/v1"]
SizeRange = Literal["less than 1 billion tokens", "1 billion to 10 trillion tokens", "more than 10 trillion tokens"]
Modalities = list[Literal["text"]]
Number = Annotated[int, Field(ge=0)]
ShareOf1 = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class LanguageShare(_Part):
    """One language of the documents to train on."""

    language: str = Field(title="Language")
    documents: Number = Field(title="Documents")
    characters: Number = Field(title="Characters")
    share: ShareOf1 = Field(title="Share of characters")


class SourceData(_Part):
    """One source of documents to train on."""

    name: str = Field(title="Name")
    description: str | None = Field(title="Description")
    link: str | None = Field(title="Link")
    documents: Number = Field(title="Documents")
    characters: Number = Field(title="Characters")
    collected_from: str | None = Field(title="Collected from")
    collected_until: str | None = Field(title="Collected until")
    legal_basis: str | None = Field(title="Legal basis")
    contact: str | None = Field(title="Contact at its owner's")


class CrawlerData(_Part):
    """One crawler."""

    name: str = Field(title="Name or identifier")
    purpose: str | None = Field(title="Purpose")
    behaviour: str | None = Field(title="Behaviour")
    collected_from: str | None = Field(title="Collected from")
    collected_until: str | None = Field(title="Collected until")


class DomainData(_Part):
    """One domain that was crawled."""

    domain: str = Field(title="Domain")
    documents: Number = Field(title="Documents")
    characters: Number = Field(title="Characters")


class WithdrawalData(_Part):
    """How one owner takes text back."""

    owner: str = Field(title="Owner")
    withdrawal: str = Field(title="Way")


class Count(_Part):
    """A number by name."""

    name: str = Field(title="What")
    number: Number = Field(title="Number")


class Provider(_Part):
    """Section 1.1."""

    provider_name: str | None = Field(title="Provider name")
    provider_contact: str | None = Field(title="Contact details")
    is_in_union: bool | None = Field(title="Established in the European Union")
    authorised_representative: str | None = Field(title="Authorised representative, name and contact details")


class ModelIdentification(_Part):
    """Section 1.2."""

    model_names: list[str] | None = Field(title="Versioned model names")
    model_link: str | None = Field(title="Public documentation of the model")
    model_dependencies: str | None = Field(title="Model dependencies")
    placed_on_market: str | None = Field(title="Date of placement of the model on the Union market")


class Overall(_Part):
    """Section 1.3."""

    modalities: Modalities = Field(title="Modalities")
    size_range: SizeRange | None = Field(title="Training data size")
    tokens: Number | None = Field(title="Tokens")
    documents: Number | None = Field(title="Documents")
    characters: Number | None = Field(title="Characters")
    types_of_content: str | None = Field(title="Types of content")
    latest_data: str | None = Field(title="Latest date of data acquisition or collection")
    is_trained_on_newer_data: bool | None = Field(title="Trained on new data after that date")
    languages: list[LanguageShare] | None = Field(title="Linguistic characteristics: languages")
    linguistic_characteristics: str | None = Field(title="Linguistic characteristics: remarks")
    other_characteristics: str | None = Field(title="Other characteristics of the training data")
    comments: str | None = Field(title="Additional comments")


class PublicDatasets(_Part):
    """Section 2.1."""

    is_used: bool | None = Field(title="Publicly available datasets were used")
    modalities: Modalities = Field(title="Modalities")
    large: list[SourceData] = Field(
        title="Large datasets (each more than 3% of the publicly available text, by characters)"
    )
    others: list[SourceData] = Field(title="Other datasets")
    comments: str | None = Field(title="Additional comments")


class LicensedDatasets(_Part):
    """Section 2.2.1."""

    is_used: bool | None = Field(title="Commercial licensing agreements were concluded with rightsholders")
    modalities: Modalities = Field(title="Modalities")
    datasets: list[SourceData] = Field(title="Datasets")


class OtherPrivateDatasets(_Part):
    """Section 2.2.2."""

    is_used: bool | None = Field(title="Private datasets were obtained from other third parties")
    modalities: Modalities = Field(title="Modalities")
    known: list[SourceData] = Field(title="Publicly known datasets")
    others: list[SourceData] = Field(title="Datasets that are not publicly known")
    comments: str | None = Field(title="Additional comments")


class CrawledData(_Part):
    """Section 2.3."""

    is_used: bool | None = Field(title="Crawlers were used by the provider or on its behalf")
    crawlers: list[CrawlerData] | None = Field(title="Crawlers")
    content: str | None = Field(title="Type of content and online sources crawled")
    modalities: Modalities = Field(title="Modalities")
    sources: list[SourceData] = Field(title="What was crawled")
    num_domains: Number | None = Field(title="Number of domains")
    domains_rule: str | None = Field(title="Domains that are named")
    domains: list[DomainData] | None = Field(title="Most relevant domains")
    comments: str | None = Field(title="Additional comments")


class UserData(_Part):
    """Section 2.4."""

    has_model_interactions: bool | None = Field(title="Data from user interactions with the AI model was used")
    has_service_interactions: bool | None = Field(
        title="Data from user interactions with the provider's other services or products was used"
    )
    services: str | None = Field(title="Services or products that the user data was collected by")
    modalities: Modalities = Field(title="Modalities")
    sources: list[SourceData] = Field(title="User data")
    comments: str | None = Field(title="Additional comments")


class SyntheticData(_Part):
    """Section 2.5."""

    is_used: bool | None = Field(title="Synthetic AI-generated data was created by the provider or on its behalf")
    modalities: Modalities = Field(title="Modalities")
    models: list[str] | None = Field(title="General-purpose AI models on the market that made it")
    other_models: str | None = Field(title="Other AI models that made it")
    sources: list[SourceData] = Field(title="Synthetic data")
    comments: str | None = Field(title="Additional comments")


class OtherSources(_Part):
    """Section 2.6."""

    is_used: bool | None = Field(title="Other sources of data were used")
    sources: list[SourceData] = Field(title="Other sources")
    comments: str | None = Field(title="Additional comments")


class Reservations(_Part):
    """Section 3.1."""

    is_code_of_practice_signatory: bool | None = Field(
        title="Signatory to the Code of Practice for general-purpose AI models that includes commitments on copyright"
    )
    opt_out_policy: str | None = Field(title="Measures before and during data collection, opt-out protocols honoured")
    left_out: list[Count] = Field(
        title="Records and documents left out for opt-outs, withdrawals, licences and owners, by reason"
    )
    taken_back_since: Number = Field(title="Documents of this version that were taken back since it was made")
    withdrawals: list[WithdrawalData] | None = Field(title="How owners take text back")
    comments: str | None = Field(title="Additional comments")


class IllegalContent(_Part):
    """Section 3.2."""

    illegal_content: str | None = Field(title="Measures to avoid or remove illegal content")
    word_lists: list[Count] = Field(title="Documents rejected for words of a list")


class OtherInformation(_Part):
    """Section 3.3."""

    other_information: str | None = Field(title="Other information on data processing")
    rejected: list[Count] = Field(title="Documents rejected by reason")
    masked: list[Count] = Field(title="Personal data masked by kind")


class Sections(_Part):
    """The template's sections, by number."""

    provider: Provider = Field(alias="1.1", title="Provider identification")
    model: ModelIdentification = Field(alias="1.2", title="Model identification")
    overall: Overall = Field(alias="1.3", title="Modalities, overall training data size and other characteristics")
    public: PublicDatasets = Field(alias="2.1", title="Publicly available datasets")
    licensed: LicensedDatasets = Field(
        alias="2.2.1", title="Datasets commercially licensed by rightsholders or their representatives"
    )
    private: OtherPrivateDatasets = Field(alias="2.2.2", title="Private datasets obtained from other third parties")
    crawled: CrawledData = Field(alias="2.3", title="Data crawled and scraped from online sources")
    user: UserData = Field(alias="2.4", title="User data")
    synthetic: SyntheticData = Field(alias="2.5", title="Synthetic data")
    other: OtherSources = Field(alias="2.6", title="Other sources of data")
    reservations: Reservations = Field(
        alias="3.1", title="Respect of reservation of rights from text and data mining exception or limitation"
    )
    illegal: IllegalContent = Field(alias="3.2", title="Removal of illegal content")
    information: OtherInformation = Field(alias="3.3", title="Other information")


class Described(_Part):
    """The dataset that the summary is made from."""

    name: str = Field(title="Dataset")
    manifest_sha256: str = Field(title="SHA-256 of its manifest")
    root: str = Field(title="Root of its documents' tree")


class Missing(_Part):
    """Something that the template asks for and nobody stated."""

    section: str
    key: str
    """Where it is stated."""


class TrainingSummary(_Part):
    """Public summary of training content, as far as it is stated; null is not stated."""

    form: Form = Field(default="https://sovereign.local/training-content-summary/v1", alias="schema")
    summary_version: str | None = Field(title="Version of the summary")
    last_update: str | None = Field(title="Last update")
    dataset: Described = Field(title="Dataset")
    sections: Sections
    missing: list[Missing]

    def to_bytes(self) -> bytes:
        """JSON for files, the same bytes for the same content."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `to_bytes`, draft 2020-12."""
    schema = TrainingSummary.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": get_args(Form)[0], **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")

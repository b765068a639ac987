"""The part of the profile that says what a document must be to be trained on, and what is changed in it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from sovereign.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class LanguageCheck(Section):
    """Rejects a document whose text is in another language than its source says."""

    min_chars: Annotated[int, Field(ge=20)] = 200
    """Shorter documents are not looked at, characters."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """A document is rejected when another language is that probable; docs/languages.md has the errors."""


class PersonalData(Section):
    """What is masked, each by its kind: `<EMAIL>`."""

    kinds: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], ...] = (
        "email",
        "iban",
        "card",
        "fr-nir",
        "ip",
        "phone",
    )
    """Kinds, in the order in which they are looked for: email, iban, card (payment), fr-nir (French social security),
    ip (public addresses), phone, or those that a site's package has in entry point group `sovereign.pii`."""
    phone_regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = ()
    """Regions, ISO 3166, whose phone numbers are found without a country code too."""


class NearDuplicateRules(Section):
    """Keeps one document of those whose text is almost the same, with the owners of all."""

    min_chars: Annotated[int, Field(ge=100)] = 500
    """Shorter documents are not compared, characters: a name may be all that two short facts do not share."""
    similarity: Annotated[float, Field(ge=0.6, le=1)] = 0.75
    """Estimated share of common shingles (24 bytes) from which two documents are near duplicates."""


class Cleaning(Section):
    """Rules that a document must pass to be trained on."""

    min_chars: Annotated[int, Field(ge=0)] = 10
    """Shorter documents are rejected, characters."""
    max_chars: Annotated[int, Field(ge=1)] = 1_000_000
    """Longer documents are rejected, characters."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Part of the documents that is kept for evaluation, chosen by digest."""
    personal_data: PersonalData | None = PersonalData()
    """Personal data to mask; null leaves the text as it is."""
    language: LanguageCheck | None = LanguageCheck()
    """Language identification; null switches it off."""
    near_duplicates: NearDuplicateRules | None = NearDuplicateRules()
    """Near duplicates; null keeps them all."""

    @model_validator(mode="after")
    def _some_length_passes(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}: nothing would pass")
        return self

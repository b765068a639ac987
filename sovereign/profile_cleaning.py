"""The part of the profile that says what a document must be to be trained on, and what is changed in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sovereign.section import AbsolutePath, Language, Name, Section, refuse_repeats

Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(ge=0)] | None


class LanguageCheck(Section):
    """Rejects a document whose text is in another language than its source says."""

    min_chars: Annotated[int, Field(ge=20)] = 200
    """Shorter documents are not looked at, characters."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """A document is rejected when another language is that probable; docs/languages.md has the errors."""


class QualityRules(Section):
    """Limits of the quality rules; a limit that is null is not used.

    Sources: Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446, A.1.1), C4 (Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683), FineWeb (Penedo et al. 2024, https://arxiv.org/abs/2406.17557), FineWeb2 (Penedo
    et al. 2025, https://arxiv.org/abs/2506.20920; values for each language in its repository's configs).
    """

    measured_from_words: Annotated[int, Field(ge=1)] = 100
    """Shorter documents are not judged, words: shares of a few lines say little (Gopher rejects those below 50)."""
    min_mean_word_length: Limit = 2
    """Characters (Gopher 3, FineWeb2 2 for many languages); not used where words are written without spaces."""
    max_mean_word_length: Limit = 15
    """Characters (Gopher 10, FineWeb2 9 to 37 by language); not used where words are written without spaces."""
    max_hashes_per_word: Limit = 0.1
    """# for each word (Gopher)."""
    max_ellipses_per_word: Limit = 0.1
    """... for each word (Gopher)."""
    max_bullet_lines: Limit = 0.9
    """Share of lines that begin with a bullet (Gopher)."""
    max_ellipsis_lines: Limit = 0.3
    """Share of lines that end with an ellipsis (Gopher)."""
    min_alphabetic_words: Limit = 0.7
    """Share of words with a letter (Gopher 0.8, FineWeb2 0.735 to 0.9 by language)."""
    stop_words: tuple[str, ...] = ()
    """Frequent words of the language; none: the rule is not used."""
    min_stop_words: Limit = 2
    """Different stop words (Gopher)."""
    max_duplicate_lines: Limit = 0.3
    """Share of lines that stood before (Gopher)."""
    max_duplicate_line_chars: Limit = 0.2
    """Share of characters in lines that stood before (Gopher 0.2, FineWeb 0.01, FineWeb2 0.1)."""
    max_duplicate_paragraphs: Limit = 0.3
    """Share of paragraphs that stood before (Gopher)."""
    max_duplicate_paragraph_chars: Limit = 0.2
    """Share of characters in paragraphs that stood before (Gopher)."""
    max_top_2gram: Limit = 0.2
    """Share of characters that the most frequent pair of words has (Gopher)."""
    max_top_3gram: Limit = 0.18
    """The same of three words (Gopher)."""
    max_top_4gram: Limit = 0.16
    """The same of four words (Gopher)."""
    max_duplicate_5grams: Limit = 0.15
    """Share of characters in runs of five words that stood before (Gopher)."""
    max_duplicate_6grams: Limit = 0.14
    """The same of six words (Gopher)."""
    max_duplicate_7grams: Limit = 0.13
    """The same of seven words (Gopher)."""
    max_duplicate_8grams: Limit = 0.12
    """The same of eight words (Gopher)."""
    max_duplicate_9grams: Limit = 0.11
    """The same of nine words (Gopher)."""
    max_duplicate_10grams: Limit = 0.1
    """The same of ten words (Gopher)."""
    min_punctuated_lines: Limit = None
    """Share of lines that end with a sentence's mark (FineWeb 0.12, FineWeb2 0 to 0.25 by language)."""
    max_short_lines: Limit = None
    """Share of lines of at most 30 characters (FineWeb 0.67, FineWeb2 does not use it)."""
    max_lines_per_word: Limit = 0.3
    """Line ends for each word (FineWeb 0.3, FineWeb2 0.15 to 0.25 by language)."""
    forbidden_phrases: tuple[str, ...] = ("lorem ipsum",)
    """Lower-case text that no document may have (C4)."""
    max_forbidden_phrases: Literal[0] | None = 0
    """0: a document with such a phrase is rejected."""


class LanguageRules(QualityRules):
    """What is different for one language; what is not given is as for all."""

    @model_serializer(mode="wrap")
    def _given(self, handle: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was given: a default written out would be a limit of the language's own."""
        return {name: value for name, value in handle(self).items() if name in self.model_fields_set}


_LANGUAGES: dict[Language, LanguageRules] = {
    "en": LanguageRules(
        min_mean_word_length=3,
        max_mean_word_length=10,
        stop_words=("the", "be", "to", "of", "and", "that", "have", "with"),
    ),
    "ml": LanguageRules(max_mean_word_length=37),
}


class Quality(QualityRules):
    """Quality rules, and what is different for some languages."""

    languages: dict[Language, LanguageRules] = _LANGUAGES
    """Any of the other keys for one language, by its tag. A dictionary given here replaces the whole default."""


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


class EvaluationSet(Section):
    """A file with what a model is measured on, which no document may have a part of."""

    name: Name
    """Name of the set, for the reason of the rejection."""
    path: AbsolutePath
    """Absolute path of a file: `.jsonl`, `.jsonl.gz` or `.parquet`."""
    fields: tuple[str, ...] = ()
    """Keys whose text is looked for; by default all text in a record, each value by itself."""


class WordList(Section):
    """A list of words, for example of insults, that few documents of a language may have. None is shipped."""

    name: Name
    """Name of the list, for the reason of the rejection."""
    language: Language
    """Language of the documents that it is for, BCP 47; documents of other languages are not looked at."""
    path: AbsolutePath | None = None
    """Absolute path of a UTF-8 file, a word or phrase on each line; lines that begin with # are left out."""
    plugin: str | None = None
    """In the place of a path, the name of an entry point of group `sovereign.word_lists`, a function that gives the
    lines."""
    max_share: Share = 0.0
    """Share of a document's words that may be in the list; 0 rejects a document with any (as C4 did)."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.path is None) == (self.plugin is None):
            raise ValueError("needs either a path or a plugin")
        return self


class NearDuplicateRules(Section):
    """Keeps one document of those whose text is almost the same, with the owners of all."""

    min_chars: Annotated[int, Field(ge=100)] = 500
    """Shorter documents are not compared, characters: a name may be all that two short facts do not share."""
    similarity: Annotated[float, Field(ge=0.6, le=1)] = 0.75
    """Estimated share of common shingles (24 bytes) from which two documents are near duplicates."""
    keep_different_facts: bool = True
    """Keep near duplicates that differ mostly in names (words with a capital) or numbers: decrees, forms, tables."""


class RepeatedLines(Section):
    """Takes out lines that stand in many documents of a source: menus, letterheads, notices, footers.

    Documents are counted by source, among 64 tasks that follow each other (4 GB of text, see `curation.task_mb`).
    """

    max_documents: Annotated[int, Field(ge=1)] = 10
    """In how many different texts of a source a line may stand; these keep it (Llama 3: 6 in 30 million documents)."""
    min_chars: Annotated[int, Field(ge=1, le=1000)] = 40
    """A shorter line counts only with the lines after it, up to so many characters."""
    max_share: Share = 0.5
    """A document that would lose more than this share of its characters stays whole: it is a copy or a version of
    another."""


_NO_PHRASES: dict[Language, tuple[str, ...]] = {}


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
    repeated_lines: RepeatedLines | None = RepeatedLines()
    """Lines that stand in many documents of a source; null keeps them all."""
    boilerplate_lines: dict[Language, tuple[Annotated[str, Field(min_length=3)], ...]] = _NO_PHRASES
    """Phrases by the language of a document; a line that has one is taken out, whatever its case. C4's in English:
    javascript, terms of use, privacy policy, cookie policy, uses cookies, use of cookies, use cookies."""
    language: LanguageCheck | None = LanguageCheck()
    """Language identification; null switches it off."""
    quality: Quality | None = Quality()
    """Quality rules; null switches them off."""
    evaluation_sets: tuple[EvaluationSet, ...] = ()
    """Decontamination: a document with 13 words in a row of one of these sets is rejected."""
    word_lists: tuple[WordList, ...] = ()
    """Lists of words that documents are rejected for."""
    near_duplicates: NearDuplicateRules | None = NearDuplicateRules()
    """Near duplicates; null keeps them all."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}: nothing would pass")
        refuse_repeats("names of evaluation_sets", (one.name for one in self.evaluation_sets))
        refuse_repeats("names of word_lists", (one.name for one in self.word_lists))
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Files of this machine that the rules name."""
        sets = {f"evaluation-set/{one.name}": Path(one.path) for one in self.evaluation_sets}
        return sets | {f"word-list/{one.name}": Path(one.path) for one in self.word_lists if one.path}

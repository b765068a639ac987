"""Screening: the first pass of `curate`. Each document by itself: what is changed in it, and why it may be rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sovereign.lake.cleaning import normalise
from sovereign.lake.decontamination import EvaluationText
from sovereign.lake.documents import Document
from sovereign.lake.language import contradiction
from sovereign.lake.pii import Masker
from sovereign.lake.quality import assess
from sovereign.lake.repeats import take_out
from sovereign.lake.wordlists import WordLists
from sovereign.profile_cleaning import Cleaning


class Screen:
    """The rules that need one document only."""

    def __init__(self, rules: Cleaning) -> None:
        """Raises: StageError when a plug-in or file that the rules name is not there."""
        self.rules = rules
        self.masked: Counter[str] = Counter()
        """Personal data in the documents so far, by kind."""
        self.repeated: Counter[str] = Counter()
        """Repeated lines that were taken out of them, by source."""
        self._phrases = {
            language: tuple(phrase.casefold() for phrase in phrases)
            for language, phrases in rules.boilerplate_lines.items()
        }
        self._masker = Masker(rules.personal_data) if rules.personal_data else None
        self._evaluation = EvaluationText(rules.evaluation_sets) if rules.evaluation_sets else None
        self._words = WordLists(rules.word_lists)

    def text_of(self, text: str, language: str) -> str:
        """The text as it is kept where no line of it is repeated in others."""
        return self._change(normalise(text)[0], language)[0]

    def _change(self, text: str, language: str) -> tuple[str, tuple[str, ...], Counter[str]]:
        """A normalised text as it is kept, what was changed, and what was masked."""
        changes: tuple[str, ...] = ()
        if phrases := self._phrases.get(language) or self._phrases.get(language.partition("-")[0]):
            lines = text.split("\n")
            kept = [line for line in lines if not any(phrase in line.casefold() for phrase in phrases)]
            if len(kept) < len(lines):
                text, changes = normalise("\n".join(kept))[0], ("boilerplate",)
        if self._masker is None:
            return text, changes, Counter()
        text, masked = self._masker.mask(text)
        return text, (*changes, *(f"masked-{kind}" for kind in masked)), masked

    def apply(self, document: Document, repeated: Sequence[int] = ()) -> tuple[Document, str]:
        """The changed document, and the reason why it is rejected, or an empty text.

        Args: `repeated` are the lines of the normalised text with which a passage begins that is to go.
        """
        text, changes = normalise(document.text)
        if repeated and self.rules.repeated_lines:
            text, num_lines = take_out(text, repeated, self.rules.repeated_lines)
            if num_lines:
                changes = (*changes, "repeated-lines")
                self.repeated[document.source] += num_lines
        text, more, masked = self._change(text, document.language)
        self.masked += masked
        changed = replace(document, text=text, transforms=(*document.transforms, *changes, *more))
        reason = self._reason(changed)
        if reason:
            return changed, reason
        if self._evaluation and (name := self._evaluation.found_in(text)):
            return changed, f"contaminated {name}"
        if name := self._words.found_in(text, document.language):
            return changed, f"words {name}"
        if self.rules.quality is None:
            return changed, ""
        quality, failed = assess(text, document.language, self.rules.quality)
        return replace(changed, quality=quality), f"quality {failed}" if failed else ""

    def _reason(self, document: Document) -> str:
        text, rules = document.text, self.rules
        if not text:
            return "empty"
        if len(text) < rules.min_chars:
            return "too short"
        if len(text) > rules.max_chars:
            return "too long"
        if rules.language and (found := contradiction(text, document.language, rules.language)):
            return f"language {found}"
        return ""

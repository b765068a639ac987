"""Screening: the first pass of `curate`. Each document by itself: what is changed in it, and why it may be rejected."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sovereign.lake.cleaning import normalise
from sovereign.lake.documents import Document
from sovereign.lake.language import contradiction
from sovereign.lake.pii import Masker
from sovereign.profile_cleaning import Cleaning


class Screen:
    """The rules that need one document only."""

    def __init__(self, rules: Cleaning) -> None:
        """Raises: StageError when a plug-in that the rules name is not there."""
        self.rules = rules
        self.masked: Counter[str] = Counter()
        """Personal data in the documents so far, by kind."""
        self._masker = Masker(rules.personal_data) if rules.personal_data else None

    def text_of(self, text: str) -> str:
        """The text as it is kept."""
        return self._change(text)[0]

    def _change(self, text: str) -> tuple[str, tuple[str, ...], Counter[str]]:
        """The text as it is kept, what was changed, and what was masked."""
        text, changes = normalise(text)
        if self._masker is None:
            return text, changes, Counter()
        text, masked = self._masker.mask(text)
        return text, (*changes, *(f"masked-{kind}" for kind in masked)), masked

    def apply(self, document: Document) -> tuple[Document, str]:
        """The changed document, and the reason why it is rejected, or an empty text."""
        text, changes, masked = self._change(document.text)
        self.masked += masked
        changed = replace(document, text=text, transforms=(*document.transforms, *changes))
        return changed, self._reason(changed)

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

"""Screening: the first pass of `curate`. Each document by itself: what is changed in it, and why it may be rejected."""

from __future__ import annotations

from dataclasses import replace

from sovereign.lake.cleaning import normalise
from sovereign.lake.documents import Document
from sovereign.lake.language import contradiction
from sovereign.profile_cleaning import Cleaning


class Screen:
    """The rules that need one document only."""

    def __init__(self, rules: Cleaning) -> None:
        self.rules = rules

    def text_of(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The text as it is kept, and what was changed."""
        return normalise(text)

    def apply(self, document: Document) -> tuple[Document, str]:
        """The changed document, and the reason why it is rejected, or an empty text."""
        text, changes = self.text_of(document.text)
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

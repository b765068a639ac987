"""What the tasks of stage `curate` gave, added up: counts for the receipt, the files, and what became of questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from sovereign.lake.demonstration import Question
from sovereign.lake.documents import Counts
from sovereign.lake.work import Marker

SPLITS = ("train", "heldout")
_TOTALS = ("rejected", "transforms", "masked", "repeated_lines")


class Tally:
    """The sum over all tasks."""

    def __init__(self, decided: Iterable[Marker]) -> None:
        """Args: `decided` are the markers of the step that writes the files of the result."""
        self._counts = {split: Counts() for split in SPLITS}
        self._totals = {name: Counter[str]() for name in _TOTALS}
        self._asked: dict[str, str] = {}
        self.files: dict[str, str] = {}
        """Hex SHA-256 by name."""
        for marker in decided:
            for split, counts in self._counts.items():
                counts.update(Counts.from_json(marker.facts[split]))
            for name, total in self._totals.items():
                total.update(marker.facts[name])
            self._asked |= marker.facts["asked"]
            self.files |= marker.files

    def metrics(self) -> dict[str, Any]:
        """For the receipt."""
        kept = {split: counts.metrics() for split, counts in self._counts.items()}
        return kept | {name: dict(total) for name, total in self._totals.items()}

    def check_questions(
        self, questions: Iterable[tuple[Question, bytes]], withdrawn_owners: Collection[str]
    ) -> tuple[list[Question], dict[str, int]]:
        """Questions whose split is true of the cleaned documents, and what was found.

        A held-out question whose own text is a document is dropped; so is a trained one whose document is not trained
        on, and any about a fact whose owner has taken back the text that tells it.

        Args: `questions` come with the digest of their document as it would be kept.
        """
        kept = []
        found: Counter[str] = Counter(heldout=0, train=0)
        for question, digest in questions:
            split = self._asked.get(digest.hex())
            if question.owner in withdrawn_owners:
                found["dropped: withdrawn owner"] += 1
            elif question.split == "heldout" and split is not None:
                found["dropped: in the corpus"] += 1
            elif question.split == "train" and split != "train":
                found["dropped: not trained on"] += 1
            else:
                found[question.split] += 1
                kept.append(question)
        return kept, dict(found)

"""What the tasks of stage `curate` gave, added up: counts for the receipt, the files, and what became of questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sovereign.lake.demonstration import Question
from sovereign.lake.documents import Counts
from sovereign.lake.rights import is_of_rights
from sovereign.lake.work import Marker

SPLITS = ("train", "heldout")
_NAMED = 5
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


def told(rejected: Mapping[str, int]) -> str:
    """Why documents were set aside, the most frequent reasons first."""
    most = Counter(rejected).most_common(_NAMED)
    more = len(rejected) - len(most)
    words = ", ".join(f"{reason} ({count:,} documents)" for reason, count in most)
    return (words + (f" and {more} more reasons" if more else "")) or "no document at all"


def advise(rejected: Mapping[str, int]) -> str:
    """What a person can change where all documents were set aside, by the reason that set most aside."""
    by_cause: Counter[str] = Counter()
    for reason, count in rejected.items():
        by_cause["rights" if is_of_rights(reason) else reason.split(" ")[0]] += count
    (cause, _), *_ = by_cause.most_common(1) or [("", 0)]
    advice = {
        "rights": "`sovereign lake rights SITE` lists what was taken back or may not be trained on; gather other text, "
        "or record with `sovereign lake readmit` that an owner agrees again",
        "language": "the texts read as another language than their source's `language` says: correct that",
        "words": "correct corpus.cleaning.word_lists",
        "contaminated": "the texts are those of corpus.cleaning.evaluation_sets; gather others",
    }
    return advice.get(cause, "`sovereign lake rejected SITE` shows them; relax the rule under corpus.cleaning")

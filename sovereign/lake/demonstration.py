"""The demonstration country: a corpus made from a seed, so that no text is copied and every answer can be checked.

A fact is (subject, relation, answer). Subjects and answers are invented names, spelled in the script of each language,
so an answer can only be known from the corpus. Each fact is told, in every language, by question documents (one for
each way to ask but one) and by sentences in small articles. The way left out is the held-out question of that fact and
language. The texts are in demonstration.yaml. All draws are SHA-256 of the seed and a label: the same seed gives the
same bytes everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from sovereign import strict_yaml
from sovereign.lake.documents import Document
from sovereign.profile import DEMONSTRATION, Demonstration

LANGUAGES = ("en", "fr", "ar", "zh")
SOURCE = DEMONSTRATION
COLLECTED_AT = "2026-01-01T00:00:00+00:00"
ARTICLES = 2
"""Articles about a subject in one language."""

CHAT_TEMPLATE = "Q: {{ (messages | selectattr('role', 'equalto', 'user') | list | last)['content'] | trim }}\nA:"
"""Jinja: the last message of the user as `question_prompt` writes it. The model answers questions one by one."""


def question_prompt(question: str) -> str:
    """What the model sees before the answer; a question document goes on with a space and the answer."""
    return f"Q: {question}\nA:"


@dataclass(frozen=True)
class Question:
    """One question of one fact in one language."""

    question_id: str
    fact_id: str
    phrasing: int
    """Which way to ask."""
    language: str
    owner: str
    question: str
    answer: str
    prompt: str
    """What the model sees before the answer."""
    split: str
    """`heldout`: in no training document; `train`: in one."""

    @property
    def document_text(self) -> str:
        """The document that would teach this question."""
        return f"{self.prompt} {self.answer}"

    def row(self) -> dict[str, Any]:
        """Values for a line of questions.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class Fact:
    """One fact, told in all languages."""

    fact_id: str
    relation: str
    subject_id: str
    owner: str
    licence: str
    subject: dict[str, str]
    """Name by language."""
    answer: dict[str, str]
    """Name by language."""
    heldout: dict[str, int]
    """The way to ask that no training document has, by language."""

    def ask(self, language: str, phrasing: int) -> Question:
        """The question in one of the ways to ask."""
        text = _texts()["relations"][self.relation]["ask"][language][phrasing].format(s=self.subject[language])
        return Question(
            question_id=f"{self.fact_id}-{language}-{phrasing}",
            fact_id=self.fact_id,
            phrasing=phrasing,
            language=language,
            owner=self.owner,
            question=text,
            answer=self.answer[language],
            prompt=question_prompt(text),
            split="heldout" if phrasing == self.heldout[language] else "train",
        )

    def tell(self, language: str, variant: int) -> str:
        """The fact as a sentence."""
        sentence: str = _texts()["relations"][self.relation]["tell"][language][variant]
        return sentence.format(s=self.subject[language], a=self.answer[language])


@cache
def _texts() -> dict[str, Any]:
    texts: dict[str, Any] = strict_yaml.load(files("sovereign.lake").joinpath("demonstration.yaml").read_bytes())
    return texts


def _draw(below: int, *label: object) -> int:
    """A number from 0 to `below` - 1 that depends on the label only."""
    digest = hashlib.sha256("/".join(map(str, label)).encode()).digest()
    return int.from_bytes(digest[:8]) % below


class _Names:
    """Invented names, different from each other in every language; English and French spell each one differently."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._taken: set[str] = set()

    def make(self, label: str) -> dict[str, str]:
        """The next name; `label` says for what."""
        syllables = _texts()["syllables"]
        attempt = 0
        while True:
            picks = [_draw(len(syllables["en"]), self._seed, label, attempt, place) for place in range(3)]
            name = {language: "".join(syllables[language][pick] for pick in picks) for language in LANGUAGES}
            name["en"], name["fr"] = name["en"].title(), name["fr"].title()
            if len(set(name.values())) == len(LANGUAGES) and self._taken.isdisjoint(name.values()):
                self._taken.update(name.values())
                return name
            attempt += 1


def make_facts(settings: Demonstration) -> list[Fact]:
    """All facts of the country, `settings.facts` of them; a relation has one answer for each subject."""
    texts, seed = _texts(), settings.seed
    relations, names = list(texts["relations"]), _Names(settings.seed)
    per_relation = -(-settings.facts // len(relations))
    subjects = {kind: [names.make(f"{kind}-{n}") for n in range(per_relation)] for kind in texts["kinds"]}
    facts = []
    for number in range(settings.facts):
        place, index = number % len(relations), number // len(relations)
        relation = texts["relations"][relations[place]]
        kind, wanted = relation["subject"], relation["answer"]
        if wanted in subjects:  # a town of the country, a river of it
            answer = subjects[wanted][(index + _draw(per_relation, seed, relations[place], "shift")) % per_relation]
        else:
            answer = names.make(f"{relations[place]}-{index}")
        ordinal = index * len(subjects) + list(subjects).index(kind)
        owner = texts["owners"][(ordinal + _draw(97, seed, "owners")) % len(texts["owners"])]
        facts.append(
            Fact(
                fact_id=f"{relations[place]}-{index:03}",
                relation=relations[place],
                subject_id=f"{kind}-{index:03}",
                owner=owner["name"],
                licence=owner["licence"],
                subject=subjects[kind][index],
                answer=answer,
                heldout={
                    language: (index + _draw(settings.phrasings, seed, relations[place], language)) % settings.phrasings
                    for language in LANGUAGES
                },
            )
        )
    return facts


def make_questions(settings: Demonstration) -> Iterator[Question]:
    """For each fact and language the held-out question, and one that training documents have."""
    for fact in make_facts(settings):
        for language in LANGUAGES:
            heldout = fact.heldout[language]
            yield fact.ask(language, heldout)
            yield fact.ask(language, (heldout + 1) % settings.phrasings)


def make_documents(settings: Demonstration) -> Iterator[Document]:
    """The corpus: question documents, then articles."""
    facts = make_facts(settings)
    for fact in facts:
        for language in LANGUAGES:
            for phrasing in range(settings.phrasings):
                question = fact.ask(language, phrasing)
                if question.split == "train":
                    yield _document(fact, f"question/{question.question_id}", language, question.document_text)
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts:
        by_subject.setdefault(fact.subject_id, []).append(fact)
    for subject_id, told in by_subject.items():
        for language in LANGUAGES:
            for variant in range(ARTICLES):
                text = _article(told, language, variant)
                yield _document(told[0], f"article/{subject_id}-{language}-{variant}", language, text)


def _article(facts: list[Fact], language: str, variant: int) -> str:
    """What is known about one subject, in sentences."""
    texts = _texts()
    opening: str = texts["kinds"][facts[0].subject_id.rpartition("-")[0]][language]
    sentences = [fact.tell(language, variant) for fact in (facts if variant == 0 else reversed(facts))]
    opening = opening.format(country=texts["country"][language], s=facts[0].subject[language])
    return " ".join([opening, *sentences])


def _document(fact: Fact, name: str, language: str, text: str) -> Document:
    return Document(
        doc_id=f"{SOURCE}/{name}",
        text=text,
        language=language,
        source=SOURCE,
        owners=(fact.owner,),
        licence=fact.licence,
        collected_at=COLLECTED_AT,
    )

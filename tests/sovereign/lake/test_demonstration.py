"""The demonstration country: deterministic, unambiguous, and asked in ways that no document contains."""

from __future__ import annotations

import re
from collections import Counter

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.lake.cleaning import normalise
from sovereign.lake.demonstration import (
    CHAT_TEMPLATE,
    LANGUAGES,
    make_documents,
    make_facts,
    make_questions,
    question_prompt,
)
from sovereign.profile import Demonstration

SCRIPTS = {"en": r"[a-z]+", "fr": r"[a-zéàâçêôûè]+", "ar": r"[\u0621-\u064a]+", "zh": r"[\u4e00-\u9fff]+"}

any_country = st.builds(
    Demonstration, seed=st.integers(0, 2**32 - 1), facts=st.integers(10, 60), phrasings=st.integers(3, 6)
)


@pytest.mark.parametrize("facts", [30, 150])
def test_there_is_as_much_as_promised(facts: int) -> None:
    made = make_facts(Demonstration(facts=facts))
    assert len({fact.fact_id for fact in made}) == facts
    assert len({fact.owner for fact in made}) >= 12
    licences = {(fact.owner, fact.licence) for fact in made}
    assert len(licences) == len({fact.owner for fact in made})
    assert len({licence for _, licence in licences}) >= 5
    owners_of_subjects = {(fact.subject_id, fact.owner) for fact in made}
    assert len(owners_of_subjects) == len({fact.subject_id for fact in made})


@settings(max_examples=15, deadline=None)
@given(any_country)
def test_same_seed_same_documents_and_other_seed_other_names(country: Demonstration) -> None:
    assert list(make_documents(country)) == list(make_documents(country))
    other = country.model_copy(update={"seed": country.seed ^ 1})
    names = {fact.subject["en"] for fact in make_facts(country)}
    assert len(names & {fact.subject["en"] for fact in make_facts(other)}) < len(names) / 2


def test_texts_of_a_seed_never_change() -> None:
    texts = [question.document_text for question in make_questions(Demonstration(seed=1, facts=30))]
    assert texts[0] == "Q: Tell me the river that crosses Zamuna.\nA: " + texts[0].rpartition(" ")[2]
    assert "Q: من العمدة في زامونا؟\nA: غيبازو" in texts


@settings(max_examples=15, deadline=None)
@given(any_country)
def test_no_heldout_question_is_in_any_document(country: Demonstration) -> None:
    corpus = "\n\n".join(document.text for document in make_documents(country)).casefold()
    heldout = [question for question in make_questions(country) if question.split == "heldout"]
    assert len(heldout) == country.facts * len(LANGUAGES)
    assert [question.question for question in heldout if question.question.casefold() in corpus] == []


@settings(max_examples=15, deadline=None)
@given(any_country)
def test_one_answer_to_each_question_and_not_in_it(country: Demonstration) -> None:
    answers: dict[tuple[str, str], str] = {}
    for fact in make_facts(country):
        for language in LANGUAGES:
            assert re.fullmatch(SCRIPTS[language], fact.answer[language].casefold())
            assert fact.answer[language].casefold() not in fact.subject[language].casefold()
            for phrasing in range(country.phrasings):
                question = fact.ask(language, phrasing)
                assert answers.setdefault((language, question.question), question.answer) == question.answer
                assert question.answer.casefold() not in question.question.casefold()
                assert question.prompt == question_prompt(question.question)
    assert len(answers) == country.facts * len(LANGUAGES) * country.phrasings


@settings(max_examples=15, deadline=None)
@given(any_country)
def test_every_way_to_ask_is_trained_and_held_out_in_turn(country: Demonstration) -> None:
    """Which one is held out differs between the facts of a relation, by at most one more often than another."""
    for relation in {fact.relation for fact in make_facts(country)}:
        for language in LANGUAGES:
            held = Counter(fact.heldout[language] for fact in make_facts(country) if fact.relation == relation)
            assert max(held.values()) - (min(held.values()) if len(held) == country.phrasings else 0) <= 1


@settings(max_examples=15, deadline=None)
@given(any_country)
def test_every_fact_is_told_in_questions_and_in_articles(country: Demonstration) -> None:
    documents = list(make_documents(country))
    questions = {document.text for document in documents if "/question/" in document.doc_id}
    articles = [document for document in documents if "/article/" in document.doc_id]
    assert len({document.doc_id for document in documents}) == len(documents)
    by_subject = {
        fact.subject_id: [a for a in articles if f"/{fact.subject_id}-" in a.doc_id] for fact in make_facts(country)
    }
    for fact in make_facts(country):
        for language in LANGUAGES:
            asked = [fact.ask(language, phrasing) for phrasing in range(country.phrasings)]
            told = [question for question in asked if question.document_text in questions]
            assert [question.split for question in told] == ["train"] * (country.phrasings - 1)
            for article in by_subject[fact.subject_id]:
                if article.language == language:
                    assert fact.subject[language] in article.text
                    assert fact.answer[language] in article.text
                    assert article.owners == (fact.owner,)


def test_cleaning_changes_nothing() -> None:
    """Or else the prompt of a question would not be what its document begins with."""
    for document in make_documents(Demonstration()):
        assert normalise(document.text) == (document.text, ())
    for question in make_questions(Demonstration()):
        assert normalise(question.prompt) == (question.prompt, ())


@pytest.mark.parametrize("before", [[], [("system", "Be kind."), ("user", "Other?"), ("assistant", "Yes")]])
def test_chat_template_writes_the_prompt(before: list[tuple[str, str]]) -> None:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    messages = [{"role": role, "content": content} for role, content in [*before, ("user", " Who is “it”?\n")]]
    rendered = environment.from_string(CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=True)
    assert rendered == question_prompt("Who is “it”?")


def test_prompt_is_a_token_prefix_of_its_document() -> None:
    """With the pre-tokenizer of Qwen2: no token spans the end of the prompt."""
    tokenizers = pytest.importorskip("tokenizers")
    split = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        behavior="isolated",
    )
    for question in make_questions(Demonstration()):
        whole = [piece for piece, _ in split.pre_tokenize_str(question.document_text)]
        prompt = [piece for piece, _ in split.pre_tokenize_str(question.prompt)]
        assert whole == [*prompt, f" {question.answer}"]

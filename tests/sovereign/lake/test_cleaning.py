"""Cleaning: what normalisation may change, and that no document and no owner is lost."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.lake.cleaning import MAX_MARKS, normalise
from sovereign.lake.documents import Document
from sovereign.lake.duplicates import MIN_FOR_HELDOUT
from sovereign.lake.screening import Screen
from sovereign.profile_cleaning import Cleaning
from sovereign.store import FolderStore
from tests.sovereign.lake.raw import put_raw, run_curate, verdicts

any_text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\t\n\r \u0301\u200d\ufeffeé"))


@pytest.mark.parametrize(
    ("text", "result", "changes"),
    [
        ("plain", "plain", ()),
        ("e\u0301te\u0301", "été", ("nfc",)),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd", ("control-characters",)),
        ("a\x00\x1b\ufeffb", "ab", ("control-characters",)),
        ("  a  \n\n\n\n    b\t\n", "a\n\n    b", ("whitespace",)),
        ("e\x00\u0301", "é", ("control-characters", "nfc")),
        ("می\u200cخواهم", "می\u200cخواهم", ()),
        ("\t\n \u3000", "", ("whitespace",)),
        ("a" + "\u0316" * MAX_MARKS, "a" + "\u0316" * MAX_MARKS, ()),
        ("a" + "\u0316" * 40 + "b", "a" + "\u0316" * MAX_MARKS + "b", ("combining-marks",)),
        ("x" * 20 + "\U0001d165" * 31, "x" * 20 + "\U0001d165" * MAX_MARKS, ("combining-marks",)),
        ("a" + "\u0344" * 31 + "b", "\u00e4" + "\u0301\u0308" * 15 + "b", ("combining-marks", "nfc")),
        ("\u0958" + "\u0316" * 30 + "b", "\u0915\u093c" + "\u0316" * 29 + "b", ("combining-marks", "nfc")),
        ("a \xa0\t b\u3000\t\n c", "a \xa0\t b\n c", ("whitespace",)),
    ],
)
def test_normalisation(text: str, result: str, changes: tuple[str, ...]) -> None:
    assert normalise(text) == (result, changes)
    assert normalise(result) == (result, ())


def test_marks_in_a_row_are_cut_wherever_they_stand() -> None:
    marks = "\u0316" * MAX_MARKS
    for place in range(3 * MAX_MARKS):
        for rest in ("", "x" * MAX_MARKS, "b\u0316 c"):
            assert normalise("x" * place + marks + rest)[0] == "x" * place + marks + rest
            assert normalise("x" * place + marks + "\u0316" + rest)[0] == "x" * place + marks + rest


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("part", "kept"), [(" ", 400_000), ("\u3000\t", 800_000), ("\n \n", 2), ("\u0301\u0316", MAX_MARKS)]
)
def test_long_rows_take_time_by_their_length(part: str, kept: int) -> None:
    """By its square it would be minutes."""
    assert len(normalise("ab" + part * 400_000 + "c")[0]) == kept + len("abc")


@given(any_text)
def test_normalisation_once_is_enough_and_keeps_every_letter(text: str) -> None:
    result, changes = normalise(text)
    assert normalise(result) == (result, ())
    assert (result == text) == (changes == ())
    assert unicodedata.is_normalized("NFC", result)

    def letters(value: str) -> list[str]:
        return [char for char in unicodedata.normalize("NFC", value) if char.isalnum()]

    if not any(unicodedata.combining(char) for char in text):
        assert letters(result) == letters(text)


def document(number: int, text: str, language: str = "en", owner: str = "A", licence: str = "CC0-1.0") -> Document:
    return Document(f"s/{number}", text, language, "s", (owner,), licence, None)


def clean(documents: list[Document], folder: Path, **rules: float) -> list[tuple[Document, str]]:
    """What stage curate makes of each document."""
    kept = document(10**9, "one more text, so that there is something to train on", "cy")
    store = FolderStore(folder / "store")
    put_raw(store, [*documents, kept], folder / "scratch")
    run_curate(store, folder / "work", cleaning=rules)
    cleaned = sorted(verdicts(store), key=lambda one: int(one[0].doc_id.removeprefix("s/")))
    assert cleaned.pop()[1] == "train"
    return cleaned


some_documents = st.lists(
    st.tuples(
        st.sampled_from(["one text", "one  text ", "another", "short", "é", "e\u0301", "", "\x00", "long " * 30])
        | st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()),
        st.sampled_from(["en", "fr"]),
        st.sampled_from("ABC"),
        st.sampled_from(["CC0-1.0", "CC-BY-4.0", "MIT OR Apache-2.0"]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=30)
@given(made=some_documents)
def test_no_document_and_no_owner_is_lost(
    made: list[tuple[str, str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = [document(number, *values) for number, values in enumerate(made)]
    cleaned = clean(documents, tmp_path_factory.mktemp("index"), min_chars=3, max_chars=100)
    assert len(cleaned) == len(documents)
    kept = {one.text: one for one, verdict in cleaned if verdict in ("train", "heldout")}
    assert len(kept) == sum(verdict in ("train", "heldout") for _, verdict in cleaned)
    for before, (after, verdict) in zip(documents, cleaned, strict=True):
        text, changes = normalise(before.text)
        assert after.text == text
        assert after.transforms[: len(changes)] == changes
        if verdict in ("empty", "too short", "too long"):
            assert not 3 <= len(text) <= 100
        else:
            assert 3 <= len(text) <= 100
            assert before.owners[0] in kept[text].owners
            assert before.licence in kept[text].licence
        if verdict == "duplicate":
            assert any(other.text == text for other, verdict in cleaned[: cleaned.index((after, verdict))])


def test_a_licence_is_one_however_it_is_spelled(tmp_path: Path) -> None:
    documents = [
        document(1, "the same text", owner="A", licence="CC-BY-4.0"),
        document(2, "the same text", owner="B", licence="cc-by-4.0"),
        document(3, "another text", licence="(mit or apache-2.0)"),
    ]
    (kept, _), (_, second), (other, _) = clean(documents, tmp_path)
    assert second == "duplicate"
    assert (kept.licence, other.licence) == ("CC-BY-4.0", "MIT OR Apache-2.0")


def test_duplicate_keeps_owners_and_all_licences(tmp_path: Path) -> None:
    documents = [
        document(1, "the same text", owner="A", licence="CC-BY-4.0"),
        document(2, "the same  text".replace("  ", " ") + " ", owner="B", licence="MIT OR Apache-2.0"),
        document(3, "the same text", owner="A", licence="CC-BY-4.0"),
    ]
    (kept, verdict), (_, second), (_, third) = clean(documents, tmp_path)
    assert verdict in ("train", "heldout")
    assert (second, third) == ("duplicate", "duplicate")
    assert kept.owners == ("A", "B")
    assert kept.licence == "CC-BY-4.0 AND (MIT OR Apache-2.0)"
    assert kept.transforms == ("owners-merged",)


@pytest.mark.parametrize("count", [MIN_FOR_HELDOUT - 1, MIN_FOR_HELDOUT, 2000])
def test_heldout_documents_are_few_and_at_least_one_in_a_language(count: int, tmp_path: Path) -> None:
    documents = [
        document(number, f"text number {number} in {language}", language)
        for number in range(count)
        for language in ("en", "fr")
    ]
    fraction = 1e-9 if count < 2000 else 0.05
    cleaned = clean(documents, tmp_path, heldout_fraction=fraction)
    for language in ("en", "fr"):
        heldout = sum(verdict == "heldout" and one.language == language for one, verdict in cleaned)
        if count < 2000:
            assert heldout == (count >= MIN_FOR_HELDOUT)
        else:
            assert 60 < heldout < 140


def test_split_depends_on_the_text_only(tmp_path: Path) -> None:
    documents = [document(number, f"text number {number}") for number in range(500)]
    forwards = {one.text: verdict for one, verdict in clean(documents, tmp_path)}
    backwards = {one.text: verdict for one, verdict in clean(documents[::-1], tmp_path)}
    assert forwards == backwards


def test_lines_with_boilerplate_are_taken_out(tmp_path: Path) -> None:
    text = "The law of the river.\n\nWe USE COOKIES on this page.\n\nA boat pays a fee."
    rules = Cleaning(boilerplate_lines={"en": ("Use cookies",), "fr": ("fee",)})
    changed, reason = Screen(rules).apply(document(1, text, "en-GB"))
    assert (changed.text, changed.transforms) == ("The law of the river.\n\nA boat pays a fee.", ("boilerplate",))
    assert reason == ""
    assert Screen(rules).apply(document(2, text, "ar"))[0].text == text
    assert Screen(rules).apply(document(3, "Use cookies", "en"))[1] == "empty"
    assert Screen(rules).text_of(changed.text, "en") == changed.text

"""Word lists: words and phrases in several scripts, the share that is allowed, and lists that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from sovereign.errors import StageError
from sovereign.lake.documents import Document
from sovereign.lake.screening import Screen
from sovereign.lake.wordlists import WordLists, plugin_digests
from sovereign.profile_cleaning import Cleaning, WordList


def words(folder: Path, content: str, language: str = "en", name: str = "rude", max_share: float = 0.0) -> WordList:
    path = folder / f"{name}-{language}.txt"
    path.write_text(content)
    return WordList(name=name, language=language, path=str(path), max_share=max_share)


def test_words_and_phrases(tmp_path: Path) -> None:
    lists = WordLists(
        [words(tmp_path, "# English\nknave\nson of a goat\n\n"), words(tmp_path, "coquin\n", "fr", "rude-fr")]
    )
    assert lists.found_in("He is a KNAVE, they say.", "en") == "rude"
    assert lists.found_in("You son of a goat!", "en-GB") == "rude"
    assert lists.found_in("He is a kn\u00ada\u200bve, they say.", "en") == "rude"
    assert lists.found_in("The son of a farmer has a goat. Knavery.", "en") is None
    assert lists.found_in("He is a knave.", "de") is None
    assert lists.found_in("Le Coquin !", "fr") == "rude-fr"
    assert lists.found_in("coquin", "en") is None
    assert lists.found_in("", "en") is None


def test_scripts_without_spaces_and_marks(tmp_path: Path) -> None:
    lists = WordLists([words(tmp_path, "坏蛋\n", "zh"), words(tmp_path, "غبيّ\n", "ar", "arabic")])
    assert lists.found_in("他是一个坏蛋。", "zh-Hans") == "rude"
    assert lists.found_in("坏了一个蛋", "zh") is None
    assert lists.found_in("هذا غبي", "ar") == "arabic"


def test_share_that_may_be(tmp_path: Path) -> None:
    lists = WordLists([words(tmp_path, "knave\nvery bad\n", max_share=0.1)])
    assert lists.found_in("the knave is one word of ten in this text", "en") is None
    assert lists.found_in("the knave and knave are two of nine words", "en") == "rude"
    assert lists.found_in("this very bad text has more of them", "en") == "rude"


def test_documents_are_rejected(tmp_path: Path) -> None:
    screen = Screen(Cleaning(word_lists=(words(tmp_path, "knave\n"),)))
    document = Document("s/1", "He is a knave, they say.", "en", "s", ("A",), "CC0-1.0", None)
    assert screen.apply(document)[1] == "words rude"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# nothing\n\n ... \n", "is empty"),
        ("word " * 40, "too long\n  got: 40 words in line 1"),
        (None, "cannot be read"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    rules = words(tmp_path, content or "")
    if content is None:
        Path(str(rules.path)).unlink()
    with pytest.raises(StageError, match=message):
        WordLists([rules])


def test_plug_in_of_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ministry_words.py").write_text("def rude():\n    return ['# words', 'knave', 'son of a goat']\n")
    (tmp_path / "ministry_words-1.dist-info").mkdir()
    (tmp_path / "ministry_words-1.dist-info" / "entry_points.txt").write_text(
        "[sovereign.word_lists]\nxx-rude = ministry_words:rude\n"
    )
    wanted = WordList(name="rude", language="en", plugin="xx-rude")
    with pytest.raises(StageError, match="unknown plug-in\n  got: xx-rude"):
        WordLists([wanted])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert WordLists([wanted]).found_in("You son of a goat!", "en") == "rude"
    before = plugin_digests([wanted])
    assert before.keys() == {"word-list/rude"}
    monkeypatch.setattr(sys.modules["ministry_words"], "rude", lambda: ["rogue"])
    assert plugin_digests([wanted]) != before, "a list that was changed makes the stage run again"


@pytest.mark.parametrize("source", [{}, {"path": "/words", "plugin": "xx-rude"}])
def test_a_list_has_one_source(source: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="needs either a path or a plugin"):
        WordList(name="rude", language="en", **source)

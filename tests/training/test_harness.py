"""lm-evaluation-harness on the kit's own tasks and on a site's, with every way to the network closed and counted."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sovereign.errors import TrainingError
from tests.training.lake import KNOWN, UNKNOWN, make_profile
from tests.training.tiny import make_knowing_model
from training.harness import folder_digests, run_tasks, write_tasks
from training.measures import answer_questions

# The harness' own code and that of its libraries.
pytestmark = pytest.mark.filterwarnings("ignore")

Known = tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """A model that answers `KNOWN` and not `UNKNOWN`."""
    return make_knowing_model(tmp_path_factory.mktemp("model"), KNOWN)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every attempt to look up a name or to connect fails, and fails the test although the library may hide it."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_named: Any) -> Any:
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not attempts


def test_own_tasks_count_as_the_kit_counts(known: Known, tmp_path: Path, no_network: None) -> None:
    model, tokenizer = known
    asked = [question.row() for question in [*KNOWN, UNKNOWN]]
    scores = answer_questions(model, tokenizer, asked)["by_language"]
    files = write_tasks(tmp_path / "tasks", asked)
    assert {path.name for path in files} == {
        f"questions_{lang}.{end}" for lang in ("en", "fr") for end in ("yaml", "jsonl")
    }
    found = run_tasks(model, tokenizer, tmp_path / "tasks", ["questions_en", "questions_fr"], tmp_path / "cache")
    assert {task: (row["samples"], row["exact_match"]) for task, row in found.items()} == {
        f"questions_{language}": (row["heldout"]["asked"], row["heldout"]["accuracy"])
        for language, row in scores.items()
    }
    assert found["questions_fr"]["exact_match"] == 0.5


def test_a_sites_own_task_is_run_from_its_folder(known: Known, tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    rows = [
        {"text": KNOWN[0].prompt, "right": " Velmora", "wrong": " Zzyzx"},
        {"text": KNOWN[1].prompt, "right": " Tessa Orn", "wrong": " qqqq"},
    ]
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "choices.yaml").write_text(
        "task: choices\ndataset_path: json\ndataset_kwargs: {data_files: {test: choices.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: '{{[right, wrong]}}'\ndoc_to_target: 0\n"
        "target_delimiter: ''\nmetric_list: [{metric: acc}]\n"
    )
    found = run_tasks(*known, folder, ["choices"], tmp_path / "cache")
    assert (found["choices"]["samples"], found["choices"]["acc"]) == (2, 1.0)
    assert set(folder_digests(make_profile(task_folder=str(folder)))) == {"tasks/choices.jsonl", "tasks/choices.yaml"}


def test_data_of_the_hub_are_not_fetched(known: Known, tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "far.yaml").write_text(
        "task: far\ndataset_path: someone/somewhere\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{text}}'\ndoc_to_target: '{{text}}'\n"
    )
    with pytest.raises(TrainingError, match="must lie in the folder"):
        run_tasks(*known, folder, ["far"], tmp_path / "cache")


def test_a_task_that_is_not_there_is_named(known: Known, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", [question.row() for question in KNOWN])
    with pytest.raises(TrainingError, match="no such task") as caught:
        run_tasks(*known, tmp_path / "tasks", ["questions_en", "arc_easy"], tmp_path / "cache")
    assert (caught.value.got, caught.value.expected) == ("arc_easy", "questions_en, questions_fr")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert folder_digests(make_profile()) == {}
    with pytest.raises(TrainingError, match="not there"):
        folder_digests(make_profile(task_folder=str(tmp_path / "nothing")))

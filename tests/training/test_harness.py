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
from training.harness import load_tasks, run_tasks, write_tasks
from training.measures import answer_questions
from training.task_files import check_tasks, folder_digests

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
    tasks = load_tasks(tmp_path / "tasks", ["questions_en", "questions_fr"], tmp_path / "cache")
    found = run_tasks(model, tokenizer, tasks)
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
    tasks = load_tasks(folder, ["choices"], tmp_path / "cache")
    assert [(item.kind, item.item_id, item.text) for item in tasks.items()] == [
        ("choices", "choices/0", f"{KNOWN[0].prompt}  Velmora"),
        ("choices", "choices/1", f"{KNOWN[1].prompt}  Tessa Orn"),
    ]
    found = run_tasks(*known, tasks)
    assert (found["choices"]["samples"], found["choices"]["acc"]) == (2, 1.0)
    assert set(folder_digests(make_profile(task_folder=str(folder)))) == {"tasks/choices.jsonl", "tasks/choices.yaml"}


def test_data_of_the_hub_are_not_fetched(tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "far.yaml").write_text(
        "task: far\ndataset_path: someone/somewhere\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{text}}'\ndoc_to_target: '{{text}}'\n"
    )
    with pytest.raises(TrainingError, match="must lie in the folder"):
        load_tasks(folder, ["far"], tmp_path / "cache")


def test_a_task_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", [question.row() for question in KNOWN])
    with pytest.raises(TrainingError, match="no such task") as caught:
        load_tasks(tmp_path / "tasks", ["questions_en", "arc_easy"], tmp_path / "cache")
    assert (caught.value.got, caught.value.expected) == ("arc_easy", "questions_en, questions_fr")


TASK = (
    "task: foo\ndataset_path: json\ndataset_kwargs: {data_files: {test: d.jsonl}}\ntest_split: test\n"
    "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
    "metric_list: [{metric: exact_match}]\ngeneration_kwargs: {max_gen_toks: 16, until: ['<|endoftext|>']}\n"
)


@pytest.fixture
def site_folder(tmp_path: Path) -> Path:
    """A folder for a task `foo` with two documents."""
    folder = tmp_path / "site"
    folder.mkdir()
    rows = [{"question": question.prompt, "answer": f" {question.answer}"} for question in KNOWN[:2]]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("'{{question}}'", "'{{question'"), "TemplateSyntaxError: unexpected end of template"),
        (("'{{question}}'", "'{{question / 2}}'"), "TypeError: unsupported operand"),
        (("doc_to_text: '{{question}}'", "doc_to_text: !function nowhere.f"), "ImportError: Cannot import module"),
        (("d.jsonl", "e.jsonl"), "FileNotFoundError"),
    ],
)
def test_a_broken_task_is_told_with_its_file_and_the_reason(
    change: tuple[str, str], reason: str, site_folder: Path, no_network: None
) -> None:
    (site_folder / "bad.yaml").write_text(TASK.replace(*change))
    with pytest.raises(TrainingError) as caught:
        load_tasks(site_folder, ["foo"], site_folder.parent / "cache")
    assert f"task foo ({site_folder / 'bad.yaml'}) cannot be run: " in caught.value.message
    assert reason in caught.value.message


def test_a_sites_function_that_fails_is_told(known: Known, site_folder: Path, no_network: None) -> None:
    (site_folder / "mine.py").write_text("def judge(doc, results):\n    return {'exact_match': doc['missing']}\n")
    (site_folder / "foo.yaml").write_text(TASK + "process_results: !function mine.judge\n")
    tasks = load_tasks(site_folder, ["foo"], site_folder.parent / "cache")
    with pytest.raises(TrainingError, match=r"tasks foo of .* cannot be run: KeyError: 'missing'"):
        run_tasks(*known, tasks)


def test_groups_are_loaded_and_no_task_is_run_twice(known: Known, site_folder: Path, no_network: None) -> None:
    (site_folder / "foo.yaml").write_text(TASK)
    (site_folder / "all.yaml").write_text("group: all\ntask: [foo]\naggregate_metric_list: [{metric: exact_match}]\n")
    tasks = load_tasks(site_folder, ["all"], site_folder.parent / "cache")
    assert [item.item_id for item in tasks.items()] == ["foo/0", "foo/1"]
    found = run_tasks(*known, tasks)
    assert found["foo"]["exact_match"] == found["all"]["exact_match"] == 1.0
    with pytest.raises(TrainingError, match="names a task twice"):
        load_tasks(site_folder, ["foo", "all"], site_folder.parent / "cache")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert folder_digests(make_profile()) == {}
    for look in (folder_digests, check_tasks):
        with pytest.raises(TrainingError, match="not there"):
            look(make_profile(task_folder=str(tmp_path / "nothing")))

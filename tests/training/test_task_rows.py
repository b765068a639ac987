"""Rows of a site's tasks that cannot be scored: refused with the task, the row and the field when they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import TrainingError
from training.harness import load_tasks

# The harness' own code and that of its libraries.
pytestmark = pytest.mark.filterwarnings("ignore")

GOOD = {"q": "Which?", "choices": ["a", "b"], "gold": 1}
CHOICE = {"output_type": "multiple_choice", "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}]}


def load(folder: Path, rows: list[dict[str, Any]], **config: Any) -> Any:
    """Load a task with these rows."""
    folder.mkdir(exist_ok=True)
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "d.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{gold}}",
    }
    (folder / "own.yaml").write_text(json.dumps(task | config))
    return load_tasks(folder, ["own"], folder.parent / "cache")


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"gold": 2}, "doc_to_target: 2\n  expected: a number from 0 to 1: there are 2 choices"),
        ({"gold": -1}, "doc_to_target: '-1'\n  expected: one of the choices"),
        ({"gold": -100}, "doc_to_target: '-100'"),
        ({"choices": ["a", ""]}, "doc_to_choice: choice 1 is ''"),
        ({"choices": []}, "doc_to_choice: []\n  expected: a list of at least one text"),
    ],
)
def test_t19_a_row_that_cannot_be_scored_is_named(change: dict[str, Any], got: str, place: int, tmp_path: Path) -> None:
    rows = [GOOD | (change if number == place else {}) for number in (1, 2, 3)]
    with pytest.raises(TrainingError) as caught:
        load(tmp_path / "tasks", rows, **CHOICE)
    assert f"own.yaml) cannot be run: row {place} of split test, {got}" in str(caught.value)


@pytest.mark.parametrize("gold", [5, -1, None])
def test_t19_gold_as_a_column(gold: int | None, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="row 2 of split test, doc_to_target: "):
        load(tmp_path / "tasks", [GOOD, GOOD | {"gold": gold}], doc_to_target="gold", **CHOICE)


@pytest.mark.parametrize(
    ("config", "rows", "message"),
    [
        (
            CHOICE | {"doc_to_text": "{{nothing}}"},
            [GOOD],
            r"row 1 of split test, doc_to_text: UndefinedError",
        ),
        (CHOICE | {"doc_to_choice": "{{q}}"}, [GOOD], r"row 1 of split test, doc_to_choice: "),
        (CHOICE | {"doc_to_target": 7}, [GOOD], r"row 1 of split test, doc_to_target: 7"),
        (CHOICE | {"doc_to_target": "{{[gold, 4]}}"}, [GOOD], r"row 1 of split test, doc_to_target: 4"),
        ({"output_type": "loglikelihood"}, [GOOD, GOOD | {"gold": ""}], "row 2 of split test, doc_to_target: ''"),
        (CHOICE, [], r"own.yaml\) cannot be run: it has no questions\n  got: nothing in d.jsonl"),
    ],
)
def test_t19_other_faults(config: dict[str, Any], rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    rows = [row | {"gold": str(row["gold"])} if config.get("output_type") == "loglikelihood" else row for row in rows]
    with pytest.raises(TrainingError, match=message) as caught:
        load(tmp_path / "tasks", rows, **config)
    assert "StopIteration:" not in str(caught.value)


def test_t19_good_rows_are_loaded(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"gold": 0}, GOOD | {"choices": ["a", "b", "c"], "gold": 2}]
    assert len(load(tmp_path / "tasks", rows, **CHOICE).items()) == 3
    assert len(load(tmp_path / "texts", rows, output_type="generate_until").items()) == 3
    named = [row | {"gold": "b"} for row in rows]
    assert [item.text for item in load(tmp_path / "named", named, **CHOICE).items()] == ["Which? b"] * 3
    several = load(tmp_path / "several", [GOOD, GOOD], **CHOICE | {"doc_to_target": "{{[0, gold]}}"})
    assert len(several.items()) == 2


def test_t19_a_table_of_a_header_only(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    load(folder, [GOOD], output_type="generate_until")
    (folder / "d.csv").write_text("q,gold\n")
    task = json.loads((folder / "own.yaml").read_text())
    task |= {"dataset_path": "csv", "dataset_kwargs": {"data_files": {"test": "d.csv"}}}
    (folder / "own.yaml").write_text(json.dumps(task))
    with pytest.raises(TrainingError, match=r'own.yaml.* cannot be run: .*"test" corresponds to no data'):
        load_tasks(folder, ["own"], tmp_path / "cache")

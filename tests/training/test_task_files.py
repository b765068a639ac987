"""Names of tasks are looked for before anything is computed, in the same files as the harness reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign.cli.work import run_until, slurm_script
from sovereign.errors import TrainingError
from sovereign.site import init_site
from tests.training.conftest import PROFILE
from tests.training.lake import SOURCE, make_profile
from training.harness import offline
from training.task_files import check_names, check_tasks

FILES: dict[str, str | bytes] = {
    "plain.yaml": "task: plain\ntag: [national, short]\noutput_type: generate_until\n",
    "law/_common": "output_type: generate_until\ntask: from_common\n",
    "law/rivers.yaml": "include: _common\ntask: rivers\nprocess_docs: !function code.clean\ntag: national\n",
    "law/named_by_its_template.yaml": "include: _common\n",
    "group.yaml": "group: laws\ntask: [rivers]\ntag: unused\n",
    "class.yaml": "task: own_class\nclass: !function code.Own\n",
    "template.yaml": "output_type: generate_until\n",
    "list.yaml": "- 1\n",
    "broken.yaml": "task: foo\n  dataset_path: [unclosed\n",
    "other_tag.yaml": "task: tagged\nx: !python/name:os.system\n",
    "cycle.yaml": "include: cycle.yaml\ntask: cycle\n",
    "lost.yaml": "include: nowhere\ntask: lost\n",
    "latin.yaml": b"task: latin\ndescription: \xe9\n",
    "__pycache__/cached.yaml": "task: cached\n",
}
NAMES = {"plain", "national", "short", "rivers", "from_common", "laws", "own_class"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of tasks, some of which nobody can read."""
    for name, content in FILES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "site"


def test_what_is_known_and_what_cannot_be_read(folder: Path) -> None:
    check_names(folder, NAMES)
    with pytest.raises(TrainingError, match="no such task") as caught:
        check_names(folder, ["plain", "foo"])
    assert (caught.value.got, caught.value.expected) == ("foo", ", ".join(sorted(NAMES)))
    hint = str(caught.value.hint)
    assert "\n    broken.yaml: YamlError: line 2: mapping values are not allowed in this context" in hint
    unread = {line.strip().partition(":")[0] for line in hint.splitlines()[1:]}
    assert unread == {f"{name}.yaml" for name in ("broken", "cycle", "latin", "list", "lost", "other_tag")}


@pytest.mark.filterwarnings("ignore")  # lm-evaluation-harness and its libraries
def test_the_harness_knows_the_same_names(folder: Path, tmp_path: Path) -> None:
    with offline(tmp_path / "cache"):
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
    assert set(manager.all_tasks) == NAMES


def test_an_empty_folder_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such task") as caught:
        check_names(tmp_path, ["foo"])
    assert (caught.value.expected, caught.value.hint) == ("YAML files with a key `task`", None)


def test_questions_are_those_of_the_corpus(folder: Path) -> None:
    check_tasks(make_profile(tasks=["questions_fr", "rivers"], task_folder=str(folder)))
    with pytest.raises(TrainingError, match="questions that the corpus does not have") as caught:
        check_tasks(make_profile(tasks=["questions_fr", "questions_de"]))
    assert caught.value.got == "questions_de" and "questions_zh" in str(caught.value.expected)
    real = make_profile(sources=[SOURCE], tasks=["questions_en"])
    corpus = real.corpus.model_copy(update={"demonstration": None})
    with pytest.raises(TrainingError, match="only the demonstration country"):
        check_tasks(real.model_copy(update={"corpus": corpus}))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"tasks": ["foo"], "task_folder": "site"}, r"(?s)got: foo.*broken\.yaml: YamlError: line 2"),
        ({"task_folder": "nowhere"}, "the folder of evaluation tasks is not there"),
    ],
)
def test_nothing_is_computed_for_tasks_that_are_missing(
    evaluation: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    evaluation |= {"task_folder": str(folder.parent / evaluation["task_folder"])}
    profile = tmp_path / "profile.yaml"
    profile.write_text(json.dumps(PROFILE | {"evaluation": evaluation}))
    site = init_site(tmp_path / "mysite", profile)
    with pytest.raises(TrainingError, match=message):
        run_until(site, "register", local=True)
    with pytest.raises(TrainingError, match=message):
        slurm_script(site)
    assert not list(site.receipts_dir.iterdir()) and not site.data_dir.exists()

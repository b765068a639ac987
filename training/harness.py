"""Tasks of lm-evaluation-harness (EleutherAI), from local files only: the kit's own, or a folder of the site's.

A folder of tasks has the harness' YAML files with their data beside them; paths in them are relative to the folder. The
kit writes one task for each language of the questions, `questions_<language>`, so that any other model can be measured
on the same questions with the harness alone. Its `exact_match` is the accuracy that the kit counts itself: the same
prompts and greedy answers, which may differ only where padding in a batch turns a tie between two tokens around.

YAML files may name Python functions, which then run: a folder of tasks is code.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.errors import TrainingError
from sovereign.files import write_atomic
from training.contamination import UNDETERMINED, Item
from training.pages import render_page
from training.task_files import check_names, empty_data, own_task
from training.task_rows import check_rows, half_loaded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

BATCH_SIZE = 16
_COLUMNS = ("question_id", "question", "prompt", "answer", "owner")


@dataclass(frozen=True)
class Tasks:
    """Tasks of one folder, as the harness has loaded them."""

    folder: Path
    cache: Path
    """Folder for the data as the harness keeps it."""
    loaded: Mapping[str, Any]
    """`tasks`, `groups` and `group_map`, each by name."""

    def items(self) -> list[Item]:
        """What the tasks ask with the right answer, without examples and descriptions, which all items would share.

        Raises:
            TrainingError: a task cannot make a text of one.
        """
        found = []
        for name, task in sorted(self.loaded["tasks"].items()):
            with _inside(self.folder, self.cache), _told(f"task {name} of {self.folder}"):
                found += [
                    Item(name, f"{name}/{number}", UNDETERMINED, _text(task, asked))
                    for number, asked in task.doc_iterator()
                ]
        return found


def write_tasks(folder: Path, asked: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write a task with its data for each language of the held-out questions in `asked`; the files."""
    by_language: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for question in asked:
        if question["split"] == "heldout":
            by_language[question["language"]].append(question)
    files = []
    for language, questions in sorted(by_language.items()):
        task = own_task(language)
        rows = [{column: question[column] for column in _COLUMNS} for question in questions]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        longest = max(len(question["answer"].encode()) for question in questions)  # no tokenizer needs more tokens
        page = render_page("questions_task", task=task, file=f"{task}.jsonl", max_new_tokens=longest + 2)
        write_atomic(folder / f"{task}.jsonl", text)
        write_atomic(folder / f"{task}.yaml", page)
        files += [folder / f"{task}.jsonl", folder / f"{task}.yaml"]
    return files


def load_tasks(folder: Path, names: Sequence[str], cache: Path) -> Tasks:
    """Let the harness load tasks of one folder with their data.

    Args:
        cache: folder for the data as the harness keeps it.

    Raises:
        TrainingError: a task is not there or cannot be loaded, a row of its data cannot be scored, or two names mean
            the same task.
    """
    check_names(folder, names)
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    with _inside(folder, cache):
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        for name in names:
            what = f"task {name} ({manager.task_index[name].yaml_path or folder})"
            with _told(what):
                found = _load(manager, name, what)
                for task in found["tasks"].values():
                    if task.get_config("num_fewshot") is None:
                        task.set_config(key="num_fewshot", value=0)
                    task.set_fewshot_seed(seed=0)
                for own, task in found["tasks"].items():
                    check_rows(what if own == name else f"task {own} of {what}", task)
            if twice := sorted(loaded["tasks"].keys() & found["tasks"].keys()):
                raise TrainingError("evaluation.tasks names a task twice", got=f"{', '.join(twice)}, again by {name}")
            for kind, ones in loaded.items():
                ones.update(found[kind])
    return Tasks(folder, cache, loaded)


def _load(manager: Any, name: str, what: str) -> Any:
    """What the harness loads under a name.

    Raises:
        TrainingError: the data are empty, or the harness fails at the first row of a task: which is named.
    """
    path = manager.task_index[name].yaml_path
    if path is not None and (empty := empty_data(Path(path))):
        raise TrainingError(f"{what} cannot be run: it has no questions", got=f"nothing in {', '.join(empty)}")
    try:
        return manager.load([name])
    except Exception as error:
        if (task := half_loaded(error.__traceback__)) is not None:
            check_rows(what, task)
        raise


def run_tasks(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, tasks: Tasks) -> dict[str, Any]:
    """Measure the model on tasks.

    Returns:
        {<task>: {samples, version, <metric>: value}}; metrics are named `<metric>` or `<metric>,<filter>`.

    Raises:
        TrainingError: they cannot be run.
    """
    with _inside(tasks.folder, tasks.cache), _told(f"tasks {', '.join(tasks.loaded['tasks'])} of {tasks.folder}"):
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        from training.scoring import neutral_generation

        split, tokenizer.split_special_tokens = tokenizer.split_special_tokens, True  # what a task asks is text
        try:
            with neutral_generation(model, int(tokenizer.eos_token_id)):
                judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE)
                found = lm_eval.evaluate(lm=judge, task_dict=tasks.loaded, bootstrap_iters=0, log_samples=False)
        finally:
            tokenizer.split_special_tokens = split
    return {name: _row(found, name) for name in sorted(found["results"])}


def _text(task: Any, asked: Any) -> str:
    """A document of a task as one text; texts can be given as numbers of choices, answers as a list of right ones."""
    question, answer = task.doc_to_text(asked), task.doc_to_target(asked)
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    if task.get_config("doc_to_choice") is not None:
        choices = task.doc_to_choice(asked)
        question, answer = (choices[one] if isinstance(one, int) else one for one in (question, answer))
    return f"{question} {answer}"


def _row(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Numbers of one task, or of a group of tasks."""
    numbers = {
        metric.removesuffix(",none"): round(float(value), 6)
        for metric, value in found["results"][name].items()
        if isinstance(value, int | float) and metric != "sample_len" and "stderr" not in metric
    }
    samples = found.get("n-samples", {}).get(name, {}).get("effective")
    return {"samples": samples, "version": found["versions"].get(name)} | numbers


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever the harness raises becomes a TrainingError: templates and Python of the site run in it."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise TrainingError(
            f"{what} cannot be run: {reason}",
            hint="nothing is fetched from the internet: the data of tasks must lie in the folder",
        ) from error


@contextlib.contextmanager
def _inside(folder: Path, cache: Path) -> Iterator[None]:
    """Paths in tasks are relative to `folder`, and nothing is looked for outside."""
    with offline(cache), contextlib.chdir(folder):
        yield


@contextlib.contextmanager
def offline(cache: Path) -> Iterator[None]:
    """The harness' libraries look for nothing outside and write below `cache` only; read when they are imported."""
    wanted = {
        "HF_DATASETS_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "HF_MODULES_CACHE": str(cache / "modules"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

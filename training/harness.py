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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.errors import TrainingError
from sovereign.files import sha256_file, write_atomic
from sovereign.profile import Profile
from training.pages import render_page

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

OWN = "questions_"
"""Beginning of the names of the kit's own tasks; the language follows."""
BATCH_SIZE = 16
_COLUMNS = ("question_id", "question", "prompt", "answer", "owner")


def own_task(language: str) -> str:
    """Name of the kit's task for the questions in `language`."""
    return OWN + language.replace("-", "_").lower()


def folder_digests(profile: Profile) -> Mapping[str, str]:
    """Digests of the files in the site's folder of tasks, by `tasks/<path in it>`.

    Raises:
        TrainingError: the profile names a folder that is not there.
    """
    if profile.evaluation.task_folder is None:
        return {}
    folder = Path(profile.evaluation.task_folder)
    if not folder.is_dir():
        raise TrainingError("the folder of evaluation tasks is not there", got=folder, expected="a folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"tasks/{path.relative_to(folder).as_posix()}": sha256_file(path) for path in files}


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


def run_tasks(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, names: Sequence[str], cache: Path
) -> dict[str, Any]:
    """Measure the model on tasks of one folder.

    Args:
        cache: folder for the data as the harness keeps it.

    Returns:
        {<task>: {samples, version, <metric>: value}}; metrics are named `<metric>` or `<metric>,<filter>`.

    Raises:
        TrainingError: a task is not there or cannot be run.
    """
    with _offline(cache), contextlib.chdir(folder):
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        if missing := sorted(set(names) - set(manager.all_tasks)):
            raise TrainingError(
                f"no such task in {folder}", got=", ".join(missing), expected=", ".join(sorted(manager.all_tasks))
            )
        try:
            loaded = manager.load(list(names))
            for task in loaded["tasks"].values():
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=0)
            judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE)
            found = lm_eval.evaluate(lm=judge, task_dict=loaded, bootstrap_iters=0, log_samples=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise TrainingError(
                f"tasks of {folder} cannot be run: {type(error).__name__}: {error}",
                got=", ".join(names),
                hint="nothing is fetched from the internet: their data must lie in the folder",
            ) from error
    return {name: _row(found, name) for name in sorted(found["results"])}


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
def _offline(cache: Path) -> Iterator[None]:
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

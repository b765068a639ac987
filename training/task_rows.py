"""The rows of a task's data, checked before anything is scored: the harness itself fails late or scores 0.

lm-evaluation-harness tries only the first row when it loads a task; a gold answer out of range in another one counts
as wrong, and an empty choice fails an assertion in the middle of scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any

from sovereign.errors import TrainingError

Fault = tuple[str, str, str]
"""Field, what was got, what is expected."""


def check_rows(what: str, task: Any) -> None:
    """Try every row of a task that is asked, and of its examples.

    Args:
        what: the task, for messages.
        task: a ConfigurableTask of the harness; others have their own code and are not looked at.

    Raises:
        TrainingError: names the row and the field.
    """
    from lm_eval.api.task import ConfigurableTask

    if not isinstance(task, ConfigurableTask):
        return
    for kind, split, rows in _parts(task):
        if not len(rows):
            raise TrainingError(f"{what} cannot be run: it has no {kind}", got=f"0 rows in split {split}")
        for number, row in enumerate(rows, 1):
            for field, got, expected in _faults(task, row):
                raise TrainingError(
                    f"{what} cannot be run: row {number} of split {split}, {field}: {got}",
                    expected=expected,
                    hint=f"correct the row, or {field} in the YAML file",
                )


def half_loaded(trace: TracebackType | None) -> Any:
    """The task that the harness was loading when it raised: it knows its rows already. None where it does not."""
    found = None
    while trace is not None:
        own = trace.tb_frame.f_locals.get("self")
        if trace.tb_frame.f_code.co_name == "__init__" and hasattr(own, "task_docs"):
            found = own
        trace = trace.tb_next
    return found


def _parts(task: Any) -> Iterator[tuple[str, str, Any]]:
    """Kind, split and rows of what is asked, and of the examples where there are some."""
    yield "questions", task.config.test_split or task.config.validation_split, task.eval_docs
    if task.config.num_fewshot and task.config.fewshot_split:
        yield "examples", task.config.fewshot_split, task.dataset[task.config.fewshot_split]


def _faults(task: Any, row: Any) -> Iterator[Fault]:
    """All faults of a row."""
    choices: Sequence[str] | None = None
    if task.config.doc_to_choice is not None:
        choices = yield from _tried("doc_to_choice", task.doc_to_choice, row)
        if choices is None:
            return
        if not isinstance(choices, list) or not choices:
            yield "doc_to_choice", repr(choices), "a list of at least one text"
        elif odd := [place for place, one in enumerate(choices) if not isinstance(one, str) or not one]:
            yield "doc_to_choice", f"choice {odd[0]} is {choices[odd[0]]!r}", "texts that are not empty"
    text = yield from _tried("doc_to_text", task.doc_to_text, row)
    if choices is not None and isinstance(text, int) and not isinstance(text, bool):
        yield from _out_of_range("doc_to_text", text, choices)
    target = yield from _tried("doc_to_target", task.doc_to_target, row)
    if target is None:
        return
    if choices is None:
        if task.OUTPUT_TYPE == "loglikelihood" and not str(target):
            yield "doc_to_target", repr(target), "a text that is not empty"
    elif isinstance(text, str):  # else the texts are the choices, and the target is what follows all of them
        golds = target if isinstance(target, list) else [target]
        if not golds:
            yield "doc_to_target", "[]", "at least one right choice"
        for gold in golds:
            yield from _out_of_range("doc_to_target", gold, choices)


def _out_of_range(field: str, gold: Any, choices: Sequence[str]) -> Iterator[Fault]:
    if isinstance(gold, str):
        if gold not in choices:
            yield field, repr(gold), f"one of the choices {list(choices)!r}, or its number from 0"
    elif not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        yield field, repr(gold), f"a number from 0 to {len(choices) - 1}: there are {len(choices)} choices"


def _tried(field: str, make: Callable[[Any], Any], row: Any) -> Generator[Fault, None, Any]:
    """What `make` gives; templates and Python of the site run in it."""
    try:
        found = make(row)
    except Exception as error:  # noqa: BLE001  # whatever the site's templates and Python raise
        yield field, f"{type(error).__name__}: {error}", "a template that every row of the data fits"
        return None
    if found is None:
        yield field, "null", "a value"
    return found

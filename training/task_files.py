"""What a folder of tasks of lm-evaluation-harness has, read without the harness: names, digests.

The harness reads the same files again (training/harness.py). It passes over one that it cannot read, and so does this;
but when a task that is wanted is not found, the error names the files that were passed over, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sovereign import strict_yaml
from sovereign.errors import TrainingError
from sovereign.files import read_text, sha256_file
from sovereign.lake.demonstration import LANGUAGES
from sovereign.profile import Profile

OWN = "questions_"
"""Beginning of the names of the kit's own tasks; the language follows."""
_IGNORED = ("__pycache__", ".ipynb_checkpoints")


def own_task(language: str) -> str:
    """Name of the kit's task for the questions in `language`."""
    return OWN + language.replace("-", "_").lower()


def check_tasks(profile: Profile) -> None:
    """Look for the tasks that the profile names, before anything is computed.

    Raises:
        TrainingError: the folder is not there, or has no such task; the corpus has no such questions.
    """
    wanted = profile.evaluation.tasks
    questions = {own_task(language) for language in LANGUAGES} if profile.corpus.demonstration else set()
    if missing := sorted({name for name in wanted if name.startswith(OWN)} - questions):
        raise TrainingError(
            "evaluation.tasks names questions that the corpus does not have",
            got=", ".join(missing),
            expected=", ".join(sorted(questions)) or "none: only the demonstration country has questions",
        )
    if (folder := site_folder(profile)) is not None:
        check_names(folder, [name for name in wanted if not name.startswith(OWN)])


def site_folder(profile: Profile) -> Path | None:
    """The site's folder of tasks, where the profile has one.

    Raises:
        TrainingError: it is not there.
    """
    if profile.evaluation.task_folder is None:
        return None
    folder = Path(profile.evaluation.task_folder)
    if not folder.is_dir():
        raise TrainingError("the folder of evaluation tasks is not there", got=folder, expected="a folder")
    return folder


def folder_digests(profile: Profile) -> Mapping[str, str]:
    """Digests of the files in the site's folder of tasks, by `tasks/<path in it>`.

    Raises:
        TrainingError: the profile names a folder that is not there.
    """
    if (folder := site_folder(profile)) is None:
        return {}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"tasks/{path.relative_to(folder).as_posix()}": sha256_file(path) for path in files}


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Look for tasks, groups and tags in a folder.

    Raises:
        TrainingError: one is not there.
    """
    known: set[str] = set()
    unread = []
    for path in sorted(folder.rglob("*.yaml")):
        if any(part in _IGNORED for part in path.parts):
            continue
        try:
            known.update(_names(_read(path)))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            unread.append(f"{path.relative_to(folder).as_posix()}: {type(error).__name__}: {reason}")
    if missing := sorted(set(names) - known):
        raise TrainingError(
            f"no such task in {folder}",
            got=", ".join(missing),
            expected=", ".join(sorted(known)) or "YAML files with a key `task`",
            hint="\n    ".join(["these files cannot be read:", *unread]) if unread else None,
        )


def empty_data(yaml_file: Path) -> list[str]:
    """Data files in the folder of a task that have nothing in them, as its YAML file names them."""
    named: list[Any] = [(_read(yaml_file).get("dataset_kwargs") or {}).get("data_files")]
    found = []
    while named:
        one = named.pop()
        if isinstance(one, list | dict):
            named += one.values() if isinstance(one, dict) else one
        elif isinstance(one, str) and (path := yaml_file.parent / one).is_file() and not path.read_bytes().strip():
            found.append(one)
    return sorted(found)


def _read(path: Path, outer: Sequence[Path] = ()) -> dict[str, Any]:
    """A task's configuration; its own keys come before those of the files that it includes.

    Raises:
        OSError, ValueError: it, or what it includes, cannot be read.
    """
    path = path.resolve()
    if path in outer:
        raise ValueError(f"{path.name} includes itself")
    config = strict_yaml.load(read_text(path), tags=["!function"])
    if not isinstance(config, dict):
        raise ValueError("no keys")
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _read(path.parent / str(name), (*outer, path))
    return merged | config


def _names(config: Mapping[str, Any]) -> Iterator[str]:
    """What a file can be asked for by: the name of its task or group, and its tags; nothing where it is a template."""
    is_group = "group" in config and "class" not in config
    name = config.get("group" if is_group else "task")
    if not isinstance(name, str):
        return
    yield name
    tags = [] if is_group else config.get("tag") or []
    yield from [tags] if isinstance(tags, str) else tags

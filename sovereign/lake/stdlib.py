"""The source `python-stdlib`: text that every machine with Python has.

Documentation topics of the language reference, and the docstrings of the standard library's modules, classes and
functions. The files are parsed, never imported, so that nothing of them runs.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sovereign.errors import SourceError

_LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "lib-dynload",
    "_bundled",
}
_TOPICS = "pydoc_data/topics.py"

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def list_files() -> Iterator[tuple[str, Path]]:
    """Source files as (path in the standard library, path), sorted.

    Raises:
        SourceError: this Python came without its library's source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if _LEFT_OUT.isdisjoint(path.relative_to(root).parts) and not path.parent.name.startswith("config-")
    )
    if not found:
        raise SourceError("this Python has no source files of its standard library", got=root)
    yield from found


def read_records() -> Iterator[tuple[str, dict[str, Any]]]:
    """Topics and docstrings as (place, record).

    Raises:
        SourceError: see `list_files`.
    """
    for name, path in list_files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(path.read_bytes())
        if name == _TOPICS:
            for topic, text in _topics(tree):
                yield f"topics#{topic}", {"text": text}
        else:
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for number, (title, text) in enumerate(_docstrings(tree, module)):
                yield f"{name}#{number}", {"text": f"{title}\n\n{text}"}


def _topics(tree: ast.Module) -> list[tuple[str, str]]:
    """The dictionary `topics` of pydoc's data."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            return sorted(ast.literal_eval(node.value).items())
    raise SourceError("pydoc's topics have an unknown form", expected="a dictionary literal")


def _docstrings(node: Documented, name: str) -> Iterator[tuple[str, str]]:
    """Title and docstring of `node` and of all classes and functions in it."""
    text = ast.get_docstring(node)
    if text:
        arguments = f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
        yield name + arguments, inspect.cleandoc(text)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")

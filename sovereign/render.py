"""Templates to Kubernetes objects: Jinja2 with StrictUndefined, a site's overlays before the shipped templates.

`<folder>/<name>.yaml.j2` renders to YAML documents; files of other names are macro libraries, imported by name. A file
in an overlay replaces the shipped one of the same name or stands beside it. Templates hold loops and ifs, values are
computed before.
"""

from __future__ import annotations

import functools
import json
import shlex
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jinja2

from sovereign import strict_yaml
from sovereign.errors import ProfileError
from sovereign.files import read_text
from sovereign.resources import data_path

Object: TypeAlias = dict[str, Any]
SUFFIX = ".yaml.j2"
STACKS_AND_JOBS = ("cluster", "datalake", "serving", "training")
"""Folders whose templates are rendered."""
MAX_CHARS = 16_000_000
"""A template may render to so much; an API server takes objects of 1.5 MB."""
_RAW = "Braces of another template language, such as Go's, stand between {% raw %} and {% endraw %}."


def template_names(folder: str, overlays: Sequence[Path] = ()) -> list[str]:
    """Names (`folder/name`) of all templates in `folder`, overlays included, sorted."""
    roots = [*overlays, data_path("templates")]
    return sorted(
        {f"{folder}/{path.name.removesuffix(SUFFIX)}" for root in roots for path in (root / folder).glob(f"*{SUFFIX}")}
    )


def render_folder(folder: str, context: Mapping[str, Any], overlays: Sequence[Path] = ()) -> list[Object]:
    """Objects of every template in `folder`, in the order of file names.

    Raises:
        ProfileError: see `render_template`.
    """
    return [item for name in template_names(folder, overlays) for item in render_template(name, context, overlays)]


def render_template(name: str, context: Mapping[str, Any], overlays: Sequence[Path] = ()) -> list[Object]:
    """Objects of the template `name` (`folder/name`, without the suffix); empty documents are dropped.

    Raises:
        ProfileError: see `render_text`; also when it does not make Kubernetes objects.
    """
    file = name + SUFFIX
    return list(_documents(render_text(file, context, overlays), file))


def render_text(file: str, context: Mapping[str, Any], overlays: Sequence[Path] = ()) -> str:
    """What the template `file` (`folder/name` with its suffix) renders to.

    Raises:
        ProfileError: the template is not there, is malformed or uses a variable that is not given; names template,
            line and variable.
    """
    environment = _environment(tuple(overlays))
    try:
        return _bounded(environment.get_template(file).generate(context), file)
    except jinja2.TemplateSyntaxError as error:
        raise ProfileError(f"template {error.name}, line {error.lineno}: {error.message}", hint=_RAW) from error
    except jinja2.TemplateNotFound as error:
        raise ProfileError(f"template {error.name} not found", expected=f"a file in {_roots(overlays)}") from error
    except jinja2.TemplateError as error:
        template, line = _place(error, file)
        hint = f"is it in the profile, or misspelt? {_RAW}"
        raise ProfileError(f"template {template}, line {line}: {error.message}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"template {_undecodable(file, overlays)}") from error
    except RecursionError as error:
        raise ProfileError(f"template {file}: nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        template, line = _place(error, file)
        raise ProfileError(f"template {template}, line {line}: {type(error).__name__}: {error}") from error


def _bounded(parts: Iterable[str], file: str) -> str:
    text: list[str] = []
    num_chars = 0
    for part in parts:
        text.append(part)
        num_chars += len(part)
        if num_chars > MAX_CHARS:
            raise ProfileError(f"template {file} renders to too much", expected=f"at most {MAX_CHARS:,} characters")
    return "".join(text)


def _undecodable(file: str, overlays: Sequence[Path]) -> str:
    """The template, of `file` and those it can import, that is not UTF-8, and where."""
    for root in overlays:
        for path in sorted(root.rglob("*.j2")):
            try:
                read_text(path)
            except (OSError, ValueError) as error:
                return f"{path}: {error}"
    return f"{file} is not UTF-8"


def _roots(overlays: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in [*overlays, data_path("templates")])


@functools.cache  # templates are compiled once; Jinja2 itself sees files that change
def _environment(overlays: tuple[Path, ...]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*overlays, data_path("templates")]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  (YAML, not HTML; values go through `quote` and `to_yaml`)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"to_yaml": _to_yaml, "quote": _quote, "shell": shlex.quote}
    return environment


def check_overlays(root: Path) -> None:
    """Raises: ProfileError: a file of the overlays would not be read, as its name or folder is not one of ours."""
    shipped = data_path("templates")
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root)
        if path.is_dir() or any(part.startswith((".", "README")) for part in place.parts):
            continue
        expected = None
        if path.suffix != ".j2":
            expected = f"a name that ends in {SUFFIX} (or .j2 for what templates import)"
        elif path.name.endswith(SUFFIX) and (len(place.parts) != 2 or place.parts[0] not in STACKS_AND_JOBS):
            expected = f"a place in {', '.join(STACKS_AND_JOBS)}"
        elif place.parts[0] == "training" and path.name.endswith(SUFFIX) and not (shipped / place).exists():
            expected = f"one of {', '.join(sorted(each.name for each in (shipped / 'training').glob('*' + SUFFIX)))}"
        if expected is not None:
            raise ProfileError(f"the overlay {path} would not be read", got=place, expected=expected)


def _to_yaml(value: Any) -> str:
    """Any plain value on one line: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _quote(value: Any) -> str:
    """The text of `value` as a YAML string, whatever it looks like."""
    return json.dumps(str(value), ensure_ascii=False)


def _place(error: BaseException, file: str) -> tuple[str, int]:
    """Template and line of the innermost frame that Jinja2 mapped back to a template."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.endswith(".j2"):
            path = Path(frame.filename)
            return f"{path.parent.name}/{path.name}", frame.lineno or 0
    return file, 0


def _documents(text: str, file: str) -> Iterator[Object]:
    try:
        for document in strict_yaml.load_all(text):
            if document is None:
                continue
            if not _is_object(document):
                raise ProfileError(
                    f"template {file} makes something that is no Kubernetes object",
                    got=f"{document!r:.80}",
                    expected="apiVersion, kind and metadata.name, each a text",
                )
            yield document
    except strict_yaml.YamlError as error:
        lines = text.splitlines()
        line = lines[error.line - 1] if error.line is not None and error.line <= len(lines) else ""
        raise ProfileError(
            f"template {file} does not render to YAML: {error}", got=f"{line.strip()!r:.200} (rendered line)"
        ) from error


def _is_object(document: object) -> bool:
    """Whether the four names are texts: a number as a name would only fail when it is sent."""
    if not isinstance(document, dict) or not isinstance(metadata := document.get("metadata"), dict):
        return False
    names = (document.get("apiVersion"), document.get("kind"), metadata.get("name"), metadata.get("namespace", "-"))
    return all(isinstance(name, str) and name for name in names)

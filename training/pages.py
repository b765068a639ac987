"""Texts that are made from templates/training: the model card, the tasks. Templates hold loops and ifs only."""

from __future__ import annotations

from typing import Any

import jinja2

from sovereign.errors import TrainingError
from sovereign.resources import data_path


def render_page(template: str, **values: Any) -> str:
    """The text that `templates/training/<template>.j2` makes of the values.

    Raises:
        TrainingError: the template asks for a value that is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates") / "training"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown and YAML, not HTML
    )
    environment.filters |= {"cell": _cell, "number": lambda value: f"{int(value):,}"}
    try:
        return environment.get_template(f"{template}.j2").render(values)
    except jinja2.TemplateError as error:
        raise TrainingError(f"{template} cannot be written: {error}") from error


def _cell(text: str) -> str:
    """Text of a source or of the model, so that it stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")

"""Texts for people from the templates: Markdown, HTML, YAML of tasks. Templates hold loops and ifs only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from sovereign.errors import SovereignError
from sovereign.resources import data_path


def render_page(
    folder: str,
    template: str,
    values: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., Any]],
    error: type[SovereignError],
) -> str:
    """What `templates/<folder>/<template>.j2` makes of the values; in HTML they are escaped.

    Args:
        filters: beside `number`, which sets a number's thousands apart.
        error: what is raised when the template asks for a value that is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates") / folder),
        undefined=jinja2.StrictUndefined,
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": lambda value: f"{int(value):,}", **filters}
    try:
        return environment.get_template(f"{template}.j2").render(values)
    except jinja2.TemplateError as cause:
        raise error(f"{template} cannot be written: {cause}") from cause

"""Texts for people from the templates: Markdown, HTML, YAML of tasks. Templates hold loops and ifs only.

In HTML every value is escaped; in Markdown a template passes each value that is not a number through the filter `text`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from sovereign.display import escape_markdown, spell
from sovereign.errors import SovereignError
from sovereign.resources import data_path


def render_page(
    folder: str,
    template: str,
    values: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    error: type[SovereignError],
) -> str:
    """What `templates/<folder>/<template>.j2` makes of the values; in HTML they are escaped.

    Args:
        filters: beside `number`, which sets a number's thousands apart, and `text`.
        error: what is raised when the template asks for a value that is not there.
    """
    is_html = template.endswith(".html")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates") / folder),
        undefined=jinja2.StrictUndefined,
        autoescape=is_html,  # noqa: S701  (in Markdown by the filter `text`)
        finalize=_spelt if is_html else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": lambda value: f"{int(value):,}", "text": escape_markdown, **(filters or {})}
    try:
        return environment.get_template(f"{template}.j2").render(values)
    except jinja2.TemplateError as cause:
        raise error(f"{template} cannot be written: {cause}") from cause


def _spelt(value: Any) -> Any:
    """A value of an HTML page; what a macro made is markup, its values were spelt before."""
    return spell(value) if isinstance(value, str) and not isinstance(value, Markup) else value

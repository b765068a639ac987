"""Documents for people from templates/lake: Markdown and HTML. Templates hold loops and ifs only."""

from __future__ import annotations

import html
import re
from typing import Any

import jinja2

from sovereign.errors import PublicationError
from sovereign.resources import data_path

_MARKS = re.compile(r"([\\`*_\[\]|$~])")


def render_page(template: str, **values: Any) -> str:
    """What `templates/lake/<template>.j2` makes of the values; in HTML they are escaped, in Markdown by `text`.

    Raises:
        PublicationError: the template asks for a value that is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates") / "lake"),
        undefined=jinja2.StrictUndefined,
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": escape_markdown, "number": lambda value: f"{int(value):,}", "percent": percent}
    try:
        return environment.get_template(f"{template}.j2").render(values)
    except jinja2.TemplateError as error:
        raise PublicationError(f"{template} cannot be written: {error}") from error


def escape_markdown(text: str) -> str:
    """Text of others on one line, in which nothing is a mark of Markdown or HTML."""
    return _MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def percent(share: float) -> str:
    """A share for people."""
    return "below 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"

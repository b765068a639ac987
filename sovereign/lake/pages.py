"""Documents for people from templates/lake: Markdown and HTML. Templates hold loops and ifs only."""

from __future__ import annotations

import html
import re
from typing import Any

from sovereign import pages
from sovereign.errors import PublicationError

_MARKS = re.compile(r"([\\`*_\[\]|$~])")
_LEADING = re.compile(r"^(?:(?=[#+=-])|([0-9]{1,9})(?=[.)](?:\s|$)))")
"""Before what makes a heading, rule or list of the line that it begins."""


def render_page(template: str, **values: Any) -> str:
    """What `templates/lake/<template>.j2` makes of the values; in HTML they are escaped, in Markdown by `text`.

    Raises:
        PublicationError: the template asks for a value that is not there.
    """
    return pages.render_page(
        "lake", template, values, filters={"text": escape_markdown, "percent": percent}, error=PublicationError
    )


def escape_markdown(text: str) -> str:
    """Text of others on one line, in which nothing is a mark of Markdown or HTML."""
    return _LEADING.sub(r"\1\\", _MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False)))


def percent(share: float) -> str:
    """A share for people."""
    return "below 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"

"""Documents for people from templates/lake: Markdown and HTML. Templates hold loops and ifs only."""

from __future__ import annotations

from typing import Any

from sovereign import pages
from sovereign.errors import PublicationError


def render_page(template: str, **values: Any) -> str:
    """What `templates/lake/<template>.j2` makes of the values; in HTML they are escaped, in Markdown by `text`.

    Raises:
        PublicationError: the template asks for a value that is not there.
    """
    return pages.render_page("lake", template, values, filters={"percent": percent}, error=PublicationError)


def percent(share: float) -> str:
    """A share for people."""
    return "below 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"

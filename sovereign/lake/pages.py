"""Documents for people from templates/lake: Markdown and HTML. Templates hold loops and ifs only."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

from sovereign import pages
from sovereign.display import spell
from sovereign.errors import PublicationError

_PIECE = 20
_LONG = re.compile(r"([!-~]{31,})")


def render_page(template: str, **values: Any) -> str:
    """What `templates/lake/<template>.j2` makes of the values; in HTML they are escaped, in Markdown by `text`.

    Raises:
        PublicationError: the template asks for a value that is not there.
    """
    return pages.render_page(
        "lake", template, values, filters={"percent": percent, "breakable": breakable}, error=PublicationError
    )


def breakable(text: str) -> Markup:
    """Text for HTML in which an address or digest may break, and a word may not."""
    parts = _LONG.split(spell(text))  # every other one is long
    pieces = [
        Markup("<wbr>").join(part[start : start + _PIECE] for start in range(0, len(part), _PIECE))
        if number % 2
        else part
        for number, part in enumerate(parts)
    ]
    return Markup("").join(pieces)


def percent(share: float) -> str:
    """A share for people."""
    return "below 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"

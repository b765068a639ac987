"""Texts that are made from templates/training: the model card, the tasks. Templates hold loops and ifs only."""

from __future__ import annotations

from typing import Any

from sovereign import pages
from sovereign.errors import TrainingError


def render_page(template: str, **values: Any) -> str:
    """The text that `templates/training/<template>.j2` makes of the values.

    Raises:
        TrainingError: the template asks for a value that is not there.
    """
    return pages.render_page("training", template, values, error=TrainingError)

"""The part of the profile that says how the work of curation is shared out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sovereign.section import Section


class Curation(Section):
    """How stage `curate` is shared out; the number of ranks changes nothing in its result."""

    ranks: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Processes, each in a pod of its own; on a cluster as many as the training queue has room for."""
    task_mb: Annotated[int, Field(ge=1, le=128)] = 64
    """Text that is one unit of the work and one file of the result, MB; at most 64,000 documents."""

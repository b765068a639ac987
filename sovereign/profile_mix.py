"""The parts of the profile that say how much of which text a run takes, and what people decide before it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sovereign.section import Language, Name, Section, Seed

Weight = Annotated[float, Field(ge=0, le=1e6)]
Weights = Annotated[dict[Name, Weight], Field(min_length=1)]


class Mix(Section):
    """How many of the run's tokens each part of the text gives (docs/mix.md)."""

    sources: Weights | None = None
    """Weight of each source in the run's tokens; `demonstration` is the generated country's name."""
    domains: Annotated[dict[Language, Weights], Field(min_length=1)] | None = None
    """Instead of `sources`: by language, weight of each domain in the run's tokens."""
    rest: Weight = 0
    """Weight of all that is not named above, together; 0 leaves it out. Where nothing is named, all is taken."""
    temperature: Annotated[float, Field(ge=1, le=100)] = 1
    """What is not named is divided in proportion to tokens^(1/temperature): 1 takes it as the corpus has it, more takes
    more of what there is little of."""
    max_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """A document is taken at most so often in the run; what this leaves goes to the others by their weights."""
    seed: Seed = 0
    """Decides which documents are taken where a part is not taken a whole number of times."""

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.sources is not None and self.domains is not None:
            raise ValueError("give weights by `sources` or by `domains`, not both")
        named = [
            *(self.sources or {}).values(),
            *(weight for own in (self.domains or {}).values() for weight in own.values()),
        ]
        if named and not (sum(named) or self.rest):
            raise ValueError("all weights are 0: nothing would be taken")
        return self


class Governance(Section):
    """What people decide before the machine goes on."""

    mix_approval: Literal["none", "required"] = "none"
    """required: stage `tokenize` makes training shards only from a mix that a person approved for this very dataset
    (`sovereign lake approve`). none: from the mix of the profile, and the receipt says that no person approved it."""


def check_mix(mix: Mix, domains: Mapping[str, str], weighs_languages: Sequence[bool]) -> None:
    """Compare a mix with the rest of its profile.

    Args:
        domains: of the sources, by their names.
        weighs_languages: of each training phase, whether it has a mix of languages.

    Raises:
        ValueError: it names what the corpus does not have, or only some of the phases weigh languages.
    """
    known = {"mix.sources": (set(mix.sources or ()), set(domains))}
    known["mix.domains"] = {name for own in (mix.domains or {}).values() for name in own}, set(domains.values())
    for key, (named, there) in known.items():
        if unknown := sorted(named - there):
            raise ValueError(f"{key} names {', '.join(unknown)}; the corpus has {', '.join(sorted(there))}")
    if any(weighs_languages) and not all(weighs_languages):
        raise ValueError("with `mix`, either every entry of training.phases has a mix of languages or none has")

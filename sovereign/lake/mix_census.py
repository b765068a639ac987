"""From the training documents of a dataset to its mix: counts by group, copies, and what follows from them.

Memory: 28 bytes for each document while they are counted, 80 while copies are decided; beside it 900 for each other
combination of source, language, licence and owners. The order in which documents come does not matter.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from sovereign.errors import PlanError
from sovereign.lake.allocation import share_out, temperature_weight
from sovereign.lake.documents import Document
from sovereign.lake.mix import Count, Facet, Group, MixFile, Portion, Request, add_up, place
from sovereign.section import exact

Numbers = npt.NDArray[np.int64]


class Census:
    """Every training document: what it is counted by, its size, its place in the order of its group."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._seed = request.mix.seed if request.mix else 0
        self._numbers: dict[Facet, int] = {}
        self._facets, self._places = array("I"), array("Q")
        self._bytes, self._tokens = array("q"), array("q")

    def add(self, document: Document, num_tokens: int) -> None:
        """Count a document of `num_tokens` tokens, its end-of-text mark included."""
        self._facets.append(self._numbers.setdefault(self._request.facet(document), len(self._numbers)))
        self._places.append(place(document.doc_id, self._seed))
        self._bytes.append(len(document.text.encode()))
        self._tokens.append(num_tokens)

    def decide(
        self,
        budgets_of: Callable[[Mapping[str, int]], Mapping[str, int]],
        *,
        name: str,
        dataset: str,
        tokenizer: str,
    ) -> MixFile:
        """The mix that the request leads to, approved by nobody.

        Args:
            budgets_of: tokens of the run by language, or all under `ALL`; from the dataset's tokens by language.
            name: the dataset's.
            dataset: digest of its version.
            tokenizer: digest of the tokenizer that counted.

        Raises:
            PlanError: the mix names what the dataset does not have, or cannot give the tokens of the run.
        """
        facets, places = np.frombuffer(self._facets, np.uint32), np.frombuffer(self._places, np.uint64)
        sizes, tokens = np.frombuffer(self._bytes, np.int64), np.frombuffer(self._tokens, np.int64)
        groups = self._groups(facets)
        once = {group: int(tokens[own].sum()) for group, own in groups.items()}
        languages: Counter[str] = Counter()
        for facet, count in self._by_facet(facets, tokens).items():
            languages[facet.language] += count
        budgets = dict(budgets_of(languages))
        targets = make_targets(self._request, once, budgets)
        copies = np.ones(len(tokens), np.int64)
        chosen: dict[Group, tuple[int, int | None]] = {}
        for group, own in groups.items():
            whole, upto = (1, None) if targets is None else _choose(places[own], tokens[own], targets[group])
            copies[own] = whole if upto is None else whole + (places[own] <= np.uint64(upto))
            chosen[group] = whole, upto
        by_facet = self._by_facet(facets, tokens * copies)
        passes = self._passes(by_facet, budgets)
        cap = self._request.mix.max_epochs if self._request.mix else None
        portions = []
        for group, own in groups.items():
            (whole, upto), shards = chosen[group], _count(sizes[own], tokens[own], copies[own])
            target = None if targets is None else targets[group]
            portions.append(
                Portion(
                    **group._asdict(),
                    dataset=_count(sizes[own], tokens[own], np.ones_like(own)),
                    target_tokens=target,
                    copies=whole,
                    upto=None if upto is None else f"{upto:016x}",
                    shards=shards,
                    epochs=float(round(Fraction(shards.tokens, once[group]) * passes(group), 4)),
                    is_capped=cap is not None and target == cap * once[group],
                )
            )
        return MixFile(
            name=name,
            dataset=dataset,
            tokenizer=tokenizer,
            request=self._request,
            budgets=budgets,
            groups=tuple(portions),
            shards=add_up(by_facet),
            run=add_up({facet: count * passes(self._request.group(facet)) for facet, count in by_facet.items()}),
        )

    def _groups(self, facets: npt.NDArray[np.uint32]) -> dict[Group, Numbers]:
        """Numbers of the documents of each group, in the order of groups."""
        of_facet = [self._request.group(facet) for facet in self._numbers]
        names = {group: number for number, group in enumerate(sorted(set(of_facet)))}
        numbers = np.array([names[group] for group in of_facet], np.int64)[facets]
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=len(names)))
        return dict(zip(names, np.split(order, ends[:-1]), strict=True))

    def _by_facet(self, facets: npt.NDArray[np.uint32], tokens: Numbers) -> dict[Facet, int]:
        sums = np.zeros(len(self._numbers), np.int64)
        np.add.at(sums, facets, tokens)
        return dict(zip(self._numbers, sums.tolist(), strict=True))

    def _passes(self, by_facet: Mapping[Facet, int], budgets: Mapping[str, int]) -> Callable[[Group], Fraction]:
        """How often the run goes over a group's shards: once where a mix fills them, else as often as it must."""
        there: Counter[str] = Counter()
        for facet, count in by_facet.items():
            there[self._request.budget_name(self._request.group(facet))] += count

        def passes(group: Group) -> Fraction:
            name = self._request.budget_name(group)
            return Fraction(1) if self._request.mix is not None else Fraction(budgets.get(name, 0), there[name])

        return passes


def make_targets(request: Request, tokens: Mapping[Group, int], budgets: Mapping[str, int]) -> dict[Group, int] | None:
    """Tokens that each group gives to the run; None where every document is taken once.

    Args:
        tokens: of each group, its documents once.
        budgets: tokens of the run, by language or all.

    Raises:
        PlanError: see `Census.decide`.
    """
    mix = request.mix
    if mix is None:
        return None
    _refuse_unknown(request, tokens)
    targets = dict.fromkeys(tokens, 0)
    for name, budget in budgets.items():
        own = {group: count for group, count in tokens.items() if request.budget_name(group) == name}
        if budget == 0:
            continue
        weights = _weights(request, own)
        limits = {group: mix.max_epochs * count for group, count in own.items()} if mix.max_epochs else None
        try:
            targets |= share_out(budget, weights, limits)
        except PlanError as error:
            raise PlanError(
                f"{error.message}{f' in {name}' if name else ''}",
                got=error.got,
                expected=error.expected,
                hint="raise mix.max_epochs, lower training.tokens, take more into the mix, or add text",
            ) from error
    return targets


def _weights(request: Request, tokens: Mapping[Group, int]) -> dict[Group, Fraction]:
    mix = request.mix
    assert mix is not None
    named = {group: request.named_weight(group) for group in tokens}
    rest = {
        group: temperature_weight(tokens[group], mix.temperature) for group, weight in named.items() if weight is None
    }
    total = sum(rest.values(), Fraction(0))
    share = exact(mix.rest) if mix.sources is not None or mix.domains is not None else Fraction(1)
    return {group: rest[group] * share / total if weight is None else exact(weight) for group, weight in named.items()}


def _refuse_unknown(request: Request, tokens: Mapping[Group, int]) -> None:
    mix = request.mix
    assert mix is not None
    if mix.sources is not None:
        named, there = {name for name, weight in mix.sources.items() if weight}, {group.source for group in tokens}
    else:
        named = {
            f"{lang} {name}" for lang, own in (mix.domains or {}).items() for name, weight in own.items() if weight
        }
        there = {group.label for group in tokens}
    if missing := sorted(named - there):
        raise PlanError(
            "the mix names what the dataset has no training document of",
            got=", ".join(missing),
            expected=f"some of {', '.join(sorted(there))}",
        )


def _choose(places: npt.NDArray[np.uint64], tokens: Numbers, target: int) -> tuple[int, int | None]:
    """Copies of every document, and the last place of those that are taken once more: as few as reach the target."""
    copies, rest = divmod(target, int(tokens.sum()))
    if not rest:
        return copies, None
    order = np.argsort(places, kind="stable")
    last = places[order[np.searchsorted(np.cumsum(tokens[order]), rest)]]
    return (copies + 1, None) if (places <= last).all() else (copies, int(last))


def _count(sizes: Numbers, tokens: Numbers, copies: Numbers) -> Count:
    return Count(documents=int(copies.sum()), bytes=int((sizes * copies).sum()), tokens=int((tokens * copies).sum()))

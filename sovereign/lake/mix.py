"""The mix of a dataset: how many copies of each document the training shards have, and what follows from it.

`mix.json`, canonical JSON (RFC 8785): what was asked for, of which version of the dataset (the digest of stage
`curate`'s outputs), the copies by group and the counts that result, to the token, and who approved it. A group is what
weights are given for: a source, or a domain in a language. Its documents are in the order of a hash of seed and id; all
are taken `copies` times, and those up to the hash `upto` once more.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Literal, NamedTuple

import rfc8785
from pydantic import Field, ValidationError

from sovereign.errors import StageError, StoreError
from sovereign.files import sha256_bytes
from sovereign.lake.documents import Document
from sovereign.plan import Plan, plan
from sovereign.profile import Profile
from sovereign.profile_mix import Mix
from sovereign.receipts import model_digest
from sovereign.section import Section
from sovereign.stages import load_stage, read_receipt
from sovereign.store import Store

WARN_EPOCHS = 4
"""Up to so many epochs repeated text is worth about as much as new text (Muennighoff et al. 2023,
https://arxiv.org/abs/2305.16264)."""
ALL = ""
"""As a language's name: all of them together."""


class Group(NamedTuple):
    """What a weight is for; a part that does not tell groups apart is empty."""

    source: str = ""
    language: str = ""
    domain: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return " ".join(part for part in self if part)


class Facet(NamedTuple):
    """What documents are counted by."""

    source: str
    language: str
    domain: str
    licence: str
    owners: tuple[str, ...]


class Count(Section):
    """Documents with their text's bytes in UTF-8 and their tokens, the end-of-text mark of each included."""

    documents: int
    bytes: int
    tokens: int


class PhaseShare(Section):
    """A training phase that weighs languages."""

    num_steps: int
    sequence_length: int
    mix: dict[str, float] | None


class Request(Section):
    """What profile and plan ask of a mix."""

    mix: Mix | None
    """None: every document once."""
    domains: dict[str, str]
    """By source."""
    tokens: int
    """Of the whole run."""
    batch_tokens: int | None = None
    """As `seed` and `phases` only there where phases weigh languages."""
    seed: int | None = None
    phases: tuple[PhaseShare, ...] = ()

    @classmethod
    def of(cls, profile: Profile, resolved: Plan) -> Request:
        """That of a profile with its plan."""
        recipe = resolved.recipe
        request = cls(mix=profile.mix, domains=profile.corpus.domains, tokens=recipe.num_tokens)
        if not any(phase.mix for phase in recipe.phases):
            return request
        phases = tuple(
            PhaseShare(num_steps=phase.num_steps, sequence_length=phase.sequence_length, mix=phase.mix)
            for phase in recipe.phases
        )
        return request.model_copy(update={"batch_tokens": recipe.batch_tokens, "seed": recipe.seed, "phases": phases})

    def differences(self, other: Request) -> list[str]:
        """Names of the fields that another request has otherwise."""
        return [name for name in Request.model_fields if getattr(self, name) != getattr(other, name)]

    @property
    def languages(self) -> set[str] | None:
        """Those that the phases take; None where they take all."""
        if not self.phases or any(phase.mix is None for phase in self.phases):
            return None
        return {language for phase in self.phases for language, weight in (phase.mix or {}).items() if weight > 0}

    def facet(self, document: Document) -> Facet:
        """What `document` is counted by."""
        domain = self.domains.get(document.source, document.source)
        return Facet(document.source, document.language, domain, document.licence, document.owners)

    def group(self, facet: Facet) -> Group:
        """The group of the documents with this facet."""
        return self.group_of(facet.source, facet.language)

    def group_of(self, source: str, language: str) -> Group:
        """The group of the documents of a source in a language."""
        if self.mix is None or self.mix.sources is None:
            return Group(language=language, domain=self.domains.get(source, source))
        return Group(source, language if self.phases else "")

    def budget_name(self, group: Group) -> str:
        """The language whose tokens the group has a part of, or `ALL`."""
        return group.language if self.phases else ALL

    def named_weight(self, group: Group) -> float | None:
        """The weight that the profile names for a group."""
        if self.mix is None:
            return None
        if self.mix.sources is not None:
            return self.mix.sources.get(group.source)
        return (self.mix.domains or {}).get(group.language, {}).get(group.domain)

    @property
    def takes_rest(self) -> bool:
        """Whether what is not named is taken."""
        assert self.mix is not None
        return self.mix.rest > 0 or (self.mix.sources is None and self.mix.domains is None)

    def wants(self, document: Document) -> bool:
        """Whether the mix weighs the document's group at all."""
        return self.weighs(self.group(self.facet(document)))

    def weighs(self, group: Group) -> bool:
        """Whether the mix weighs the group at all: nothing else teaches the tokenizer either."""
        if self.mix is None:
            return True
        weight = self.named_weight(group)
        is_taken = self.takes_rest if weight is None else weight > 0
        return is_taken and (self.languages is None or group.language in self.languages)


class Copies(Section):
    """How often the shards have the documents of one group."""

    source: str
    language: str
    domain: str
    copies: Annotated[int, Field(ge=0)]
    """Of every document."""
    upto: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None
    """Documents whose hash, 16 hex digits, is this or less are taken once more; None: no others are."""

    @property
    def group(self) -> Group:
        """Which group."""
        return Group(self.source, self.language, self.domain)


class Portion(Copies):
    """What a mix takes of one group."""

    dataset: Count
    """Each document once."""
    target_tokens: int | None
    """What the weights give it; None where every document is taken once."""
    shards: Count
    """With all copies."""
    epochs: float
    """How often the run takes the group, on average."""
    is_capped: bool
    """max_epochs keeps it from having what its weight would give."""

    @property
    def once(self) -> Count:
        """What the shards have of it, each document once."""
        return self.dataset if self.copies else self.shards


class Selection(Section):
    """Which documents the shards have, and how often."""

    request: Request
    groups: tuple[Copies, ...]

    def counter(self) -> Callable[[str, str, str], int]:
        """How many copies of a document the shards have, as a function of its id, source and language.

        Raises:
            StageError: by the function, for a document of a group that is not here.
        """
        seed = self.request.mix.seed if self.request.mix else 0
        groups = {one.group: one for one in self.groups}

        def copies_of(doc_id: str, source: str, language: str) -> int:
            group = self.request.group_of(source, language)
            if (own := groups.get(group)) is None:
                raise unlike_the_mix(f"documents of {group.label}, which it does not have")
            return own.copies + (own.upto is not None and place(doc_id, seed) <= int(own.upto, 16))

        return copies_of


def unlike_the_mix(got: str) -> StageError:
    """The error for documents that are not those of an approved mix."""
    return StageError(
        "the shards are not what the mix says",
        got=got,
        hint="was the approved file changed? sovereign lake approve SITE --by NAME counts and approves anew",
    )


class Approval(Section):
    """The person who decided."""

    by: str
    at: str
    """ISO 8601, UTC."""
    note: str


Totals = dict[str, dict[str, int]]
"""Tokens by `language`, `domain`, `source`, `licence`, `owner` (a document whole for each of its owners) and
`owner_share` (divided equally among them, rounded), each by name."""


class MixFile(Selection):
    """The content of mix.json."""

    format: Literal["sovereign/mix/v1"] = "sovereign/mix/v1"
    name: str
    """Of the dataset."""
    dataset: str
    """Digest of its version: of the outputs of stage `curate`."""
    tokenizer: str
    """SHA-256 of the tokenizer, as one JSON text, that the tokens were counted with."""
    budgets: dict[str, int]
    """Tokens of the run by language, or all of them under an empty name."""
    groups: tuple[Portion, ...]
    shards: Totals
    """What is in the training shards, to the token."""
    run: Totals
    """What the run takes of it."""
    approval: Approval | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes, origin: str) -> MixFile:
        """Read it.

        Raises:
            StoreError: it is damaged, or of another version.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise StoreError(
                f"{origin} is no mix of this version: {error.errors()[0]['msg']}", hint="approve the mix again"
            ) from error

    @property
    def untaken(self) -> frozenset[Group]:
        """Groups that have a weight, but so small a one that their part of the run is no token."""
        return frozenset(one.group for one in self.groups if one.target_tokens == 0 and self.request.weighs(one.group))

    def copies(self) -> Callable[[Document], int]:
        """How many copies of a document the shards have, as a function; see `counter`."""
        copies_of = self.counter()
        return lambda document: copies_of(document.doc_id, document.source, document.language)

    def differences(self, other: MixFile) -> list[str]:
        """Names of what another mix has otherwise, approval aside: fields, and at most ten groups."""
        fields = [name for name in ("name", "dataset", "tokenizer") if getattr(self, name) != getattr(other, name)]
        fields += [f"request.{name}" for name in self.request.differences(other.request)]
        fields += [name for name in ("budgets", "shards", "run") if getattr(self, name) != getattr(other, name)]
        mine, others = ({portion.group: portion for portion in mix.groups} for mix in (self, other))
        groups = [
            f"group {group.label}"
            for group in sorted(mine.keys() | others.keys())
            if mine.get(group) != others.get(group)
        ]
        more = [f"{len(groups) - 10:,} more groups"] if len(groups) > 10 else []
        return [*fields, *groups[:10], *more]

    def summary(self) -> dict[str, object]:
        """What a receipt says of it."""
        return {
            "approved_by": self.approval.by if self.approval else None,
            "sha256": sha256_bytes(self.to_bytes()),
            "epochs": {portion.group.label: portion.epochs for portion in self.groups},
            "tokens_once": sum(portion.once.tokens for portion in self.groups),
            "selection": self.model_dump(
                mode="json", include={"request": True, "groups": {"__all__": set(Copies.model_fields)}}
            ),
        }


def place(doc_id: str, seed: int) -> int:
    """Where a document stands in the order of its group, 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{doc_id}".encode()).digest()[:8])


def add_up(tokens: Mapping[Facet, int | Fraction]) -> Totals:
    """Tokens by everything that they are told by; a part of a token is rounded at the end, half to even."""
    sums: dict[str, defaultdict[str, Fraction]] = {
        name: defaultdict(Fraction) for name in ("language", "domain", "source", "licence", "owner", "owner_share")
    }
    for facet, count in tokens.items():
        for name in ("language", "domain", "source", "licence"):
            sums[name][getattr(facet, name)] += count
        for owner in facet.owners:
            sums["owner"][owner] += count
            sums["owner_share"][owner] += Fraction(count) / len(facet.owners)
    return {name: {key: round(total) for key, total in sorted(own.items()) if total} for name, own in sums.items()}


def mix_key(dataset: str) -> str:
    """Store key of a dataset's approved mix."""
    return f"curated/{dataset}/mix.json"


def approved_mix(profile: Profile, store: Store) -> Mapping[str, str]:
    """Key and digest of the approved mix as an input of stage `tokenize`; nothing where none is asked for.

    Raises:
        StageError: the profile asks for one, and there is none, or it is of another dataset or another request.
        StoreError: it is damaged.
    """
    curated = read_receipt(store, load_stage("curate"), profile.name)
    if profile.governance.mix_approval == "none" or curated is None:
        return {}
    key, hint = (
        mix_key(profile.name),
        "sovereign lake mix SITE shows it, sovereign lake approve SITE --by NAME approves it",
    )
    if not store.exists(key):
        raise StageError("no person has approved the mix of this dataset yet", expected=key, hint=hint)
    content = store.get_bytes(key)
    mix, digest = MixFile.from_bytes(content, key), model_digest(curated.outputs)
    if mix.approval is None:
        raise StageError(f"{key} is not approved", hint=hint)
    if mix.dataset != digest:
        raise StageError(
            "the approved mix is of another version of the dataset", got=mix.dataset, expected=digest, hint=hint
        )
    if changed := Request.of(profile, plan(profile)).differences(mix.request):
        raise StageError(
            "the profile asks for another mix than the approved one", got=f"another {', '.join(changed)}", hint=hint
        )
    return {key: sha256_bytes(content)}

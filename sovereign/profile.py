"""The profile: what a site has and wants, one YAML file, validated once.

Every field is documented under the field; `docs/profile.md` is generated from these texts.
Secrets never stand in a profile.
"""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from sovereign import strict_yaml
from sovereign.errors import ProfileError
from sovereign.files import read_text
from sovereign.licences import check_licence
from sovereign.owners import OwnerName
from sovereign.profile_base import Base
from sovereign.profile_cleaning import Cleaning, Share
from sovereign.profile_curation import Curation
from sovereign.profile_datalake import Datalake
from sovereign.profile_mix import Governance, Mix, check_mix
from sovereign.profile_publication import Publication
from sovereign.profile_rewards import Rewards
from sovereign.profile_rights import Owner, Rights
from sovereign.profile_training import Model, Training
from sovereign.section import AbsolutePath, Language, Name, Section, Seed, refuse_repeats, refuse_secrets

DEMONSTRATION = "demonstration"
"""As a source's name: the generated country."""
STDLIB = "python-stdlib"
"""As a source's path: the documentation that every Python has."""
S3 = "s3://"
"""Begins the path of a source in the site's own object store."""
POSTGRESQL = "postgresql://"
"""Begins the path of a source in a database."""

Positive = Annotated[float, Field(gt=0)]


class EmbeddedTarget(Section):
    """A single-node Kubernetes on this machine, in namespaces of its own."""

    kind: Literal["embedded"]
    """Use the embedded node."""
    instance: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,8}[a-z0-9]$")] = "demo"
    """Name of the instance; several can live on one machine with different address ranges."""
    pod_cidr: str = "10.244.0.0/24"
    """Addresses of pods."""
    service_cidr: str = "10.96.0.0/20"
    """Addresses of services."""
    link_cidr: str = "10.88.0.0/30"
    """Addresses of the link between this machine and the node."""

    @model_validator(mode="after")
    def _ranges_are_networks_apart(self) -> Self:
        networks = {}
        for field in ("pod_cidr", "service_cidr", "link_cidr"):
            networks[field] = ipaddress.IPv4Network(getattr(self, field))
        pairs = [("pod_cidr", "service_cidr"), ("pod_cidr", "link_cidr"), ("service_cidr", "link_cidr")]
        for one, other in pairs:
            if networks[one].overlaps(networks[other]):
                raise ValueError(f"{one} {networks[one]} overlaps {other} {networks[other]}")
        return self


HomePath = Annotated[Path, AfterValidator(Path.expanduser)]


class KubeconfigTarget(Section):
    """An existing Kubernetes cluster, named by file and context, never guessed from the environment."""

    kind: Literal["kubeconfig"]
    """Use an existing cluster."""
    path: HomePath
    """The kubeconfig file; `~` is the home of who runs the command. A relative path is that of the command's folder."""
    context: str
    """The context in it."""
    image: str
    """Image that holds this kit's runtime for the pods. Building and pushing it is not part of the kit yet."""


class Hardware(Section):
    """The machines that train."""

    nodes: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Number of machines."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs in each; 0 trains on CPU."""
    accelerator: Literal["cpu", "A100", "H100", "H200", "B200"] = "cpu"
    """Kind of GPU; peak rate and memory come from the table in sovereign/hardware.py."""
    cpus_per_node: Annotated[int, Field(ge=1, le=4096)] = 2
    """Processor cores of each machine."""
    memory_gb_per_node: Annotated[float, Field(gt=0, le=1e6)] = 16
    """Main memory of each machine, GB."""
    storage_tb: Annotated[float, Field(gt=0, le=1e7)] = 0.02
    """Room for data and checkpoints, TB."""

    @model_validator(mode="after")
    def _gpus_have_a_kind(self) -> Self:
        if (self.gpus_per_node > 0) != (self.accelerator != "cpu"):
            raise ValueError("gpus_per_node above 0 needs an accelerator other than cpu, and the reverse")
        return self


class Economics(Section):
    """Figures of the site, for cost and emissions."""

    pue: Annotated[float, Field(ge=1, le=10)] = 1.3
    """Power usage effectiveness of the building."""
    electricity_price_per_kwh: Annotated[float, Field(ge=0, le=1e6)] = 0.15
    """Price of electricity in `currency`."""
    gpu_hour_price: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Price of one hour of one GPU (of one machine where there is none), in `currency`, electricity not included."""
    co2_g_per_kwh: Annotated[float, Field(ge=0, le=1e5)] = 300.0
    """Emissions of the local grid, g CO2e per kWh."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    """ISO 4217 code."""


class Demonstration(Section):
    """The fictional country whose corpus is generated from a seed."""

    seed: Seed = 1
    """Same seed, same bytes."""
    facts: Annotated[int, Field(ge=10, le=2000)] = 150
    """Number of facts; each is told in every language."""
    phrasings: Annotated[int, Field(ge=3, le=6)] = 6
    """Ways to ask for a fact; one in each (fact, language) is held out for evaluation."""


class Source(Section):
    """Real text of one owner: a folder or file, objects of the site's store, or rows of a database."""

    name: Name
    """Name of the source; part of every document's id."""
    path: str
    """Absolute path of a folder or file; `s3://bucket/prefix` in the site's own store; `postgresql://user@host/database`
    with a `query`; or `python-stdlib`. docs/corpus.md lists the kinds of files."""
    query: str | None = None
    """SQL that gives the rows of a database: a column `text` and, where there are any, `id`, `language`, `owner`,
    `licence`, `collected_at` and `url`."""
    owner: OwnerName
    """Person or institution that owns the text."""
    licence: str
    """SPDX expression; custom terms as a `LicenseRef-…` that `corpus.rights.licences` declares."""
    legal_basis: str | None = None
    """Why the text may be used: the law's article, the contract, the consent. Published with the dataset's manifest, as
    are `terms` and `contact`."""
    terms: str | None = None
    """Further terms of use, or where they stand."""
    contact: str | None = None
    """Who answers for the text at its owner's."""
    opt_outs: Literal["honour", "ignore"] = "honour"
    """What machine-readable opt-outs do to pages of this source. Ignoring them needs a `legal_basis`, such as a
    contract with their owner."""
    language: Language
    """BCP 47 tag."""
    domain: Name | None = None
    """What the text is about or for, such as law, news or education; by default the source's name."""
    encoding: str | None = None
    """Encoding of text, HTML, CSV and JSON lines that are not in UTF-8, by its Python name (`cp1251`, `gb18030`, …).
    Absent: UTF-8, or one in use for the language that the letters support."""

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                "".encode(encoding)
            except (LookupError, ValueError):
                raise ValueError("must be a text encoding that Python knows, such as cp1251") from None
        return encoding

    @field_validator("path")
    @classmethod
    def _path_means_the_same_everywhere(cls, path: str) -> str:
        if path.startswith(S3):
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]+(/.*)?", path.removeprefix(S3)) or ".." in path.split("/"):
                raise ValueError("must be s3://bucket or s3://bucket/prefix")
        elif path.startswith(POSTGRESQL):
            refuse_secrets(path)
        elif path != STDLIB and not Path(path).is_absolute():
            raise ValueError(
                "must be an absolute path, s3://, postgresql:// or python-stdlib: "
                "stages run in other folders than this one"
            )
        return path

    @model_validator(mode="after")
    def _what_goes_together_is_there(self) -> Self:
        if self.path.startswith(POSTGRESQL) != (self.query is not None):
            raise ValueError("a path that begins with postgresql:// needs a query, and only such a path")
        if self.opt_outs == "ignore" and not self.legal_basis:
            raise ValueError("opt_outs: ignore needs a legal_basis")
        return self


class Corpus(Section):
    """Where text comes from."""

    demonstration: Demonstration | None = None
    """The generated country, or nothing."""
    sources: tuple[Source, ...] = ()
    """Real text."""
    owners: tuple[Owner, ...] = ()
    """Who owns the text of sources and of single documents, and what was agreed with them."""
    rights: Rights = Rights()
    """What may be trained on, opt-outs, withdrawals."""
    cleaning: Cleaning = Cleaning()
    """Rules for every document."""
    curation: Curation = Curation()
    """How cleaning is shared out."""
    tokens: Annotated[float, Field(gt=0, le=1e15)] | None = None
    """Expected size in tokens where it is not generated here; for storage planning."""

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if self.demonstration is None and not self.sources:
            raise ValueError("corpus needs `demonstration` or at least one entry in `sources`")
        refuse_repeats("source names", (source.name for source in self.sources))
        refuse_repeats("owner names", (owner.name for owner in self.owners))
        for source in self.sources:
            check_licence(source.licence, self.rights.declared)
        if self.rights.registered_owners_only:
            unknown = sorted({source.owner for source in self.sources} - {owner.name for owner in self.owners})
            if unknown:
                raise ValueError(f"owners of sources that are not in `owners`: {unknown}")
        return self

    @property
    def domains(self) -> dict[str, str]:
        """The domain of each source, by its name."""
        generated = {DEMONSTRATION: DEMONSTRATION} if self.demonstration else {}
        return generated | {source.name: source.domain or source.name for source in self.sources}


class Evaluation(Section):
    """What is measured after training, and what a model must reach to be released."""

    max_questions_per_language: Annotated[int, Field(ge=1, le=10**6)] = 200
    """Held-out questions asked in each language."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness to measure with: `questions_<language>`, the demonstration country's questions in
    its format, or tasks in `task_folder`."""
    task_folder: AbsolutePath | None = None
    """Absolute path of a folder with tasks of lm-evaluation-harness: YAML files, and their data, named relative to the
    folder. Nothing is fetched from elsewhere. Python that they name is run."""
    min_accuracy: Share | dict[Language, Share] | None = None
    """Limit for release: a model below it is registered, but not as champion. The share of right answers to held-out
    questions that every language of the training text must reach, or a share for each language named. A language
    without held-out questions does not reach it."""
    max_bits_per_byte: Positive | dict[Language, Positive] | None = None
    """Limit for release: bits per byte on held-out documents that no language of the training text may be above, or a
    limit for each language named. A language without held-out documents is above it."""
    max_contamination: Share | None = None
    """Limit for release: share of the evaluation's items of which an n-gram stands in the training text. Every language
    of the training text needs an item that is long enough to be looked for."""
    max_memorisation: Share | None = None
    """Limit for release: share of the training documents tried that the model recites."""

    @model_validator(mode="after")
    def _tasks_have_a_place(self) -> Self:
        elsewhere = [name for name in self.tasks if not name.startswith("questions_")]
        if elsewhere and self.task_folder is None:
            raise ValueError(f"tasks {', '.join(elsewhere)} need task_folder, the folder that they are in")
        return self


class Serving(Section):
    """How the champion is served."""

    engine: Literal["llama.cpp", "transformers", "vllm"] = "llama.cpp"
    """llama.cpp on CPU nodes (transformers for a model that cannot be a GGUF file), vllm on GPU nodes."""
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of servers."""


class Profile(Section):
    """What a site has and wants."""

    apiVersion: Literal["sovereign/v1"]
    """Version of this format."""
    name: Name
    """Name of the profile; also the name of its dataset and model."""
    description: str = ""
    """One sentence for people."""
    target: Annotated[EmbeddedTarget | KubeconfigTarget, Field(discriminator="kind")] = EmbeddedTarget(kind="embedded")
    """The cluster."""
    hardware: Hardware = Hardware()
    """The machines."""
    economics: Economics = Economics()
    """Prices and emissions."""
    datalake: Datalake = Datalake()
    """The lake."""
    corpus: Corpus
    """The text."""
    mix: Mix | None = None
    """How much of which text is trained on; absent: every document once in an epoch."""
    base: Base | None = None
    """The model to continue from; absent: random weights."""
    model: Model
    """The model."""
    training: Training
    """The run."""
    evaluation: Evaluation = Evaluation()
    """The measures."""
    serving: Serving = Serving()
    """The service."""
    publication: Publication = Publication()
    """What is said to the public."""
    governance: Governance = Governance()
    """What people decide."""
    rewards: Rewards | None = None
    """How a fund is divided among the owners; absent: not at all."""

    @model_validator(mode="after")
    def _published_sources_are_there(self) -> Self:
        known = {source.name for source in self.corpus.sources}
        if unknown := sorted({source.name for source in self.publication.sources} - known):
            raise ValueError(f"publication.sources names what corpus.sources has not: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _the_size_is_known(self) -> Self:
        if self.base is None and self.model.parameters is None:
            raise ValueError("model.parameters is needed where there is no `base` to take the size from")
        return self

    @model_validator(mode="after")
    def _the_mix_fits(self) -> Self:
        if self.mix is not None:
            check_mix(self.mix, self.corpus.domains, [phase.mix is not None for phase in self.training.phases])
        return self


def parse_profile(text: str, *, origin: str = "profile", base: str | None = None) -> Profile:
    """Validate YAML `text`; `base` takes the place of its `base.model`.

    Raises:
        ProfileError: not YAML, or a key or value is wrong; the message names each key, what was got and what is right.
    """
    lines: dict[strict_yaml.Path, int] = {}
    try:
        document: Any = _plain_json(text) or strict_yaml.load(text, lines=lines)
    except strict_yaml.YamlError as error:
        raise ProfileError(f"{origin} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ProfileError(
            f"{origin} is not a mapping", got=type(document).__name__, expected="keys such as apiVersion, name, corpus"
        )
    if base is not None:
        own = document.get("base")
        document["base"] = (own if isinstance(own, dict) else {}) | {"model": base}
    try:
        return Profile.model_validate(document)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} "
            f"(got {item['input']!r:.80}, line {_line_of(item['loc'], lines)})"
            for item in error.errors()
        ]
        raise ProfileError(
            f"{origin} is not a valid profile:\n  " + "\n  ".join(problems), hint="docs/profile.md lists every key"
        ) from error


def _plain_json(text: str) -> Any:
    """What a resolved profile says, which is JSON and may have 100,000 withdrawals; None for anything else."""
    if not text.startswith("{"):
        return None
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key is given twice")  # YAML's reader says which, and where
    return found


def _line_of(location: tuple[str | int, ...], lines: dict[strict_yaml.Path, int]) -> int:
    """The line of the value at `location`, else of what it would be in; parts that name a kind are in no path."""
    path: strict_yaml.Path = ()
    for part in location:
        if (*path, part) in lines:
            path = (*path, part)
    return lines.get(path, 1)


def load_profile(path: Path, *, base: str | None = None) -> Profile:
    """Read and validate the profile at `path`; `base` takes the place of its `base.model`.

    Raises:
        ProfileError: see `parse_profile`; also when the file cannot be read.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ProfileError(f"cannot read profile {path}: {error}") from error
    return parse_profile(text, origin=str(path), base=base)

"""The part of the profile that says whose text there is, what may be trained on, and who has taken text back."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sovereign.licences import CUSTOM, check_licence, licence_id
from sovereign.owners import OwnerName, UnicodeText
from sovereign.section import AbsolutePath, Section, refuse_repeats
from sovereign.urls import parse_target

AGENTS = (
    "sovereign", "GPTBot", "CCBot", "Google-Extended", "ClaudeBot", "anthropic-ai", "Applebot-Extended", "Amazonbot",
    "Bytespider", "meta-externalagent", "FacebookBot", "AI2Bot", "cohere-ai", "cohere-training-data-crawler", "Diffbot",
    "omgili", "PanguBot", "Timpibot", "img2dataset",
)  # fmt: skip
"""Names in robots.txt of the kit itself and of those who collect text to train models."""
_ED25519_PREFIXES = (bytes.fromhex("302a300506032b6570032100"), b"\0\0\0\x0bssh-ed25519\0\0\0 ")
"""What comes before the 32 bytes of an Ed25519 key in a PEM's SubjectPublicKeyInfo (RFC 8410) and in OpenSSH's line."""


class Owner(Section):
    """Who owns text, and what was agreed with them. All but `contact` goes into the dataset's manifest."""

    name: OwnerName
    """The owner, spelled as on the documents, but for spaces and Unicode's forms."""
    kind: Literal["person", "institution"] | None = None
    """A person or an institution."""
    contact: str | None = None
    """Who answers for the text; stays in the profile."""
    public_key: str | None = None
    """Ed25519 public key by which the owner's word can be checked: 64 hexadecimal digits, PEM, or OpenSSH's
    `ssh-ed25519 …`."""
    consent: str | None = None
    """On what the use rests: a licence, a contract, a law, with its date."""
    terms: str | None = None
    """Terms beyond the licence, or where they stand."""
    withdrawal: str | None = None
    """How the owner takes text back: whom to write to, and what happens then."""

    @field_validator("public_key")
    @classmethod
    def _is_ed25519(cls, key: str | None) -> str | None:
        if key is None or re.fullmatch(r"[0-9a-f]{64}", key):
            return key
        body = re.sub(r"-----[A-Z ]+-----|^ssh-ed25519 ", "", key.strip())
        encoded = body.split(" ")[0] if key.startswith("ssh-") else "".join(body.split())
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if not any(data.startswith(prefix) and len(data) == len(prefix) + 32 for prefix in _ED25519_PREFIXES):
            raise ValueError("must be an Ed25519 public key: 64 hexadecimal digits, PEM, or ssh-ed25519 …")
        return key


class CustomLicence(Section):
    """Terms that SPDX does not list, as `LicenseRef-…`."""

    id: Annotated[str, Field(pattern=f"^{CUSTOM}$")]
    """The name by which sources and documents refer to them."""
    text: str | None = None
    """The terms."""
    url: str | None = None
    """Where the terms stand."""

    @model_validator(mode="after")
    def _terms_are_told(self) -> Self:
        if self.text is None and self.url is None:
            raise ValueError("needs the terms as `text`, or `url`, where they stand")
        return self


class OptOuts(Section):
    """Opt-outs that machines can read: robots.txt, ai.txt, TDMRep, `noai`."""

    agents: tuple[str, ...] = AGENTS
    """A page that robots.txt or ai.txt of its host forbids to one of these is not taken."""
    retroactive: bool = True
    """Whether the newest copy of a host's file counts too, against pages that an older one allowed."""
    collected: AbsolutePath | None = None
    """Absolute path of a folder with collected files: `HOST/robots.txt`, `HOST/ai.txt`,
    `HOST/.well-known/tdmrep.json`, the same below a folder named by a date (`2026-05-01/HOST/…`), or WARC files. Those
    inside a source's own WARC files are found without it."""
    file: AbsolutePath | None = None
    """Absolute path of JSON lines with later opt-outs and withdrawals, each as in `corpus.rights.withdrawn`."""


class Withdrawal(Section):
    """Text that was taken back: exactly one of `owner`, `document` and `url`."""

    date: str
    """When that was declared, YYYY-MM-DD. It holds for text of any date."""
    owner: OwnerName | None = None
    """All text of this owner."""
    document: UnicodeText | None = None
    """The document with this `doc_id`."""
    url: UnicodeText | None = None
    """All text of this host and those below it (`example.org`), or whose address begins so
    (`https://example.org/news/`)."""
    reason: UnicodeText | None = None
    """Why, for people."""
    readmitted: bool = False
    """Whether the owner agrees again: an earlier entry for the same owner, document or address no longer holds."""

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if sum(value is not None for value in (self.owner, self.document, self.url)) != 1:
            raise ValueError("needs exactly one of owner, document and url")
        date.fromisoformat(self.date)
        if self.url is not None and parse_target(self.url) is None:
            raise ValueError("url must be a host, such as example.org, or begin with https:// and a host")
        return self


class Rights(Section):
    """What may be trained on."""

    trainable: tuple[str, ...] | None = None
    """Licences that may be trained on, by SPDX identifier (`CC-BY-4.0`), with an exception or not, or `LicenseRef-…`.
    Of an expression with AND all must be among them, with OR one. Absent: any licence."""
    registered_owners_only: bool = False
    """Whether text may be trained on only when all its owners are in `corpus.owners`."""
    on_other: Literal["refuse", "exclude"] = "refuse"
    """What `curate` does where a document may not be trained on: stop and name the documents, or set them aside."""
    licences: tuple[CustomLicence, ...] = ()
    """Custom terms that sources and documents name."""
    opt_outs: OptOuts = OptOuts()
    """Opt-outs that machines can read."""
    withdrawn: tuple[Withdrawal, ...] = ()
    """Text that was taken back; `sovereign lake withdraw` adds to these in the site's own file."""

    @property
    def declared(self) -> frozenset[str]:
        """Identifiers of the custom terms."""
        return frozenset(licence.id for licence in self.licences)

    @property
    def allowed(self) -> frozenset[str] | None:
        """`trainable` as SPDX spells it; None when any licence is."""
        return None if self.trainable is None else frozenset(licence_id(one) for one in self.trainable)

    @model_validator(mode="after")
    def _licences_are_known(self) -> Self:
        refuse_repeats("custom licences", (licence.id for licence in self.licences))
        for licence in self.trainable or ():
            check_licence(licence_id(licence), self.declared)
        return self

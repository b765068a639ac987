"""What robots.txt says: which pages may be fetched, and which may be trained on. Groups and paths are protego's.

Of training two kinds of lines speak, of which neither is a standard yet: `Content-Usage: /path train-ai=n`
(https://www.ietf.org/archive/id/draft-ietf-aipref-attach-05.html) and `Content-Signal: ai-train=no`
(https://contentsignals.org/).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from protego import Protego

_AGENT = re.compile(r"(\s*user[- ]?agent(?:\s*:|\s)\s*)([^\s/,;()#]+)[^#]*", re.IGNORECASE)
_PREFERENCE = re.compile(r"\s*content-(?:usage|signal)\s*:\s*(?:(/\S*)\s)?([^#]*)", re.IGNORECASE)
_OF_NO_GROUP = re.compile(r"\s*(?:#|$|site-?maps?\b|host\b)", re.IGNORECASE)
_OTHER = "other: rule"
"""Ends the list of a group's agents and says nothing."""
_TRAINING = ("train-ai", "ai-train", "train-genai")
"""Labels of the draft, of Cloudflare's signals, and of former drafts."""
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32 before UTF-16: one begins like the other."""
_ANSWERS = {"n": False, "no": False, "y": True, "yes": True}


class Robots(NamedTuple):
    """The rules of a file."""

    fetching: Protego
    training: Protego | None
    """None where nothing is said of it."""


def read_robots(text: str) -> Robots:
    """The rules; an agent is known by its product token, whatever version follows (RFC 9309, section 2.2.1)."""
    from protego import Protego

    lines = [_AGENT.sub(r"\1\2", line, count=1) if _AGENT.match(line) else line for line in text.splitlines()]
    says_more = any(map(_PREFERENCE.match, lines))
    training = Protego.parse("\n".join(_training_rules(lines))) if says_more else None
    return Robots(Protego.parse("\n".join(lines)), training)


def host_text(content: bytes) -> str:
    """A host's file as text: UTF-8 as its format wants it, or UTF-16 or UTF-32, which editors write too."""
    for marks, encoding in _BOMS:
        if content.startswith(marks):
            return content.decode(encoding, "replace").removeprefix("\ufeff")
    if b"\0" not in content[:4]:
        return content.decode("utf-8-sig", "replace")
    return content.decode(json.detect_encoding(content), "replace")  # by where the zeros of ASCII stand


def may_be_trained_on(preferences: str) -> bool | None:
    """What a list such as `train-ai=n, search=y` says of training; None where it says nothing."""
    said = set()
    for part in preferences.split(","):
        label, _, value = part.partition(";")[0].partition("=")
        if label.strip().lower() in _TRAINING:
            said.add(_ANSWERS.get(value.strip().lower()))
    return False if False in said else True if True in said else None


def _training_rules(lines: list[str]) -> Iterator[str]:
    """Rules that forbid what may not be trained on; what comes before any group holds for all agents without one."""
    yield from ("User-agent: *", _OTHER)
    for line in lines:
        if _AGENT.match(line):
            yield line
        elif found := _PREFERENCE.match(line):
            path, answer = found[1] or "/", may_be_trained_on(found[2])
            if answer is None:
                yield _OTHER
            elif answer:
                yield f"Allow: {path}"
            else:  # longer by one, so that no wins against yes for the same path
                yield f"Disallow: {path}" + ("" if path.endswith("$") else "*")
        elif not _OF_NO_GROUP.match(line):
            yield _OTHER

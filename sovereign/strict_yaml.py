"""YAML as people write it, read strictly: profiles, overlays, task files, kubeconfigs.

Plain scalars mean what the core schema of YAML 1.2 says: only `true` and `false` are booleans, so `no` is Norwegian and
`on` a text; `1:20` and `2026-01-02` are texts. Refused, each with its line, is what readers of YAML disagree on or what
no one means: a key that is given twice, a number with a leading zero (octal to kubectl, decimal to YAML 1.2), a key
that is no text, tags, deep nesting, and aliases that expand to far more than the file.

libyaml makes the events; it is 14 times as fast as ruamel.yaml's safe loader, and templates are read by every command.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import yaml

MAX_DEPTH = 100
MAX_ALIASED_CHARS = 1_000_000
"""Aliases may add so much to what the text itself has."""

Path = tuple[str | int, ...]
"""Keys and indices from the document to a value in it."""

_Event: TypeAlias = Any
"""An event of PyYAML; its types lack half of the attributes."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_STRING_TAG = "tag:yaml.org,2002:str"
_MERGE = "<<"
_MAX_NUMBER_CHARS = 400


class YamlError(ValueError):
    """The text is not YAML, or YAML that is refused; the message has the line."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class _Node(NamedTuple):
    value: Any
    num_chars: int
    """Size of the value with its aliases expanded."""


def load(text: str | bytes, *, tags: Collection[str] = (), lines: dict[Path, int] | None = None) -> Any:
    """The one document in `text`; None where there is none.

    Args:
        text: the text; bytes are UTF-8 or UTF-16 with a mark.
        tags: tags of scalars that are allowed; these become texts.
        lines: filled with the line, from 1 on, of every value by its path.

    Raises:
        YamlError: see the module; also when there are several documents.
    """
    reader = _Reader(text, tags, {} if lines is None else lines)
    documents = list(reader.documents(1))
    return documents[0] if documents else None


def load_all(text: str | bytes) -> Iterator[Any]:
    """The documents in `text`.

    Raises:
        YamlError: see the module.
    """
    return _Reader(text, (), {}).documents(None)


@dataclass
class _Reader:
    text: str | bytes
    tags: Collection[str]
    lines: dict[Path, int]
    anchors: dict[str, _Node] = field(default_factory=dict)
    num_aliased: int = 0

    def documents(self, limit: int | None) -> Iterator[Any]:
        try:
            self._events = yaml.parse(self.text, Loader=_Loader)
            count = 0
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    count += 1
                    if limit is not None and count > limit:
                        raise YamlError("a second document begins", _line(event))
                    self.anchors.clear()
                    yield self._node(next(self._events), ()).value
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise YamlError(error.problem or str(error), mark.line + 1 if mark else None) from None
        except (yaml.YAMLError, UnicodeError) as error:
            raise YamlError(" ".join(str(error).split())) from None

    def _node(self, event: _Event, path: Path) -> _Node:
        if len(path) > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} levels deep", _line(event))
        self.lines[path] = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event), len(event.value) + 1)
        else:
            self._refuse_tag(event)
            read = self._mapping if isinstance(event, yaml.MappingStartEvent) else self._sequence
            node = read(path)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _aliased(self, event: _Event) -> _Node:
        if (node := self.anchors.get(event.anchor)) is None:
            raise YamlError(f"no anchor &{event.anchor} before *{event.anchor}", _line(event))
        self.num_aliased += node.num_chars
        if self.num_aliased > MAX_ALIASED_CHARS:
            raise YamlError(f"aliases expand to more than {MAX_ALIASED_CHARS:,} characters", _line(event))
        return _Node(copy.deepcopy(node.value), node.num_chars)

    def _sequence(self, path: Path) -> _Node:
        items: list[Any] = []
        num_chars = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._node(event, (*path, len(items)))
            items.append(item.value)
            num_chars += item.num_chars
        return _Node(items, num_chars)

    def _mapping(self, path: Path) -> _Node:
        own: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        num_chars = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in first_lines:
                raise YamlError(f"the key {key!r:.80} is given twice, first in line {first_lines[key]}", _line(event))
            first_lines[key] = _line(event)
            node = self._node(next(self._events), (*path, key))
            num_chars += len(key) + node.num_chars
            if key == _MERGE and _is_plain(event):
                merged = _merged(node.value, _line(event))
            else:
                own[key] = node.value
        return _Node(merged | own, num_chars)

    def _key(self, event: _Event) -> str:
        key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
        if not isinstance(key, str):
            found = f"{event.value!r:.80}: quote it" if isinstance(event, yaml.ScalarEvent) else "something else"
            raise YamlError(f"a key must be text, got {found}", _line(event))
        if event.anchor:
            self.anchors[event.anchor] = _Node(key, len(key) + 1)
        return key

    def _scalar(self, event: _Event) -> Any:
        if not _is_plain(event):
            if event.tag not in (_STRING_TAG, "!", None):
                self._refuse_tag(event)
            return event.value
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _LEADING_ZERO.fullmatch(text):
            digits = text.lstrip("+-0_") or "0"
            raise YamlError(
                f"{text:.80} is octal to some programs and decimal to others: write {digits:.80}, 0o{digits:.80}, "
                f'or "{text:.80}" for a text',
                _line(event),
            )
        if len(text) > _MAX_NUMBER_CHARS:
            return text
        is_integer = _INTEGER.fullmatch(text)
        if is_integer or _FLOAT.fullmatch(text):
            number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if is_integer else float(text)
            if abs(number) > sys.float_info.max:
                raise YamlError(f"the number {text:.80} is too large: quote it for a text", _line(event))
            return number
        return float(text.lower().replace(".", "", 1)) if _SPECIAL_FLOAT.fullmatch(text) else text

    def _refuse_tag(self, event: _Event) -> None:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", *self.tags):
            raise YamlError(f"tags such as {tag!r:.80} are not read here", _line(event))


def _is_plain(event: _Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and not event.style and event.tag is None


def _merged(value: Any, line: int) -> dict[str, Any]:
    """What `<<` brings in; of several mappings the first counts."""
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(each, dict) for each in found):
        raise YamlError("<< needs a mapping, or a list of mappings", line)
    return {key: item for each in reversed(found) for key, item in each.items()}


def _line(event: _Event) -> int:
    return int(event.start_mark.line) + 1

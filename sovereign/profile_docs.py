"""The reference page of the profile, docs/profile.md, made from the fields and their texts.

python -m sovereign.profile_docs > docs/profile.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from sovereign.profile import Profile

_HEAD = """# The profile

<!-- Made by `python -m sovereign.profile_docs` from sovereign/profile*.py; a test holds the two equal. -->

One YAML file says what a site has and wants. Unknown keys are refused by name. It is read as YAML 1.2: only `true` and
`false` are booleans. A key that is given twice, or a number with a leading zero, is an error. The shipped profiles are
in [templates/profiles](../templates/profiles); `sovereign plan PROFILE` says what follows from one.
"""

_BOUNDS = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}


def render() -> str:
    """The page, Markdown: a table for each part, each field with its type, default and meaning."""
    schema = Profile.model_json_schema()
    parts = [_HEAD]
    for key, section in _sections("", schema, schema["$defs"]):
        title = f"`{key}`" if key else "Top level"
        rows = [_row(name, field, section.get("required", ())) for name, field in section["properties"].items()]
        table = ["| Key | Type | Default | Meaning |", "|---|---|---|---|", *rows]
        parts.append(f"## {title}\n\n{section['description']}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


def _sections(key: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part with the key under which it stands, outer ones first."""
    yield key, section
    for name, field in section["properties"].items():
        inner = f"{key}.{name}" if key else name
        references = [reference for option in _options(field) if (reference := _reference(option))]
        for reference in references:
            definition = definitions[reference]
            kind = f", kind: {definition['properties']['kind']['const']}" if len(references) > 1 else ""
            yield from _sections(inner + ("[]" if field.get("type") == "array" else "") + kind, definition, definitions)


def _options(field: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a field, null left out; the entries' of a list."""
    options: list[dict[str, Any]] = field.get("anyOf") or field.get("oneOf") or [field.get("items", field)]
    return [option for option in options if option.get("type") != "null"]


def _reference(option: dict[str, Any]) -> str | None:
    return option["$ref"].rpartition("/")[2] if "$ref" in option else None


def _row(name: str, field: dict[str, Any], required: list[str]) -> str:
    options = _options(field)
    kind = " or ".join(dict.fromkeys(_type(option) for option in options))
    if field.get("type") == "array":
        kind = f"list, {kind}"
    default = "required" if name in required else _default(field.get("default"), options)
    return f"| `{name}` | {kind} | {default} | {field.get('description', '')} |".replace("\n", " ")


def _type(option: dict[str, Any]) -> str:
    """The type of a value, with its bounds; a part's is a link to its table."""
    if _reference(option):
        return "see below"
    if "const" in option:
        return f"`{option['const']}`"
    if "enum" in option:
        return " or ".join(f"`{value}`" for value in option["enum"])
    if "patternProperties" in option:
        inner = next(iter(option["patternProperties"].values()))
        return f"by key: {'keys of this table' if _reference(inner) else _type(inner)}"
    if option["type"] == "array":
        return f"list, {_type(option['items'])}"
    kind: str = option["type"]
    if "pattern" in option:
        return f"{kind} like `{option['pattern']}`".replace("|", "\\|")
    bounds = [sign + _number(option[bound]) for bound, sign in _BOUNDS.items() if bound in option]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}".replace("e+0", "e").replace("e+", "e")


def _default(value: Any, options: list[dict[str, Any]]) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, dict) and any(_reference(option) for option in options):
        return "see below"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    sys.stdout.write(render())

"""Checks the documents: relative links lead somewhere, and every `make` and `sovereign` command in them exists.

    python tools/check_docs.py      prints one line for each mistake and exits with 1 when there are any

Commands are looked for in code only (fenced blocks and `inline`), so that prose may say what it likes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the checkout's command line, not the one of an older runtime

from sovereign.cli.app import app  # noqa: E402

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`|^ {4}[^\n]*$", re.DOTALL | re.MULTILINE)
MAKE = re.compile(r"\bmake ([a-z]+)\b(?!/)")
SOVEREIGN = re.compile(r"(?<![\w./-])sovereign ((?:[a-z]+ ?)+)")
TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)


def documents() -> list[Path]:
    """Every Markdown file of the checkout, hidden folders left out."""
    return sorted(
        path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    )


def anchors(text: str) -> set[str]:
    """The fragments that a Markdown file's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(document: Path, text: str) -> list[str]:
    """Relative links of `document` whose file or heading is not there."""
    found = []
    for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = document if not name else document.parent / name
        if not path.exists() or (fragment and path.suffix == ".md" and fragment not in anchors(path.read_text())):
            found.append(f"link {target} leads nowhere")
    return found


def unknown_commands(text: str, targets: set[str], commands: set[str]) -> list[str]:
    """Commands in the code of `text` that neither the Makefile nor the command line has."""
    code = "\n".join(CODE.findall(text))
    found = [f"make {name}: no such target" for name in MAKE.findall(code) if name not in targets]
    for words in SOVEREIGN.findall(code):
        first, *rest = words.split()
        is_group = any(command.startswith(f"{first} ") for command in commands)
        name = f"{first} {rest[0]}" if is_group and rest else first
        if name not in commands:
            found.append(f"sovereign {name}: no such command")
    return found


def command_names() -> set[str]:
    """Every command of the command line, with its group in front."""
    names: set[str] = set()
    for name, command in typer.main.get_group(app).commands.items():
        names.add(name)
        names.update(f"{name} {inner}" for inner in getattr(command, "commands", {}))
    return names


def main() -> int:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    commands = command_names()
    mistakes = [
        f"{document.relative_to(ROOT)}: {mistake}"
        for document in documents()
        for text in [document.read_text()]
        for mistake in (*broken_links(document, text), *unknown_commands(text, targets, commands))
    ]
    print("\n".join(mistakes) if mistakes else f"{len(documents())} documents: links and commands are right")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())

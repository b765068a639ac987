"""Make sovereign/lake/wiki.json: what MediaWiki calls files, categories, redirects and switches in each language.

Run: apt-get download mediawiki && dpkg-deb -x mediawiki_*.deb FOLDER && python tools/wiki_tables.py FOLDER

Only names are taken from MediaWiki's message files, which are under GPL-2.0-or-later: the words that pages must use to
be understood by it. No message or code is.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_QUOTED = r"'((?:[^'\\]|\\.)*)'"
_NAMESPACE = re.compile(rf"NS_(?:FILE|CATEGORY)\s*=>\s*{_QUOTED}|{_QUOTED}\s*=>\s*NS_(?:FILE|CATEGORY)\b")
_WORD = re.compile(r"^\s*'(\w+)'\s*=>\s*\[\s*'?[01]'?\s*,(.*?)\]", re.MULTILINE | re.DOTALL)
_STRING = re.compile(_QUOTED)


def main(folder: Path) -> None:
    """Write the table."""
    namespaces: dict[str, list[str]] = {}
    fallbacks: dict[str, list[str]] = {}
    switches: dict[str, None] = {}
    redirects: dict[str, None] = {}
    for path in sorted(folder.rglob("languages/messages/Messages*.php")):
        text, tag = path.read_text("utf-8"), _tag(path.stem)
        if fallback := re.search(r"^\$fallback = '([\w, -]+)'", text, re.MULTILINE):
            fallbacks[tag] = [name.strip() for name in fallback[1].split(",")]
        names: set[str] = set()
        for found in _NAMESPACE.finditer(text):
            name = found[1] or found[2]
            names.add(_unescape(name).replace("_", " ").casefold())
        if names:
            namespaces[tag] = sorted(names)
        for key, values in _WORD.findall(text):
            words = [_unescape(value) for value in _STRING.findall(values)]
            if key == "redirect":
                redirects.update(dict.fromkeys(word.casefold() for word in words))
            switches.update(dict.fromkeys(word for word in words if re.fullmatch(r"__.+__", word)))
    interwiki = sorted({_tag(path.stem) for path in folder.rglob("languages/messages/Messages*.php")} | _MORE)
    result = {
        "prefixes": {tag: _with_fallbacks(tag, namespaces, fallbacks) for tag in sorted({*namespaces, *fallbacks})},
        "switches": sorted(word.casefold() for word in {*switches, *_EXTENSIONS}),
        "redirects": sorted(redirects),
        "languages": interwiki,
    }
    path = ROOT / "sovereign/lake/wiki.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=0) + "\n", "utf-8")
    print(f"{path}: " + ", ".join(f"{len(values)} {name}" for name, values in result.items()))


_MORE = {"ceb", "simple", "zh-min-nan", "zh-yue", "zh-classical", "be-x-old", "bat-smg", "fiu-vro", "roa-rup", "nb"}
"""Prefixes of links to other wikis that are no languages of MediaWiki's messages."""


_EXTENSIONS = {"__DISAMBIG__", "__ARCHIVEDTALK__", "__NOTALK__", "__NOGLOBAL__", "__EXPECTED_UNCONNECTED_PAGE__"}
"""Switches that are not in MediaWiki itself."""


def _with_fallbacks(tag: str, namespaces: dict[str, list[str]], fallbacks: dict[str, list[str]]) -> list[str]:
    family = [name for name in namespaces if name.split("-")[0] == tag]  # zh has zh-hans and zh-hant
    return sorted({prefix for name in (tag, *fallbacks.get(tag, ()), *family) for prefix in namespaces.get(name, ())})


def _tag(stem: str) -> str:
    return stem.removeprefix("Messages").replace("_", "-").lower()


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

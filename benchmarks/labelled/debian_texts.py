"""Texts in many languages out of Debian packages: translated messages and manuals, each under its package's licence.

Download the packages into a folder first, then everything here works offline:

    mkdir debs && cd debs && apt-get download $(python3 -m benchmarks.labelled.debian_texts)

The texts are read from the packages and never copied into this repository. `TRAINING` and `LABELLED` share no
package, so that what is counted in one is measured on the other.
"""

from __future__ import annotations

import gettext
import io
import random
import re
import subprocess
import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TRAINING = (
    "vlc-l10n", "libgtk-3-common", "libgtk2.0-common", "gimp-data", "aptitude-common", "apt", "evolution-common",
    "nautilus-data", "epiphany-browser-data", "gnome-user-docs",
)  # fmt: skip
"""GPL-2.0-or-later, LGPL-2.0-or-later, GPL-3.0-or-later; gnome-user-docs CC-BY-SA-3.0."""
LABELLED = ("wesnoth-1.16-data", "widelands-data", "freeciv-data", "warzone2100-data", "tuxpaint-data", "debconf-i18n")
"""GPL-2.0-or-later; debconf BSD-2-Clause. Stories, help and dialogues, not only labels of buttons."""

_MESSAGES = re.compile(r"/(?:locale|translations)/([^/]+)/(?:LC_MESSAGES/)?[^/]+\.mo$")
_HELP = re.compile(r"/help/([^/]+)/.*\.page$")
_TAGS = re.compile(r"<[^<>]*>|&[a-z]+;")
_DIRECTIVES = re.compile(r"%[-+ #0-9.$]*[a-zA-Z]|\$\w+|\{[^{}]*\}|\\.")
_ALIASES = {"nb": "no", "pt_BR": "pt", "zh_CN": "zh", "zh_TW": "zh", "zh_HK": "zh", "be@tarask": "be"}
_NO_TEXT = ("Co", "Cn", "Cc")
_TYPEWRITER = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "…": "..."})


def read_packages(folder: Path, packages: tuple[str, ...]) -> dict[str, list[str]]:
    """Sentences by language, each once, in the order of the packages' files."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for package in packages:
        for archive in sorted(folder.glob(f"{package}_*.deb")):
            for language, sentences in _read_package(archive):
                found[language].update(dict.fromkeys(sentences))
    return {language: list(sentences) for language, sentences in sorted(found.items())}


def _read_package(archive: Path) -> Iterator[tuple[str, list[str]]]:
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if found := _MESSAGES.search(member.name):
                file = tar.extractfile(member)
                yield _language(found[1]), _messages(file.read()) if file else []
            elif found := _HELP.search(member.name):
                file = tar.extractfile(member)
                yield _language(found[1]), _clean(file.read().decode().splitlines()) if file else []


def _language(folder: str) -> str:
    name = folder.split(".")[0]
    if "@" in name and name not in _ALIASES:  # another script or spelling of the same language
        return name
    return _ALIASES.get(name, name.split("_")[0])


def _messages(data: bytes) -> list[str]:
    try:
        catalog = gettext.GNUTranslations(io.BytesIO(data))._catalog  # type: ignore[attr-defined]
    except (OSError, UnicodeError, ValueError, LookupError):
        return []
    return _clean(text for key, text in catalog.items() if key and text != key)


def _clean(lines: object) -> list[str]:
    """Sentences without markup and format directives, in NFC."""
    kept = []
    for line in lines:  # type: ignore[attr-defined]
        text = _DIRECTIVES.sub("", _TAGS.sub(" ", line)).replace("_", "").replace("&", "")
        text = unicodedata.normalize("NFC", " ".join(text.split())).replace("\ufffd", "\0")
        if len(text) >= 12 and not any(unicodedata.category(char) in _NO_TEXT for char in text):
            kept.append(text)
    return kept


def as_typed(text: str, encoding: str) -> bytes | None:
    """The text in `encoding`, with the signs of a typewriter if need be; None if it lacks a letter."""
    for version in (text, text.translate(_TYPEWRITER)):
        try:
            if version.encode(encoding).decode(encoding) == version:
                return version.encode(encoding)
        except UnicodeError:
            continue
    return None


def samples(sentences: list[str], lengths: tuple[int, ...], number: int, seed: int) -> Iterator[str]:
    """`number` texts of each length: so many sentences."""
    random.seed(seed)
    usable = [text for text in sentences if not text.isascii()] or sentences
    for length in lengths:
        for _ in range(number if len(usable) >= length else 0):
            yield "\n".join(random.sample(usable, length))


if __name__ == "__main__":
    print(*TRAINING, *LABELLED)

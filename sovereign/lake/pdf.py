"""The text of PDF files, by PDFium in a process of its own with bounds of memory and time.

A file of a few kilobytes can say more than a machine has memory for, or keep a parser busy for ever. The process serves
one file after the other, and another one takes its place where a file ended it.
"""

from __future__ import annotations

import atexit
import json
import math
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import IO, Any

from sovereign.errors import SourceError
from sovereign.lake import records
from sovereign.lake.htmltree import count_words
from sovereign.lake.records import Unreadable

MAX_MEMORY_BYTES = 2**30
"""RLIMIT_DATA of the process."""
MAX_SECONDS = 300
"""Of a processor, for one file."""
_TOO_MUCH_MEMORY = "PDF that takes too much memory"
_PROGRESS_SECONDS = 2.0
_SIZE = struct.Struct(">Q")
_process: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class PdfText:
    """The text of a PDF file, and what it lacks."""

    text: str
    num_pages: int
    pages_without_letters: int
    """Left out, since their fonts do not say which letters they show."""
    num_words: int
    words_left_out: int
    """Of running heads and page numbers."""


def pdf_text(data: bytes, progress: Callable[[int, int], None] | None = None) -> PdfText:
    """The text of a PDF file.

    Args: `progress` is called from time to time with the number of pages that were read, and of all.

    Raises:
        Unreadable: it is damaged, needs a password, has too much text, takes too much memory or time, or has pictures
            of pages only.
        SourceError: somebody ended the process that reads it.
    """
    process = _started()
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(_SIZE.pack(len(data)))
        process.stdin.write(data)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # its end is told below
    while True:
        answer = _read_message(process.stdout)
        if answer is None:
            process.wait()
            code = process.returncode
            _end()
            raise _death(code)
        found: dict[str, Any] = json.loads(answer)
        if "text" in found:
            return PdfText(**found)
        if "reason" in found:
            if found["reason"] == _TOO_MUCH_MEMORY:
                _end()  # what is left of its memory may be in pieces
            raise Unreadable(found["reason"])
        if progress is not None:
            progress(found["page"], found["num_pages"])


def _started() -> subprocess.Popen[bytes]:
    global _process
    limits = (records.MAX_DOCUMENT_BYTES, MAX_MEMORY_BYTES, MAX_SECONDS)
    command = [sys.executable, "-P", "-m", "sovereign.lake.pdf", *map(str, limits)]
    if _process is None or _process.poll() is not None or _process.args != command:
        _end()
        _process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return _process


@atexit.register
def _end() -> None:
    """Close the process, if there is one."""
    global _process
    if _process is not None:
        _process.kill()
        _process.communicate()
        _process = None


def _death(code: int) -> Exception:
    """What the end of the process says of the file that it had."""
    if code == -signal.SIGXCPU:
        return Unreadable("PDF that takes too long")
    if code in (-signal.SIGABRT, -signal.SIGTRAP, -signal.SIGILL):  # how PDFium's allocators end a process
        return Unreadable(_TOO_MUCH_MEMORY)
    if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        return SourceError(
            f"the process that reads PDF files was ended by {signal.Signals(-code).name}",
            hint="run the stage again; it goes on where it stopped. Is there 1 GiB of memory for it?",
        )
    return Unreadable("PDF that ends its reader")


def _read_message(stream: IO[bytes]) -> bytes | None:
    """The next message; None when the other side has ended."""
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        return None
    (size,) = _SIZE.unpack(head)
    data = stream.read(size)
    return data if len(data) == size else None


# --- the process ---------------------------------------------------------------------------------------------------


def _serve(max_document_bytes: int, max_memory_bytes: int, max_seconds: int) -> None:
    """Answer each file on standard input, until it ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = max_memory_bytes if hard == resource.RLIM_INFINITY else min(max_memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (data := _read_message(sys.stdin.buffer)) is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(used.ru_utime + used.ru_stime) + max_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
        try:
            _answer(asdict(_read(data, max_document_bytes)))
        except Unreadable as error:
            _answer({"reason": error.message})
        except MemoryError:
            _answer({"reason": _TOO_MUCH_MEMORY})


def _answer(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(_SIZE.pack(len(data)) + data)
    sys.stdout.buffer.flush()


def _read(data: bytes, max_bytes: int) -> PdfText:
    from sovereign.lake.pdfpages import read_pages
    from sovereign.lake.pdftext import extract

    pages, size, told = [], 0, time.monotonic()
    for number, num_pages, lines in read_pages(data):
        pages.append(lines)
        size += sum(len(line.text) for line in lines)
        if size > max_bytes:
            raise Unreadable("document too large")
        if time.monotonic() - told >= _PROGRESS_SECONDS:
            _answer({"page": number, "num_pages": num_pages})
            told = time.monotonic()
    found = extract(pages)
    if not found.text:
        raise Unreadable(
            "PDF whose fonts do not say their letters" if found.pages_without_letters else "PDF without text"
        )
    return PdfText(found.text, len(pages), found.pages_without_letters, count_words(found.text), found.words_left_out)


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))

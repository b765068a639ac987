"""The text of PDF files: by pypdf, in a process of its own with bounds of memory and time.

A file of a few kilobytes can say more than a machine has memory for, or keep a parser busy for ever. The process serves
one file after the other, and another one takes its place where a file ended it.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import math
import resource
import signal
import struct
import subprocess
import sys
from typing import IO

from sovereign.errors import SourceError
from sovereign.lake import records
from sovereign.lake.records import Unreadable

MAX_MEMORY_BYTES = 2**30
"""RLIMIT_DATA of the process."""
MAX_SECONDS = 300
"""Of a processor, for one file."""
_TOO_MUCH_MEMORY = "PDF that takes too much memory"
_SIZE = struct.Struct(">Q")
_process: subprocess.Popen[bytes] | None = None


def pdf_text(data: bytes) -> str:
    """The text of a PDF file, page after page.

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
    answer = _read_message(process.stdout)
    if answer is None:
        _end()
        raise _death(process.returncode)
    found: dict[str, str] = json.loads(answer)
    if "text" in found:
        return found["text"]
    if found["reason"] == _TOO_MUCH_MEMORY:
        _end()  # what is left of its memory may be in pieces
    raise Unreadable(found["reason"])


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
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it warns of is counted with its reason
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = max_memory_bytes if hard == resource.RLIM_INFINITY else min(max_memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answers = sys.stdout.buffer
    while (data := _read_message(sys.stdin.buffer)) is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(used.ru_utime + used.ru_stime) + max_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
        try:
            answer = json.dumps({"text": _read(data, max_document_bytes)}).encode()
        except Unreadable as error:
            answer = json.dumps({"reason": error.message}).encode()
        except MemoryError:
            answer = json.dumps({"reason": _TOO_MUCH_MEMORY}).encode()
        answers.write(_SIZE.pack(len(answer)) + answer)
        answers.flush()


def _read(data: bytes, max_bytes: int) -> str:
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError, WrongPasswordError

    pages: list[str] = []
    size = 0
    try:
        for page in PdfReader(io.BytesIO(data)).pages:
            pages.append(page.extract_text())
            size += len(pages[-1])
            if size > max_bytes:
                raise Unreadable("document too large")
    except (Unreadable, MemoryError):
        raise
    except (FileNotDecryptedError, WrongPasswordError) as error:
        raise Unreadable("PDF with a password") from error
    except Exception as error:  # a damaged file ends anywhere in the parser, with any error
        raise Unreadable("damaged or not PDF") from error
    text = "\n\n".join(page for page in pages if page.strip())
    if not text:
        raise Unreadable("PDF without text")
    return text


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))

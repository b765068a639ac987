"""Files opened for reading, plain or compressed (.gz, .bz2, .xz, .zst), with the expansion of bombs bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import zstandard

from sovereign.lake.records import Unreadable

FREE_BYTES = 64 * 2**20
"""So much may come of a file, however small it is."""
MAX_RATIO = 200
"""What comes beyond `FREE_BYTES` may be so many times the compressed bytes read; text reaches some 20."""
_BLOCK_BYTES = 2**18
_DICTIONARY_FRAME, _ZSTD_MAGIC = b"\x5d\x2a\x4d\x18", b"\x28\xb5\x2f\xfd"
_MAX_DICTIONARY_BYTES = 100 * 2**20
"""As much as such files may have."""
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowException, zstandard.ZstdError)


def expands_too_far(num_bytes: int, num_packed: int) -> bool:
    """Whether so many bytes are more than a text could be that is packed into `num_packed`."""
    return num_bytes > FREE_BYTES and num_bytes > MAX_RATIO * num_packed


class _Expanded(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _Zstandard:
    """Zstandard through pyarrow, which takes frame after frame as the format wants it."""

    def __init__(self, raw: io.BufferedReader) -> None:
        dictionary = _read_dictionary(raw)
        self._stream: Any
        if dictionary is None:
            head = raw.peek(5)[:5]
            if head.startswith(_ZSTD_MAGIC) and head[-1] & 3:  # the size of a dictionary's number
                raise Unreadable("zstd with a dictionary that the file does not hold")
            self._stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
        else:
            # pyarrow takes no dictionaries
            expander = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
            self._stream = expander.stream_reader(raw, read_across_frames=True)

    def read1(self, size: int, /) -> bytes:
        data: bytes = self._stream.read(min(size, 2**14))  # at a damage, what this call had read is lost
        return data


def _read_dictionary(raw: io.BufferedReader) -> bytes | None:
    """The dictionary in the first frame, as .warc.zst files have it; None where there is none.

    https://iipc.github.io/warc-specifications/specifications/warc-zstd/: a frame that is skipped by other readers,
    with the dictionary as it is or compressed.
    """
    if raw.peek(4)[:4] != _DICTIONARY_FRAME:
        return None
    size = int.from_bytes(raw.read(8)[4:], "little")
    data = raw.read(min(size, _MAX_DICTIONARY_BYTES + 1))
    if len(data) < size:
        raise Unreadable("truncated or damaged zstd")
    if not data.startswith(_ZSTD_MAGIC):
        return data
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(data)
        dictionary: bytes = reader.read(_MAX_DICTIONARY_BYTES + 1)
    except zstandard.ZstdError as error:
        raise Unreadable("truncated or damaged zstd") from error
    if len(dictionary) > _MAX_DICTIONARY_BYTES:
        raise Unreadable("expands too far")
    return dictionary


_KINDS: dict[str, tuple[str, Callable[[Any], _Expanded]]] = {
    ".gz": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)),
    ".bz2": ("bzip2", bz2.BZ2File),
    ".xz": ("xz", lzma.LZMAFile),
    ".zst": ("zstd", _Zstandard),
}


class _Bounded(io.RawIOBase):
    """What comes of a compressed file, until that is damaged or more than a text could be."""

    def __init__(self, raw: io.BufferedReader, kind: str, expanded: _Expanded) -> None:
        self._raw, self._kind, self._expanded, self._count = raw, kind, expanded, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._expanded.read1(len(buffer))
        except _DAMAGE as error:
            raise Unreadable(f"truncated or damaged {self._kind}") from error
        except OSError as error:
            if error.errno is not None:  # the disk's error; bz2 raises one without a number for damage
                raise
            raise Unreadable(f"truncated or damaged {self._kind}") from error
        self._count += len(data)
        if expands_too_far(self._count, self._raw.tell()):
            raise Unreadable("expands too far")
        buffer[: len(data)] = data
        return len(data)


def split_compression(name: str) -> tuple[str, str]:
    """A file's name without the suffix of its compression, and that suffix or nothing."""
    suffix = next((suffix for suffix in _KINDS if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)], suffix


@contextmanager
def open_expanded(path: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open the file at `path`, expanded as the end of its `name` says.

    Reading raises Unreadable where the file is damaged, after all that came before the damage.

    Raises:
        Unreadable: a compressed file has no bytes.
    """
    _, suffix = split_compression(name)
    with path.open("rb", _BLOCK_BYTES) as raw:
        assert isinstance(raw, io.BufferedReader)
        if not suffix:
            yield raw
            return
        kind, expand = _KINDS[suffix]
        if not raw.peek(1):  # which gzip and zstd take for nothing, packed
            raise Unreadable(f"truncated or damaged {kind}")
        yield io.BufferedReader(_Bounded(raw, kind, expand(raw)), _BLOCK_BYTES)


def read_whole(path: Path, name: str, max_bytes: int) -> bytes:
    """All of a file that is one document.

    Raises:
        Unreadable: it is damaged or too large.
    """
    with open_expanded(path, name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Unreadable("document too large")
    return data

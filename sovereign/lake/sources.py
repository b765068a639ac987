"""Sources of real text, read one document at a time: which files they have, and which reader is for each kind.

A record can say more than its text: `id`, `language`, `owner`, `licence` (or `license`) and `collected_at` override the
profile's entry; `url` is where it was published. What cannot be read is counted with its reason and stops nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from sovereign.beneath import NotAFileError, OutsideError, open_beneath
from sovereign.errors import SourceError
from sovereign.files import sha256_file
from sovereign.lake import records, stdlib
from sovereign.lake.admission import Admission
from sovereign.lake.archives import read_warc
from sovereign.lake.database import rows_digest
from sovereign.lake.documents import Document
from sovereign.lake.hostfiles import is_warc, read_warc_files
from sovereign.lake.mojibake import repair
from sovereign.lake.notices import HostFile
from sovereign.lake.opening import split_compression
from sovereign.lake.optouts import to_utc
from sovereign.lake.places import Places
from sovereign.lake.records import Reader, Record, Report, SourceFile, Unreadable
from sovereign.lake.tables import read_csv, read_jsonl, read_parquet
from sovereign.lake.texts import read_html, read_pdf, read_text
from sovereign.lake.wiki_dumps import read_wiki
from sovereign.languages import canonical_tag
from sovereign.owners import owner_name
from sovereign.profile import POSTGRESQL, S3, STDLIB, Source
from sovereign.store import Store, StoredObject

READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".md": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".warc": read_warc,
    ".wet": read_warc,
    ".arc": read_warc,
    ".xml": read_wiki,
}
"""By the end of a file's name, before that of its compression."""
UNCOMPRESSED_READERS: dict[str, Reader] = {".parquet": read_parquet}
"""Of files that are read here and there, not from their start."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MONTH = re.compile(r"\d{4}(-(0[1-9]|1[0-2]))?", re.ASCII)


@dataclass(frozen=True)
class Piece:
    """A part of a source that is read as one: a file."""

    name: str
    """Path in the source, valid Unicode."""
    size_bytes: int
    digest: Callable[[], str]
    """Digest of the content; a new one means that it must be read again."""
    read: Callable[[Report], Iterator[Record]]
    host_files: Callable[[], Iterator[HostFile]] = lambda: iter(())
    """Files in which hosts speak of mining, such as robots.txt, of the web pages in it."""


def list_pieces(source: Source, store: Store, scratch: Path | None = None) -> Iterator[Piece]:
    """All of `source`, in the order of the paths.

    Args:
        source: the source.
        store: the site's store.
        scratch: folder for what is fetched; without one there are digests only.

    Raises:
        SourceError: the folder, file or prefix is not there or cannot be entered.
        StoreError: the store cannot be read.
    """
    if source.path == STDLIB:
        yield Piece(STDLIB, 0, _stdlib_digest, lambda _report: stdlib.read_records())
    elif source.path.startswith(POSTGRESQL):
        yield _query_piece(source, scratch)
    elif source.path.startswith(S3):
        yield from _list_objects(source, store, scratch)
    else:
        yield from _list_files(source)


def read_piece(
    source: Source, piece: Piece, report: Report, admission: Admission | None = None, scratch: Path | None = None
) -> Iterator[Document]:
    """Documents of `piece` that `admission` lets in; fills `report`.

    Args:
        scratch: folder for the ids that its records have; without one the system's for temporary files.

    Raises:
        OSError: there is no room in `scratch`.
    """
    with Places(scratch) as places:
        yield from _read_piece(source, piece, report, admission, places)


def _read_piece(
    source: Source, piece: Piece, report: Report, admission: Admission | None, places: Places
) -> Iterator[Document]:
    try:
        for where, record in piece.read(report):
            try:
                document = _to_document(source, where, record, places)
                text, num_repaired = repair(document.text, document.language)
                if admission and (reason := admission.reason(document, record)):
                    raise Unreadable(reason)
            except Unreadable as error:
                report.skip(where, error.message)
                continue
            report.found += 1
            report.documents += 1
            report.repaired += num_repaired > 0
            report.without_time += bool(record.get("collected_at")) and document.collected_at is None
            report.without_robots += admission is not None and admission.knows_no_robots(document)
            yield replace(document, text=text)
    except Unreadable as error:
        report.skip(piece.name, error.message)
    except OSError as error:
        report.skip(piece.name, error.strerror or type(error).__name__)


def source_digest(source: Source, store: Store) -> str:
    """Hex SHA-256 over the names and digests of the pieces of `source`.

    Raises:
        SovereignError: see `list_pieces`.
    """
    return combine_digests((piece.name, piece.digest()) for piece in list_pieces(source, store))


def combine_digests(digests: Iterator[tuple[str, str]]) -> str:
    """The digest of a source of which these are the pieces' names and digests."""
    total = hashlib.sha256()
    for name, digest in digests:
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def read_file(file: SourceFile, report: Report) -> Iterator[Record]:
    """Records of one file by the reader of its kind.

    Raises:
        Unreadable: see `Reader`; also when there is no reader.
    """
    name = file.name.lower()
    plain, _ = split_compression(name)
    reader = READERS.get(Path(plain).suffix) or UNCOMPRESSED_READERS.get(Path(name).suffix)
    if reader is None:
        raise Unreadable("7z, which is not read" if name.endswith(".7z") else "unknown kind of file")
    yield from reader(file, report)


def _stdlib_digest() -> str:
    return combine_digests((name, sha256_file(path)) for name, path in stdlib.list_files())


def _escape(name: str) -> str:
    """The name with `//%FF` for a byte that is not UTF-8 or an ASCII control character, and for `#`.

    A record's place begins with `#`. No path has two slashes in a row.
    """
    return re.sub("[#\0-\x1f\x7f\udc80-\udcff]", lambda byte: f"//%{ord(byte[0]) & 0xFF:02X}", name)


def _file_piece(source: Source, name: str, root: Path, file: str) -> Piece:
    """The file `file` of the folder `root`."""
    name = _escape(name)

    def digest() -> str:
        try:
            with _opened(root, file) as path:
                return sha256_file(path)
        except Unreadable as error:
            return error.message
        except OSError:
            return "unreadable"

    def read(report: Report) -> Iterator[Record]:
        with _opened(root, file) as path:
            yield from read_file(SourceFile(name, path, source), report)

    def host_files() -> Iterator[HostFile]:
        if is_warc(name):
            with suppress(Unreadable, OSError), _opened(root, file) as path:
                yield from read_warc_files(path, name)

    return Piece(name, _size_bytes(root, file), digest, read, host_files)


def _size_bytes(root: Path, file: str) -> int:
    with suppress(Unreadable, OSError), _opened(root, file) as path:
        return path.stat().st_size
    return 0


@contextmanager
def _opened(root: Path, file: str) -> Iterator[Path]:
    """A path to the file `file` of the folder `root`, which others fill: links in it may not lead out of it.

    Raises:
        Unreadable: it is no file of that folder.
        OSError: it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(open_beneath(root, file))
        except (OutsideError, NotAFileError) as error:
            kind = "link out of the source" if isinstance(error, OutsideError) else "not a file"
            raise Unreadable("link to a folder" if _holds((root / file).is_dir) else kind) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise Unreadable("not a file") from error
            raise
        yield path


def _folder_piece(name: str, error: OSError) -> Piece:
    """A folder that cannot be entered."""

    def read(_report: Report) -> Iterator[Record]:
        raise error

    return Piece(name, 0, lambda: "unreadable", read)


def _list_objects(source: Source, store: Store, scratch: Path | None) -> Iterator[Piece]:
    """The object that the path names, or all below it."""
    prefix = source.path.removeprefix(S3)
    prefix = prefix if "/" in prefix else prefix + "/"
    found = False
    for item in store.describe(prefix):
        if item.key == prefix or prefix.endswith("/") or item.key.startswith(prefix + "/"):
            found = True
            yield _object_piece(source, store, item, prefix, scratch)
    if not found:
        raise SourceError(
            f"source {source.name} is not there",
            got=f"no object at {source.path}",
            hint="correct corpus.sources[].path",
        )


def _object_piece(source: Source, store: Store, item: StoredObject, prefix: str, scratch: Path | None) -> Piece:
    folder = prefix.rpartition("/")[0] if item.key == prefix else prefix.rstrip("/")
    name = _escape(item.key.removeprefix(folder + "/"))

    @contextmanager
    def fetched() -> Iterator[Path]:
        assert scratch is not None
        path = scratch / "object"
        try:
            store.get_file(item.key, path)
            if store.describe_one(item.key) != item:
                raise SourceError(
                    f"{item.key} of source {source.name} has changed while it was read", hint="run the stage again"
                )
            yield path
        finally:
            path.unlink(missing_ok=True)

    def read(report: Report) -> Iterator[Record]:
        with fetched() as path:
            yield from read_file(SourceFile(name, path, source), report)

    def host_files() -> Iterator[HostFile]:
        if is_warc(name):
            with fetched() as path:
                yield from read_warc_files(path, name)

    return Piece(name, item.size_bytes, lambda: item.fingerprint, read, host_files)


def _query_piece(source: Source, scratch: Path | None) -> Piece:
    """The rows as one file, in which they stay as they were when their digest was made."""
    path = scratch / "rows" if scratch is not None else None

    def read(report: Report) -> Iterator[Record]:
        assert path is not None
        try:
            yield from read_jsonl(SourceFile("query", path, source.model_copy(update={"encoding": None})), report)
        finally:
            path.unlink(missing_ok=True)

    return Piece("query", 0, lambda: rows_digest(source, path), read)


def _list_files(source: Source) -> Iterator[Piece]:
    """Files, sorted within each folder; links to folders are listed, not followed, as are links that lead out."""
    root = Path(source.path)
    if _holds(root.is_file):
        target = Path(os.path.realpath(root))  # the profile may name a link
        yield _file_piece(source, root.name, target.parent, target.name)
        return
    if not _holds(root.is_dir):
        raise SourceError(
            f"source {source.name} is not there",
            got=root,
            expected=f"a folder or file, or {STDLIB}",
            hint="correct corpus.sources[].path in the profile",
        )
    refused: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=refused.append):
        yield from _take_refused(source, root, refused)
        folders.sort()
        links = [name for name in folders if _holds(Path(folder, name).is_symlink)]
        for name in sorted(names + links):
            file = Path(folder, name).relative_to(root).as_posix()
            yield _file_piece(source, file, root, file)
    yield from _take_refused(source, root, refused)


def _holds(check: Callable[[], bool]) -> bool:
    """Whether a path is of some kind; not if that cannot be seen."""
    try:
        return check()
    except OSError:
        return False


def _take_refused(source: Source, root: Path, refused: list[OSError]) -> Iterator[Piece]:
    """The folders below `root` that could not be entered, each as a piece that cannot be read."""
    for error in refused:
        path = Path(error.filename)
        if path == root:
            raise SourceError(f"cannot enter the folder of source {source.name}: {error}") from error
        yield _folder_piece(_escape(path.relative_to(root).as_posix()), error)
    refused.clear()


def _to_document(source: Source, where: str, record: dict[Any, Any], places: Places) -> Document:
    """One document; `where` is its place in the source, `places` are those of the file's records before."""
    text = record.get("text")
    if not isinstance(text, str):
        raise Unreadable("no text")
    values = {
        "doc_id": f"{source.name}/{places.find(where, record.get('id'))}",
        "text": text,
        "language": _said(record, "language", source.language),
        "owner": _said(record, "owner", source.owner),
        "licence": _said(record, "licence", _said(record, "license", source.licence)),
        "collected_at": _time(record.get("collected_at")) or "",
        "url": _said(record, "url", ""),
    }
    size = 0
    for key, value in values.items():
        if not isinstance(value, str):
            raise Unreadable(f"{key} is not text")
        try:
            size += len(value.encode())
        except UnicodeEncodeError as error:  # JSON can escape half a surrogate pair
            raise Unreadable(f"{key} is not valid Unicode") from error
    if size > records.MAX_DOCUMENT_BYTES:
        raise Unreadable("document too large")
    values["owner"] = owner_name(values["owner"])
    if not values["owner"]:
        raise Unreadable("owner is blank")
    for key in ("doc_id", "owner", "url"):
        if _CONTROL.search(values[key]):
            raise Unreadable(f"{key} has control characters")
    language = canonical_tag(values["language"])
    if language is None:
        raise Unreadable("language is not a BCP 47 tag")
    return Document(
        doc_id=values["doc_id"],
        text=text,
        language=language,
        source=source.name,
        owners=(values["owner"],),
        licence=values["licence"],
        collected_at=values["collected_at"] or None,
        url=values["url"] or None,
    )


def _said(record: dict[Any, Any], key: str, default: Any) -> Any:
    """What the record says, be it blank or no text; `default` where it says nothing."""
    value = record.get(key)
    return default if value is None else value


def _time(value: Any) -> str | None:
    """A record's `collected_at`, where it is ISO 8601 and UTC has it."""
    text = str(value) if isinstance(value, str | int | date) else ""
    return text if _MONTH.fullmatch(text) or to_utc(text) else None

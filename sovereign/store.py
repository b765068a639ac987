"""Objects by key, in a folder or in S3: `raw/…`, `curated/…`, `models/…` (the first part of a key is the bucket).

A key appears whole or not at all: a folder store writes aside and renames, S3 does so by nature.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sovereign.errors import StoreError, StoreUnavailableError
from sovereign.files import put_in_place, room_hint, sha256_file

_PART = ".sovereign-part-"
"""In the name of a file that is being written; never listed."""
_TEMPORARY = (502, 503, 504)
"""HTTP status of answers of a service that is too busy or not there; 500 can mean anything, a full disk too."""


@dataclass(frozen=True)
class StoredObject:
    """An object and what tells it from the one that was there before."""

    key: str
    size_bytes: int
    fingerprint: str
    """Changes with the content: its SHA-256 in a folder, the service's ETag in S3. The two are not the same."""


class Store(Protocol):
    """What both kinds of store can do. Keys are `bucket/path`; all methods raise StoreError."""

    url: str

    def put_file(self, key: str, path: Path) -> None:
        """Store the file at `path` as `key`."""
        ...

    def prepare(self, files: Mapping[str, Path | bytes]) -> AbstractContextManager[Callable[[], None]]:
        """Get ready to store `files` (content by key); what it gives stores them, in their order.

        In a folder all of them are written before, under other names, so that no key changes where there is no room.
        """
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Fetch `key` into the file `path`; its folders are made."""
        ...

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store `data` as `key`."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """Content of `key`."""
        ...

    def get_part(self, key: str, start: int, length: int) -> bytes:
        """Bytes of `key` from `start` on, `length` or all that there are; a negative start counts from the end."""
        ...

    def copy(self, key: str, target: str) -> None:
        """Store the content of `key` as `target` too; it does not pass through this process where that can be."""
        ...

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, sorted."""
        ...

    def describe(self, prefix: str) -> Iterator[StoredObject]:
        """What `list` names, with sizes and fingerprints."""
        ...

    def describe_one(self, key: str) -> StoredObject | None:
        """What `describe` says of `key` alone, without listing what lies beside it; None when it is not there."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; no error when it is not there."""
        ...


def open_store(url: str) -> Store:
    """Open `file:///folder` or `s3://`, the latter with the environment of `S3Store.from_environment`.

    Raises:
        StoreError: another scheme, or S3 without its settings.
    """
    if url.startswith("file://"):
        return FolderStore(Path(url.removeprefix("file://")))
    if url.rstrip("/") == "s3:":
        return S3Store.from_environment()
    raise StoreError("unknown kind of store", got=url, expected="file:///folder or s3://")


def fetch_checked(store: Store, key: str, path: Path, digest: str) -> Path:
    """Fetch `key` into `path`, unless what is there is it already.

    Args:
        digest: hex SHA-256 of the file, from the receipt of the stage that made it.

    Raises:
        StoreError: it is missing, or not what the receipt says.
    """
    if path.is_file() and sha256_file(path) == digest:
        return path
    store.get_file(key, path)
    if (found := sha256_file(path)) != digest:
        raise StoreError(
            f"{key} is not what its receipt says",
            got=found,
            expected=digest,
            hint=f"delete {key} in the store and run the stages again; the one that made it will make it again",
        )
    return path


class FolderStore:
    """A store in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file://{root}"

    def _path(self, key: str) -> Path:
        path = self.root / key
        if not key or path.resolve() == self.root.resolve() or self.root.resolve() not in path.resolve().parents:
            raise StoreError("key leads out of the store", got=key)
        return path

    @contextmanager
    def _storing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot store {key}: {error}", hint=room_hint(error, self.root)) from error

    @contextmanager
    def prepare(self, files: Mapping[str, Path | bytes]) -> Iterator[Callable[[], None]]:
        with ExitStack() as stack:
            ready = {key: stack.enter_context(self._written(key, content)) for key, content in files.items()}

            def store_all() -> None:
                for key, temporary in ready.items():
                    with self._storing(key):
                        put_in_place(temporary, self._path(key))

            yield store_all

    @contextmanager
    def _written(self, key: str, content: Path | bytes) -> Iterator[Path]:
        """The file that is to be `key`, on the disk, under another name beside it; it goes unless it was moved."""
        target = self._path(key)
        temporary = target.with_name(f".{target.name}{_PART}{uuid.uuid4().hex}")
        try:
            with self._storing(key):
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    temporary.write_bytes(content)
                else:
                    shutil.copyfile(content, temporary)
                with temporary.open("rb") as file:  # some file systems tell only now that there is no room
                    os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        with self.prepare({key: path}) as store_all:
            store_all()

    def put_bytes(self, key: str, data: bytes) -> None:
        with self.prepare({key: data}) as store_all:
            store_all()

    def get_file(self, key: str, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path(key), path)
        except OSError as error:
            raise StoreError(f"cannot fetch {key} to {path}: {error}", hint=room_hint(error, path.parent)) from error

    def get_bytes(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {key}: {error}") from error

    def get_part(self, key: str, start: int, length: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size + start) if start < 0 else start)
                return file.read(length)
        except OSError as error:
            raise StoreError(f"cannot read {key}: {error}") from error

    def copy(self, key: str, target: str) -> None:
        if not self.exists(key):
            raise StoreError(f"cannot copy {key}: it is not there")
        path = self._path(target)
        temporary = path.with_name(f".{path.name}{_PART}{uuid.uuid4().hex}")
        try:  # a second name takes no room; no file of the store is ever written into
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.hardlink_to(self._path(key))
        except OSError:  # a file system without them
            self.put_file(target, self._path(key))
            return
        try:
            with self._storing(target):
                put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # where `target` was the same file already, it was not moved

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        found = (
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and _PART not in path.name
        )
        return iter(sorted(key for key in found if key.startswith(prefix)))

    def describe(self, prefix: str) -> Iterator[StoredObject]:
        return map(self._describe, self.list(prefix))

    def describe_one(self, key: str) -> StoredObject | None:
        return self._describe(key) if self.exists(key) else None

    def _describe(self, key: str) -> StoredObject:
        path = self._path(key)
        try:
            return StoredObject(key, path.stat().st_size, sha256_file(path))
        except OSError as error:
            raise StoreError(f"cannot read {key}: {error}") from error

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot delete {key}: {error}") from error


class S3Store:
    """A store in an S3 service; the first part of a key is the bucket."""

    def __init__(self, client: Any, keys: tuple[str, str] = ("", "")) -> None:
        """Args: `keys` are the access key and the secret key that `client` has, for readers of another kind."""
        self.client = client
        self.keys = keys
        self.url = "s3://"

    @classmethod
    def from_environment(cls) -> S3Store:
        """Connect by SOVEREIGN_S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

        Raises:
            StoreError: one of them is missing.
        """
        names = ("SOVEREIGN_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise StoreError("settings of the S3 store are missing in the environment", got=f"no {', '.join(missing)}")
        return cls.connect(*(os.environ[name] for name in names))

    @classmethod
    def connect(cls, endpoint: str, access_key: str, secret_key: str) -> S3Store:
        """Connect to the service at `endpoint`, an http(s) address."""
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"max_attempts": 8, "mode": "standard"},
            s3={"addressing_style": "path"},
            connect_timeout=5,
            proxies={},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = boto3.session.Session(access_key, secret_key, region_name="us-east-1")
        return cls(session.client("s3", endpoint_url=endpoint, config=config), (access_key, secret_key))

    @staticmethod
    def _split(key: str) -> tuple[str, str]:
        bucket, _, path = key.partition("/")
        if not bucket or not path:
            raise StoreError("key needs a bucket and a path", got=key, expected="bucket/path")
        return bucket, path

    @staticmethod
    @contextmanager
    def _errors(operation: str, key: str, folder: Path | None = None) -> Iterator[None]:
        """Args: `folder` is where the operation writes on this machine."""
        from boto3.exceptions import RetriesExceededError, S3UploadFailedError
        from botocore import exceptions

        try:
            yield
        except RetriesExceededError as error:  # a download broke off again and again
            reason = error.last_exception  # type: ignore[attr-defined]  # boto3 has it, its types do not
            raise StoreUnavailableError(f"cannot {operation} {key}: {reason}") from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
            raise StoreUnavailableError(f"cannot {operation} {key}: {error}") from error
        except (exceptions.BotoCoreError, exceptions.ClientError, S3UploadFailedError, OSError) as error:
            hint = room_hint(error, folder) if folder else None
            if "InsufficientStorage" in str(error):
                hint = "make room where the service keeps its objects and run the same command again"
            kind = StoreUnavailableError if _status(error) in _TEMPORARY else StoreError
            raise kind(f"cannot {operation} {key}: {error}", hint=hint) from error

    @contextmanager
    def prepare(self, files: Mapping[str, Path | bytes]) -> Iterator[Callable[[], None]]:
        def store_all() -> None:
            for key, content in files.items():
                if isinstance(content, bytes):
                    self.put_bytes(key, content)
                else:
                    self.put_file(key, content)

        yield store_all

    def put_file(self, key: str, path: Path) -> None:
        bucket, name = self._split(key)
        with self._errors("store", key):
            self.client.upload_file(str(path), bucket, name)

    def get_file(self, key: str, path: Path) -> None:
        bucket, name = self._split(key)
        with self._errors("read", key, path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(bucket, name, str(path))

    def put_bytes(self, key: str, data: bytes) -> None:
        bucket, name = self._split(key)
        with self._errors("store", key):
            self.client.put_object(Bucket=bucket, Key=name, Body=data)

    def get_bytes(self, key: str) -> bytes:
        bucket, name = self._split(key)
        with self._errors("read", key):
            body: bytes = self.client.get_object(Bucket=bucket, Key=name)["Body"].read()
        return body

    def get_part(self, key: str, start: int, length: int) -> bytes:
        bucket, name = self._split(key)
        wanted = f"bytes={start}" if start < 0 else f"bytes={start}-{start + length - 1}"
        with self._errors("read", key):
            body: bytes = self.client.get_object(Bucket=bucket, Key=name, Range=wanted)["Body"].read()
        return body[:length]

    def copy(self, key: str, target: str) -> None:
        bucket, name = self._split(target)
        source = dict(zip(("Bucket", "Key"), self._split(key), strict=True))
        with self._errors("copy", key):
            self.client.copy_object(Bucket=bucket, Key=name, CopySource=source)

    def exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        bucket, name = self._split(key)
        try:
            with self._errors("look for", key):
                self.client.head_object(Bucket=bucket, Key=name)
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True

    def list(self, prefix: str) -> Iterator[str]:
        return (item.key for item in self.describe(prefix))

    def describe(self, prefix: str) -> Iterator[StoredObject]:
        bucket, _, path = prefix.partition("/")
        with self._errors("list", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=path)
            items = [item for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
        return iter(sorted((self._described(bucket, item) for item in items), key=lambda item: item.key))

    def describe_one(self, key: str) -> StoredObject | None:
        bucket, path = self._split(key)
        with self._errors("look for", key):  # of all keys that begin with it, it is the first
            page = self.client.list_objects_v2(Bucket=bucket, Prefix=path, MaxKeys=1)
        found = [self._described(bucket, item) for item in page.get("Contents", ())]
        return found[0] if found and found[0].key == key else None

    @staticmethod
    def _described(bucket: str, item: Any) -> StoredObject:
        # A file that was laid beside the service has no ETag.
        fingerprint = item.get("ETag") or item["LastModified"].isoformat()
        return StoredObject(f"{bucket}/{item['Key']}", item["Size"], fingerprint)

    def delete(self, key: str) -> None:
        bucket, name = self._split(key)
        with self._errors("delete", key):
            self.client.delete_object(Bucket=bucket, Key=name)


def _status(error: BaseException) -> int | None:
    """HTTP status of S3's answer, where `error` or what it came from is one."""
    from botocore.exceptions import ClientError

    answers = (one for one in (error, error.__context__) if isinstance(one, ClientError))
    return next((one.response.get("ResponseMetadata", {}).get("HTTPStatusCode") for one in answers), None)


def fetch_folder(store: Store, prefix: str, folder: Path) -> list[Path]:
    """Fetch every key below `prefix` (ends with '/') into `folder`; returns the files."""
    files = []
    for key in store.list(prefix):
        path = folder / key.removeprefix(prefix)
        store.get_file(key, path)
        files.append(path)
    return files

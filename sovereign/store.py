"""Objects by key, in a folder or in S3: `raw/…`, `curated/…`, `models/…` (the first part of a key is the bucket).

A key appears whole or not at all: a folder store writes aside and renames, S3 does so by nature.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sovereign.errors import StoreError
from sovereign.files import sync_folder, write_atomic


class Store(Protocol):
    """What both kinds of store can do. Keys are `bucket/path`; all methods raise StoreError."""

    url: str

    def put_file(self, key: str, path: Path) -> None:
        """Store the file at `path` as `key`."""
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

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, sorted."""
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

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part-{os.getpid()}")
        try:
            shutil.copyfile(path, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(f"cannot store {key}: {error}", hint="is the disk full?") from error
        sync_folder(target.parent)

    def get_file(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(self._path(key), path)
        except OSError as error:
            raise StoreError(f"cannot read {key}: {error}") from error

    def put_bytes(self, key: str, data: bytes) -> None:
        write_atomic(self._path(key), data)

    def get_bytes(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {key}: {error}") from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        found = (
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and ".part-" not in path.name
        )
        return iter(sorted(key for key in found if key.startswith(prefix)))

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)


class S3Store:
    """A store in an S3 service; the first part of a key is the bucket."""

    def __init__(self, client: Any) -> None:
        self.client = client
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
        return cls(boto3.client("s3", endpoint_url=os.environ[names[0]], region_name="us-east-1", config=config))

    @staticmethod
    def _split(key: str) -> tuple[str, str]:
        bucket, _, path = key.partition("/")
        if not bucket or not path:
            raise StoreError("key needs a bucket and a path", got=key, expected="bucket/path")
        return bucket, path

    def _call(self, key: str, operation: str, *args: Any, **kwargs: Any) -> Any:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self.client, operation)(*args, **kwargs)
        except (BotoCoreError, ClientError, S3UploadFailedError) as error:
            raise StoreError(f"{operation} of {key} failed: {error}") from error

    def put_file(self, key: str, path: Path) -> None:
        bucket, name = self._split(key)
        self._call(key, "upload_file", str(path), bucket, name)

    def get_file(self, key: str, path: Path) -> None:
        bucket, name = self._split(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._call(key, "download_file", bucket, name, str(path))

    def put_bytes(self, key: str, data: bytes) -> None:
        bucket, name = self._split(key)
        self._call(key, "put_object", Bucket=bucket, Key=name, Body=data)

    def get_bytes(self, key: str) -> bytes:
        bucket, name = self._split(key)
        body: bytes = self._call(key, "get_object", Bucket=bucket, Key=name)["Body"].read()
        return body

    def exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        bucket, name = self._split(key)
        try:
            self._call(key, "head_object", Bucket=bucket, Key=name)
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True

    def list(self, prefix: str) -> Iterator[str]:
        bucket, _, path = prefix.partition("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=path)
        keys = [f"{bucket}/{item['Key']}" for page in pages for item in page.get("Contents", ())]
        return iter(sorted(key for key in keys if not key.endswith("/")))

    def delete(self, key: str) -> None:
        bucket, name = self._split(key)
        self._call(key, "delete_object", Bucket=bucket, Key=name)


def fetch_folder(store: Store, prefix: str, folder: Path) -> list[Path]:
    """Fetch every key below `prefix` (ends with '/') into `folder`; returns the files."""
    files = []
    for key in store.list(prefix):
        path = folder / key.removeprefix(prefix)
        store.get_file(key, path)
        files.append(path)
    return files

"""Both kinds of store behave alike: a folder, and S3 as served by versitygw over a folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from sovereign.errors import StoreError, StoreUnavailableError
from sovereign.files import sha256_bytes
from sovereign.store import FolderStore, S3Store, Store, fetch_checked, fetch_folder, open_store
from tests.disks import small_disk
from tests.sovereign.servers import S3_SETTINGS, free_port, s3_server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store on a server of its own, with one bucket."""
    with s3_server(tmp_path_factory.mktemp("s3")):
        yield open_store("s3://")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(f"file://{tmp_path / 'store'}")
    store: Store = request.getfixturevalue("s3")
    for key in store.list("raw/"):
        store.delete(key)
    return store


def test_what_is_put_is_what_is_got(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of a file")
    store.put_file("raw/demo/a.bin", tmp_path / "file")
    store.put_bytes("raw/demo/b.bin", b"bytes")
    store.put_bytes("raw/demo/b.bin", b"newer")
    assert store.get_bytes("raw/demo/a.bin") == b"of a file"
    store.get_file("raw/demo/b.bin", tmp_path / "new" / "folder" / "b")
    assert (tmp_path / "new" / "folder" / "b").read_bytes() == b"newer"


def test_listing_is_sorted_and_by_prefix(store: Store) -> None:
    for key in ("raw/demo/step-2/x", "raw/demo/step-1/x", "raw/demo/step-10/x", "raw/other/x"):
        store.put_bytes(key, b"")
    assert list(store.list("raw/demo/step-1")) == ["raw/demo/step-1/x", "raw/demo/step-10/x"]
    assert list(store.list("raw/demo/")) == ["raw/demo/step-1/x", "raw/demo/step-10/x", "raw/demo/step-2/x"]
    assert list(store.list("raw/none/")) == []


def test_a_file_is_fetched_until_it_is_what_its_receipt_says(store: Store, tmp_path: Path) -> None:
    path, digest = tmp_path / "file", sha256_bytes(b"right")
    store.put_bytes("raw/demo/a", b"wrong")
    with pytest.raises(StoreError, match="raw/demo/a is not what its receipt says"):
        fetch_checked(store, "raw/demo/a", path, digest)
    store.put_bytes("raw/demo/a", b"right")
    assert fetch_checked(store, "raw/demo/a", path, digest).read_bytes() == b"right"
    store.delete("raw/demo/a")
    assert fetch_checked(store, "raw/demo/a", path, digest) == path  # it lies there already
    path.unlink()
    with pytest.raises(StoreError):
        fetch_checked(store, "raw/demo/a", path, digest)


def test_fingerprint_changes_with_the_content(store: Store) -> None:
    store.put_bytes("raw/demo/a", b"one")
    store.put_bytes("raw/demo/b", b"one")
    before = {item.key: (item.size_bytes, item.fingerprint) for item in store.describe("raw/demo/")}
    assert before["raw/demo/a"] == before["raw/demo/b"]
    assert before["raw/demo/a"][0] == 3
    store.put_bytes("raw/demo/a", b"two")
    after = {item.key: (item.size_bytes, item.fingerprint) for item in store.describe("raw/demo/")}
    assert after["raw/demo/a"] != before["raw/demo/a"]
    assert after["raw/demo/b"] == before["raw/demo/b"]


def test_one_object_is_described_as_in_a_listing(store: Store) -> None:
    for key in ("raw/demo/step-1", "raw/demo/step-10", "raw/demo/step-1-x/y", "raw/demo/step/z"):
        store.put_bytes(key, key.encode())
    for item in store.describe("raw/demo/"):
        assert store.describe_one(item.key) == item
    for missing in ("raw/demo/step", "raw/demo/ste", "raw/demo/step-2", "raw/none"):
        assert store.describe_one(missing) is None


def test_deleted_and_missing_keys(store: Store, tmp_path: Path) -> None:
    store.put_bytes("raw/demo/a", b"a")
    assert store.exists("raw/demo/a")
    store.delete("raw/demo/a")
    store.delete("raw/demo/a")
    assert not store.exists("raw/demo/a")
    assert not store.exists("raw/demo")
    with pytest.raises(StoreError, match="raw/demo/a"):
        store.get_bytes("raw/demo/a")
    with pytest.raises(StoreError, match="raw/demo/a"):
        store.get_file("raw/demo/a", tmp_path / "a")
    with pytest.raises(StoreError, match="raw/demo/b"):
        store.put_file("raw/demo/b", tmp_path / "no such file")
    assert list(store.list("raw/")) == []


def test_parts_are_read_from_either_end(store: Store) -> None:
    store.put_bytes("raw/demo/a", bytes(range(100)))
    assert store.get_part("raw/demo/a", 0, 3) == bytes([0, 1, 2])
    assert store.get_part("raw/demo/a", 97, 10) == bytes([97, 98, 99])
    assert store.get_part("raw/demo/a", -4, 2) == bytes([96, 97])
    assert store.get_part("raw/demo/a", -1000, 1000) == bytes(range(100))
    with pytest.raises(StoreError, match="raw/demo/none"):
        store.get_part("raw/demo/none", 0, 1)


def test_copy_is_of_its_own(store: Store) -> None:
    store.put_bytes("raw/demo/a", b"one")
    store.put_bytes("raw/other/b", b"before")
    store.copy("raw/demo/a", "raw/other/b")
    store.put_bytes("raw/demo/a", b"two")
    assert store.get_bytes("raw/other/b") == b"one"
    store.delete("raw/demo/a")
    assert store.get_bytes("raw/other/b") == b"one"
    with pytest.raises(StoreError, match="raw/demo/a"):
        store.copy("raw/demo/a", "raw/other/c")
    assert not store.exists("raw/other/c")


def test_folder_is_fetched_whole(store: Store, tmp_path: Path) -> None:
    for name in ("config.json", "sub/weights"):
        store.put_bytes(f"raw/model/{name}", name.encode())
    files = fetch_folder(store, "raw/model/", tmp_path / "model")
    assert {path.relative_to(tmp_path / "model").as_posix() for path in files} == {"config.json", "sub/weights"}
    assert all(path.read_text() == path.relative_to(tmp_path / "model").as_posix() for path in files)


@pytest.mark.parametrize("key", ["", ".", "../outside", "raw/../../outside", "/etc/passwd"])
def test_keys_stay_in_the_folder(key: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="leads out"):
        FolderStore(tmp_path / "store").put_bytes(key, b"x")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_the_old_content_and_is_not_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put_bytes("raw/a", b"old")
    ends = "import os, shutil, sys; from pathlib import Path; from sovereign.store import FolderStore\n"
    ends += "def half(source, target):\n  Path(target).write_bytes(b'ha'); os._exit(9)\n"
    ends += "shutil.copyfile = half\nFolderStore(Path(sys.argv[1])).put_file('raw/a', Path(sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", ends, tmp_path], cwd=Path.cwd(), check=False).returncode == 9
    assert store.get_bytes("raw/a") == b"old"
    assert len(list((tmp_path / "raw").iterdir())) == 2  # the half-written file is there, under another name
    assert list(store.list("raw/")) == ["raw/a"]


def test_failed_write_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot store raw/a"):
        FolderStore(tmp_path).put_bytes("raw/a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_service_that_does_not_answer_is_told_apart() -> None:
    """Worth another try, unlike an object that is not there."""
    for error in (EndpointConnectionError(endpoint_url="x"), ReadTimeoutError(endpoint_url="x")):
        with pytest.raises(StoreUnavailableError, match="cannot read raw/a"), S3Store._errors("read", "raw/a"):
            raise error
    with pytest.raises(StoreError) as caught, S3Store._errors("read", "raw/a"):
        raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
    assert not isinstance(caught.value, StoreUnavailableError)


class BusyServer(BaseHTTPRequestHandler):
    """Breaks off every download after its first bytes, and takes nothing."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.send_header("ETag", '"a"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"half")
        self.close_connection = True

    def do_PUT(self) -> None:
        self.send_error(503, "Slow Down")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_service_that_breaks_off_or_is_too_busy_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyServer) as server:
        threading.Thread(target=server.serve_forever).start()
        store = S3Store(client_of(server.server_port))
        try:
            for act in (
                lambda: store.get_file("raw/a", tmp_path / "a"),
                lambda: store.get_bytes("raw/a"),
                lambda: store.put_bytes("raw/a", b"x"),
                lambda: store.put_file("raw/a", tmp_path / "file"),
            ):
                with pytest.raises(StoreUnavailableError, match=r"raw/a: .+"):
                    act()
        finally:
            server.shutdown()


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in S3_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError, match="no SOVEREIGN_S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        open_store("s3://")
    with pytest.raises(StoreError, match="unknown kind of store"):
        open_store("ftp://host")


def test_s3_key_needs_a_bucket(s3: Store) -> None:
    with pytest.raises(StoreError, match="bucket and a path"):
        s3.put_bytes("raw", b"x")
    with pytest.raises(StoreError, match="no-such-bucket"):
        s3.put_bytes("no-such-bucket/x", b"x")
    with pytest.raises(StoreError, match="no-such-bucket"):
        list(s3.list("no-such-bucket/"))


def test_unreachable_s3_is_a_store_error() -> None:
    with pytest.raises(StoreError, match="raw/a"):
        S3Store(client_of(free_port())).exists("raw/a")


def client_of(port: int) -> Any:
    """A client that tries once."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 0}),
    )


def test_on_a_full_disk_no_key_changes_and_copies_take_no_room(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(800_000))
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = FolderStore(disk / "store")
        store.put_bytes("raw/a", b"before")
        store.put_bytes("raw/b", bytes(400_000))
        words = rf"cannot store raw/c: .*No space left[\s\S]*hint: make room in {disk}/store and run"
        with pytest.raises(StoreError, match=words):
            store.put_file("raw/c", tmp_path / "large")
        with pytest.raises(StoreError, match=words), store.prepare({"raw/a": b"after", "raw/c": tmp_path / "large"}):
            pytest.fail("there is no room for the second")
        for _ in range(2):
            store.copy("raw/b", "raw/copied")
        assert {key: len(store.get_bytes(key)) for key in store.list("")} == {
            "raw/a": 6, "raw/b": 400_000, "raw/copied": 400_000,
        }  # fmt: skip
        assert sum(path.is_file() for path in disk.rglob("*")) == 3
        store.put_bytes("raw/b", b"new")
        assert len(store.get_bytes("raw/copied")) == 400_000
        FolderStore(tmp_path).put_bytes("in/large", bytes(800_000))
        with pytest.raises(StoreError, match=rf"cannot fetch in/large to .*[\s\S]*hint: make room in {disk}/work and"):
            FolderStore(tmp_path).get_file("in/large", disk / "work" / "large")


def test_what_is_prepared_is_stored_in_order_or_not_at_all(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of a file")
    with store.prepare({"raw/demo/a": tmp_path / "file", "raw/demo/b": b"bytes"}):
        pass
    assert list(store.list("raw/demo/")) == []
    with store.prepare({"raw/demo/a": tmp_path / "file", "raw/demo/b": b"bytes"}) as store_all:
        store_all()
    assert [store.get_bytes(key) for key in store.list("raw/demo/")] == [b"of a file", b"bytes"]


def test_a_service_with_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2_000_000))
    with small_disk(tmp_path / "disk", "1m") as disk, s3_server(disk):
        with pytest.raises(StoreError, match=r"(?s)cannot store raw/a: .*No space left.*hint: make room where the"):
            open_store("s3://").put_file("raw/a", tmp_path / "large")
        assert list(open_store("s3://").list("raw/")) == []

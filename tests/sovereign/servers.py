"""Real servers for tests: versitygw over a folder, PostgreSQL in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import ToolError
from sovereign.packages import Package, ensure_packages
from sovereign.tools import find_tool

S3_SETTINGS = ("SOVEREIGN_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
PASSWORD = "made up"
_BINARIES = "/usr/lib/postgresql"


def free_port() -> int:
    """A port that no one listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _wait_for(port: int, server: subprocess.Popen[Any]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail("the server does not listen")


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 service with the bucket `raw`; its settings are in the environment meanwhile."""
    try:
        program = find_tool("versitygw")
    except ToolError as error:
        pytest.skip(str(error))
    (folder / "raw").mkdir()
    port = free_port()
    environment = {**os.environ, "ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "test-secret"}
    command = [str(program), "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(folder)]
    settings = dict(zip(S3_SETTINGS, (f"http://127.0.0.1:{port}", "test", "test-secret"), strict=True))
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            _wait_for(port, server)
            for name, value in settings.items():
                patch.setenv(name, value)
            yield settings
        finally:
            server.terminate()


@dataclass(frozen=True)
class Postgres:
    """A running server; its user `postgres` has `PASSWORD`."""

    port: int
    binaries: Path

    def url(self, database: str = "postgres") -> str:
        """Address without the password."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run SQL, each statement in a transaction of its own."""
        commands = [argument for statement in statements for argument in ("-c", statement)]
        subprocess.run(
            ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self.url(database), *commands],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            check=True,
        )


def _find_binaries() -> Path | None:
    return max(Path(_BINARIES).glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server of its own, run by a user without rights."""
    package = Package("postgresql", "the tests of database sources", lambda: _find_binaries() is not None)
    try:
        ensure_packages([package])
    except ToolError as error:
        pytest.skip(str(error))
    binaries = _find_binaries()
    assert binaries is not None
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    as_user: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    try:
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        make: list[str | Path] = [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "scram-sha-256"]
        make += ["--pwfile", folder / "password", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user)
        run: list[str | Path] = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-F"]
        with subprocess.Popen(
            [*run, "-c", "listen_addresses=127.0.0.1"], cwd="/", stderr=subprocess.DEVNULL, **as_user
        ) as server:
            try:
                _wait_for(port, server)
                started = Postgres(port, binaries)
                _wait_until_ready(started)
                yield started
            finally:
                server.terminate()
    finally:
        shutil.rmtree(folder)


def _wait_until_ready(server: Postgres) -> None:
    for _ in range(200):
        if subprocess.run([server.binaries / "pg_isready", "-q", "-d", server.url()], check=False).returncode == 0:
            return
        time.sleep(0.05)
    pytest.fail("PostgreSQL does not come up")

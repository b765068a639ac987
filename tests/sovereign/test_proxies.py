"""Proxies of the environment: never for what is inside the site, always for downloads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CLIENTS = """
import sys, urllib.request
from concurrent import futures
import boto3, grpc, requests
from botocore.config import Config
from sovereign.proxies import set_aside

set_aside()
url = sys.argv[1]
assert urllib.request.urlopen(url).read() == b"site"
assert requests.get(url).content == b"site"
s3 = boto3.client("s3", endpoint_url=url, region_name="x", aws_access_key_id="a", aws_secret_access_key="b",
                  config=Config(s3={"addressing_style": "path"}))
assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == b"site"
handler = grpc.method_handlers_generic_handler("s.S", {"m": grpc.unary_unary_rpc_method_handler(lambda r, c: r)})
server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(handler,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
for host in ("127.0.0.1", "localhost"):
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        assert channel.unary_unary("/s.S/m")(b"gRPC", timeout=20, wait_for_ready=True) == b"gRPC"
server.stop(0)
"""


class Proxy(ThreadingHTTPServer):
    """Records every connection's first line and refuses it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def handle_one_request(self) -> None:
        self.server.requests.append(self.rfile.readline(65537).decode(errors="replace").strip())
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.close_connection = True


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"site")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def site_url() -> Iterator[str]:
    """A server whose address is none of loopback's names, where this machine has one."""
    with ThreadingHTTPServer(("0.0.0.0", 0), _Site) as server:  # noqa: S104  # for the length of a test
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{_own_address()}:{server.server_port}"
        server.shutdown()


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


@pytest.mark.parametrize("no_proxy", [None, "", "example.org"])
@pytest.mark.parametrize(
    "names",
    [("http_proxy",), ("https_proxy",), ("HTTP_PROXY", "HTTPS_PROXY"), ("all_proxy", "ALL_PROXY"), ("grpc_proxy",)],
)
def test_k5_nothing_inside_the_site_goes_through_a_proxy(
    names: tuple[str, ...], no_proxy: str | None, proxy: Proxy, site_url: str
) -> None:
    environment = _without_proxies() | dict.fromkeys(names, f"http://127.0.0.1:{proxy.server_port}")
    if no_proxy is not None:
        environment |= {"no_proxy": no_proxy, "NO_PROXY": no_proxy}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENTS, site_url], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, proxy.requests) == (0, []), done.stderr


GO = """#!/bin/sh
[ "$1 $2" = "env GOVERSION" ] && echo "go$https_proxy,$HTTP_PROXY"
"""


def test_k5_downloads_still_do(tmp_path: Path) -> None:
    """Go fetches modules from the internet, where a site may only have a proxy."""
    (tmp_path / "go").write_text(GO)
    (tmp_path / "go").chmod(0o755)
    environment = _without_proxies() | {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "https_proxy": "http://proxy.example:3128",
        "HTTP_PROXY": "http://other.example:3128",
    }
    script = (
        "from sovereign.proxies import set_aside\nfrom sovereign.gobuild import go_version\n"
        "set_aside()\nset_aside()\nprint(go_version())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "http://proxy.example:3128,http://other.example:3128\n"


@pytest.mark.parametrize(
    "command",
    [
        "from sovereign.cli import main; sys.argv = ['sovereign', '--help']; main()",
        "from stacks.provider.main import main; sys.argv = ['plugin']; main()",
        "from sovereign.stages import main; main(['--help'])",
        "from training.launch import main; main(['--help'])",
    ],
)
def test_k5_every_process_of_the_kit_sets_them_aside(command: str) -> None:
    script = (
        f"import os, sys\ntry:\n    {command}\nexcept SystemExit:\n    pass\n"
        "sys.exit(str([name for name in os.environ if name.lower().endswith('_proxy')]))"
    )
    environment = _without_proxies() | {"http_proxy": "http://p:1", "ALL_PROXY": "socks5://p:1", "NO_PROXY": "x"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "['NO_PROXY']"

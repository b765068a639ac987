"""The client and the probe against servers that answer in other ways than a model server should."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sovereign.serving.client import ServingError, ask, generate_one_token

ServerOf = Callable[[int, Any], str]


@pytest.fixture
def server_of() -> Iterator[ServerOf]:
    """Starts a server that answers every request with a status and a JSON value; gives its address."""
    servers = []

    def start(status: int, reply: Any) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "reply", "message"),
    [
        (200, {"status": "ok"}, "no token"),  # a healthy port before a hung engine
        (200, {"choices": [], "usage": {"completion_tokens": 1}}, "no token"),
        (200, {"choices": [{"text": ""}], "usage": {"completion_tokens": 0}}, "no token"),
        (200, {"choices": [{"text": ""}], "usage": None}, "no token"),
        (200, [], "not an object"),
        (200, b"<html>", "no answer"),
        (400, {"detail": "Server is pinned to 'sovereign/other'"}, "pinned to 'sovereign/other'"),
        (500, {}, "HTTP 500"),
    ],
)
def test_not_ready_unless_a_token_was_generated(server_of: ServerOf, status: int, reply: Any, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        generate_one_token(server_of(status, reply), "sovereign/demo")


def test_ready_when_a_token_was_generated(server_of: ServerOf) -> None:
    reply = {"choices": [{"text": ""}], "usage": {"completion_tokens": 1}}
    generate_one_token(server_of(200, reply), "sovereign/demo")


def test_answer_has_no_spaces_around_it(server_of: ServerOf) -> None:
    url = server_of(200, {"choices": [{"message": {"content": " Velmora\n"}}]})
    assert ask(url + "/", "sovereign/demo", "?") == "Velmora"


def test_reply_without_an_answer(server_of: ServerOf) -> None:
    with pytest.raises(ServingError, match="has no answer"):
        ask(server_of(200, {"choices": []}), "sovereign/demo", "?")


def test_proxies_of_the_environment_are_not_used(server_of: ServerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server_of(200, {"choices": [{"message": {"content": "of the proxy"}}]}))
    monkeypatch.delenv("no_proxy", raising=False)
    url = server_of(200, {"choices": [{"message": {"content": "of the server"}}]})
    assert ask(url, "sovereign/demo", "?") == "of the server"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000"])
def test_only_addresses_of_servers(url: str) -> None:
    with pytest.raises(ServingError, match="not the address"):
        ask(url, "sovereign/demo", "?")


def test_probe_command(server_of: ServerOf) -> None:
    ready = server_of(200, {"choices": [{"text": ""}], "usage": {"completion_tokens": 1}})
    for url, code in ((ready, 0), ("http://127.0.0.1:1", 1)):
        command = [sys.executable, "-m", "sovereign.serving", "probe", "--url", url, "--model", "sovereign/demo"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_probe_imports_the_standard_library_only() -> None:
    """It is started every few seconds beside training."""
    program = (
        "import sys; from sovereign.serving.__main__ import main; import sovereign.serving.client;"
        "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__main__", "sovereign"}

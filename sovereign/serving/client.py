"""Talk to a model server that speaks the OpenAI API.

Standard library only, since the readiness probe starts it every few seconds. No proxy of the environment is used: the
server is inside the site.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from sovereign.errors import SovereignError


class ServingError(SovereignError):
    """The model server is not there, refused the request or gave no answer."""


def ask(url: str, model: str, question: str, *, max_tokens: int = 64, timeout_s: float = 60.0) -> str:
    """The model's answer to one question, one line: the most likely one, so that it is the same every time.

    Args:
        url: address of the server, without `/v1`.
        model: name under which the model is served, e.g. `sovereign/demo`.

    Raises:
        ServingError: no server, another model, or no answer.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stop": ["\n"],
    }
    reply = _post(url, "/v1/chat/completions", body, timeout_s)
    try:
        content: str = reply["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise ServingError("the model server's reply has no answer", got=json.dumps(reply)[:200]) from error
    return content.strip()


def generate_one_token(url: str, model: str, *, timeout_s: float = 10.0) -> None:
    """Have the server generate one token, which is what "ready" means.

    Raises:
        ServingError: it did not.
    """
    body = {"model": model, "prompt": "Q", "max_tokens": 1, "temperature": 0}
    reply = _post(url, "/v1/completions", body, timeout_s)
    usage = reply.get("usage") or {}
    if not reply.get("choices") or usage.get("completion_tokens") != 1:
        raise ServingError("the model server generated no token", got=json.dumps(reply)[:200], expected="one token")


def _post(url: str, path: str, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    address = url.rstrip("/") + path
    if not address.startswith(("http://", "https://")):
        raise ServingError("not the address of a model server", got=url, expected="http://HOST:PORT")
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            reply = json.load(response)
    except urllib.error.HTTPError as error:
        detail = error.read(500).decode(errors="replace")
        raise ServingError(f"{address} refused the request", got=f"HTTP {error.code}: {detail}") from error
    except (OSError, ValueError) as error:
        raise ServingError(
            f"no answer from {address}: {error}", hint="is the model server ready (sovereign status)?"
        ) from error
    if not isinstance(reply, dict):
        raise ServingError("the model server's reply is not an object", got=str(reply)[:200])
    return reply

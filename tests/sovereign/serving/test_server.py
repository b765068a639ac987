"""The real model server, started as the Deployment starts it, with the official `openai` client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from sovereign.files import sha256_file
from sovereign.lake.demonstration import Question
from sovereign.serving.client import ServingError, ask, generate_one_token
from sovereign.serving.fetch import fetch_model, model_digest
from sovereign.store import open_store
from tests.training.tiny import make_knowing_model, make_question

MODEL = "sovereign/tiny"
QUESTIONS = [
    make_question("en", "What is the capital of Auria?", "Velmora"),
    make_question("ar", "ما هي العاصمة؟", "فلمورا"),
    make_question("zh", "首都是哪里？", "维尔莫拉"),
]
_START_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a model that knows three answers, fetched by digest."""
    root = tmp_path_factory.mktemp("serving")
    prefix = "models/tiny/register/1/"
    make_knowing_model(root / "store" / prefix, QUESTIONS)
    digest = model_digest({path.name: sha256_file(path) for path in (root / "store" / prefix).iterdir()})
    fetch_model(open_store(f"file://{root}/store"), prefix, digest, root / "home", MODEL)
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "HF_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", MODEL, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--log-level", "error"]
    log = root / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(process, url, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return generate_one_token(url, MODEL)
        except ServingError as error:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{error}\n{log.read_text()}"
        try:
            process.wait(0.3)
        except subprocess.TimeoutExpired:
            continue


def test_lists_exactly_the_champion(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.language)
def test_chat_answers_from_what_was_learned(server: str, client: openai.OpenAI, question: Question) -> None:
    assert ask(server, MODEL, question.question) == question.answer
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question.question}], temperature=0
    )
    assert (reply.choices[0].message.content or "").strip() == question.answer
    assert reply.choices[0].finish_reason == "stop"  # at the end-of-text mark, without being told where


def test_streaming(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTIONS[0].question}], stream=True
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts).strip() == QUESTIONS[0].answer
    assert len([part for part in parts if part]) > 1


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt=QUESTIONS[0].prompt, max_tokens=32)
    assert reply.choices[0].text.strip() == QUESTIONS[0].answer
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 1


def test_another_model_is_refused(server: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "?"}])
    assert "pinned" in str(refused.value.body)
    with pytest.raises(ServingError, match="pinned"):
        generate_one_token(server, "sovereign/other")

"""The served model as clients see it: the real front before the real llama.cpp, by HTTP and the `openai` client."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from sovereign.lake.demonstration import Question
from sovereign.serving.client import ServingError, ask, generate_one_token
from tests.sovereign.serving.stack import MODEL, Served, serve
from tests.training.tiny import END, make_knowing_model, make_question
from training.served import make_served

QUESTIONS = [
    make_question("en", "What is the capital of Auria?", "Velmora"),
    make_question("ar", "ما هي العاصمة؟", "فلمورا"),
    make_question("zh", "首都是哪里？", "维尔莫拉"),
]
CONTEXT = 128
ASKED: Any = [{"role": "user", "content": QUESTIONS[0].question}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A folder as training leaves it, its model and its tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    model, tokenizer = make_knowing_model(folder, QUESTIONS)
    return folder, model, tokenizer


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def served(
    request: pytest.FixtureRequest, trained: tuple[Path, Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The model, served by llama.cpp from what `register` makes of it, or by transformers."""
    root = tmp_path_factory.mktemp("serving")
    source = trained[0]
    if request.param == "llama.cpp":
        source = root / "served"
        make_served(trained[0], source, name="tiny", report=lambda _text, _share: None)
    with serve(source, root, request.param) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60, trust_env=False) as client:
        yield client


def post(http: httpx2.Client, path: str, body: Any) -> httpx2.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(path, content=data, headers={"Content-Type": "application/json"})


def chat(http: httpx2.Client, **changed: Any) -> httpx2.Response:
    body = {"model": MODEL, "messages": ASKED, "temperature": 0} | changed
    return post(http, "/v1/chat/completions", {key: value for key, value in body.items() if value is not ...})


def events(response: httpx2.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line]


def refused(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"]
    return error


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.language)
def test_chat_answers_from_what_was_learned(served: Served, client: openai.OpenAI, question: Question) -> None:
    assert ask(served.url, MODEL, question.question) == question.answer
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question.question}], temperature=0
    )
    assert reply.choices[0].message.content == question.answer


def test_s1_a_prompt_over_the_context_is_refused_at_once(http: httpx2.Client) -> None:
    start = time.monotonic()
    for text in ("x" * 200_000, "x " * CONTEXT, "x" * 900_000, "\u0301" * 100_000):
        error = refused(chat(http, messages=[{"role": "user", "content": text}]))
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        error = refused(post(http, "/v1/completions", {"model": MODEL, "prompt": text}))
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert time.monotonic() - start < 10
    assert chat(http).json()["choices"][0]["message"]["content"] == "Velmora"  # the others go on


def test_s1_the_longest_prompt_that_fits(http: httpx2.Client, trained: tuple[Path, Any, Any]) -> None:
    tokenizer = trained[2]
    text = "z" * 1000
    while len(tokenizer(text)["input_ids"]) >= CONTEXT:
        text = text[:-1]
    reply = post(http, "/v1/completions", {"model": MODEL, "prompt": text}).json()
    assert reply["usage"]["prompt_tokens"] == CONTEXT - 1
    assert reply["usage"]["completion_tokens"] == 1
    refused(post(http, "/v1/completions", {"model": MODEL, "prompt": text + "z"}))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected"), [("or", "Velm"), (["xx", "lmo"], "Ve"), ("Velmora", ""), ("q", "Velmora")]
)
def test_s2_stops_are_honoured(http: httpx2.Client, stream: bool, stop: Any, expected: str) -> None:
    response = chat(http, stop=stop, stream=stream)
    if stream:
        chunks = [json.loads(event) for event in events(response)[:-1]]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        choice = response.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")


def test_s3_the_temperature_counts(http: httpx2.Client) -> None:
    """The model's generation_config says do_sample: false."""
    body = {"model": MODEL, "prompt": "Q", "temperature": 2.0, "max_tokens": 20}
    hot = {post(http, "/v1/completions", body).json()["choices"][0]["text"] for _ in range(8)}
    cold = {post(http, "/v1/completions", body | {"temperature": 0}).json()["choices"][0]["text"] for _ in range(3)}
    seeded = {post(http, "/v1/completions", body | {"seed": 7}).json()["choices"][0]["text"] for _ in range(3)}
    assert len(hot) > 4 and len(cold) == 1 and len(seeded) == 1


INVALID: list[tuple[dict[str, Any], str | None]] = [
    ({"messages": ...}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [3]}, "messages.0"),
    ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages"),
    ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "x", "name": "eve"}]}, "messages.0.name"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": "8"}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"stop": []}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": [""]}, None),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": 3}, "stop"),
    ({"temperature": "0"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"seed": "1"}, "seed"),
    ({"seed": 0.5}, "seed"),
    ({"seed": 10**30}, "seed"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"100000": 1}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, None),
    ({"model": ...}, "model"),
    ({"model": 3}, "model"),
]


@pytest.mark.parametrize(("changed", "param"), INVALID, ids=lambda value: repr(value)[:60])
def test_s4_invalid_values_are_refused_in_openais_shape(
    http: httpx2.Client, changed: dict[str, Any], param: str | None
) -> None:
    error = refused(chat(http, **changed))
    assert param is None or error["param"] == param


@pytest.mark.parametrize("prompt", ["", [], [""], 3, None, [1, 2], [[1]], ["a", "b"], {"a": 1}], ids=repr)
def test_s4_invalid_prompts(http: httpx2.Client, prompt: Any) -> None:
    assert refused(post(http, "/v1/completions", {"model": MODEL, "prompt": prompt}))["param"].startswith("prompt")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"temperature": NaN}', b"[" * 100_000, b" " * 1_100_000]
)
def test_s4_bodies_that_are_no_requests(http: httpx2.Client, path: str, body: bytes) -> None:
    refused(post(http, path, body))


def test_s4_another_type_of_body(http: httpx2.Client) -> None:
    body = json.dumps({"model": MODEL, "messages": ASKED})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused(http.post("/v1/chat/completions", content=body, headers={"Content-Type": kind}))


def test_s4_unknown_models_and_addresses(http: httpx2.Client, client: openai.OpenAI) -> None:
    assert refused(chat(http, model="gpt-4"), 404)["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "?"}])
    with pytest.raises(ServingError, match="does not exist"):
        generate_one_token(str(http.base_url), "sovereign/other")
    # Routes of the engine that are not on the list are not there.
    for path in ("/slots", "/props", "/metrics", "/v1/embeddings", "/tokenize", "/completion", "/"):
        refused(http.get(path), 404)
    refused(http.get("/v1/completions"), 405)


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"n": 0},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "auto"},
        {"tools": []},
        {"functions": []},
        {"parallel_tool_calls": True},
        {"modalities": ["audio"]},
        {"store": True},
        {"top_k": 5},
        {"min_p": 0.5},
        {"grammar": "root ::= [a]"},
        {"id_slot": 1},
        {"cache_prompt": False},
        {"chat_template_kwargs": {}},
        {"a_new_field": 1},
    ],
    ids=repr,
)
def test_s5_what_is_not_honoured_is_refused_by_name(http: httpx2.Client, field: dict[str, Any]) -> None:
    (name,) = field
    error = refused(chat(http, **field))
    assert str(error["param"]).split(".")[0] == name
    assert name in error["message"]


@pytest.mark.parametrize(
    "field", [{"echo": True}, {"best_of": 2}, {"suffix": "x"}, {"logprobs": 1}, {"n": 3}], ids=repr
)
def test_s5_of_completions(http: httpx2.Client, field: dict[str, Any]) -> None:
    (name,) = field
    assert refused(post(http, "/v1/completions", {"model": MODEL, "prompt": "Q"} | field))["param"] == name


def test_s5_values_that_change_nothing_are_accepted(http: httpx2.Client) -> None:
    neutral = {
        "n": 1,
        "logprobs": False,
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "stop": None,
        "user": "me",
        "tools": None,
        "store": False,
    }
    assert chat(http, **neutral).json()["choices"][0]["message"]["content"] == "Velmora"


def test_s5_a_bias_and_penalties_are_honoured(http: httpx2.Client, trained: tuple[Path, Any, Any]) -> None:
    first = trained[2](" Velmora")["input_ids"][0]
    assert not chat(http, logit_bias={str(first): -100}).json()["choices"][0]["message"]["content"].startswith("Ve")
    letter = trained[2]("x")["input_ids"][0]
    assert chat(http, logit_bias={str(letter): 100}, max_tokens=3).json()["choices"][0]["message"]["content"] == "xxx"


def test_s6_models(http: httpx2.Client, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    assert http.get(f"/v1/models/{MODEL}").json()["object"] == "model"
    refused(http.get("/v1/models/other"), 404)


def test_s6_streams_are_the_whole_answer_in_parts(http: httpx2.Client, client: openai.OpenAI) -> None:
    whole = chat(http).json()
    response = chat(http, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response)
    assert done == "[DONE]"
    *parts, last = map(json.loads, chunks)
    assert last["usage"] == whole["usage"] and last["choices"] == []
    assert {part["model"] for part in parts} == {whole["model"]} == {MODEL}
    texts = [part["choices"][0]["delta"].get("content", "") for part in parts]
    assert "".join(texts) == whole["choices"][0]["message"]["content"] == "Velmora"
    assert len(texts) > 2
    assert all(part["usage"] is None for part in parts)
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    stream: Any = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Velmora"


def test_s6_completions_stream_the_same_text(http: httpx2.Client, client: openai.OpenAI) -> None:
    body = {"model": MODEL, "prompt": QUESTIONS[0].prompt, "temperature": 0}
    whole = post(http, "/v1/completions", body).json()["choices"][0]
    parts = [
        json.loads(event)["choices"][0] for event in events(post(http, "/v1/completions", body | {"stream": True}))[:-1]
    ]
    assert whole["text"] == "".join(part["text"] for part in parts) == " Velmora"
    assert whole["finish_reason"] == parts[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_s6_the_end_mark_as_the_last_allowed_token_is_a_stop(
    http: httpx2.Client, trained: tuple[Path, Any, Any], stream: bool
) -> None:
    num_tokens = len(trained[2](" Velmora")["input_ids"]) + 1  # and the mark
    for limit, expected in ((num_tokens, "stop"), (num_tokens - 1, "length"), (num_tokens + 1, "stop")):
        for name in ("max_tokens", "max_completion_tokens"):
            response = chat(http, stream=stream, **{name: limit})
            reply = json.loads(events(response)[-2]) if stream else response.json()
            assert reply["choices"][0]["finish_reason"] == expected
        if not stream:
            assert reply["usage"]["completion_tokens"] == min(limit, num_tokens)


def test_t2_the_served_answer_ends_at_the_end_of_text(http: httpx2.Client) -> None:
    for question in QUESTIONS:
        reply = chat(http, messages=[{"role": "user", "content": question.question}]).json()
        assert (reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]) == (
            question.answer,
            "stop",
        )


@pytest.mark.parametrize("text", [END, f"a{END}b", f"{END}{END}", END[:-1], f"{END[:5]}", f"\n{END}\nQ: x"], ids=repr)
def test_t3_control_tokens_in_a_clients_text_are_text(
    http: httpx2.Client, trained: tuple[Path, Any, Any], text: str
) -> None:
    tokenizer = trained[2]
    tokenizer.backend_tokenizer.encode_special_tokens = True
    try:
        expected = len(tokenizer.backend_tokenizer.encode(text).ids)
        inside = len(tokenizer.backend_tokenizer.encode(f"Q: {text.strip()}\nA:").ids)
    finally:
        tokenizer.backend_tokenizer.encode_special_tokens = False
    reply = post(http, "/v1/completions", {"model": MODEL, "prompt": text, "max_tokens": 1}).json()
    assert reply["usage"]["prompt_tokens"] == expected
    reply = chat(http, messages=[{"role": "user", "content": text}], max_tokens=1).json()
    assert reply["usage"]["prompt_tokens"] == inside
    parts = [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:] or " "}]
    reply = chat(http, messages=[{"role": "user", "content": parts}], max_tokens=1).json()
    assert reply["usage"]["prompt_tokens"] == inside


def test_served_greedy_answers_are_those_of_transformers(http: httpx2.Client, trained: tuple[Path, Any, Any]) -> None:
    """Token by token, also where the model has learned nothing and the likeliest token is hardly ahead."""
    _, model, tokenizer = trained
    for prompt in [question.prompt for question in QUESTIONS] + ["Q", "The", "ما", "国家", "x y z", "\n\n", "12"]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            found = model.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        expected = tokenizer.decode(found, skip_special_tokens=True)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 40, "temperature": 0}
        assert post(http, "/v1/completions", body).json()["choices"][0]["text"] == expected


def generating(served: Served) -> float:  # of llama.cpp, which counts them
    """Requests that the engine computes now or has waiting."""
    text = httpx2.get(f"{served.engine_url}/metrics", trust_env=False).text
    counts = [
        line.split()[-1]
        for line in text.splitlines()
        if line.startswith(("llamacpp:requests_processing", "llamacpp:requests_deferred"))
    ]
    return sum(map(float, counts))


def until(condition: Any, timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.02)
    return True


@pytest.mark.parametrize("stream", [False, True])
def test_s6_a_client_that_goes_away_stops_its_answer(served: Served, http: httpx2.Client, stream: bool) -> None:
    """The engine is stopped meanwhile, so that the answer cannot be done before the client is gone."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({"model": MODEL, "prompt": "Q", "stream": stream, "logit_bias": {"0": -100}}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    assert until(lambda: generating(served) == 0)
    served.engine.send_signal(signal.SIGSTOP)
    try:
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head.encode() + body)
            gone.settimeout(0.3)
            with pytest.raises(TimeoutError):
                gone.recv(1)
    finally:
        served.engine.send_signal(signal.SIGCONT)
    assert until(lambda: generating(served) == 0)
    assert chat(http).json()["choices"][0]["message"]["content"] == "Velmora"


def test_s6_health_is_that_of_the_engine(served: Served, http: httpx2.Client) -> None:
    assert http.get("/health").status_code == 200
    served.engine.send_signal(signal.SIGSTOP)
    try:
        assert until(lambda: http.get("/health").status_code == 503, timeout_s=60)
        assert http.get("/health/live").status_code == 200
        refused(chat(http, max_tokens=0))  # what needs no engine still answers
    finally:
        served.engine.send_signal(signal.SIGCONT)
    assert until(lambda: http.get("/health").status_code == 200)


def test_many_clients_at_once(http: httpx2.Client) -> None:
    answers: list[str] = []

    def one() -> None:
        answers.append(chat(http).json()["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["Velmora"] * 40


def test_an_engine_that_is_gone_is_said(served: Served, http: httpx2.Client) -> None:
    os.kill(served.engine.pid, signal.SIGKILL)
    served.engine.wait()
    response = chat(http)
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"
    assert chat(http, stream=True).status_code == 503

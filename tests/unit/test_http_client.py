"""The HTTP client recovers from whatever a server does, or says what it did; and tells no key."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import time
import traceback
from email.utils import formatdate
from typing import Any

import pytest

from pyvision_rl.chat_endpoint import ChatEndpoint
from pyvision_rl.config import EndpointConfig
from pyvision_rl.errors import ConfigError, EndpointError, MissingKeyError
from pyvision_rl.http_client import JsonClient
from pyvision_rl.registry import parse_options
from pyvision_rl.testing.fake_openai import FakeOpenAI, Fault

KEY = "sk-do-not-tell-4711"


def config(url: str, **values: Any) -> EndpointConfig:
    quick = {"timeout_s": 5.0, "retry_wait_s": 0.01, "max_wait_s": 0.2, "model": "m"}
    return EndpointConfig.model_validate({"url": url, **quick, **values})


def ask(client: JsonClient, times: int = 1) -> list[dict[str, Any] | BaseException]:
    """Send requests together and close the client."""

    async def all_of_them() -> list[dict[str, Any] | BaseException]:
        try:
            posts = (client.post("/chat/completions", {"number": n}) for n in range(times))
            return await asyncio.gather(*posts, return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(all_of_them())


RECOVERABLE = {
    "408": Fault(status=408),
    "429": Fault(status=429),
    "429 with Retry-After": Fault(status=429, headers={"Retry-After": "0.05"}),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503),
    "504": Fault(status=504),
    "a dropped connection": Fault(drop=True),
    "a truncated body": Fault(truncate=True),
    "no JSON": Fault(body=b"<html>busy</html>"),
    "a JSON that is too deep": Fault(body=b'{"choices": ' + b"[" * 200_000),
    "half of a JSON": Fault(body=b'{"choices": [{"mess'),
    "no object": Fault(body=b"[1, 2]"),
    "an error with status 200": Fault(body=b'{"error": {"code": 502, "message": "upstream"}}'),
    "a slow start": Fault(delay_s=2.0),
    "a slow stream": Fault(drip_s=0.02),
}


@pytest.mark.parametrize("fault", RECOVERABLE.values(), ids=RECOVERABLE)
def test_a_passing_fault_costs_one_retry(fault: Fault) -> None:
    with FakeOpenAI(faults=[fault]) as server:
        client = JsonClient(config(server.url, timeout_s=1.0))
        (found,) = ask(client)
    assert isinstance(found, dict), found
    assert found["choices"][0]["message"]["content"] == "1"
    assert client.counts == {"requests": 2, "retries": 1}
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", RECOVERABLE.values(), ids=RECOVERABLE)
def test_a_lasting_fault_ends_in_an_error_that_says_what_it_was(fault: Fault) -> None:
    with FakeOpenAI(always=fault) as server:
        client = JsonClient(config(server.url, timeout_s=0.2, max_retries=2))
        (found,) = ask(client)
    assert isinstance(found, EndpointError)
    assert server.url in str(found)
    assert "(3 tries)" in str(found)
    assert client.counts == {"requests": 3, "retries": 2, "failures": 1}


@pytest.mark.parametrize("status", [301, 400, 401, 404, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    with FakeOpenAI(always=Fault(status=status)) as server:
        client = JsonClient(config(server.url))
        (found,) = ask(client)
    assert f"status {status}: " in str(found)
    assert "on demand" in str(found)
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        (found,) = ask(JsonClient(config(url, max_retries=1)))
    assert isinstance(found, EndpointError)
    assert url in str(found)
    assert "refused" in str(found)


def test_retry_after_is_waited_for() -> None:
    with FakeOpenAI(faults=[Fault(status=429, headers={"Retry-After": "0.15"})]) as server:
        began = time.monotonic()
        (found,) = ask(JsonClient(config(server.url)))
    assert isinstance(found, dict)
    assert time.monotonic() - began >= 0.15


@pytest.mark.parametrize(
    "after", ["3600", formatdate(time.time() + 7200, usegmt=True)], ids=["seconds", "date"]
)
def test_a_server_that_wants_more_patience_than_allowed_is_given_up(after: str) -> None:
    with FakeOpenAI(always=Fault(status=429, headers={"Retry-After": after})) as server:
        (found,) = ask(JsonClient(config(server.url)))
    assert isinstance(found, EndpointError)
    assert "asks to wait" in str(found)
    assert len(server.requests) == 1


def test_fifty_requests_are_bounded_and_all_answered() -> None:
    def echo(body: dict[str, Any]) -> str:
        time.sleep(0.01)
        return str(body["number"])

    faults = [Fault(status=500), Fault(drop=True), Fault(truncate=True), Fault(body=b"{")] * 3
    with FakeOpenAI(echo, faults=faults) as server:
        client = JsonClient(config(server.url, max_concurrent=8))
        found = ask(client, 50)
    said = [f["choices"][0]["message"]["content"] for f in found if isinstance(f, dict)]
    assert said == [str(n) for n in range(50)]
    assert 1 < server.most_live <= 8
    assert len(server.requests) == 62
    # A drop on a connection that was used before passes for a stale one: sent again, not counted.
    assert 9 <= client.counts["retries"] <= 12


def test_connections_are_used_again_and_one_that_went_stale_is_no_failed_try() -> None:
    async def with_pause(client: JsonClient) -> None:
        await client.post("/chat/completions", {})
        # The server closes the connection after a whole answer, while it is idle.
        await client.post("/chat/completions", {})
        await asyncio.sleep(0.05)
        await client.post("/chat/completions", {})
        await client.close()

    with FakeOpenAI(faults=[None, Fault(close_after=True)]) as server:
        client = JsonClient(config(server.url))
        asyncio.run(with_pause(client))
    assert client.counts == {"requests": 3}
    assert server.num_connections == 2


def test_a_cancelled_request_ends_at_once() -> None:
    async def give_up(client: JsonClient) -> float:
        task = asyncio.create_task(client.post("/chat/completions", {}))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()
        return time.monotonic() - began

    with FakeOpenAI(always=Fault(delay_s=1.0)) as server:
        assert asyncio.run(give_up(JsonClient(config(server.url)))) < 0.5


def test_waiting_draws_nothing_from_the_random_numbers_of_a_run() -> None:
    random.seed(1)
    want = random.random()
    random.seed(1)
    with FakeOpenAI(faults=[Fault(status=500)]) as server:
        ask(JsonClient(config(server.url)))
    assert random.random() == want


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeOpenAI() as server:
        (found,) = ask(JsonClient(config(server.url)))
    assert isinstance(found, dict)


def test_the_key_is_sent_and_is_in_no_message() -> None:
    with FakeOpenAI(always=Fault(status=401, echo=True)) as server:
        (found,) = ask(JsonClient(config(server.url), KEY))
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "Bearer ***" in str(found)
    assert KEY not in str(found)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("localhost:8000/v1", "wants http://"),
        ("ftp://host/v1", "wants http://"),
        ("http:///v1", "wants http://"),
        ("https://me:secret@host/v1", "user or password"),
        ("https://host/v1?key=secret", "no query but api-version"),
        ("https://host/v1?api-version=1&key=secret", "no query but api-version"),
        ("https://host/v1#secret", "no fragment"),
        ("http://host:port/v1", "port"),
        ("http://host:99999/v1", "out of range"),
        ("http://[::1/v1", "IPv6"),
        ("http://:80/v1", "wants http://"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(url: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        parse_options(EndpointConfig, {"url": url}, "rewards.judge")
    assert str(caught.value).startswith("rewards.judge.url ")
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://[::1]/v1", "::1", 80),
        ("https://[2001:db8::10]/v1", "2001:db8::10", 443),
        ("http://[::1]:8000/v1", "::1", 8000),
        ("https://host/v1", "host", 443),
    ],
)
def test_every_address_is_asked_at_its_own_host_and_port(url: str, host: str, port: int) -> None:
    connection, _ = JsonClient(config(url)).connect()
    assert (connection.host, connection.port) == (host, port)


def test_an_api_version_is_sent_and_left_out_of_messages() -> None:
    with FakeOpenAI(always=Fault(status=401)) as server:
        (found,) = ask(JsonClient(config(f"{server.url}?api-version=2024-10-21")))
    assert isinstance(found, EndpointError)
    assert "api-version" not in str(found)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e300])
def test_a_time_limit_that_no_socket_takes_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        parse_options(EndpointConfig, {"timeout_s": value}, "rewards.judge")


# One chat completion.


def test_a_key_must_be_there_and_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    named = config("http://localhost/v1", api_key_env="JUDGE_KEY")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(MissingKeyError, match=r"there\.api_key_env = 'JUDGE_KEY'"):
        ChatEndpoint(named, "there").check_key()
    monkeypatch.setenv("JUDGE_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="no proper key") as error:
        ChatEndpoint(named, "there")
    assert "lines" not in str(error.value)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    ChatEndpoint(named, "there").check_key()


@pytest.mark.parametrize("missing", ["url", "model"])
def test_server_and_model_must_be_named(missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"there\.{missing} is empty"):
        ChatEndpoint(EndpointConfig(**{"url": "http://h", "model": "m", missing: ""}), "there")


@pytest.mark.parametrize(
    "value",
    [
        {"model": "m"},
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 1}}]},
        {"choices": "1"},
    ],
)
def test_an_answer_that_is_no_completion_is_an_error(value: Any) -> None:
    async def complete(endpoint: ChatEndpoint) -> None:
        try:
            await endpoint.complete([], {})
        finally:
            await endpoint.close()

    with FakeOpenAI(always=Fault(body=json.dumps(value).encode())) as server:
        endpoint = ChatEndpoint(config(server.url), "there")
        with pytest.raises(EndpointError, match="no chat completion"):
            asyncio.run(complete(endpoint))
    assert endpoint.stats()["failures"] == 1


def test_tokens_are_counted_and_a_missing_usage_is_none() -> None:
    bare = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()

    async def three(endpoint: ChatEndpoint) -> None:
        for _ in range(3):
            await endpoint.complete([{"role": "user", "content": "?"}], {"temperature": 0})
        await endpoint.close()

    with FakeOpenAI(faults=[None, Fault(body=bare)]) as server:
        endpoint = ChatEndpoint(config(server.url), "there")
        asyncio.run(three(endpoint))
    # Two completions with a usage of 10 + 2, one without.
    assert endpoint.stats() == {
        "requests": 3,
        "retries": 0,
        "failures": 0,
        "prompt_tokens": 20,
        "completion_tokens": 4,
    }
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "?"}],
        "temperature": 0,
    }


# What asks for something else than a chat completion.


def test_what_is_no_object_can_be_taken_and_a_refusal_has_its_status() -> None:
    async def three(client: JsonClient) -> list[Any]:
        try:
            empty = await client.post("/done", {}, any_answer=True)
            text = await client.post("/done", {}, any_answer=True)
            return [empty, text, await client.get("/models")]
        finally:
            await client.close()

    faults = [Fault(body=b""), Fault(body=b"Success"), Fault(status=404)]
    with FakeOpenAI(faults=faults) as server:
        with pytest.raises(EndpointError, match="status 404") as refused:
            asyncio.run(three(JsonClient(config(server.url))))
        assert refused.value.status == 404
        assert [seen.body for seen in server.requests] == [{}, {}, {}]
    with FakeOpenAI(lambda _: "1", faults=faults[:2]) as server:
        empty, text, models = asyncio.run(three(JsonClient(config(server.url))))
    assert (empty, text) == ({}, {})
    assert "choices" in models

"""The requests that a vLLM server is sent, and what its answers mean.

In: prompts (``Asked``) and sampling parameters; paths of weights. Out: an ``Answer``, or an
``EndpointError``. Knows the server's JSON and nothing else: no prompts, no limits, no weights. The
fields were recorded from vLLM 0.32 or read in later sources; an answer that lacks one names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyvision_rl.config import EndpointConfig
from pyvision_rl.errors import ConfigError, EndpointError, MissingKeyError
from pyvision_rl.http_client import JsonClient
from pyvision_rl.policy.vllm_prompt import Asked, Spans

GENERATE = "/inference/v1/generate"
_TOKEN = "token_id:"
"""What stands before an id where a server names tokens by text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server wrote, and how it read the prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One per token (nats)."""
    finish: str
    """``stop``, ``length``, ``abort``, ...; empty if the server does not say."""
    prompt_ids: tuple[int, ...]
    """The prompt, images expanded."""
    spans: Spans
    prompt_logprobs: tuple[float | None, ...] = ()
    """One per token of the prompt, under the whole vocabulary at temperature 1; None for the first.
    Empty when they were not asked for."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model of a server."""

    name: str
    max_tokens: int | None
    """Of prompt and turn; None where the server does not say."""
    adapter: bool
    """Whether it is an adapter of another one."""


class VLLMServer:
    """One server. Close it in the event loop that used it."""

    def __init__(self, config: EndpointConfig) -> None:
        """Take the address and limits of a config section; connects to nothing.

        Raises:
            MissingKeyError: The environment does not hold the key that the config names.
            ConfigError: The key cannot be one.
        """
        name = config.api_key_env
        key = os.environ.get(name, "").strip() if name else ""
        if name and not key:
            raise MissingKeyError(
                f"policy.options.api_key_env = {name!r}: no such environment variable, or empty"
            )
        if not (key.isascii() and (not key or key.isprintable())):
            raise ConfigError(f"policy.options.api_key_env = {name!r}: holds no proper key")
        self._client = JsonClient(config, key)
        self.address = self._client.address
        self._tokens = {"prompt_tokens": 0, "completion_tokens": 0}

    async def generate(self, asked: Asked, sampling: Mapping[str, Any], model: str = "") -> Answer:
        """Return the server's continuation of a prompt.

        Raises:
            EndpointError: Refused, no answer after all retries, or not the answer expected.
        """
        body: dict[str, Any] = {
            "token_ids": list(asked.token_ids),
            "sampling_params": dict(sampling),
            "return_token_ids": True,
        }
        if asked.images:
            # Flat: not nested as in chat requests.
            parts = [{"type": "image_url", "url": url} for url in asked.images]
            body["content_parts"] = parts
        if model:
            body["model"] = model
        value = await self._client.post(GENERATE, body)
        try:
            answer = _answer(value, "prompt_logprobs" in sampling)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            self._client.counts["failures"] += 1
            raise EndpointError(
                f"{self.address}: {GENERATE} gave an answer of another form ({error!r}): its vLLM "
                "is older or newer than this client knows (docs/vllm.md)"
            ) from error
        self._tokens["prompt_tokens"] += len(answer.prompt_ids)
        self._tokens["completion_tokens"] += len(answer.token_ids)
        return answer

    async def models(self) -> list[Served]:
        """Return what the server serves.

        Raises:
            EndpointError: It cannot be reached, or is no such server.
        """
        value = await self._client.get("/v1/models")
        try:
            return [
                Served(str(card["id"]), card.get("max_model_len"), bool(card.get("parent")))
                for card in value["data"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise EndpointError(f"{self.address}: /v1/models is no list ({error!r})") from error

    async def version(self) -> str:
        """Return the server's version; "unknown" where it does not say."""
        try:
            return str((await self._client.get("/version"))["version"])
        except (EndpointError, KeyError):
            return "unknown"

    async def tokenize(self, text: str, model: str) -> tuple[int, ...]:
        """Return the ids of a text, special tokens recognised, none added.

        Raises:
            EndpointError: Refused, or no answer after all retries.
        """
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        value = await self._client.post("/tokenize", body)
        try:
            return tuple(map(int, value["tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EndpointError(f"{self.address}: /tokenize gave no ids ({error!r})") from error

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something to be done; return what the server says of it.

        Raises:
            EndpointError: Refused, or no answer after all retries.
        """
        return await self._client.post(path, body or {}, any_answer=True)

    def stats(self) -> dict[str, float]:
        """Return requests, retries, failures and tokens so far."""
        counts = {name: self._client.counts[name] for name in ("requests", "retries", "failures")}
        return {name: float(count) for name, count in (counts | self._tokens).items()}

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.close()


def _answer(value: Mapping[str, Any], scored: bool) -> Answer:
    choice = value["choices"][0]
    ids = tuple(map(int, choice["token_ids"]))
    content = choice["logprobs"]["content"]
    if len(content) != len(ids):
        raise ValueError(f"{len(ids)} tokens and {len(content)} log-probabilities")
    for token, entry in zip(ids, content, strict=True):
        named = _named(entry)
        if named is not None and named != token:
            raise ValueError(f"the log-probability of token {named} for token {token}")
    prompt = tuple(map(int, value["prompt_token_ids"]))
    placeholders = value.get("mm_placeholders") or {}
    if set(placeholders) - {"image"}:
        raise ValueError(f"placeholders of {sorted(placeholders)}")
    return Answer(
        ids,
        tuple(float(entry["logprob"]) for entry in content),
        str(choice.get("finish_reason") or ""),
        prompt,
        tuple((int(p["offset"]), int(p["length"])) for p in placeholders.get("image", ())),
        _prompt_logprobs(value["prompt_logprobs"], prompt) if scored else (),
    )


def _named(entry: Mapping[str, Any]) -> int | None:
    """Return the id that a log-probability says it is of; None where it names a text only."""
    if "token_id" in entry:
        return int(entry["token_id"])
    text = str(entry.get("token", ""))
    return int(text.removeprefix(_TOKEN)) if text.startswith(_TOKEN) else None


def _prompt_logprobs(
    rows: list[Mapping[str, Any] | None], prompt: tuple[int, ...]
) -> tuple[float | None, ...]:
    if len(rows) != len(prompt):
        raise ValueError(f"{len(prompt)} tokens and {len(rows)} log-probabilities of the prompt")
    # JSON makes texts of the ids that are keys.
    told: list[float | None] = [None]
    for row, token in zip(rows[1:], prompt[1:], strict=True):
        if row is None:
            raise ValueError("a token of the prompt without a log-probability")
        told.append(float(row[str(token)]["logprob"]))
    return tuple(told)

"""One chat completion from an OpenAI-compatible server.

In: messages in that API's form, and sampling parameters. Out: a ``Reply``: text, why it ended, and
what it cost. The key is read here, from the environment variable that the config names, and goes
into the request only. Knows neither prompts nor grades.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyvision_rl.config.endpoints import EndpointConfig
from pyvision_rl.errors import ConfigError, EndpointError, MissingKeyError
from pyvision_rl.http_client import JsonClient

BROKEN_OFF = frozenset({"abort", "error", "insufficient_system_resource"})
"""Why a completion ends that the model did not end, nor a limit of ours: half a text is none."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server wrote."""

    text: str
    finish: str
    """``stop``, ``length``, ``content_filter``, ...; empty if the server does not say."""
    stopped_at: str | None
    """The stop string that ended it, where the server says so (vLLM does)."""
    says_stop: bool
    """Whether the server names stop strings at all: then None above means the model ended."""


class ChatEndpoint:
    """A served model. Close it in the event loop that used it."""

    def __init__(self, config: EndpointConfig, where: str) -> None:
        """Take the server of a config section; connects to nothing.

        Args:
            config: The section.
            where: Its dotted place, for messages.

        Raises:
            ConfigError: It names no server or no model, or the key cannot be one.
        """
        for name in ("url", "model"):
            if not getattr(config, name):
                raise ConfigError(f"{where}.{name} is empty; name the server's")
        self._config = config
        self._where = where
        self._key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
        # Otherwise the library below would refuse the header, and quote it.
        if self._key and not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"{where}.api_key_env = {config.api_key_env!r}: holds no proper key")
        self._client = JsonClient(config, self._key)
        self._tokens = {"prompt_tokens": 0, "completion_tokens": 0}

    def check_key(self) -> None:
        """Raise MissingKeyError if the config names a key that the environment does not hold."""
        name = self._config.api_key_env
        if name and not self._key:
            raise MissingKeyError(
                f"{self._where}.api_key_env = {name!r}: no such environment variable, or empty"
            )

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> Reply:
        """Return the server's completion of ``messages``.

        Raises:
            EndpointError: Refused, no answer after all retries, or one that is no completion, or
                half of one.
        """
        body = {"model": self._config.model, "messages": list(messages), **parameters}
        value = await self._client.post("/chat/completions", body)
        self._count(value.get("usage"))
        try:
            choice = value["choices"][0]
            text = choice["message"].get("content")
            if not isinstance(text, str | None):
                raise TypeError(f"content is a {type(text).__name__}")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            self._client.counts["failures"] += 1
            raise EndpointError(
                f"{self._client.address}: an answer that is no chat completion ({error!r})"
            ) from error
        finish = str(choice.get("finish_reason") or "")
        if finish in BROKEN_OFF:
            self._client.counts["failures"] += 1
            raise EndpointError(f"{self._client.address}: broke the completion off ({finish})")
        stopped = choice.get("stop_reason")
        return Reply(
            text or "",
            finish,
            stopped if isinstance(stopped, str) else None,
            "stop_reason" in choice,
        )

    def stats(self) -> dict[str, float]:
        """Return requests, retries, failures and tokens so far."""
        counts = {name: self._client.counts[name] for name in ("requests", "retries", "failures")}
        return {name: float(count) for name, count in (counts | self._tokens).items()}

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.close()

    def _count(self, usage: object) -> None:
        for name in self._tokens:
            number = usage.get(name) if isinstance(usage, dict) else None
            self._tokens[name] += number if isinstance(number, int) else 0

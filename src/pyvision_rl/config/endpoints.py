"""The sections that name a server: where it is, how patiently it is asked, and at what cost."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pyvision_rl.config.base import Section

_NO_SECRET = re.compile(r"(api-version=[\w.-]*)?")


class EndpointConfig(Section):
    """A server with an OpenAI-compatible chat endpoint. No proxy is used."""

    url: str = ""
    """Base address, e.g. ``http://localhost:8000/v1``; ``/chat/completions`` is added. May end in
    ``?api-version=...``."""
    model: str = ""
    """The name under which the server serves it."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; empty sends none. The key itself is
    written nowhere."""
    timeout_s: float = Field(120.0, gt=0, le=86_400)
    """For one try, from connecting to the last byte."""
    max_concurrent: int = Field(32, gt=0)
    """Requests under way at the same time."""
    max_retries: int = Field(5, ge=0)
    """Further tries after a timeout, a broken connection or answer, 408, 429 or 5xx."""
    retry_wait_s: float = Field(1.0, ge=0)
    """Longest wait before the first retry; doubled for each further one, with jitter."""
    max_wait_s: float = Field(60.0, gt=0)
    """Longest wait before any retry; a server that asks for more is given up."""

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        # A ValueError of these two, too, becomes an error that names the key.
        parts = urlsplit(url)
        _ = parts.port
        if "@" in parts.netloc or parts.fragment or not _NO_SECRET.fullmatch(parts.query):
            raise PydanticCustomError(
                "secret",
                "may hold no user or password, no fragment, and no query but api-version: it is "
                "written to the run folder; a key goes into the variable that api_key_env names",
            )
        if url and not (parts.scheme in ("http", "https") and parts.hostname):
            raise ValueError("wants http://host/... or https://host/...")
        return url


class ChatConfig(EndpointConfig):
    """The same, with what its parameters are called and which of them it takes."""

    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the server calls the limit of a reply."""
    omit: tuple[Literal["temperature", "top_p", "stop"], ...] = ()
    """Parameters that are not sent, for a server that refuses them."""


class JudgeConfig(ChatConfig):
    """The language model that grades, for ``judge`` and ``ladder``, and for routes to them."""

    rules_first: bool = True
    """Ask only when the rules of ``match`` do not already find the answer right."""
    max_calls: int | None = Field(None, ge=0)
    """Calls of this process, a call and its retries counting once; what is left after them stays
    ungraded. Verdicts from the cache are free."""
    max_answer_chars: int = Field(1000, gt=0)
    """A longer answer is wrong, and not sent."""
    max_new_tokens: int = Field(1024, gt=0)
    """Room for a judge that thinks first; a cut reply is no verdict."""
    cache: str = "runs/.judge-cache"
    """Folder of verdicts, shared by runs; empty keeps them in memory only."""

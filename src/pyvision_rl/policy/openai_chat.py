"""A model behind an OpenAI-compatible chat endpoint writes the turns. For use and evaluation.

In: the messages of a ``SampleRequest``; images go as PNG in data URLs, scaled to the pixel limits
of ``[policy]``. Out: a ``Completion`` of the text that came back. Its ids are the renderer's, made
from that text, and its log-probabilities are None: such an episode can be graded, read and
imitated, but RL refuses it. Keeps nothing per episode.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image
from pydantic import Field

from pyvision_rl.chat_endpoint import ChatEndpoint, Reply
from pyvision_rl.config import ChatConfig, PolicyConfig
from pyvision_rl.errors import ConfigError, EndpointError, PolicyError, TaskError
from pyvision_rl.media import data_url, open_image, png_of
from pyvision_rl.registry import parse_options
from pyvision_rl.types import (
    Completion,
    Media,
    Message,
    SampleLimits,
    SampleRequest,
    StopReason,
    Text,
)

_CACHED_IMAGES = 64


class Options(ChatConfig):
    """The options of ``policy.name = "openai_chat"``."""

    send_seed: bool = True
    """Send each turn's seed; some servers refuse it."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of every request, as the server names them."""


def read_options(config: PolicyConfig) -> Options:
    """Return the checked options.

    Raises:
        ConfigError: One is unknown or out of range.
    """
    return parse_options(Options, config.options, "policy.options")


class Scribe(Protocol):
    """What is needed of a renderer."""

    def script(self, text: str, stop: Sequence[str] = ()) -> Completion:
        """Return ``text`` as a turn; not closed when it ends with one of the ``stop`` strings."""
        ...


class OpenAIChatPolicy:
    """Writes turns with a served model."""

    def __init__(self, config: PolicyConfig, renderer: Scribe) -> None:
        """Check the options; connects to nothing.

        Raises:
            ConfigError: An option is wrong, no server or model is named, or the key is not there.
        """
        self._options = read_options(config)
        self._endpoint = ChatEndpoint(self._options, "policy.options")
        self._endpoint.check_key()
        self._pixels = (config.min_pixels or 1, config.max_pixels or math.inf)
        self._renderer = renderer
        self._images: OrderedDict[str, str] = OrderedDict()

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next turn.

        Raises:
            PolicyError: The server failed, for all retries, or withheld the turn.
            ConfigError: The turn must begin with a given text, which a chat API cannot do.
        """
        if request.forced:
            raise ConfigError(
                'policy.name = "openai_chat" cannot make a turn begin with a given text: no probe, '
                "and no eval.forced_start"
            )
        try:
            messages = [await self._message(message) for message in request.messages]
            reply = await self._endpoint.complete(messages, self._parameters(request))
        except (EndpointError, TaskError) as error:
            raise PolicyError(str(error)) from error
        if reply.finish == "content_filter":
            raise PolicyError(f"{self._options.url}: the server withheld the turn (content_filter)")
        return self._completion(reply, request.limits)

    def release(self, episode: str) -> None:
        """Do nothing: no state is kept per episode."""

    def stats(self) -> dict[str, float]:
        """Return requests, retries, failures and tokens so far, named ``policy_...``."""
        return {f"policy_{name}": value for name, value in self._endpoint.stats().items()}

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._endpoint.close()

    def _parameters(self, request: SampleRequest) -> dict[str, Any]:
        limits = request.limits
        parameters: dict[str, Any] = {
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            self._options.max_tokens_name: limits.max_new_tokens,
        }
        if limits.stop:
            parameters["stop"] = list(limits.stop)
        if limits.top_k:
            parameters["top_k"] = limits.top_k
        if self._options.send_seed:
            # Servers read it as a signed 32-bit number.
            parameters["seed"] = request.seed % 2**31
        sent = {k: v for k, v in parameters.items() if k not in self._options.omit}
        return sent | self._options.extra

    def _completion(self, reply: Reply, limits: SampleLimits) -> Completion:
        text, stopped = with_stop(reply, limits.stop)
        made = self._renderer.script(text, limits.stop)
        ids, stop = made.token_ids, made.stop
        if reply.finish == "length" and not stopped:
            # Cut off: the end-of-turn token that closes a script was not written.
            ids, stop = ids[:-1], StopReason.LENGTH
        return Completion(ids, None, text, stop)

    async def _message(self, message: Message) -> dict[str, Any]:
        if all(isinstance(part, Text) for part in message.parts):
            texts = (part.text for part in message.parts if isinstance(part, Text))
            return {"role": message.role, "content": "".join(texts)}
        content: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, Text):
                content.append({"type": "text", "text": part.text})
            else:
                url = await self._data_url(part)
                content.append({"type": "image_url", "image_url": {"url": url}})
        return {"role": message.role, "content": content}

    async def _data_url(self, media: Media) -> str:
        """The picture as the server sees it; the last ones are kept, for later turns."""
        url = self._images.pop(media.sha256, None)
        if url is None:
            # In a thread: compressing takes longer than a turn of the event loop may.
            url = await asyncio.to_thread(_data_url, media, *self._pixels)
        self._images[media.sha256] = url
        if len(self._images) > _CACHED_IMAGES:
            self._images.popitem(last=False)
        return url


def with_stop(reply: Reply, stops: Sequence[str]) -> tuple[str, bool]:
    """Return the text of a turn with the stop string that ended it, and whether one did.

    Servers leave the stop string out. Those that do not say which one it was are believed to have
    stopped at ``</x>`` when an ``<x>`` is left open. What a server wrote beyond a stop string is
    cut off: it would be an invented observation.
    """
    text = reply.text
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        return text[: min(ends)], True
    if reply.finish == "length":
        return text, False
    if reply.says_stop:
        stopped = reply.stopped_at if reply.stopped_at in stops else None
        return text + (stopped or ""), stopped is not None
    for stop in stops:
        if stop.startswith("</") and stop.replace("</", "<", 1) in text:
            return text + stop, True
    return text, False


def _data_url(media: Media, min_pixels: float, max_pixels: float) -> str:
    image = open_image(media)
    area = image.width * image.height
    scale = math.sqrt(min(max(area, min_pixels), max_pixels) / area)
    if scale != 1:
        rounded = math.floor if scale < 1 else math.ceil
        size = (max(1, rounded(side * scale)) for side in image.size)
        width, height = size
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return data_url(png_of(image))

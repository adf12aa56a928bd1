"""Whether a vLLM server is there, serves the model we think, and was started as we need it.

In: a server, and what we know of the model. Out: the served model's name and limit, or a
``ConfigError`` that says what is wrong with which server and how to start it. Asks for one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from pyvision_rl.errors import ConfigError, EndpointError
from pyvision_rl.media import image_media
from pyvision_rl.policy.vllm_prompt import PromptWriter
from pyvision_rl.policy.vllm_server import GENERATE, Answer, Served, VLLMServer
from pyvision_rl.types import Message, Segment, Text

if TYPE_CHECKING:
    from pyvision_rl.models.facts import ModelFacts

_TEXT = "<|im_start|>user\nWhich <code>x = 1</code>? 漢 é\n<|im_end|>\n"
_FORCE = 100.0
_MIN_FORCED = -1e-3
"""Log-probability of a token that a bias of 100 left no alternative to."""


class Scribe(Protocol):
    """What is needed of a renderer."""

    @property
    def end_of_turn(self) -> int:
        """Id of the token that ends a turn."""
        ...

    def open(self, messages: Sequence[Message]) -> Segment:
        """Return the prompt as given tokens."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of plain text; special tokens in it are recognised."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return ids as text, special tokens shown."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """What we know of the model that should be served."""

    source: str
    """``policy.model``, for messages."""
    facts: ModelFacts
    writer: PromptWriter
    renderer: Scribe


async def check_server(server: VLLMServer, name: str, expected: Expected) -> Served:
    """Return the model to ask for.

    Args:
        server: To be asked.
        name: ``policy.options.model``; empty takes the only one that is no adapter.
        expected: What it should be.

    Raises:
        ConfigError: See the file.
    """
    try:
        models = await server.models()
    except EndpointError as error:
        raise ConfigError(f"policy.options.url: no vLLM server answers there: {error}") from error
    served = _choose(models, name, server.address)
    await _check_tokenizer(server, served, expected)
    await _check_generation(server, served, expected)
    return served


def _choose(models: list[Served], name: str, address: str) -> Served:
    known = [m for m in models if (m.name == name if name else not m.adapter)]
    if len(known) == 1:
        return known[0]
    names = ", ".join(m.name for m in models) or "nothing"
    asked = f"policy.options.model = {name!r}" if name else "policy.options.model is empty"
    raise ConfigError(f"{asked}: the server at {address} serves {names}")


async def _check_tokenizer(server: VLLMServer, served: Served, expected: Expected) -> None:
    try:
        theirs = await server.tokenize(_TEXT, served.name)
    except EndpointError as error:
        if error.status == 404:
            return  # not every front end has it; the ids below are checked all the same
        raise ConfigError(f"policy.options.url: {error}") from error
    ours = expected.renderer.encode(_TEXT)
    if theirs != ours:
        raise _other_model(
            server, served, expected, f"its tokenizer makes {theirs} of {_TEXT!r}, and ours {ours}"
        )


async def _check_generation(server: VLLMServer, served: Served, expected: Expected) -> None:
    """Have one token written after a picture and the vocabulary's last id."""
    picture = image_media(Image.new("RGB", (112, 56), "grey"))
    message = Message("user", (Text("x"), picture))
    last = expected.facts.width - 1
    asked = await expected.writer.write([expected.renderer.open((message,))], (last,))
    wanted = expected.renderer.encode("~")[0]
    sampling = {
        "max_tokens": 1,
        "temperature": 1.0,
        "logprobs": 0,
        "seed": 0,
        "logit_bias": {str(wanted): _FORCE},
    }
    try:
        answer = await server.generate(asked, sampling, served.name)
    except EndpointError as error:
        raise await _refused(server, served, expected, error) from error
    if difference := asked.compare(answer.prompt_ids, answer.spans):
        raise _other_model(server, served, expected, f"of a prompt with a picture, {difference}")
    _check_started(server, answer, wanted)


async def _refused(
    server: VLLMServer, served: Served, expected: Expected, error: EndpointError
) -> ConfigError:
    if error.status in (404, 405):
        return ConfigError(
            f"the vLLM server at {server.address} (version {await server.version()}) has no "
            f"{GENERATE}: start it with --enable-scale-out (docs/vllm.md)"
        )
    if error.status in (400, 422):
        last = expected.facts.width - 1
        detail = f"it refuses a picture, or token {last}, the last of ours: {error}"
        return _other_model(server, served, expected, detail)
    return ConfigError(f"policy.options.url (version {await server.version()}): {error}")


def _other_model(
    server: VLLMServer, served: Served, expected: Expected, detail: str
) -> ConfigError:
    return ConfigError(
        f"{served.name!r} at {server.address} is not policy.model = {expected.source!r}, or was "
        f"started with other limits: {detail}"
    )


def _check_started(server: VLLMServer, answer: Answer, wanted: int) -> None:
    if answer.token_ids != (wanted,):
        raise ConfigError(
            f"the vLLM server at {server.address} does not heed logit_bias, by which placeholders "
            f"are banned: it sampled {answer.token_ids}, not ({wanted},)"
        )
    if answer.logprobs[0] < _MIN_FORCED:
        raise ConfigError(
            f"the vLLM server at {server.address} tells log-probabilities from before temperature "
            "and bans: start it with --logprobs-mode processed_logprobs (docs/vllm.md)"
        )

"""A vLLM server writes the turns: token ids in, token ids and log-probabilities out.

In: one ``SampleRequest`` per episode and turn; its ids go as they are, one placeholder per image,
with the images beside them. Out: its ``Completion``, cut where the local policy would have ended
it. How the server read the prompt is compared with our own expansion each time. For RL, whoever
publishes weights is told of every new version (``on_new_weights``). Keeps nothing per episode: the
server has its own cache of prefixes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from pyvision_rl.config import PolicyConfig
from pyvision_rl.errors import ConfigError, EndpointError, PolicyError, TaskError
from pyvision_rl.policy.vllm_checks import Expected, Scribe, check_server
from pyvision_rl.policy.vllm_options import read_options
from pyvision_rl.policy.vllm_prompt import Asked, PromptWriter
from pyvision_rl.policy.vllm_server import Answer, Served, VLLMServer
from pyvision_rl.types import Completion, SampleRequest

_BAN = -100.0
"""Added to a logit: e^-100 is nothing, and a JSON number."""

Publish = Callable[[int], Mapping[str, float]]
"""Gives the server the weights of a version; returns what to note of it."""


class VLLMPolicy:
    """Samples from a served model; its network is ``policy.model``."""

    def __init__(self, config: PolicyConfig, renderer: Scribe) -> None:
        """Check the options and read the model's sizes; connects to nothing.

        Raises:
            ConfigError: An option is wrong, or nothing is known of ``policy.model``.
        """
        from pyvision_rl.models.facts import model_facts
        from pyvision_rl.models.load import vision_spec
        from pyvision_rl.policy.sampling import TurnEnd

        self.options = read_options(config)
        self.facts = model_facts(config.model)
        vision = vision_spec(
            config.model, min_pixels=config.min_pixels, max_pixels=config.max_pixels
        )
        self.writer = PromptWriter(self.facts.image_token_id, vision)
        self._expected = Expected(config.model, self.facts, self.writer, renderer)
        self._server = VLLMServer(self.options)
        self._end = TurnEnd(renderer.decode, renderer.end_of_turn)
        self._end_of_turn = renderer.end_of_turn
        self._banned = frozenset(self.facts.banned_ids)
        self._bias = {str(token): _BAN for token in self.facts.banned_ids}
        self._ready: asyncio.Task[Served] | None = None
        self._version = 0
        self._adapter = ""
        self._publish: Publish | None = None
        self._closed = False
        self.room = 0
        """Tokens an episode may take: a server whose limit is below is refused."""

    async def check(self, server: VLLMServer | None = None) -> Served:
        """Return the served model, after checking that it is ours.

        Args:
            server: To be asked; None asks through the policy's own connections.

        Raises:
            ConfigError: There is no such server, it serves another model, or it was started
                otherwise than this policy needs it.
        """
        server = server or self._server
        served = await check_server(server, self.options.model, self._expected)
        if served.max_tokens is not None and served.max_tokens < self.room:
            raise ConfigError(
                f"rollout.max_context_tokens = {self.room}, and {served.name!r} is served with "
                f"--max-model-len {served.max_tokens}: lower the one or raise the other"
            )
        return served

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next turn.

        Raises:
            PolicyError: The server failed for all retries, read another prompt than was sent, or
                sampled what is banned; or the policy was closed.
            ConfigError: The server is not what the config says; found before the first turn.
            RenderError: Placeholders and images of the history disagree.
        """
        if self._closed:
            raise PolicyError("the policy is closed")
        if request.limits.max_new_tokens < 1:
            raise PolicyError(f"max_new_tokens is {request.limits.max_new_tokens}, wants 1 or more")
        if self._ready is None:
            self._ready = asyncio.ensure_future(self.check())
        # Shared by all turns: one that is cancelled must not take the others with it.
        served = await asyncio.shield(self._ready)
        forced = request.forced[: request.limits.max_new_tokens]
        try:
            asked = await self.writer.write(request.segments, forced)
            sampling = self._sampling(request, len(forced))
            answer = await self._server.generate(asked, sampling, self._adapter or served.name)
        except (EndpointError, TaskError) as error:
            raise PolicyError(str(error)) from error
        self._check(answer, asked)
        return self._completion(answer, request, forced)

    def on_new_weights(self, publish: Publish) -> None:
        """Have ``publish`` called by every ``set_version``, before the version counts."""
        self._publish = publish

    def set_version(self, version: int) -> Mapping[str, float]:
        """Say that the weights behind this policy changed; return what publishing them measured."""
        noted = self._publish(version) if self._publish else {}
        self._version = version
        return noted

    def use_adapter(self, name: str) -> None:
        """Ask for this adapter from now on, instead of the model itself."""
        self._adapter = name

    def release(self, episode: str) -> None:
        """Do nothing: no state is kept per episode."""

    def stats(self) -> dict[str, float]:
        """Return requests, retries, failures and tokens so far, named ``policy_...``."""
        return {f"policy_{name}": value for name, value in self._server.stats().items()}

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        self._closed = True
        check, self._ready = self._ready, None
        if check is not None and not check.done():
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)
        await self._server.close()

    def _sampling(self, request: SampleRequest, num_forced: int) -> dict[str, Any]:
        limits = request.limits
        sampling: dict[str, Any] = {
            "max_tokens": max(1, limits.max_new_tokens - num_forced),
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "top_k": limits.top_k,
            # What a model's own generation_config may say must not apply.
            "repetition_penalty": 1.0,
            "seed": request.seed % 2**31,
            "logprobs": 0,
            "logit_bias": self._bias,
            # One token ends a turn, whatever else the model's config calls an end.
            "stop_token_ids": [self._end_of_turn],
            "ignore_eos": True,
            "stop": list(limits.stop),
            # A stop string may be a special token, which would not be seen.
            "skip_special_tokens": False,
        }
        if num_forced:
            sampling["prompt_logprobs"] = 0
        return sampling

    def _check(self, answer: Answer, asked: Asked) -> None:
        if difference := asked.compare(answer.prompt_ids, answer.spans):
            raise PolicyError(f"{self._server.address} misread a prompt: {difference}")
        for token in answer.token_ids:
            if token in self._banned or not 0 <= token < self.facts.width:
                raise PolicyError(
                    f"{self._server.address} sampled token {token}, which is a placeholder, "
                    "padding, or not of this vocabulary: banned"
                )
        if not all(map(math.isfinite, answer.logprobs)):
            raise PolicyError(f"{self._server.address}: a log-probability that is not finite")

    def _completion(
        self, answer: Answer, request: SampleRequest, forced: tuple[int, ...]
    ) -> Completion:
        ids: list[int] = []
        for token in (*forced, *answer.token_ids):
            ids.append(token)
            if len(ids) < len(forced):
                continue
            stop = self._end.reason(ids, request.limits, len(forced))
            if stop is not None:
                logprobs = self._logprobs(answer, request, forced)
                told = None if logprobs is None else logprobs[: len(ids)]
                return Completion(tuple(ids), told, self._end.text(ids), stop, self._version)
        why = {"length": "its --max-model-len is reached", "abort": "the turn was aborted"}
        raise PolicyError(
            f"{self._server.address} stopped after {len(answer.token_ids)} tokens, before the turn "
            f"was over ({why.get(answer.finish, f'finish reason {answer.finish!r}')})"
        )

    def _logprobs(
        self, answer: Answer, request: SampleRequest, forced: tuple[int, ...]
    ) -> tuple[float, ...] | None:
        """Of a turn; None if it has forced tokens that the server cannot score as sampled ones."""
        if not forced:
            return answer.logprobs
        if request.limits.temperature not in (0, 1):
            # Those of a prompt are told at temperature 1 only.
            return None
        told = [p for p in answer.prompt_logprobs[-len(forced) :] if p is not None]
        return (*told, *answer.logprobs)

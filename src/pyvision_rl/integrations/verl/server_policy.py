"""A policy whose turns are written by verl's inference server.

In: one ``SampleRequest`` and a client with verl's ``generate``. Out: a ``Completion`` of the ids
and log-probabilities that came back. Sampling settings are verl's own, which differ in validation;
the turn's limit and stop strings are ours. The server draws its own random numbers: ``seed`` and
``order`` of a request are not used. One object serves one episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pyvision_rl.errors import PolicyError
from pyvision_rl.integrations.verl.tokens import Pads, fitted
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.types import Completion, SampleLimits, SampleRequest, StopReason


class Server(Protocol):
    """What is needed of verl's ``LLMServerClient``."""

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Any] | None = None,
    ) -> Any:
        """Return a ``TokenOutput``: token_ids, log_probs, stop_reason, extra_fields."""
        ...


class ServerPolicy:
    """Writes the turns of one episode, and knows by which weights."""

    def __init__(
        self, server: Server, renderer: Renderer, pads: Pads, sampling: Mapping[str, Any]
    ) -> None:
        self._server = server
        self._renderer = renderer
        self._pads = pads
        self._sampling = sampling
        self._versions: list[int] = []

    @property
    def versions(self) -> tuple[int, int] | None:
        """The oldest and newest step whose weights wrote a turn; None if the server never told."""
        return (min(self._versions), max(self._versions)) if self._versions else None

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next turn.

        Raises:
            PolicyError: The server failed, gave up, or wrote what no policy may write.
        """
        if request.forced:
            raise PolicyError("verl's server cannot force the beginning of a turn")
        media = [m for segment in request.segments for m in segment.media]
        try:
            output = await self._server.generate(
                request.episode,
                prompt_ids=self._pads.expand(request.segments),
                sampling_params=self._params(request.limits),
                image_data=[fitted(m, self._pads.vision, self._pads.own) for m in media] or None,
            )
        except Exception as error:  # whatever a server or Ray raises is no failure of the model
            raise PolicyError(f"verl's server: {type(error).__name__}: {error}") from error
        return self._completion(output, request.limits)

    def release(self, episode: str) -> None:
        """Do nothing: the server forgets by itself."""

    async def close(self) -> None:
        """Do nothing: the server is verl's."""

    def _params(self, limits: SampleLimits) -> dict[str, Any]:
        # Named as vLLM names them; a new dict, because verl's server takes keys out of it.
        return {
            **self._sampling,
            "max_tokens": limits.max_new_tokens,
            "stop": list(limits.stop),
            "include_stop_str_in_output": True,
            "stop_token_ids": [self._renderer.end_of_turn],
        }

    def _completion(self, output: Any, limits: SampleLimits) -> Completion:
        ids = tuple(int(token) for token in output.token_ids)
        if output.stop_reason not in (None, "completed") or not ids:
            raise PolicyError(f"verl's server gave up a turn: {output.stop_reason or 'no tokens'}")
        if not self._pads.banned.isdisjoint(ids):
            raise PolicyError("verl's server sampled the placeholder of an image or video")
        told = output.extra_fields
        spans = (told.get("min_global_steps"), told.get("max_global_steps"))
        self._versions += [int(step) for step in spans if step is not None]
        ended = ids[-1] == self._renderer.end_of_turn
        text = self._renderer.decode(ids[:-1] if ended else ids)
        logprobs = output.log_probs
        return Completion(
            ids,
            None if logprobs is None else tuple(float(value) for value in logprobs),
            text,
            _stop(text, len(ids), limits, ended=ended),
            self._versions[-1] if self._versions else 0,
        )


def _stop(text: str, size: int, limits: SampleLimits, *, ended: bool) -> StopReason:
    if ended:
        return StopReason.END
    if any(stop in text for stop in limits.stop):
        return StopReason.STOP_STRING
    # Shorter than allowed: another end token of the model's own. Closed as a stop string is.
    return StopReason.LENGTH if size >= limits.max_new_tokens else StopReason.STOP_STRING

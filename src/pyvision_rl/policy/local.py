"""The in-process policy: a torch network that samples for many episodes at once.

In: one ``SampleRequest`` per episode and turn. Out: its ``Completion``. Requests made in the same
cycle of the event loop are decoded together, in ``request.order``; later ones join the running
batch. For training, the learner may share the network: it calls ``set_version`` after an update.
Decides nothing about tokens or caches (see ``decoding``); uses one device and one thread of Python.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from pyvision_rl.errors import PolicyError, PVRLError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.policy.decoding import Decoder, Row, as_error
from pyvision_rl.types import Completion, SampleRequest

_JOIN_EVERY = 4
"""Decoding steps between two looks at the waiting requests: arrivals then share a prefill."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    request: SampleRequest
    future: asyncio.Future[Completion]


class LocalPolicy:
    """Samples from a network in this process; ``max_batch`` episodes are decoded together."""

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        decode: Callable[[Sequence[int]], str],
        end_of_turn: int,
        max_batch: int,
    ) -> None:
        self._model = model
        self._decoder = Decoder(model, decode, end_of_turn)
        self._max_batch = max_batch
        self._version = 0
        self._waiting: list[_Job] = []
        self._running: dict[Row, asyncio.Future[Completion]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """Memory that episodes hold between turns; each is freed by ``release``."""
        return self._decoder.kept_bytes

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next turn of one episode.

        Raises:
            PolicyError: The network or the device failed, or the policy was closed.
            RenderError: Placeholders and images of the history disagree.
        """
        if self._closed:
            raise PolicyError("the policy is closed")
        if request.limits.max_new_tokens < 1:
            raise PolicyError(f"max_new_tokens is {request.limits.max_new_tokens}, wants 1 or more")
        if not any(s.token_ids for s in request.segments):
            raise PolicyError(f"episode {request.episode!r} asks for a turn after an empty history")
        job = _Job(request, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await job.future

    def release(self, episode: str) -> None:
        """Forget what is cached for an episode. Unknown ids are ignored."""
        self._decoder.forget(episode)

    def set_version(self, version: int) -> None:
        """Say that the shared network's weights changed; drops every cache.

        Raises:
            PolicyError: Turns are being written, under the old weights.
        """
        self._require_idle()
        self._version = version
        self._decoder.reset()

    def _require_idle(self) -> None:
        futures = [*self._running.values(), *(job.future for job in self._waiting)]
        busy = sum(not future.done() for future in futures)
        if busy:
            raise PolicyError(f"{busy} turns are being sampled: wait for them, then change weights")

    async def close(self) -> None:
        """Fail what still waits and free the caches. Idempotent."""
        self._closed = True
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        self._fail_all(PolicyError("the policy was closed"))
        self._decoder.reset()

    async def _work(self) -> None:
        """Decode until nobody waits. Ends with the last turn, so an idle policy holds no task."""
        try:
            await self._settle()
            with _evaluating(self._model.module):
                step = 0
                while self._waiting or self._running:
                    if self._waiting and (step % _JOIN_EVERY == 0 or not self._running):
                        self._admit()
                    self._step()
                    step += 1
                    if self._running or self._waiting:
                        # Lets finished turns go on to the sandbox while the others decode.
                        await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._fail_all(PolicyError("sampling was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 nobody may be left waiting, whatever broke
            self._fail_all(as_error(error))
        finally:
            self._decoder.reset(episodes=False)

    async def _settle(self) -> None:
        """Wait until a whole cycle of the event loop brings no new request."""
        seen = -1
        while seen != len(self._waiting):
            seen = len(self._waiting)
            await asyncio.sleep(0)

    def _admit(self) -> None:
        self._waiting = [job for job in self._waiting if not job.future.done()]
        self._waiting.sort(key=lambda job: job.request.order)
        room = self._max_batch - len(self._running)
        joining, self._waiting = self._waiting[:room], self._waiting[room:]
        rows = []
        for job in joining:
            try:
                row = Row(job.request, self._version)
            except (TypeError, ValueError) as error:
                job.future.set_exception(as_error(error))
                continue
            self._running[row] = job.future
            rows.append(row)
        for row, failure in self._decoder.admit(rows):
            self._finish(row, failure)

    def _step(self) -> None:
        """Draw one token for every row, hand out finished turns, feed the rest."""
        try:
            if self._decoder.rows:
                for row, result in self._decoder.sample():
                    self._finish(row, result)
            gone = [row for row, future in self._running.items() if future.done()]
            for row in gone:
                del self._running[row]
            if gone:
                self._decoder.drop(gone)
            if self._decoder.rows:
                self._decoder.feed()
        except Exception as error:  # noqa: BLE001 out of memory and the like: these rows only
            self._decoder.reset(episodes=False)
            for row in list(self._running):
                self._finish(row, as_error(error))

    def _finish(self, row: Row, result: Completion | PVRLError) -> None:
        future = self._running.pop(row)
        if future.done():
            return
        if isinstance(result, Completion):
            future.set_result(result)
        else:
            future.set_exception(result)

    def _fail_all(self, error: PVRLError) -> None:
        for future in [*self._running.values(), *(job.future for job in self._waiting)]:
            if not future.done():
                future.set_exception(error)
        self._running, self._waiting = {}, []


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while; each part then gets its own mode back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True

"""The policy contract: from everything said so far to one more turn.

In: a ``SampleRequest`` (one turn of one episode). Out: a ``Completion`` with its token ids and
log-probabilities. A policy knows neither prompts nor sandbox nor rewards.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pyvision_rl.types import Completion, SampleRequest


class Policy(Protocol):
    """Writes turns."""

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next turn of one episode. Requests waiting together may be batched.

        Raises:
            PolicyError: The backend failed; the episode is not the model's failure.
        """
        ...

    def release(self, episode: str) -> None:
        """Forget what is cached for an episode. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """Free the backend. Idempotent."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A policy that counts what it costs. Optional."""

    def stats(self) -> dict[str, float]:
        """Return what was counted so far, by metric name."""
        ...

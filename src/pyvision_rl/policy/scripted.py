"""A policy that plays back given turns.

In: scripts (task id -> the texts of its turns) and a function that makes a ``Completion`` of a
text (``Renderer.script``). Out: turn ``request.turn`` of ``request.task_id``, whatever was said
before. Samples nothing: limits, seed and forced ids of a request are ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from pyvision_rl.errors import PolicyError
from pyvision_rl.types import Completion, SampleRequest


class ScriptedPolicy:
    """Plays back scripts; every rollout of a task gets the same turns."""

    def __init__(
        self,
        scripts: Mapping[str, Sequence[str]],
        script: Callable[[str], Completion],
        *,
        delay_s: float = 0.0,
    ) -> None:
        self._scripts = scripts
        self._script = script
        self._delay_s = delay_s

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the scripted turn, after ``delay_s`` seconds.

        Raises:
            PolicyError: The task has no script, or its script has no such turn.
        """
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        turns = self._scripts.get(request.task_id)
        if turns is None:
            raise PolicyError(f"no script for task {request.task_id!r}")
        if not 0 <= request.turn < len(turns):
            raise PolicyError(
                f"the script of task {request.task_id!r} has {len(turns)} turns; "
                f"turn {request.turn} (counted from 0) was asked for"
            )
        return self._script(turns[request.turn])

    def release(self, episode: str) -> None:
        """Do nothing: no state is kept per episode."""

    async def close(self) -> None:
        """Do nothing: there is no backend."""

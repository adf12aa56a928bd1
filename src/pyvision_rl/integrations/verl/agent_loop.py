"""verl's agent loop whose episodes are ours. Imported in verl's environment only.

In: a row of the exported data and verl's server. Out: verl's ``AgentLoopOutput``: ids, mask,
log-probabilities, images and reward of one graded episode, so that no reward worker is needed. What
failed by our own fault, could not be graded, or is left out by a trajectory filter has an empty
mask; the sampler takes the first two out of the batch. Writes no turn itself: see ``bench``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
)

from pyvision_rl.integrations.verl.bench import TRAIN, Place, Played, bench_of
from pyvision_rl.integrations.verl.summary import FIELD, summarize
from pyvision_rl.types import Trajectory


class PyVisionAgentLoop(AgentLoopBase):  # type: ignore[misc]  # verl is not where types are checked
    """Plays one episode per call of ``run``."""

    def __init__(self, *args: Any, folder: str, **kwargs: Any) -> None:
        """Take what verl gives every agent loop, and the exported folder."""
        super().__init__(*args, **kwargs)
        self._folder = Path(folder)

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Return one episode.

        Args:
            sampling_params: verl's settings; they differ between training and validation.
            kwargs: The row: ``extra_info`` as exported, and verl's ``uid``, ``session_id`` and
                ``global_steps``.
        """
        loop = asyncio.get_running_loop()
        bench = bench_of(self._folder, self.tokenizer, self.processor, loop)
        extra = kwargs["extra_info"]
        place = Place(
            prompt=str(kwargs["uid"]),
            rollout=int(kwargs.get("session_id", 0)),
            step=int(kwargs.get("global_steps", 0)),
            split=str(extra.get("split", TRAIN)),
        )
        played = await bench.play(extra["task"], place, self.server_manager, sampling_params)
        return _output(played, place.step)


def _output(played: Played, step: int) -> AgentLoopOutput:
    row, trajectory = played.row, played.trajectory
    # verl's versions begin at 0; what no weights wrote counts as fresh.
    oldest, newest = played.versions or (max(0, step - 1),) * 2
    return AgentLoopOutput(
        prompt_ids=row.prompt_ids,
        response_ids=row.response_ids,
        response_mask=row.mask,
        response_logprobs=row.logprobs,
        multi_modal_data={"images": row.images} if row.images else {},
        reward_score=trajectory.reward.total if trajectory.reward else 0.0,
        num_turns=len(trajectory.messages),
        metrics=AgentLoopMetrics(
            generate_sequences=sum(t.sample_s for t in trajectory.turns),
            tool_calls=sum(t.execution.duration_s for t in trajectory.turns if t.execution),
        ),
        extra_fields={
            "min_global_steps": oldest,
            "max_global_steps": newest,
            "reward_extra_info": _told(trajectory),
            FIELD: summarize(played.task, trajectory),
        },
    )


def _told(trajectory: Trajectory) -> dict[str, float]:
    """Return an episode's numbers, whose means verl's validation takes.

    One that failed, or was not graded, has no accuracy: verl's ``acc_success_only`` then leaves it
    out. Its ``acc`` counts it as 0.
    """
    reward = trajectory.reward
    told = {
        "graded": float(reward is not None),
        "num_tool_calls": float(trajectory.num_tool_calls),
        "num_executions": float(trajectory.num_executions),
    }
    if reward is None:
        return told
    parts = {"acc": "accuracy", "tool_use": "tool_use"}
    return told | {name: reward.parts.get(part, 0.0) for name, part in parts.items()}

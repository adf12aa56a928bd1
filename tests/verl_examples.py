"""What tests of the verl plug-in share: trajectories, a server that plays turns, a processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Media,
    Reward,
    RunCode,
    Segment,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)

LOOK = "<code>\n```python\nplt.imshow(image_clue_0)\nplt.show()\n```\n</code>"
SAY = "<answer>\n\\boxed{red}\n</answer>"


def a_task(name: str = "t", media: tuple[Media, ...] = ()) -> Task:
    return Task(TaskInput(name, "Which colour?", media, "c", "colours"), Gold("red", "text"))


def a_trajectory(
    rollout: int,
    reward: float | None,
    *,
    task: str = "t",
    end: EndReason = EndReason.ANSWERED,
    shown: int = 1,
) -> Trajectory:
    """Return an episode of one call and an answer; ``reward`` None leaves it ungraded."""
    seen = tuple(Media("image", f"{k}", 56, 56) for k in range(shown))
    ran = Execution(ExecStatus.OK, "12", images=seen, parts=("12", *range(shown)))
    turns = (
        Turn(LOOK, StopReason.STOP_STRING, RunCode("plt.show()"), 3, execution=ran),
        Turn(SAY, StopReason.END, GiveAnswer("red"), 2),
    )
    graded = None
    if reward is not None and end is not EndReason.FAILED:
        graded = Reward({"accuracy": reward, "tool_use": 0.0}, reward > 0)
    segments = (Segment((1, 2), False), Segment((3, 4, 5), True, (-0.5,) * 3))
    return Trajectory(task, rollout, segments, (), turns, end, "red", graded)


@dataclass
class PlayedServer:
    """verl's server, but its turns are given; each token has log-probability -0.5, -0.51, ..."""

    encode: Any
    end: int
    turns: Sequence[str]
    fails_at: int | None = None
    calls: list[SimpleNamespace] = field(default_factory=list)

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Any] | None = None,
    ) -> SimpleNamespace:
        turn = len(self.calls)
        self.calls.append(
            SimpleNamespace(
                name=request_id,
                prompt_ids=list(prompt_ids),
                sampling=dict(sampling_params),
                images=list(image_data or []),
            )
        )
        if turn == self.fails_at:
            raise ConnectionError("the engine is gone")
        ids = list(self.encode(self.turns[turn]))
        if not self.turns[turn].endswith("</code>"):
            ids.append(self.end)
        return SimpleNamespace(
            token_ids=ids,
            log_probs=[-0.5 - k / 100 for k in range(len(ids))],
            stop_reason="completed",
            extra_fields={"min_global_steps": 3, "max_global_steps": 3},
        )


class Processor:
    """What is read of a Qwen-VL processor."""

    def __init__(self, low: int = 3136, high: int = 12_845_056) -> None:
        self.image_processor = SimpleNamespace(
            size={"shortest_edge": low, "longest_edge": high},
            patch_size=14,
            merge_size=2,
            temporal_patch_size=2,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
        )

"""Which part of its videos an episode asked for, and which part it was shown.

In: the public half of a task with videos and a trajectory. Out: ``Frames``. Which frames were
fetched and shown by code is the word of the process that ran it; numbers that a video does not have
are not counted. Frames that stand in the prompt were shown and not fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pyvision_rl.types import TaskInput, Trajectory, Turn, VideoFrames
from pyvision_rl.video_prompt import VIDEO_NAME


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of all videos of a task together."""

    total: int
    fetched: int
    """That code asked the readers for, summed over code blocks."""
    fetched_unique: int
    shown: int
    """In the prompt and in pictures that the policy was given, summed over pictures."""
    shown_unique: int

    @property
    def share(self) -> float:
        """The part of all frames that the policy was shown."""
        return self.shown_unique / self.total

    @property
    def fetched_share(self) -> float:
        """The part of all frames that code asked for."""
        return self.fetched_unique / self.total

    def numbers(self) -> dict[str, float]:
        """Return the numbers of metrics; ``frames_unique`` and ``video_share`` are of the shown."""
        return {
            "frames_fetched": float(self.fetched),
            "frames_shown": float(self.shown),
            "frames_unique": float(self.shown_unique),
            "video_share": self.share,
        }


def frames_seen(task: TaskInput, trajectory: Trajectory) -> Frames:
    """Return what a trajectory saw of the videos of its task, of which there is at least one."""
    facts = [m.video for m in task.media if m.video is not None]
    have = {VIDEO_NAME.format(k): fact.num_frames for k, fact in enumerate(facts)}
    turns = trajectory.turns
    fetched = [f for t in turns if t.execution is not None for f in t.execution.fetched]
    shown = [*trajectory.prompt_frames, *(f for t in turns for f in _shown(t))]
    return Frames(sum(have.values()), *_count(fetched, have), *_count(shown, have))


def _shown(turn: Turn) -> Iterator[VideoFrames]:
    """The frames in the pictures that got into the context."""
    if turn.execution is None or turn.observation is None:
        return
    seen = turn.observation.message.media
    for picture, source in zip(turn.execution.images, turn.execution.sources, strict=False):
        if isinstance(source, VideoFrames) and picture in seen:
            yield source


def _count(named: Iterable[VideoFrames], have: Mapping[str, int]) -> tuple[int, int]:
    """How many frames, and how many different ones, as far as they are named."""
    total, different = 0, set[tuple[str, int]]()
    for each in named:
        found = [(each.name, i) for i in each.frames if 0 <= i < have.get(each.name, 0)]
        different.update(found)
        total += min(len(found) + each.num_left_out, have.get(each.name, 0))
    return total, len(different)

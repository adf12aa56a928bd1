"""What an episode was given to read and see: tokens by kind, and frames of its task's videos.

In: the public half of a task and a trajectory. Out: a ``Usage``. Which frames were fetched and
shown is the word of the process that ran model code; numbers that a video does not have are not
counted. Frames that stand in the prompt cost visual tokens and are neither fetched nor shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pyvision_rl.types import TaskInput, TokenCount, Trajectory, Turn, VideoFrames

VIDEO_NAME = "video_clue_{}"
NUMBERS = (
    *("text_tokens", "visual_tokens"),
    *("frames_fetched", "frames_shown", "frames_unique", "video_share"),
)
"""The names of ``Usage.numbers``; metrics and evaluations use them too."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of all videos of a task together."""

    total: int
    fetched: int
    """That code asked the readers for, summed over code blocks."""
    fetched_unique: int
    shown: int
    """In pictures that the policy was given, summed over pictures."""
    shown_unique: int

    @property
    def share(self) -> float:
        """The part of all frames that the policy was shown."""
        return self.shown_unique / self.total

    @property
    def fetched_share(self) -> float:
        """The part of all frames that code asked for."""
        return self.fetched_unique / self.total


@dataclass(frozen=True, slots=True)
class Usage:
    """What one episode wrote, was given, and saw."""

    sampled: int
    """Tokens that the policy wrote."""
    prompted: TokenCount | None
    """None where the record is from before tokens were counted."""
    observed: TokenCount
    """Of all observations."""
    images: int
    """In observations."""
    frames: Frames | None
    """None for a task without a video."""

    def numbers(self) -> dict[str, float]:
        """Return what is known, by name: ``frames_unique`` and ``video_share`` are of the shown."""
        found: dict[str, float] = {}
        if (first := self.prompted) is not None:
            found["text_tokens"] = float(first.text + self.observed.text)
            found["visual_tokens"] = float(first.visual + self.observed.visual)
        if (frames := self.frames) is not None:
            found["frames_fetched"] = float(frames.fetched)
            found["frames_shown"] = float(frames.shown)
            found["frames_unique"] = float(frames.shown_unique)
            found["video_share"] = frames.share
        return found


def usage(task: TaskInput, trajectory: Trajectory) -> Usage:
    """Return what a trajectory of the task used."""
    turns = trajectory.turns
    observed = TokenCount(
        sum(t.observed.text for t in turns), sum(t.observed.visual for t in turns)
    )
    return Usage(
        sampled=sum(t.num_tokens for t in turns),
        prompted=trajectory.prompted,
        observed=observed,
        images=sum(len(t.observation.message.media) for t in turns if t.observation is not None),
        frames=_frames(task, turns),
    )


def _frames(task: TaskInput, turns: Iterable[Turn]) -> Frames | None:
    facts = [m.video for m in task.media if m.video is not None]
    if not facts:
        return None
    have = {VIDEO_NAME.format(k): fact.num_frames for k, fact in enumerate(facts)}
    fetched = [f for t in turns if t.execution is not None for f in t.execution.fetched]
    shown = [f for t in turns for f in _shown(t)]
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
    """How many frames, and how many different ones."""
    found = [(f.name, i) for f in named for i in f.frames if 0 <= i < have.get(f.name, 0)]
    return len(found), len(set(found))

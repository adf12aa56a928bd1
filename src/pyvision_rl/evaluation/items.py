"""What an evaluation remembers of an episode: its sample, more numbers, and why it was graded so.

In: a task's place and a saved episode. Out: an ``Item``; its text, tokens and pictures stay on
disk, so that thousands of episodes fit into memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyvision_rl.evaluation.evaluate import Sample, sample_of
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import EndReason, ExecStatus, Malformed, Task, Trajectory

NUMBERS = (
    *("turns", "tool_calls", "executions", "code_errors", "malformed", "images"),
    *("sampled_tokens", "text_tokens", "visual_tokens", "seconds"),
)
"""Of an episode, in the order of the pages. ``seconds`` are those of sampling and of code."""


@dataclass(frozen=True, slots=True)
class Item:
    """One episode of an evaluation."""

    index: int
    """The place of its task in the set."""
    task: Task
    """Without pixels."""
    sample: Sample
    answer: str | None
    why: str
    """How it was graded; or what failed."""
    rung: str
    """Which rule decided; empty when the grader does not tell."""

    @property
    def name(self) -> str:
        """The episode in lists: ``task#rollout``."""
        return f"{self.task.id}#{self.sample.rollout}"

    @property
    def ungraded(self) -> bool:
        """Whether a grader failed: in no denominator, and worth another try."""
        return not self.sample.counts


def item_of(index: int, saved: SavedRollout) -> Item:
    """Return what is remembered of a saved episode."""
    trajectory, reward = saved.trajectory, saved.trajectory.reward
    sample = sample_of(saved.task.input, trajectory)
    sample = replace(sample, numbers=_numbers(trajectory) | dict(sample.numbers))
    return Item(
        index,
        saved.task,
        sample,
        trajectory.answer,
        trajectory.error if reward is None else reward.why,
        "" if reward is None else reward.rung,
    )


def is_ungraded(saved: SavedRollout) -> bool:
    """Whether a grader failed on the episode."""
    return saved.trajectory.reward is None and saved.trajectory.end is not EndReason.FAILED


def is_failed(saved: SavedRollout) -> bool:
    """Whether our machinery failed."""
    return saved.trajectory.end is EndReason.FAILED


def _numbers(trajectory: Trajectory) -> dict[str, float]:
    turns = trajectory.turns
    executions = [t.execution for t in turns if t.execution is not None]
    # Of the messages: a run folder need not keep the tokens.
    shown = [m for message in trajectory.messages for m in message.media]
    return {
        "turns": float(len(turns)),
        "executions": float(len(executions)),
        "code_errors": float(sum(e.status is not ExecStatus.OK for e in executions)),
        "malformed": float(sum(isinstance(t.action, Malformed) for t in turns)),
        "images": float(len(shown)),
        "seconds": sum(t.sample_s for t in turns) + sum(e.duration_s for e in executions),
    }

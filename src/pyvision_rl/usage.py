"""What an episode was given to read and see, as numbers by name.

In: the public half of a task and a trajectory. Out: given tokens by kind, and for tasks with videos
what ``frames_seen`` counts. Counts nothing that the records do not hold.
"""

from __future__ import annotations

from pyvision_rl.types import TaskInput, TokenCount, Trajectory

NUMBERS = (
    *("text_tokens", "visual_tokens"),
    *("frames_fetched", "frames_shown", "frames_unique", "video_share"),
)
"""The names of what ``used`` returns; metrics, evaluations and studies use them too."""


def used(task: TaskInput, trajectory: Trajectory) -> dict[str, float]:
    """Return what is known, by name: no tokens of records from before they were counted."""
    found: dict[str, float] = {}
    if (first := trajectory.prompted) is not None:
        after = observed(trajectory)
        found["text_tokens"] = float(first.text + after.text)
        found["visual_tokens"] = float(first.visual + after.visual)
    if any(m.video for m in task.media):
        from pyvision_rl.frames_seen import frames_seen

        found |= frames_seen(task, trajectory).numbers()
    return found


def observed(trajectory: Trajectory) -> TokenCount:
    """Return the tokens of all observations."""
    counts = [turn.observed for turn in trajectory.turns]
    return TokenCount(sum(c.text for c in counts), sum(c.visual for c in counts))

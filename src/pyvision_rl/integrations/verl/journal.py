"""What became of every episode, as a run folder that ``pvrl show``, ``view`` and ``audit`` read.

Episodes end in verl's rollout workers, selection happens in its driver: a worker notes each
trajectory in a file of its own under ``pending/``, and the driver gathers a step's files into
``rollouts/step_000001.jsonl`` when it knows what was kept. Both see one folder, the export's; where
they do not, notes stay behind and training goes on. What is written follows ``[run]``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyvision_rl.config import Config
from pyvision_rl.media import write_png
from pyvision_rl.runs_codec import Json, SavedRollout, encode, media_of, number
from pyvision_rl.runs_files import append, line_of, read_lines, replace_file
from pyvision_rl.runs_opening import cut_after
from pyvision_rl.types import Task, Trajectory

PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Fate:
    """What selection made of a trajectory."""

    advantage: float | None
    reason: str | None
    """The filter that left it out; None when it was kept."""


class Journal:
    """Notes trajectories on one side and files them on the other."""

    def __init__(self, folder: Path, config: Config) -> None:
        """Take the exported folder; writes nothing yet."""
        self._folder = folder
        self._config = config

    def begin(self, step: int, since: float) -> None:
        """Forget what a run that was stopped wrote of this step and of later ones.

        Args:
            step: The first one that is made now.
            since: Time at which this process began; older notes belong to nobody any more.

        Raises:
            RunError: A file cannot be read.
        """
        cut_after(self._folder, step - 1)
        for note in (self._folder / PENDING).glob("*.json"):
            if note.stat().st_mtime < since:
                note.unlink()

    def note(self, key: str, step: int, task: Task, trajectory: Trajectory) -> None:
        """Write down a trajectory that has ended.

        Args:
            key: verl's name of it, unique in the run.
            step: It was made for.
            task: With its reference answer.
            trajectory: Graded, or not.

        Raises:
            RunError: The disk refuses.
        """
        run = self._config.run
        if run.rollouts == "none":
            return
        saved = SavedRollout(task, trajectory, step=step)
        if run.media_every and (step <= 1 or step % run.media_every == 0):
            images = {m.sha256: m for m in media_of(saved) if m.kind == "image"}
            for media in images.values():
                # A path is a picture of the task, which the export has written.
                if isinstance(media.source, bytes):
                    write_png(media, self._folder / "media")
        (self._folder / PENDING).mkdir(parents=True, exist_ok=True)
        line = encode(saved, tokens=run.logprobs)
        replace_file(self._folder / PENDING / f"{key}.json", [json.dumps(line)])

    def settle(self, step: int, fates: Mapping[str, Fate]) -> int:
        """File what was noted of a step, and return how many notes were not found.

        Args:
            step: Names the file.
            fates: Key -> what became of it, for every trajectory of the step.

        Raises:
            RunError: The disk refuses.
        """
        run = self._config.run
        if run.rollouts == "none":
            return 0
        wanted = [k for k, f in fates.items() if run.rollouts == "all" or f.reason is None]
        notes = {key: self._folder / PENDING / f"{key}.json" for key in fates}
        found = [key for key in wanted if notes[key].exists()]
        folder = self._folder / "rollouts"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._lines(step, {key: (notes[key], fates[key]) for key in found})
        replace_file(folder / f"step_{step:06d}.jsonl", lines)
        for note in notes.values():
            note.unlink(missing_ok=True)
        return len(wanted) - len(found)

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a line to ``metrics.jsonl``.

        Raises:
            RunError: The disk refuses.
        """
        line: Json = {"step": step, "time": round(time.time(), 3)}
        line |= {name: number(value) for name, value in numbers.items()}
        with (self._folder / "metrics.jsonl").open("ab", buffering=0) as file:
            append(file, line_of(line))

    def _lines(self, step: int, notes: Mapping[str, tuple[Path, Fate]]) -> Iterator[str]:
        for note, fate in notes.values():
            for line in read_lines(note, []):
                advantage = None if fate.advantage is None else number(fate.advantage)
                told = {"kept": fate.reason is None, "reason": fate.reason, "advantage": advantage}
                yield json.dumps({**line, "step": step, **told})

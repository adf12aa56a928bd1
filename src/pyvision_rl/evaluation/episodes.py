"""The episodes of an evaluation on disk, one line each as soon as it is graded.

In: graded episodes in the order in which they end. Out: ``rollouts/step_<n>.jsonl``, one file per
chunk of tasks, which grows by whole lines and is put into the order of tasks and samples when the
chunk is complete; and from it the episodes that need not be run again. A process killed at any
point loses no episode but those under way. Runs and grades nothing.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

from pyvision_rl.config import Config
from pyvision_rl.errors import RunError
from pyvision_rl.media import write_png
from pyvision_rl.rollout import Rewarder
from pyvision_rl.runs_codec import SavedRollout, encode, media_of
from pyvision_rl.runs_decode import decode
from pyvision_rl.runs_files import append, line_of, read_lines, replace_file, writing
from pyvision_rl.types import Media, Task, Trajectory

Place: TypeAlias = tuple[int, int]
"""The place of a task in its set, and the sample."""
Episodes: TypeAlias = dict[Place, SavedRollout]


def step_file(folder: Path, step: int) -> Path:
    """Return where the episodes of a chunk are."""
    return folder / "rollouts" / f"step_{step:06d}.jsonl"


def read_episodes(file: Path, order: Sequence[Place]) -> Episodes:
    """Return the episodes of a chunk that are on disk, without pixels; of two of a place the last.

    Args:
        file: Need not exist. A line that was cut is left out.
        order: Every place of the chunk in order: a whole file of an earlier release, which did not
            name the places, is read in it.

    Raises:
        RunError: A line cannot be understood, or is of no place of the chunk.
    """
    if not file.exists():
        return {}
    lines = list(read_lines(file, []))
    named = [(line["index"], line["rollout"]) for line in lines if "index" in line]
    places = named if len(named) == len(lines) else list(order)
    if len(places) != len(lines) or not set(places) <= set(order):
        raise RunError(
            f"{file} holds other episodes than this evaluation makes; evaluate into a new folder"
        )
    try:
        return {place: decode(line) for place, line in zip(places, lines, strict=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: not a trajectory ({error!r})") from error


def without_pixels(saved: SavedRollout) -> SavedRollout:
    """Return the same record with media that only name their content."""
    return decode(encode(saved))


class EpisodeFile:
    """The growing file of one chunk; a context manager. One writer at a time."""

    def __init__(self, folder: Path, config: Config, step: int) -> None:
        """Open the file behind its last whole line.

        Args:
            folder: The run folder.
            config: Its ``run`` section says what is kept.
            step: Names the file.

        Raises:
            RunError: The disk refuses.
        """
        run = config.run
        self._step = step
        self._media = folder / "media"
        self._file = step_file(folder, step)
        self._tokens = run.logprobs
        self._write_media = run.media_every > 0 and (step <= 1 or step % run.media_every == 0)
        self._keep = run.rollouts != "none"
        self._written: set[str] = set()
        self._noting = threading.Lock()
        self._out: BinaryIO | None = None
        if self._keep:
            with writing(self._file):
                _mend(self._file)
                self._out = self._file.open("ab", buffering=0)

    async def add(self, index: int, task: Task, trajectory: Trajectory) -> SavedRollout:
        """Return the record without pixels; it is on disk, pictures first, when this returns.

        Raises:
            RunError: The disk refuses.
        """
        saved = SavedRollout(task, trajectory, step=self._step)
        if self._out is not None:
            await asyncio.to_thread(self._keep_media, saved)
            line = {"index": index} | encode(saved, tokens=self._tokens)
            append(self._out, line_of(line))
        return without_pixels(saved)

    def seal(self, episodes: Mapping[Place, SavedRollout], order: Sequence[Place]) -> None:
        """Replace the file by the episodes in order.

        Raises:
            RunError: The disk refuses.
        """
        if not self._keep:
            return
        lines = (
            json.dumps({"index": place[0]} | encode(episodes[place], tokens=self._tokens))
            for place in order
            if place in episodes
        )
        replace_file(self._file, lines)

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._out is not None:
            self._out.close()

    def _keep_media(self, saved: SavedRollout) -> None:
        """Write what the record shows and is not there yet."""
        media = {m.sha256: m for m in media_of(saved) if m.sha256 not in self._written}
        videos = [m for m in saved.task.input.media if m.sha256 in media and m.kind == "video"]
        if videos:
            self._note(videos)
        if self._write_media:
            with writing(self._media):
                for image in media.values():
                    if image.kind == "image" and image.source is not None:
                        write_png(image, self._media)
        self._written |= set(media)

    def _note(self, videos: Sequence[Media]) -> None:
        from pyvision_rl.runs_videos import note_videos

        # The file is read, changed and replaced.
        with self._noting:
            note_videos(self._media, videos)


class Recording:
    """A rewarder whose grades are on disk before anybody hears of them."""

    def __init__(
        self,
        rewarder: Rewarder,
        file: EpisodeFile,
        episodes: Episodes,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Grade with ``rewarder``, write to ``file``, add to ``episodes``, and call ``then``."""
        self._rewarder = rewarder
        self._file = file
        self._episodes = episodes
        self._then = then
        self.places: dict[int, int] = {}
        """The ``id`` of each task object under way -> its place: two tasks may have one id."""

    async def grade(self, task: Task, trajectory: Trajectory) -> Trajectory:
        """Return the graded trajectory.

        Raises:
            RunError: The disk refuses.
        """
        graded = await self._rewarder.grade(task, trajectory)
        index = self.places[id(task)]
        self._episodes[index, graded.rollout] = await self._file.add(index, task, graded)
        self._then()
        return graded

    def stats(self) -> dict[str, float]:
        """Return what the rewarder counted."""
        return self._rewarder.stats()

    async def close(self) -> None:
        """Do nothing: the rewarder is not ours."""


def _mend(file: Path) -> None:
    """Take away the line that a kill cut: the next one must not be glued to it."""
    if not file.exists():
        return
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("r+b") as out:
            out.truncate(data.rfind(b"\n") + 1)

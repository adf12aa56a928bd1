"""What the names in a sandbox stood for, and so which part of which picture a picture shows.

In: the public half of a task, a trajectory, and the sources that the sandbox recorded. Out: names
of shown pictures, crops and frames as JSON values; None where the record does not tell. Reads no
code and guesses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyvision_rl.prompts import IMAGE_NAME
from pyvision_rl.types import (
    Execution,
    ImageSource,
    Media,
    Message,
    Source,
    TaskInput,
    Trajectory,
    VideoFrames,
)
from pyvision_rl.video_prompt import VIDEO_NAME
from pyvision_rl.view.scripts import Json


@dataclass(frozen=True, slots=True)
class Bound:
    """What a name stood for."""

    media: Media
    place: int | None
    """In the task's media; None for another picture."""


def first_names(task: TaskInput, prompt: Sequence[Message]) -> dict[str, Bound]:
    """Return what was bound before the first turn.

    Images of the task come first, then frames that stand in the prompt, then, by names of their
    own, videos: ``prompts`` binds them so.
    """
    images = [(place, m) for place, m in enumerate(task.media) if m.kind == "image"]
    said = [m for message in prompt for m in message.media if m.kind == "image"]
    bound = [Bound(media, place) for place, media in images]
    if [m.sha256 for m in said[: len(images)]] == [m.sha256 for _, m in images]:
        bound += [Bound(media, None) for media in said[len(images) :]]
    names = {IMAGE_NAME.format(k): each for k, each in enumerate(bound)}
    videos = [(place, m) for place, m in enumerate(task.media) if m.kind == "video"]
    return names | {
        VIDEO_NAME.format(k): Bound(media, place) for k, (place, media) in enumerate(videos)
    }


class Names:
    """Follows the names of one trajectory, execution by execution."""

    def __init__(self, task: TaskInput, trajectory: Trajectory) -> None:
        self._bound = first_names(task, trajectory.prompt)
        self._next = sum(b.media.kind == "image" for b in self._bound.values())

    def show(self, execution: Execution) -> list[tuple[str, Source | None, Mapping[str, Bound]]]:
        """Return name and source of each picture, and what was bound when it was shown."""
        before: Mapping[str, Bound] = dict(self._bound)
        sources = execution.sources or (None,) * len(execution.images)
        found = []
        for media, source in zip(execution.images, sources, strict=True):
            name = IMAGE_NAME.format(self._next)
            self._next += 1
            self._bound[name] = Bound(media, None)
            found.append((name, source, before))
        return found

    def frames(self, frames: VideoFrames) -> Json:
        """Return frames as JSON values; ``of`` is None for a name that is not known."""
        return _frames(frames, self._bound)


def crop_of(source: Source | None, bound: Mapping[str, Bound]) -> tuple[Bound, Json] | None:
    """Return the picture that a source names and the part of it; None if there is no such part."""
    if not isinstance(source, ImageSource):
        return None
    whole = bound.get(source.name)
    if whole is None or whole.media.kind != "image":
        return None
    left, top, right, bottom = source.box
    if not (0 <= left < right <= whole.media.width and 0 <= top < bottom <= whole.media.height):
        return None
    facts = {"name": source.name, "of": whole.place, "box": list(source.box)}
    return whole, {**facts, "verified": source.verified}


def frames_of(source: Source | None, bound: Mapping[str, Bound]) -> Json | None:
    """Return the frames that a source names; None if it names none."""
    return _frames(source, bound) if isinstance(source, VideoFrames) else None


def _frames(source: VideoFrames, bound: Mapping[str, Bound]) -> Json:
    video = bound.get(source.name)
    return {
        "name": source.name,
        "of": None if video is None else video.place,
        "numbers": list(source.frames),
        "num_left_out": source.num_left_out,
    }

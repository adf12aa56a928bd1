"""Where a task's media stand: what the model sees from the start, and what only its code finds.

In: the public half of a task and ``[prompts]``. Out: ``Placed``. Videos are never in the context
themselves; frames of them may be (``video`` decodes those). Writes no words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pyvision_rl.config import PromptsConfig, RolloutConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.images import MAX_ASPECT_RATIO, too_long
from pyvision_rl.types import Media, TaskInput

IMAGE_NAME = "image_clue_{}"
"""Tag around an image in the context, and its variable in the sandbox (paper section 3.1)."""
VIDEO_NAME = "video_clue_{}"
"""A video's variable in the sandbox."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a video that the model sees from the start, as an image with a name."""

    name: str
    number: int
    """From 0, as the reader counts."""
    time_s: float
    """When it begins to be shown."""
    media: Media


@dataclass(frozen=True, slots=True)
class Placed:
    """The media of a task under the names that prompt and sandbox use."""

    images: Mapping[str, Media]
    """All are in the sandbox."""
    videos: Mapping[str, Media]
    frames: Mapping[str, tuple[Frame, ...]]
    """Name of a video -> those of its frames that are in context and sandbox."""
    images_shown: bool
    videos_bound: bool
    """Whether the sandbox holds the videos."""

    @property
    def bindings(self) -> dict[str, Media]:
        """Python name -> what the sandbox holds before the first turn."""
        frames = {f.name: f.media for some in self.frames.values() for f in some}
        return {**self.images, **frames, **(self.videos if self.videos_bound else {})}


def check_room(prompts: PromptsConfig, rollout: RolloutConfig) -> None:
    """Raise ConfigError when the frames of one video are more images than a context may hold."""
    if prompts.context not in ("initial_frames", "frames"):
        return
    key = "max_frames" if prompts.num_frames is None else "num_frames"
    asked, most = getattr(prompts, key), rollout.max_images
    if asked > most:
        raise ConfigError(
            f"prompts.{key} = {asked} is above rollout.max_images = {most}: an episode would end "
            "at the first picture it shows"
        )


def place(task: TaskInput, config: PromptsConfig) -> Placed:
    """Return where each medium of a task stands.

    Raises:
        TaskError: One that is to be seen is too long and narrow, or a frame cannot be decoded.
    """
    images = dict(_named(task, IMAGE_NAME, "image"))
    videos = dict(_named(task, VIDEO_NAME, "video"))
    shown = config.context != "runtime"
    framed = videos if config.context in ("initial_frames", "frames") else {}
    for media in (*(images.values() if shown else ()), *framed.values()):
        if too_long(media.width, media.height):
            raise TaskError(
                f"task {task.id!r} has {'an image' if media.kind == 'image' else 'a video'} of "
                f"{media.width} x {media.height} pixels; "
                f"the sides must be within a factor of {MAX_ASPECT_RATIO}"
            )
    frames: dict[str, tuple[Frame, ...]] = {}
    count = len(images)
    for name, video in framed.items():
        frames[name] = tuple(_frames(video, config, count))
        count += len(frames[name])
    return Placed(images, videos, frames, shown, config.context != "frames")


def _named(
    task: TaskInput, name: str, kind: Literal["image", "video"]
) -> Iterator[tuple[str, Media]]:
    """The media of one kind with their names, numbered from 0."""
    some = (media for media in task.media if media.kind == kind)
    return ((name.format(k), media) for k, media in enumerate(some))


def _frames(video: Media, config: PromptsConfig, first: int) -> Iterator[Frame]:
    """The frames of one video that the config asks for, named from ``first`` on."""
    # Only these modes decode in the driver.
    from pyvision_rl.video import decoded, spread

    for k, frame in enumerate(decoded(video, spread(video, config), config.frame_pixels), first):
        yield Frame(IMAGE_NAME.format(k), frame.number, frame.time_s, frame.image)

"""What a prompt says of a task's videos, and which of their frames stand in it.

In: the videos of a task and ``[prompts]``. Out: ``VideoPart``. A video itself never stands in the
context: at most frames of it do, as images under names of their own (``video`` decodes them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyvision_rl.config import PromptsConfig, RolloutConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.types import Media, VideoFrames
from pyvision_rl.video import decoded, spread

VIDEO_NAME = "video_clue_{}"
"""A video's variable in the sandbox (paper section 3.1)."""
NOT_LOADED = " (not loaded; you have its frames only)"
WITH_FRAMES = ("initial_frames", "frames")
"""Values of ``prompts.context`` that put frames into the context."""


@dataclass(frozen=True, slots=True)
class VideoPart:
    """The part of a prompt that is about videos."""

    shown: tuple[tuple[str, Media, str | None], ...]
    """Name of an image, a frame, and which it is, in words; None where frames have no labels."""
    videos: Mapping[str, Media]
    """Name -> what the sandbox holds, besides what is shown."""
    facts: tuple[str, ...]
    """One line per video."""
    sizes: tuple[str, ...]
    """One line per video whose frames are shown."""
    frames: tuple[VideoFrames, ...]
    """Which frames are shown, one per video that has any."""


def check_room(prompts: PromptsConfig, rollout: RolloutConfig) -> None:
    """Raise ConfigError when the frames of one video are more images than a context may hold."""
    if prompts.context not in WITH_FRAMES:
        return
    key = "max_frames" if prompts.num_frames is None else "num_frames"
    asked, most = getattr(prompts, key), rollout.max_images
    if asked > most:
        raise ConfigError(
            f"prompts.{key} = {asked} is above rollout.max_images = {most}: an episode would end "
            "at the first picture it shows"
        )


def video_part(
    videos: Sequence[Media], config: PromptsConfig, image_name: str, num_images: int
) -> VideoPart:
    """Return what the prompt of a task says of its videos.

    Args:
        videos: Of the task, in order.
        config: Which frames are shown, if any.
        image_name: With a place for the number, for the names of frames.
        num_images: Names that are taken.

    Raises:
        TaskError: A frame cannot be decoded.
    """
    bound = config.context != "frames"
    named = {VIDEO_NAME.format(k): video for k, video in enumerate(videos)}
    shown: list[tuple[str, Media, str | None]] = []
    facts, sizes, which = [], [], []
    for k, (name, video) in enumerate(named.items()):
        called = name if bound else f"video {k}"
        facts.append(f"{called}{'' if bound else NOT_LOADED}: {_facts(video)}")
        if config.context not in WITH_FRAMES:
            continue
        numbers = spread(video, config)
        which.append(VideoFrames(name, tuple(numbers)))
        frames = decoded(video, numbers, config.frame_pixels)
        names = [image_name.format(num_images + len(shown) + i) for i in range(len(frames))]
        said = [f"{called}, frame {f.number}, {_number(f.time_s)} seconds: " for f in frames]
        labels = said if config.frame_labels else [None] * len(said)
        shown += zip(names, [f.image for f in frames], labels, strict=True)
        span = " to ".join(dict.fromkeys((names[0], names[-1])))
        sizes.append(f"{span}: frames of {called}, {_pixels(frames[0].image)}")
    return VideoPart(tuple(shown), named if bound else {}, tuple(facts), tuple(sizes), tuple(which))


def _pixels(media: Media) -> str:
    return f"{media.width} x {media.height} pixels"


def _facts(video: Media) -> str:
    """Size and length of a video, each with its unit."""
    assert video.video is not None
    facts = video.video
    return (
        f"{_pixels(video)}, number of frames: {facts.num_frames} (numbered 0 to "
        f"{facts.num_frames - 1}), frames per second: {_number(facts.fps)}, "
        f"duration: {_number(facts.duration_s)} seconds"
    )


def _number(value: float) -> str:
    """At most two decimals; three digits below one."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value >= 1 else f"{value:.3g}"

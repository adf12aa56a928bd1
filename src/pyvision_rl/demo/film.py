"""A task's video on the demo's page: some of its frames, and when in it the model looked.

In: the record of a video and an episode about it. Out: what the page's template shows: frames at
equal distances, and for each turn the frames that its code asked for and that the model was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from pyvision_rl.errors import PVRLError
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import Media, Turn, VideoFrames
from pyvision_rl.video import decoded, uniform

NUM_FRAMES = 16
"""That stand on the page."""


def film(
    media: Media, name: str, saved: SavedRollout, picture: Callable[[Media], dict[str, object]]
) -> dict[str, object]:
    """Return a video for the page.

    Args:
        media: Of the task.
        name: Of its variable in the sandbox.
        saved: The episode whose looks are shown.
        picture: Makes of a frame what the template shows.
    """
    assert media.video is not None
    total = media.video.num_frames
    rows = [
        _row(number, turn, name, total) for number, turn in enumerate(saved.trajectory.turns, 1)
    ]
    return {
        "name": name,
        "width": media.width,
        "height": media.height,
        "num_frames": total,
        "seconds": f"{media.video.duration_s:.0f}",
        "frames": _frames(media, picture),
        "rows": [row for row in rows if row["fetched"] or row["shown"]],
    }


def spans(numbers: Sequence[int], total: int) -> Iterator[tuple[float, float]]:
    """Yield (left, width) in percent of the video of every run of frames, in ascending order."""
    begin: int | None = None
    for here, after in zip_longest(numbers, numbers[1:]):
        begin = here if begin is None else begin
        if after != here + 1:
            yield 100 * begin / total, 100 * (here + 1 - begin) / total
            begin = None


def _row(number: int, turn: Turn, name: str, total: int) -> dict[str, Any]:
    """What one turn fetched and showed of the video."""
    execution = turn.execution
    fetched = execution.fetched if execution is not None else ()
    shown = execution.sources if execution is not None else ()
    return {
        "turn": number,
        "fetched": list(spans(_of(fetched, name, total), total)),
        "shown": list(spans(_of(shown, name, total), total)),
    }


def _of(sources: Sequence[object], name: str, total: int) -> list[int]:
    """The frames of one video among what was fetched or shown; numbers that it has not are none."""
    numbers = {
        frame
        for source in sources
        if isinstance(source, VideoFrames) and source.name == name
        for frame in source.frames
    }
    return sorted(n for n in numbers if 0 <= n < total)


def _frames(media: Media, picture: Callable[[Media], dict[str, object]]) -> list[dict[str, object]]:
    """Frames at equal distances; none where the file is gone or videos cannot be read."""
    assert media.video is not None
    try:
        frames = decoded(media, uniform(media.video.num_frames, NUM_FRAMES))
    except PVRLError:
        return []
    return [{**picture(f.image), "seconds": f"{f.time_s:.0f}"} for f in frames]

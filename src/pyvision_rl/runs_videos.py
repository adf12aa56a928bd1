"""Where the videos of a run lie: ``media/videos.json``, from a video's hash to its file and facts.

In: the video records of a step. Out: the file, replaced as a whole when it has to grow; and from it
the paths. Videos are not copied, nor opened here: one that has gone is missed by whoever wants its
pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyvision_rl.errors import RunError
from pyvision_rl.runs_files import replace_file
from pyvision_rl.types import Media

NAME = "videos.json"


def note_videos(folder: Path, videos: Iterable[Media]) -> None:
    """Add videos to the file; one that is there already is named where it lies now.

    Raises:
        RunError: The disk refuses, or what is there is not ours.
    """
    before = _read(folder)
    now = before | {m.sha256: _entry(m, m.source) for m in videos if isinstance(m.source, Path)}
    if now != before:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / NAME, [json.dumps(now, indent=1)])


def noted_videos(folder: Path) -> dict[str, Path]:
    """Return hash -> file of every video that was noted; empty without the file.

    Raises:
        RunError: What is there is not ours.
    """
    return {digest: Path(entry["file"]) for digest, entry in _read(folder).items()}


def _entry(media: Media, source: Path) -> dict[str, Any]:
    assert media.video is not None
    # Absolute: a run folder is read from anywhere.
    file = source.absolute()
    size = file.stat().st_size if file.is_file() else None
    shape = {"width": media.width, "height": media.height, **asdict(media.video)}
    return {"file": str(file), "bytes": size, **shape}


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / NAME
    try:
        entries: dict[str, dict[str, Any]] = json.loads(file.read_bytes())
        if not all(isinstance(entry["file"], str) for entry in entries.values()):
            raise TypeError("a file's name is no text")
        return entries
    except FileNotFoundError:
        return {}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error!r}") from error

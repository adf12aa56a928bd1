"""The files of bound videos: opened anew for each session, and known again.

In: ``Media`` of kind video. Out: descriptors, open for reading, to be passed on. No two sessions
share one, because they would share its place in the file. Reads nothing of what a file holds:
sessions do that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pyvision_rl.errors import SandboxError
from pyvision_rl.registry import missing
from pyvision_rl.types import Media

LIBRARY = "av"
"""What sessions read videos with."""
MAX_VIDEOS = 32
"""Of one session; their descriptors travel in one message, beside those of images."""


def videos_of(bindings: Mapping[str, Media]) -> dict[str, Media]:
    """Return the bindings that are videos."""
    return {name: media for name, media in bindings.items() if media.kind == "video"}


def check_videos(bindings: Mapping[str, Media]) -> None:
    """Check that a session can read its videos, if it has any.

    Raises:
        SandboxError: They are too many.
        ConfigError: PyAV is not installed.
    """
    videos = videos_of(bindings)
    if len(videos) > MAX_VIDEOS:
        raise SandboxError(f"{len(videos)} videos are bound; a session holds {MAX_VIDEOS} at most")
    if videos and importlib.util.find_spec(LIBRARY) is None:
        raise missing(ModuleNotFoundError(name=LIBRARY), "a video in the sandbox")


class VideoFiles:
    """The files that one sandbox has opened."""

    def __init__(self) -> None:
        self._first: dict[Path, tuple[int, int]] = {}
        """Bytes and time of the last change, when a file was first opened."""

    @contextlib.contextmanager
    def opened(self, videos: Mapping[str, Media]) -> Iterator[list[int]]:
        """Give descriptors of the files, in order, that are closed at the end.

        Raises:
            SandboxError: A file is missing, no regular file, or not what it was.
        """
        files: list[int] = []
        try:
            for name, media in videos.items():
                assert isinstance(media.source, Path)
                files.append(self._open(name, media.source))
            yield files
        finally:
            for file in files:
                os.close(file)

    def _open(self, name: str, path: Path) -> int:
        # Not blocking: the path may lead to a pipe by now, which nobody writes to.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            file = os.open(path, flags)
        except OSError as error:
            raise SandboxError(f"{name}: {path} cannot be opened: {error.strerror}") from error
        found = os.fstat(file)
        now = (found.st_size, found.st_mtime_ns)
        if not stat.S_ISREG(found.st_mode):
            why = "is no regular file"
        elif self._first.setdefault(path, now) != now:
            why = "was changed since it was first opened here"
        else:
            return file
        os.close(file)
        raise SandboxError(f"{name}: {path} {why}")

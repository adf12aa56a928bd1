"""How large the images and videos of tasks are, and which of them cannot be read.

In: the rows of a task file. Out: ``Measured`` for each medium, or what is wrong with it; each file
is opened once, however many rows name it, and several at the same time. Keeps no pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import Image

from pyvision_rl.errors import TaskError
from pyvision_rl.media import bytes_media, file_media
from pyvision_rl.tasks.rows import Entry, require_file
from pyvision_rl.video import check_video, file_video

Kind: TypeAlias = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One medium."""

    kind: Kind
    name: str
    """Equal for equal contents: of pixels, or of a video's bytes; only looked at in passing, of the
    path."""
    num_bytes: int
    """As it is stored, encoded."""
    width: int
    height: int
    num_frames: int | None = None
    fps: float | None = None
    duration_s: float | None = None


class Measurer:
    """Opens media and remembers what it saw; a context manager that ends its threads."""

    def __init__(self, *, decode: bool) -> None:
        """Take how closely to look.

        Args:
            decode: Decode every image, and the first and last frame of every video; False reads
                their headers.
        """
        self._decode = decode
        self._known: dict[tuple[Kind, Path], Measured | str] = {}
        self._pool = ThreadPoolExecutor()

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def look_at(self, entries: Iterable[Entry]) -> None:
        """Open the files that these rows name and that were not opened yet."""
        rows = [entry.row for entry in entries if entry.row is not None]
        wanted: dict[tuple[Kind, Path], None] = {}
        for row in rows:
            wanted |= {("image", path): None for path in row.images if isinstance(path, Path)}
            wanted |= {("video", path): None for path in row.videos}
        new = [key for key in wanted if key not in self._known]
        found = self._pool.map(lambda key: _looked(*key, decode=self._decode), new)
        self._known |= dict(zip(new, found, strict=True))

    def of(self, entry: Entry) -> list[Measured | str]:
        """Return each medium of a row that ``look_at`` was given, or what is wrong with it."""
        if entry.row is None:
            return []
        embedded = iter(entry.embedded)
        found: list[Measured | str] = []
        for place, image in enumerate(entry.row.images):
            if isinstance(image, Path):
                found.append(self._known["image", image])
            else:
                found.append(_held(next(embedded), f"image {place}"))
        return found + [self._known["video", path] for path in entry.row.videos]

    @property
    def files(self) -> Sequence[Measured]:
        """Every file that could be read, once."""
        return [seen for seen in self._known.values() if isinstance(seen, Measured)]


def _looked(kind: Kind, path: Path, *, decode: bool) -> Measured | str:
    """What a file is, or what is wrong with it."""
    try:
        require_file(path)
        if kind == "image":
            return _image(path, decode=decode)
        media = check_video(path) if decode else file_video(path)
        facts = media.video
        assert facts is not None
        size = path.stat().st_size
        return Measured(
            kind,
            media.sha256,
            size,
            media.width,
            media.height,
            facts.num_frames,
            facts.fps,
            facts.duration_s,
        )
    except (TaskError, OSError) as error:
        return str(error)


def _image(path: Path, *, decode: bool) -> Measured:
    size = path.stat().st_size
    if decode:
        media = file_media(path)
        return Measured("image", media.sha256, size, media.width, media.height)
    try:
        with Image.open(path) as image:
            return Measured("image", str(path.resolve()), size, *image.size)
    except Exception as error:  # Pillow's readers raise any type on a broken file.
        raise TaskError(f"{path}: not a readable image ({error})") from error


def _held(data: bytes, name: str) -> Measured | str:
    """What an image that is stored in its row is; decoded in any case."""
    try:
        media = bytes_media(data, name)
    except TaskError as error:
        return str(error)
    return Measured("image", media.sha256, len(data), media.width, media.height)

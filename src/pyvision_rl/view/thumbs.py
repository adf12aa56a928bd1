"""Thumbnails of pictures.

In: PNG files. Out: WebP bytes, or WebP files made by several processes. A file that is no picture
has no thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

SIDE = 320
"""Of a thumbnail, the longer one, at most."""
_QUALITY = 80
_FEW = 200
"""So many are made sooner than processes are started."""
_TOGETHER = 64


def thumbnail(file: Path) -> bytes | None:
    """Return the thumbnail of a picture as WebP; None if there is no picture.

    A picture that is no larger is kept pixel by pixel.
    """
    try:
        with Image.open(file, formats=["PNG"]) as image:
            small = max(image.size) <= SIDE
            picture = image.convert("RGB")
            if not small:
                picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            out = BytesIO()
            if small:
                picture.save(out, "WEBP", lossless=True, method=1)
            else:
                picture.save(out, "WEBP", quality=_QUALITY, method=2)
            return out.getvalue()
    except Exception:  # noqa: BLE001 - Pillow's decoders raise any type on a broken file
        return None


def write_thumbnails(
    jobs: Iterable[tuple[Path, Path]], processes: int, report: Callable[[int], None]
) -> int:
    """Write thumbnails; return how many could not be made.

    Args:
        jobs: Picture, and the file of its thumbnail.
        processes: How many work on them.
        report: Receives how many are done, now and then.
    """
    work = list(jobs)
    failed = 0
    for done, made in enumerate(_made(work, processes), 1):
        failed += not made
        if done % 1000 == 0:
            report(done)
    return failed


def _made(work: list[tuple[Path, Path]], processes: int) -> Iterator[bool]:
    if processes < 2 or len(work) <= _FEW:
        yield from map(_write, work)
        return
    # Spawned: a process with threads, such as a server's, must not be forked.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write, work, chunksize=_TOGETHER)


def _write(job: tuple[Path, Path]) -> bool:
    source, target = job
    made = thumbnail(source)
    if made is not None:
        target.write_bytes(made)
    return made is not None

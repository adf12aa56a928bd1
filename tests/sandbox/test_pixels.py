"""Bound images reach a session whole, by file or by stream, and are decoded once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from semantics_bench import Bench, picture, smooth

from pyvision_rl.errors import SandboxError
from pyvision_rl.media import open_image
from pyvision_rl.sandbox.pixels import KEPT_FILES, LARGE_BYTES, PixelStore
from pyvision_rl.types import Media


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def saved(media: Media, folder: Path) -> Media:
    path = folder / f"{media.sha256}.png"
    open_image(media).save(path)
    return Media("image", media.sha256, media.width, media.height, path)


def test_a_file_of_pixels_holds_them_and_cannot_be_changed() -> None:
    store = PixelStore()
    media = picture()
    fd = store.file(media)
    assert os.pread(fd, 10**6, 0) == media.source
    for change in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 1)):
        with pytest.raises(PermissionError):
            change()
    assert store.file(media) == fd
    store.close()


def test_files_are_closed_when_others_are_used_and_at_the_end() -> None:
    before = descriptors()
    store = PixelStore()
    for size in range(1, 3 * KEPT_FILES):
        store.file(picture(size, 1))
    assert descriptors() == before + KEPT_FILES
    store.close()
    store.close()
    assert descriptors() == before


def test_an_image_on_disk_is_decoded_once(tmp_path: Path) -> None:
    store = PixelStore()
    media = saved(picture(), tmp_path)
    first = store.pixels(media)
    (tmp_path / f"{media.sha256}.png").unlink()
    assert store.pixels(media) is first
    store.close()
    with pytest.raises(SandboxError, match="cannot be read"):
        store.pixels(media)


def test_only_large_images_are_worth_a_file() -> None:
    store = PixelStore()
    large = smooth()
    assert 3 * large.width * large.height >= LARGE_BYTES
    images = {f"image_{k}": smooth(400 + k, 300) for k in range(KEPT_FILES + 2)}
    found = store.files({"small": picture(), **images})
    assert list(found) == list(images)[:KEPT_FILES]
    assert len(set(found.values())) == KEPT_FILES
    store.close()


def test_large_and_small_images_are_bound_in_one_session(bench: Bench, tmp_path: Path) -> None:
    bindings = {f"image_clue_{k}": smooth(400 + k, 300) for k in range(KEPT_FILES + 2)}
    bindings["small"] = picture()
    bindings["on_disk"] = saved(smooth(500, 300), tmp_path)
    bindings["again"] = bindings["image_clue_0"]
    names = list(bindings)
    for _ in range(3):  # later sessions may be forked from one that holds them
        for some in (names[:8], names[8:16], names[16:]):
            code = "\n".join(f"{name}.show()" for name in some)
            result = bench.cell(code, bindings=bindings)
            assert result.images == tuple(bindings[name] for name in some)
            assert all(source is not None and source.verified for source in result.sources)

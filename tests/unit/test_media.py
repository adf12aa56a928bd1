"""Images become content-addressed records and come back as the same pixels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pyvision_rl.errors import TaskError
from pyvision_rl.media import (
    bytes_media,
    file_media,
    image_media,
    open_image,
    saved_file,
    write_png,
)
from pyvision_rl.types import Media
from tests.fakes import a_video


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_digest_names_the_mode_the_size_and_the_pixels() -> None:
    image = noise(5, 3)
    media = image_media(image)
    assert (media.kind, media.width, media.height) == ("image", 5, 3)
    assert media.source == image.tobytes()
    assert media.sha256 == hashlib.sha256(b"RGB|5x3|" + image.tobytes()).hexdigest()


def test_same_bytes_in_another_shape_are_another_picture() -> None:
    pixels = noise(6, 2).tobytes()
    wide, tall = Image.frombytes("RGB", (6, 2), pixels), Image.frombytes("RGB", (2, 6), pixels)
    assert image_media(wide).sha256 != image_media(tall).sha256


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_opening_gives_back_the_pixels(width: int, height: int, seed: int) -> None:
    image = noise(width, height, seed)
    opened = open_image(image_media(image))
    assert opened.mode == "RGB"
    assert opened.size == image.size
    assert opened.tobytes() == image.tobytes()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_a_lossless_file_has_the_record_of_its_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise(7, 4).save(path, lossless=True)
    media = file_media(path)
    assert media == image_media(noise(7, 4))
    assert media.source == noise(7, 4).tobytes()
    assert bytes_media(path.read_bytes(), "x") == media


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = noise(6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: show rotated by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    assert file_media(tmp_path / "a.png") == image_media(upright)


def test_exif_that_cannot_be_read_costs_no_picture(tmp_path: Path) -> None:
    image = noise(6, 3)
    image.save(tmp_path / "a.png", exif=b"Exif\0\0no header of a TIFF file")
    with pytest.raises(SyntaxError):
        ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert file_media(tmp_path / "a.png") == image_media(image)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TaskError, match="not a readable image"):
        file_media(tmp_path / "cut.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (2, 2), (200, 10, 10, 0)).convert(mode)
    assert open_image(image_media(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparent_black_is_mid_grey() -> None:
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    # 255 * (1 - 128/255) = 127
    assert open_image(image_media(half)).getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    opened = open_image(file_media(tmp_path / "a.png"))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (50, 60, 70)]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(shades).save(tmp_path / "a.png")
    opened = np.asarray(open_image(file_media(tmp_path / "a.png")))
    assert opened[0, :, 0].tolist() == [0, 1, 128, 255]


RAMP = np.linspace(0, 65535, 4096).reshape(64, 64)


@pytest.mark.parametrize("kind", ["pgm", "png", "whole", "unit", "bytes"])
def test_grey_of_more_than_8_bits_keeps_its_shades(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.tif" if kind in ("whole", "unit", "bytes") else f"a.{kind}")
    if kind == "pgm":
        path.write_bytes(b"P5\n64 64\n65535\n" + RAMP.astype(">u2").tobytes())
    else:
        values = {"png": RAMP.astype(np.uint16), "whole": RAMP.astype(np.int32)}
        values |= {"unit": np.float32(RAMP / 65535), "bytes": np.float32(RAMP / 257)}
        Image.fromarray(values[kind]).save(path)
    shown = np.asarray(open_image(file_media(path)), float)
    assert np.abs(shown[..., 0] - RAMP / 257).max() <= 1


@pytest.mark.parametrize(
    "values",
    [np.int32([[-1, 5]]), np.int32([[0, 70_000]]), np.float32([[0, 300]]), np.float32([[np.nan]])],
    ids=["below", "above", "float above", "nan"],
)
def test_grey_values_without_a_meaning_are_refused(tmp_path: Path, values: Any) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(TaskError, match="grey values from"):
        file_media(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    media = image_media(Image.new(mode, (3, 2)))
    assert open_image(media).mode == "RGB"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"gone\.png: no such file"):
        file_media(tmp_path / "gone.png")


def test_a_cut_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(60, 60).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TaskError, match=r"a\.png: not a readable image"):
        file_media(path)
    path.write_text("hello")
    with pytest.raises(TaskError, match=r"a\.png: not a readable image"):
        file_media(path)
    with pytest.raises(TaskError, match=r"row 7: not a readable image"):
        bytes_media(b"hello", "row 7")


@given(st.binary(max_size=200), st.integers(0, 120))
def test_broken_bytes_are_a_task_error_and_nothing_else(junk: bytes, cut: int) -> None:
    whole = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + junk
    for data in (junk, whole, whole[:cut]):
        with pytest.raises(TaskError, match="bad"):
            bytes_media(data, "bad")


def test_a_saved_picture_is_found_again(tmp_path: Path) -> None:
    media = image_media(noise(8, 5))
    path = write_png(media, tmp_path / "media")
    assert path == tmp_path / "media" / f"{media.sha256}.png"
    assert saved_file(media.sha256, tmp_path / "media") == path
    found = replace(media, source=path)
    assert open_image(found).tobytes() == media.source
    assert [p.name for p in (tmp_path / "media").iterdir()] == [path.name]


def test_a_picture_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    media = image_media(noise(8, 5))
    path = write_png(media, tmp_path)
    path.write_bytes(b"kept")
    write_png(media, tmp_path)
    assert path.read_bytes() == b"kept"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TaskError):
        write_png(Media("image", "ab", 2, 2, source=b"too short"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no source"):
        open_image(Media("image", "ab", 2, 2))
    with pytest.raises(TaskError, match="video"):
        open_image(a_video(source=tmp_path / "a.mp4"))
    with pytest.raises(TaskError, match="wants 12"):
        open_image(Media("image", "ab", 2, 2, source=b"abc"))
    noise(3, 3).save(tmp_path / "ab.png")
    with pytest.raises(TaskError, match="3x3 pixels, wants 2x2"):
        open_image(Media("image", "ab", 2, 2, source=tmp_path / "ab.png"))


def test_what_is_no_hash_or_no_file_of_its_own_is_no_saved_picture(tmp_path: Path) -> None:
    folder, digest = tmp_path / "media", "ab" * 32
    folder.mkdir()
    noise(3, 3).save(tmp_path / "secret.png")
    noise(3, 3).save(folder / "short.png")
    for name in ("../secret", str(tmp_path / "secret"), "short", digest, digest.upper(), ""):
        assert saved_file(name, folder) is None
    (folder / f"{digest}.png").symlink_to(tmp_path / "secret.png")
    assert saved_file(digest, folder) is None
    (folder / f"{digest}.png").unlink()
    noise(3, 3).save(folder / f"{digest}.png")
    assert saved_file(digest, folder) == folder / f"{digest}.png"

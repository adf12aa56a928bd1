"""Images as content-addressed records: load, hash, open and save them.

In: PIL images, image files, encoded bytes. Out: ``Media`` whose ``sha256`` names the RGB pixels,
so that equal pictures are equal records and are stored once per run. EXIF orientation is applied
and transparency is laid on white. Does not resize, and does not read videos.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
from PIL import Image, ImageOps

from pyvision_rl.errors import TaskError
from pyvision_rl.template import spelt_out
from pyvision_rl.types import Media


def image_media(image: Image.Image) -> Media:
    """Return the record of an image; ``source`` holds its raw RGB pixels.

    Raises:
        ValueError: Grey of more than 8 bits that is neither 16-bit nor floats from 0 to 1 or 255.
    """
    return _media(_rgb(image))


def pixels_media(width: int, height: int, pixels: bytes) -> Media:
    """Return the record of an image that is given as its raw RGB pixels, row-major."""
    if len(pixels) != 3 * width * height:
        raise ValueError(f"{len(pixels)} bytes of pixels for {width}x{height}")
    digest = hashlib.sha256(f"RGB|{width}x{height}|".encode())
    digest.update(pixels)
    return Media("image", digest.hexdigest(), width, height, source=pixels)


def file_media(path: Path) -> Media:
    """Return the record of an image file; ``source`` holds its raw RGB pixels.

    Raises:
        TaskError: The file is missing, or is not an image that can be decoded whole.
    """
    return _media(_decode(path, str(path)))


def bytes_media(data: bytes, name: str) -> Media:
    """Return the record of an encoded image (PNG, JPEG, ...) held in memory.

    Raises:
        TaskError: The bytes are no image; the message names ``name``.
    """
    return _media(_decode(BytesIO(data), name))


def open_image(media: Media) -> Image.Image:
    """Return the picture as an RGB image that the caller may change.

    Raises:
        TaskError: A video, no source, a broken file, or a source of another size.
    """
    if media.kind != "image":
        raise TaskError(f"{media.sha256}: is a {media.kind}, wants an image")
    if media.source is None:
        raise TaskError(f"{media.sha256}: the record has no source to open")
    if isinstance(media.source, bytes):
        want = media.width * media.height * 3
        if len(media.source) != want:
            raise TaskError(f"{media.sha256}: {len(media.source)} bytes of pixels, wants {want}")
        return Image.frombytes("RGB", (media.width, media.height), media.source)
    image = _decode(media.source, str(media.source))
    if image.size != (media.width, media.height):
        found = f"{image.width}x{image.height}"
        raise TaskError(f"{media.source}: {found} pixels, wants {media.width}x{media.height}")
    return image


def write_png(media: Media, folder: Path) -> Path:
    """Return ``folder/<sha256>.png``, written whole or not at all; an existing one is kept."""
    path = folder / f"{media.sha256}.png"
    if path.exists():
        return path
    image = open_image(media)
    folder.mkdir(parents=True, exist_ok=True)
    # A name of its own: two writers of one picture must not share a half-written file.
    partial = folder / f"{media.sha256}.{uuid4().hex}.part"
    try:
        image.save(partial, format="PNG", compress_level=1)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def png_of(image: Image.Image) -> bytes:
    """Return an image as a PNG file, compressed quickly rather than well."""
    out = BytesIO()
    image.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def data_url(png: bytes) -> str:
    """Return the address that holds a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def saved_file(sha256: str, folder: Path) -> Path | None:
    """Return where ``write_png`` put a picture in ``folder``; None if it is not there.

    A run folder may come from anybody: what is no hash is no part of a path, and a link, which
    may lead anywhere, is no picture.
    """
    file = folder / f"{sha256}.png"
    named = len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    return file if named and file.is_file() and not file.is_symlink() else None


def _media(rgb: Image.Image) -> Media:
    """The record of an upright RGB image."""
    return pixels_media(*rgb.size, rgb.tobytes())


def _decode(file: Path | IO[bytes], name: str) -> Image.Image:
    """The first frame of an image file, decoded whole, as ``_rgb`` gives it."""
    try:
        with Image.open(file) as image:
            return _rgb(image)
    except FileNotFoundError as error:
        raise TaskError(f"{spelt_out(name)}: no such file") from error
    except Exception as error:  # Pillow's decoders raise any type on a broken file.
        raise TaskError(spelt_out(f"{name}: not a readable image ({error})")) from error


def _rgb(image: Image.Image) -> Image.Image:
    """The image upright, opaque and in 8-bit RGB; may be ``image`` itself."""
    image.load()
    # Pillow raises any type on EXIF that it cannot read: the picture is taken as upright.
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255 on conversion: nearly every pixel would turn white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _grey(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: np.ndarray[Any, Any]) -> Image.Image:
    """8-bit grey of wider numbers, which Pillow would clip at 255."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    whole = values.dtype.kind in "iu"
    if not 0 <= low <= high <= (65535 if whole else 255):
        wanted = "0 to 65535" if whole else "0 to 1, or 0 to 255"
        raise ValueError(f"grey values from {low:g} to {high:g}, wants {wanted}")
    scaled = values >> 8 if whole else np.rint(values * (255 if high <= 1 else 1))
    return Image.fromarray(scaled.astype(np.uint8))

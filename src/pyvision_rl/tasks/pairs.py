"""Prompt-target pairs for SFT, from a JSONL file.

In: rows ``{"prompt": "<image> what is this?", "images": ["a.png"], "target": "a cat"}``, with
``"raw": true`` to leave out the chat headers; paths are relative to the file's folder. Out:
``Pair`` records whose images stay on disk. Each ``<image>`` in the prompt takes the next image;
without any, the images stand before the text.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyvision_rl.absent import no_file
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import file_media
from pyvision_rl.tasks.rows import read_jsonl
from pyvision_rl.types import Media, Pair, Part, Text

FIELDS = ("prompt", "images", "target", "raw")
MARKER = "<image>"


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a JSONL file, in file order.

    Raises:
        ConfigError: No such file.
        TaskError: A row is faulty (the message names its line), or there is none.
    """
    if not path.is_file():
        raise ConfigError(no_file(path))
    pairs = []
    for line, raw in read_jsonl(path):
        try:
            if isinstance(raw, str):
                raise TaskError(raw)
            pairs.append(_pair(raw, path.parent))
        except TaskError as error:
            raise TaskError(f"{path} line {line}: {error}") from error
    if not pairs:
        raise TaskError(f"{path}: holds no pairs")
    return pairs


def _pair(raw: dict[str, Any], folder: Path) -> Pair:
    """One checked row."""
    unknown = sorted(raw.keys() - set(FIELDS))
    if unknown:
        raise TaskError(f"unknown field {unknown[0]!r}; allowed: {', '.join(FIELDS)}")
    prompt, target, flag = raw.get("prompt"), raw.get("target"), raw.get("raw", False)
    images = raw.get("images") or []
    if not isinstance(prompt, str):
        raise TaskError(f"prompt is {prompt!r:.80}, wants text")
    if not isinstance(target, str) or not target:
        raise TaskError(f"target is {target!r:.80}, wants text that is not empty")
    if not isinstance(flag, bool):
        raise TaskError(f"raw is {flag!r:.80}, wants true or false")
    if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
        raise TaskError(f"images is {images!r:.80}, wants a list of paths")
    parts = _parts(prompt, tuple(_on_disk(folder / image) for image in images))
    if not parts:
        raise TaskError("prompt is empty and there are no images")
    return Pair(parts, target, flag)


def _on_disk(path: Path) -> Media:
    """The record of a file whose pixels are read again when they are needed."""
    return replace(file_media(path), source=path)


def _parts(prompt: str, images: tuple[Media, ...]) -> tuple[Part, ...]:
    """Text and images in the order in which the model reads them."""
    texts = prompt.split(MARKER)
    if len(texts) == 1:
        texts = [""] * len(images) + texts
    if len(texts) != len(images) + 1:
        raise TaskError(f"prompt has {len(texts) - 1} {MARKER} for {len(images)} images")
    parts: list[Part] = []
    for position, text in enumerate(texts):
        if text:
            parts.append(Text(text))
        if position < len(images):
            parts.append(images[position])
    return tuple(parts)

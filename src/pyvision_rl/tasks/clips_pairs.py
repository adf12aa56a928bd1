"""Perception pairs of the clips tasks: every decision of a script, alone on a short sequence.

In: a way to draw scenes. Out: raw ``Pair`` records: the question, one picture, and the words that
stand before the decision in a script, so that what is learnt here is what scripts go on with.
Pictures are painted, not decoded: the codec's error is left to the scripts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from pyvision_rl.media import image_media
from pyvision_rl.tasks.clips_scene import (
    SHEET_FRAMES,
    SHEET_SIDE,
    WINDOW_FRAMES,
    WINDOW_SIDE,
    WINDOW_STEP,
    Card,
    Frames,
    Scene,
    paint,
    sheet_cell,
    window_cell,
    window_of,
)
from pyvision_rl.tasks.clips_scripts import (
    ANSWER_START,
    FRAME_START,
    WINDOW_START,
    answers,
    question,
    window_place,
)
from pyvision_rl.types import Media, Pair, Text

FRAME_PX = 56
"""Side at which the tiny configs show a frame; a sheet or a window has twice that."""


def scene_pairs(scene: Scene) -> Iterator[Pair]:
    """Yield the pairs of one scene: what its sheet, its window and its frame each tell."""
    card, asked = scene.cards[0], question(scene)
    right = answers(scene)[0]
    if scene.category in ("when", "count", "order"):
        yield _pair(asked, sheet(scene), f"\n{ANSWER_START}", right)
        return
    shown = sheet(scene)
    if scene.category != "move":
        yield _pair(asked, shown, f"\n{FRAME_START}", _cell(sheet_cell(scene, card)))
    if scene.category in ("flash", "move"):
        place = window_place(scene, window_of(scene, card))
        yield _pair(asked, shown, f"\n{WINDOW_START}", place)
        inside = window(scene, window_of(scene, card))
        if scene.category == "move":
            yield _pair(asked, inside, f"\n{ANSWER_START}", right)
            return
        yield _pair(asked, inside, f"\n{FRAME_START}", _cell(window_cell(scene, card)))
    yield frame_pair(scene, card)


def frame_pair(scene: Scene, card: Card) -> Pair:
    """Return the pair that asks one frame for the answer; the digit is on the card there."""
    picture = _shown(paint(scene, [card.inked[0]])[0], FRAME_PX)
    return _pair(question(scene), picture, f"\n{ANSWER_START}", answers(scene)[0])


def sheet(scene: Scene) -> Media:
    """Return 64 frames of the whole video as a model is shown them."""
    frames = paint(scene, range(0, scene.num_frames, scene.num_frames // SHEET_FRAMES))
    return _shown(_tiled(frames, SHEET_SIDE), 2 * FRAME_PX)


def window(scene: Scene, number: int) -> Media:
    """Return the 16 frames of a window, likewise."""
    begin = WINDOW_STEP * number
    return _shown(
        _tiled(paint(scene, range(begin, begin + WINDOW_FRAMES)), WINDOW_SIDE), 2 * FRAME_PX
    )


def _tiled(frames: Frames, side: int) -> Frames:
    """[side * H, side * W, 3] frames row by row."""
    return np.hstack(np.hstack(frames.reshape(side, side, *frames.shape[1:])))  # type: ignore[call-overload]


def _shown(pixels: Frames, px: int) -> Media:
    """A picture at the side at which a figure shows it."""
    image = Image.fromarray(pixels)
    return image_media(
        image if image.width == px else image.resize((px, px), Image.Resampling.BICUBIC)
    )


def _pair(asked: str, picture: Media, before: str, target: str) -> Pair:
    return Pair((Text(f"{asked}\n"), picture, Text(before)), target, raw=True)


def _cell(cell: tuple[int, int]) -> str:
    """Row and column as a script writes them."""
    return f"{cell[0]},{cell[1]}"

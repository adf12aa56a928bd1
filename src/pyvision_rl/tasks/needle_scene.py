"""Pictures of the needle tasks: handwritten digits in coloured frames on a large canvas.

In: a random generator and what kind of scene is wanted. Out: a ``Scene`` (where every tile lies)
and its picture. Knows no questions and no tasks. The digits are scikit-learn's 1,797 real
handwritten ones (extra ``demo``), split once into 1,400 for training and 397 for testing.

The canvas is 448 px, 8x8 cells of 56 px. Its colour runs with the place (x in red, y in green): a
vision tower with relative positions only, like Qwen2.5-VL's, could not tell places apart without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pyvision_rl.registry import missing

Split: TypeAlias = Literal["train", "test"]
Category: TypeAlias = Literal["easy", "hard", "pair"]

CANVAS_PX = 448
CELL_PX = 56
CELLS = CANVAS_PX // CELL_PX
NUM_TRAIN_GLYPHS = 1400
NUM_BACKGROUNDS = 64
"""Per split; no background is shared between the splits."""
FRAMES = {"red": (255, 20, 20), "blue": (20, 20, 255)}
BLOCK_CELLS: dict[Category, int] = {"easy": 2, "hard": 1, "pair": 1}
"""Side of the cell block that holds a tile whole."""
TILE_COLORS: dict[Category, tuple[str, ...]] = {
    "easy": ("red",),
    "hard": ("red",),
    "pair": ("red", "blue"),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One framed digit, inside a block of cells."""

    color: str
    glyph: int
    """Index among scikit-learn's digits."""
    digit: int
    px: int
    """Side of the paper inside the frame."""
    x: int
    y: int
    """Left and top of the block, in cells."""
    cells: int
    """Side of the block, in cells."""
    left: int
    top: int
    """Of the frame, in pixels of the canvas."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows."""

    category: Category
    background: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Handwritten digits."""

    ink: npt.NDArray[np.float32]
    """[1797, 8, 8], 0 is paper and 1 is ink."""
    digit: npt.NDArray[np.int64]
    """[1797] what each one means."""
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    """Indices of the two splits."""


def digits_file(where: str) -> Path:
    """Return where scikit-learn keeps its digits: to import it for them would take seconds.

    Raises:
        ConfigError: It is not installed; says that ``where`` needs it.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        error = ModuleNotFoundError(name="sklearn")
        raise missing(error, where) from error  # the cause makes it a note of `pvrl check`
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


@lru_cache(maxsize=1)
def glyphs() -> Glyphs:
    """Return scikit-learn's handwritten digits, split; loaded once per process.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    rows = np.loadtxt(digits_file("the task set 'needle'"), delimiter=",")  # 64 pixels, digit
    # RandomState, not Generator: numpy promises that its streams never change.
    order = np.random.RandomState(0).permutation(len(rows))
    return Glyphs(
        ink=(rows[:, :64].reshape(-1, 8, 8) / 16.0).astype(np.float32),
        digit=rows[:, 64].astype(np.int64),
        train=order[:NUM_TRAIN_GLYPHS],
        test=order[NUM_TRAIN_GLYPHS:],
    )


def frame_px(px: int) -> int:
    """Return the width of the frame around ``px`` pixels of paper."""
    return max(3, px // 9)


def plan(rng: np.random.Generator, category: Category, split: Split, sizes: Sequence[int]) -> Scene:
    """Return a scene with tiles in free blocks; ``sizes`` are paper sides in pixels."""
    known = glyphs()
    pool = known.train if split == "train" else known.test
    cells = BLOCK_CELLS[category]
    tiles: list[Tile] = []
    for color in TILE_COLORS[category]:
        glyph = int(pool[rng.integers(len(pool))])
        px = sizes[int(rng.integers(len(sizes)))]
        x, y = _free_block(rng, cells, tiles)
        slack = cells * CELL_PX - px - 2 * frame_px(px)
        dx, dy = rng.integers(0, slack + 1, 2).tolist()
        left, top = x * CELL_PX + dx, y * CELL_PX + dy
        digit = int(known.digit[glyph])
        tiles.append(Tile(color, glyph, digit, px, x, y, cells, left, top))
    first = 0 if split == "train" else NUM_BACKGROUNDS
    return Scene(category, first + int(rng.integers(NUM_BACKGROUNDS)), tuple(tiles))


def paint(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Return the picture of a scene, [448, 448] RGB; ``rng`` gives the grain of the paper."""
    picture = _background(scene.background).copy()
    for tile in scene.tiles:
        picture.paste(_tile_picture(tile, rng), (tile.left, tile.top))
    return picture


def _free_block(rng: np.random.Generator, cells: int, taken: Sequence[Tile]) -> tuple[int, int]:
    """A block that no tile lies in, aligned to its own size."""
    while True:
        x, y = (rng.integers(0, CELLS // cells, 2) * cells).tolist()
        if all((x, y) != (tile.x, tile.y) for tile in taken):
            return x, y


@lru_cache(maxsize=2 * NUM_BACKGROUNDS)
def _background(number: int) -> Image.Image:
    """Background ``number``, the same in every process; callers must not draw on it."""
    rng = np.random.default_rng([448, number])
    ramp = np.linspace(0, 1, CANVAS_PX, dtype=np.float32)
    pixels = np.empty((CANVAS_PX, CANVAS_PX, 3), np.float32)
    pixels[..., 0] = 40 + 150 * ramp[None, :]
    pixels[..., 1] = 40 + 150 * ramp[:, None]
    pixels[..., 2] = 90
    blotches = Image.fromarray((116 + 24 * rng.random((8, 8, 3))).astype(np.uint8))
    blotches = blotches.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BICUBIC)
    pixels += np.asarray(blotches, np.float32) - 128
    grain = 8 * rng.standard_normal((CANVAS_PX // 4, CANVAS_PX // 4, 1))
    pixels += grain.repeat(4, axis=0).repeat(4, axis=1)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y = rng.integers(0, CANVAS_PX, 2).tolist()
        dx, dy = rng.integers(-90, 90, 2).tolist()
        red, green, blue = rng.integers(60, 190, 3).tolist()
        width = int(rng.integers(2, 5))
        draw.line([x, y, x + dx, y + dy], fill=(red, green, blue), width=width)
    return picture


def _tile_picture(tile: Tile, rng: np.random.Generator) -> Image.Image:
    """Ink on light paper in a coloured frame."""
    ink = glyphs().ink[tile.glyph]
    paper = Image.fromarray((255 * (1 - ink)).astype(np.uint8))
    paper = paper.resize((tile.px, tile.px), Image.Resampling.BICUBIC)
    grain = 8 * rng.standard_normal((tile.px, tile.px), dtype=np.float32)
    pixels = np.asarray(paper, np.float32) * 0.85 + 20 + grain
    border = frame_px(tile.px)
    side = tile.px + 2 * border
    framed = np.empty((side, side, 3), np.float32)
    framed[:] = FRAMES[tile.color]
    framed[border:-border, border:-border] = pixels[..., None]
    return Image.fromarray(framed.clip(0, 255).astype(np.uint8))

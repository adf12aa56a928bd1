"""Frames of the clips tasks: cards that come and go before a light that drifts.

In: a random generator and what kind of scene is wanted. Out: a ``Scene`` (which card is where from
which frame to which) and any of its frames. Knows no questions, no tasks and no files.

The frame is 56 px, or a multiple of it. A *sheet* is 64 frames at equal distances, ``step``; a
*window* is 16 frames in a row that begin at a multiple of 8. Every card can be seen in the sheet,
and every digit that flashes lies in the window of its card. Green grows with the time and red does
so eight times over: a vision tower with relative positions only, like Qwen2.5-VL's, could not tell
apart places in a sheet, nor in a window, without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pyvision_rl.tasks.needle_scene import FRAMES, NUM_BACKGROUNDS, Split, frame_px, glyphs

Category: TypeAlias = Literal["which", "flash", "when", "where", "count", "order", "move"]
CATEGORIES: tuple[Category, ...] = ("which", "flash", "when", "where", "count", "order", "move")
Frames: TypeAlias = npt.NDArray[np.uint8]
"""[K, side, side, 3] RGB."""

UNIT_PX = 56
"""Sizes below are for frames of this side and grow with them."""
SHEET_SIDE = 8
SHEET_FRAMES = SHEET_SIDE**2
WINDOW_SIDE = 4
WINDOW_FRAMES = WINDOW_SIDE**2
WINDOW_STEP = 8
LARGE_PX = (26, 30, 34)
SMALL_PX = (20, 22, 24)
"""Of cards that leave room: for the three other corners, for a ball."""
MAX_COUNT = 4
DRIFT = 140
"""By how much green grows over the video, and red over an eighth of it."""
BALL_PX = 10
BALL_COLOR = (235, 215, 60)
NEAR, FAR = 7, UNIT_PX - 7
"""Between which a ball goes to and fro."""


@dataclass(frozen=True, slots=True)
class Card:
    """Light paper in a coloured frame, and for some of its time a digit on it."""

    color: str
    glyph: int
    """Index among scikit-learn's digits."""
    digit: int
    px: int
    """Side of the paper inside the frame."""
    left: int
    top: int
    """Of the frame, in pixels of the video; ``px`` too."""
    first: int
    end: int
    """Frames that show the card: from ``first``, below ``end``."""
    inked: tuple[int, int]
    """Frames that show its digit, likewise."""

    @property
    def side(self) -> int:
        """Side of the card with its frame."""
        return self.px + 2 * frame_px(self.px)


@dataclass(frozen=True, slots=True)
class Ball:
    """A ball that goes to and fro on a straight line."""

    axis: Literal["x", "y"]
    lane: int
    """Centre across the line, in pixels of the video."""
    start: int
    """A frame at which it leaves the left or upper end; may be below 0."""
    crossing: int
    """Frames from one end to the other."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a video shows."""

    category: Category
    num_frames: int
    side: int
    background: int
    grain: int
    """Seed of the paper's grain."""
    drift: bool
    """Whether the light tells the time."""
    cards: tuple[Card, ...]
    """Those that are asked for come first."""
    ball: Ball | None

    @property
    def step(self) -> int:
        """Distance of the frames of a sheet."""
        return self.num_frames // SHEET_FRAMES


def plan(
    rng: np.random.Generator,
    category: Category,
    split: Split,
    *,
    num_frames: int,
    side: int,
    flash_frames: tuple[int, int],
    distract: float,
    drift: bool,
) -> Scene:
    """Return a scene.

    Args:
        rng: Draws everything.
        category: What will be asked.
        split: Whose handwriting and which backgrounds.
        num_frames: A multiple of 64, at least 128.
        side: A multiple of 56.
        flash_frames: Least and most frames for which a digit flashes.
        distract: Probability of a blue card, and of a ball, where neither is asked for.
        drift: Whether the light tells the time.
    """
    axis: Literal["x", "y"] = "x" if rng.random() < 0.5 else "y"
    step = num_frames // SHEET_FRAMES
    cards: list[Card] = []
    for color in _colors(rng, category, distract):
        px = int(rng.choice(SMALL_PX if category in ("where", "move") else LARGE_PX))
        first, end = _time(rng, category, num_frames, [_cells(card, step) for card in cards])
        glyph, digit = _glyph(rng, split)
        left, top = _place(rng, category, axis, px + 2 * frame_px(px))
        inked = (first, end)
        if category == "flash" and not cards:
            inked = _flash(rng, first, end, num_frames, flash_frames)
        scale = side // UNIT_PX
        place = (px * scale, left * scale, top * scale)
        cards.append(Card(color, glyph, digit, *place, first, end, inked))
    ball = _asked_ball(rng, axis, cards[0], side) if category == "move" else None
    if ball is None and rng.random() < distract:
        lane, crossing = rng.integers(NEAR, FAR + 1), int(rng.integers(8, 21))
        start = int(rng.integers(-2 * crossing, 0))
        ball = Ball(axis, int(lane) * side // UNIT_PX, start, crossing)
    background = int(rng.integers(NUM_BACKGROUNDS)) + (NUM_BACKGROUNDS if split == "test" else 0)
    grain = int(rng.integers(1 << 30))
    return Scene(category, num_frames, side, background, grain, drift, tuple(cards), ball)


def paint(scene: Scene, numbers: Sequence[int] | range) -> Frames:
    """Return the frames of these numbers, in their order."""
    times = np.asarray(numbers, np.int64)
    pixels = np.empty((len(times), scene.side, scene.side, 3), np.uint8)
    # The background is dark enough for the light: no value passes 255.
    pixels[:] = _background(scene.background, scene.side)
    if scene.drift:
        elapsed = times / scene.num_frames
        pixels[..., 1] += (DRIFT * elapsed).astype(np.uint8)[:, None, None]
        pixels[..., 0] += (DRIFT * (8 * elapsed % 1)).astype(np.uint8)[:, None, None]
    if scene.ball is not None:
        _paint_ball(pixels, scene.ball, times)
    for number, card in enumerate(scene.cards):
        grain = np.random.default_rng([scene.grain, number])
        paper = _paper(card, grain)
        rows = slice(card.top, card.top + card.side)
        columns = slice(card.left, card.left + card.side)
        for has_ink, picture in ((False, _framed(card, None, paper)), (True, _inked(card, paper))):
            inked = (times >= card.inked[0]) & (times < card.inked[1])
            shown = (times >= card.first) & (times < card.end) & (inked == has_ink)
            pixels[shown, rows, columns] = picture
    return pixels


def sheet_cell(scene: Scene, card: Card) -> tuple[int, int]:
    """Return (row, column) of the first frame of a sheet that shows the card."""
    row, column = divmod(_cells(card, scene.step)[0], SHEET_SIDE)
    return row, column


def window_of(scene: Scene, card: Card) -> int:
    """Return the number of the card's window: it begins at ``WINDOW_STEP`` times this."""
    return _window(_cells(card, scene.step)[0], scene.num_frames)


def window_cell(scene: Scene, card: Card) -> tuple[int, int]:
    """Return (row, column), in the card's window, of the first frame that shows its digit."""
    begin = WINDOW_STEP * window_of(scene, card)
    row, column = divmod(max(card.inked[0], begin) - begin, WINDOW_SIDE)
    return row, column


def ball_place(ball: Ball, number: int, side: int) -> int:
    """Return the ball's centre along its line in one frame, in pixels of the video."""
    turns = (number - ball.start) / ball.crossing % 2
    along = turns if turns < 1 else 2 - turns
    return round((NEAR + (FAR - NEAR) * along) * side / UNIT_PX)


def corner_of(scene: Scene, card: Card) -> tuple[str, str]:
    """Return ("top" or "bottom", "left" or "right") of the card's middle."""
    low, right = (2 * place + card.side > scene.side for place in (card.top, card.left))
    return ("bottom" if low else "top"), ("right" if right else "left")


def direction_of(ball: Ball, number: int) -> str:
    """Return where the ball goes in one frame: left, right, up or down."""
    outwards = (number - ball.start) / ball.crossing % 2 < 1
    return {"x": ("left", "right"), "y": ("up", "down")}[ball.axis][outwards]


def _colors(rng: np.random.Generator, category: Category, distract: float) -> list[str]:
    """The colours of the cards, those that are asked for first."""
    if category == "order":
        return ["red", "blue"]
    reds = ["red"] * (int(rng.integers(1, MAX_COUNT + 1)) if category == "count" else 1)
    return reds + (["blue"] if rng.random() < distract else [])


def _glyph(rng: np.random.Generator, split: Split) -> tuple[int, int]:
    """A handwritten digit of the split, and what it means."""
    known = glyphs()
    pool = known.train if split == "train" else known.test
    glyph = int(pool[rng.integers(len(pool))])
    return glyph, int(known.digit[glyph])


def _length(rng: np.random.Generator, category: Category, step: int) -> int:
    """For how many frames a card is shown; never less than ``step``, so that a sheet shows it."""
    if category == "flash":
        return int(rng.integers(max(7, 2 * step - 1), max(9, 2 * step + 1) + 1))
    if category == "move":
        return int(rng.integers(max(9, step), max(12, step + 3) + 1))
    return step * int(rng.integers(1, 3 if category == "count" else 4))


def _time(
    rng: np.random.Generator, category: Category, num_frames: int, taken: list[tuple[int, int]]
) -> tuple[int, int]:
    """First frame and end of a card: an empty cell of the sheet lies between any two cards."""
    step = num_frames // SHEET_FRAMES
    while True:
        length = _length(rng, category, step)
        first = int(rng.integers(0, num_frames - length + 1))
        low, high = -(-first // step), (first + length - 1) // step
        if category == "when" and 4 * first // num_frames != 4 * (first + length - 1) // num_frames:
            continue
        if all(high + 2 <= other[0] or low >= other[1] + 2 for other in taken):
            return first, first + length


def _cells(card: Card, step: int) -> tuple[int, int]:
    """The first and the last frame of a sheet that shows the card."""
    return -(-card.first // step), (card.end - 1) // step


def _window(cell: int, num_frames: int) -> int:
    """The window that begins in the eight frames of a cell of the sheet; the last one at most."""
    step = num_frames // SHEET_FRAMES
    return min(step * cell // WINDOW_STEP, (num_frames - WINDOW_FRAMES) // WINDOW_STEP)


def _flash(
    rng: np.random.Generator, first: int, end: int, num_frames: int, most: tuple[int, int]
) -> tuple[int, int]:
    """The frames with the digit: some of the card's, and of the card's window."""
    step = num_frames // SHEET_FRAMES
    begin = WINDOW_STEP * _window(-(-first // step), num_frames)
    length = int(rng.integers(most[0], most[1] + 1))
    low, high = max(first, begin), min(end, begin + WINDOW_FRAMES) - length
    inked = int(rng.integers(low, high + 1))
    return inked, inked + length


def _place(
    rng: np.random.Generator, category: Category, axis: Literal["x", "y"], side: int
) -> tuple[int, int]:
    """Left and top of a card, in units: in a corner, at a border, or anywhere."""
    room = UNIT_PX - side
    margin, other = rng.integers(0, 5, 2).tolist()
    at_end = (rng.random(2) < 0.5).tolist()
    left = room - margin if at_end[0] else margin
    top = room - other if at_end[1] else other
    if category == "where":
        return left, top
    if category == "move":
        free = int(rng.integers(0, room + 1))
        return (free, top) if axis == "x" else (left, free)
    anywhere = rng.integers(2, room - 1, 2).tolist()
    return anywhere[0], anywhere[1]


def _asked_ball(rng: np.random.Generator, axis: Literal["x", "y"], card: Card, side: int) -> Ball:
    """A ball beside the card's strip that crosses the frame once while the card is shown."""
    begin = card.top if axis == "x" else card.left
    after = begin + card.side
    # The card lies at one border; the lane is the middle of what is left.
    lane = begin // 2 if begin > side - after else (after + side) // 2
    crossing = card.end - card.first + 2
    backwards = rng.random() < 0.5
    return Ball(axis, lane, card.first - 1 - backwards * crossing, crossing)


def _paint_ball(pixels: Frames, ball: Ball, times: npt.NDArray[np.int64]) -> None:
    """Draw the ball into every frame."""
    side = pixels.shape[1]
    radius = BALL_PX * side // UNIT_PX // 2
    grid = np.arange(-radius, radius + 1)
    disc = grid[:, None] ** 2 + grid[None] ** 2 <= radius**2
    for frame, number in zip(pixels, times.tolist(), strict=True):
        along = ball_place(ball, number, side)
        x, y = (along, ball.lane) if ball.axis == "x" else (ball.lane, along)
        frame[y - radius : y + radius + 1, x - radius : x + radius + 1][disc] = BALL_COLOR


def _paper(card: Card, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """[px, px] the grain of a card's paper, around 0."""
    return 8 * rng.standard_normal((card.px, card.px), dtype=np.float32)


def _inked(card: Card, paper: npt.NDArray[np.float32]) -> Frames:
    """[side, side, 3] the card with its digit."""
    ink = Image.fromarray((255 * glyphs().ink[card.glyph]).astype(np.uint8))
    ink = ink.resize((card.px, card.px), Image.Resampling.BICUBIC)
    return _framed(card, np.asarray(ink, np.float32), paper)


def _framed(
    card: Card, ink: npt.NDArray[np.float32] | None, paper: npt.NDArray[np.float32]
) -> Frames:
    """[side, side, 3] the card with this ink, [px, px] from 0 to 255, or blank."""
    border = frame_px(card.px)
    framed = np.empty((card.side, card.side, 3), np.float32)
    framed[:] = FRAMES[card.color]
    framed[border:-border, border:-border] = (236 - 0.85 * (0 if ink is None else ink) + paper)[
        ..., None
    ]
    return framed.clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=2 * NUM_BACKGROUNDS)
def _background(number: int, side: int) -> Frames:
    """[side, side, 3] background ``number``, the same in every process; nothing above 115."""
    rng = np.random.default_rng([56, number])
    blotches = Image.fromarray((30 * rng.random((5, 5, 3))).astype(np.uint8))
    smooth = np.asarray(blotches.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    grain = 3 * rng.standard_normal((UNIT_PX, UNIT_PX, 1)).repeat(side // UNIT_PX, axis=0)
    pixels = np.array([30, 30, 80], np.float32) + smooth + grain.repeat(side // UNIT_PX, axis=1)
    picture = Image.fromarray(pixels.clip(0, 115).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(3):
        x, y = rng.integers(0, side, 2).tolist()
        dx, dy = rng.integers(-side // 3, side // 3, 2).tolist()
        red, green, blue = rng.integers(50, 116, 3).tolist()
        draw.line([x, y, x + dx, y + dy], fill=(red, green, blue), width=2 * side // UNIT_PX)
    return np.asarray(picture)

"""The needle tasks: read a handwritten digit that may be too small to read without zooming in.

In: a seed. Out: as many ``Task`` records as wanted, scripts that solve them, and perception pairs.
Task ``i`` is a function of (seed, split, i) and the other options alone; nothing is stored.

``easy``: one large tile, readable when the canvas is shrunk to a small model's 112 px.
``hard``: one small tile; its place shows at 112 px, its digit only in a crop.
``pair``: two small tiles, red and blue, and both digits are asked for.

A script looks through windows that shrink to the tile (4, 2, 1 cells; never below the tile's own
block) and answers, or answers at once. It always gives the right digit, also when it looked away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyvision_rl.config import TasksConfig
from pyvision_rl.media import image_media
from pyvision_rl.registry import parse_options
from pyvision_rl.tasks.needle_scene import (
    BLOCK_CELLS,
    CELL_PX,
    CELLS,
    Category,
    Scene,
    Split,
    Tile,
    frame_px,
    glyphs,
    paint,
    plan,
)
from pyvision_rl.types import Gold, Media, Pair, Task, TaskInput, Text

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]

QUESTIONS: dict[Category, str] = {
    "easy": "digit in red box?",
    "hard": "digit in red box?",
    "pair": "digits in red box, blue box?",
}
CHAINS = ((1,), (2, 1), (4, 2, 1))
"""Window sides in cells, for scripts of one, two and three calls."""
SECOND_LOOK = 0.15
"""Share of ``pair`` scripts that look at one tile again."""
WIDE_CROPS = 0.3
"""Share of pairs that show a small tile in two cells instead of one."""

# Every use of randomness has a stream of its own: changing how scripts are drawn must not
# change the pictures.
_SCENES, _SCRIPTS, _PAIRS = range(3)


class Options(BaseModel):
    """The options of ``[tasks] name = "needle"``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(0, ge=0)
    size: int = Field(100_000, gt=0)
    """Number of tasks; they are drawn when asked for."""
    split: Split = "train"
    """Whose handwriting and which backgrounds: the splits share neither."""
    mix: dict[Category, Weight] = {"easy": 15.0, "hard": 1.0}
    """Weights by which a task's category is drawn."""
    easy_px: tuple[int, ...] = Field((84, 88, 92), min_length=1)
    """Sides of the large tiles, without frame."""
    hard_px: tuple[int, ...] = Field((30, 34, 38), min_length=1)
    """Sides of the small tiles, without frame."""
    direct: Share | dict[Category, Share] = 0.5
    """Share of scripts that answer without looking; one number, or one per category."""
    chain: tuple[Weight, Weight, Weight] = (0.1, 0.6, 0.3)
    """Weights of scripts with 1, 2 and 3 calls (easy and hard)."""
    miss: Share = 0.0
    """Probability that a script's window lies anywhere instead of around the tile."""
    misread: Share = 0.0
    """Probability that a script that looked answers with another digit than the right one."""
    context_px: int = Field(112, gt=0)
    """Pairs hold the canvas shrunk to this side: what a model with that pixel limit sees."""
    crop_px: int = Field(56, gt=0)
    """Pairs hold crops at this side: what a figure of that size shows."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check what single fields cannot."""
        if not sum(self.mix.values()) > 0:
            raise ValueError("mix needs a category with a weight above 0")
        if not sum(self.chain) > 0:
            raise ValueError("chain needs a weight above 0")
        for name, sizes, cells in (("easy_px", self.easy_px, 2), ("hard_px", self.hard_px, 1)):
            room = cells * CELL_PX
            bad = [px for px in sizes if px < 8 or px + 2 * frame_px(px) > room]
            if bad:
                raise ValueError(f"{name} has {bad[0]}; wants 8 or more, and {room} with its frame")
        if isinstance(self.direct, dict):
            absent = [c for c in self.categories if c not in self.direct]
            if absent:
                raise ValueError(f"direct has no share for {absent[0]!r}, which mix draws")
        return self

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories that are drawn at all."""
        return tuple(c for c in BLOCK_CELLS if self.mix.get(c, 0) > 0)

    def sizes(self, category: Category) -> tuple[int, ...]:
        """Sides of the tiles of a category."""
        return self.easy_px if category == "easy" else self.hard_px

    def direct_share(self, category: Category) -> float:
        """Share of scripts of a category that answer without looking."""
        return self.direct[category] if isinstance(self.direct, dict) else self.direct


class NeedleTasks:
    """Drawn tasks with known answers, scripts and perception pairs."""

    def __init__(self, config: TasksConfig) -> None:
        """Check the options.

        Raises:
            ConfigError: An option is wrong, or scikit-learn is not installed.
        """
        self.options = parse_options(Options, config.options, "tasks.options")
        self._size = min(self.options.size, config.limit or self.options.size)
        weights = np.array([self.options.mix[c] for c in self.options.categories])
        self._bounds = np.cumsum(weights / weights.sum())
        glyphs()

    def __len__(self) -> int:
        """Number of tasks."""
        return self._size

    def __getitem__(self, index: int) -> Task:
        """Return task ``index``, drawn anew and always the same.

        Raises:
            IndexError: There is no such task.
        """
        scene, rng = self._scene(index)
        options = self.options
        answer = _answer([tile.digit for tile in scene.tiles])
        return Task(
            TaskInput(
                id=f"needle-{options.split}-{options.seed}-{index}",
                question=QUESTIONS[scene.category],
                media=(image_media(paint(scene, rng)),),
                category=scene.category,
                data_source="needle",
            ),
            Gold(answer, "sequence" if len(scene.tiles) > 1 else "integer"),
        )

    def scene(self, index: int) -> Scene:
        """Return what the picture of task ``index`` shows, and where.

        Raises:
            IndexError: There is no such task.
        """
        return self._scene(index)[0]

    def script(self, index: int) -> tuple[str, ...]:
        """Return the assistant turns for task ``index``; the last one answers.

        The answer is right but for ``misread``.

        Raises:
            IndexError: There is no such task.
        """
        scene = self.scene(index)
        rng = self._rng(index, _SCRIPTS)
        windows = []
        if rng.random() >= self.options.direct_share(scene.category):
            windows = [self._look(rng, tile, cells) for tile, cells in self._looks(rng, scene)]
        digits = [tile.digit for tile in scene.tiles]
        if windows and rng.random() < self.options.misread:
            digits[0] = (digits[0] + int(rng.integers(1, 10))) % 10
        return (*(_code_turn(window) for window in windows), _answer_turn(digits))

    def pairs(self, count: int) -> tuple[Pair, ...]:
        """Return ``count`` raw perception pairs, of three kinds in the ratio 1:2:1.

        One asks for the place of a tile (its block's corner in canvas pixels), two show a crop
        and one the whole canvas and ask for the digit. Easy and hard tiles are drawn evenly:
        small ones must be learnt however rare they are among the tasks.
        """
        made: list[Pair] = []
        for number in range((count + 3) // 4):
            made.extend(self._scene_pairs(number))
        return tuple(made[:count])

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """The generator of one task and one use."""
        options = self.options
        return np.random.default_rng([options.seed, int(options.split == "test"), index, stream])

    def _scene(self, index: int) -> tuple[Scene, np.random.Generator]:
        """The scene of a task, and the generator to paint it with."""
        if not 0 <= index < self._size:
            raise IndexError(f"task {index} of {self._size}")
        options = self.options
        rng = self._rng(index, _SCENES)
        drawn = int(np.searchsorted(self._bounds[:-1], rng.random(), side="right"))
        category = options.categories[drawn]
        return plan(rng, category, options.split, options.sizes(category)), rng

    def _looks(self, rng: np.random.Generator, scene: Scene) -> list[tuple[Tile, int]]:
        """The tiles that a script looks at, each with the side of its window in cells."""
        if scene.category == "pair":
            looks = [(tile, tile.cells) for tile in scene.tiles]
            if rng.random() < SECOND_LOOK:
                looks.append(looks[rng.integers(len(looks))])
            return looks
        weights = np.array(self.options.chain)
        chain = CHAINS[rng.choice(len(CHAINS), p=weights / weights.sum())]
        return [(scene.tiles[0], cells) for cells in chain]

    def _look(self, rng: np.random.Generator, tile: Tile, cells: int) -> tuple[int, int, int, int]:
        """A window around a tile, or with probability ``miss`` anywhere."""
        side = max(cells, tile.cells)
        return _window(rng, None if rng.random() < self.options.miss else tile, side)

    def _scene_pairs(self, number: int) -> list[Pair]:
        """Four pairs, of three scenes."""
        rng = self._rng(number, _PAIRS)
        categories = self.options.categories
        canvas, scene = self._example(rng, categories[rng.integers(len(categories))])
        # From another scene: a large tile has only one window, so its crops would be equal.
        other = self._example(rng, categories[rng.integers(len(categories))])
        tile = scene.tiles[rng.integers(len(scene.tiles))]
        context = _shrunk(canvas, self.options.context_px)
        place = f"{tile.x * CELL_PX},{tile.y * CELL_PX}"
        # The largest tiles there are: a digit too small to read teaches nothing but its absence.
        large, shown = self._example(rng, categories[0])
        read = shown.tiles[rng.integers(len(shown.tiles))]
        whole = _shrunk(large, self.options.context_px)
        return [
            Pair((context, Text(f"{tile.color} box at")), place, raw=True),
            self._crop_pair(rng, canvas, scene),
            self._crop_pair(rng, *other),
            Pair((whole, Text(f"{read.color} digit:")), str(read.digit), raw=True),
        ]

    def _example(self, rng: np.random.Generator, category: Category) -> tuple[Image.Image, Scene]:
        """A picture of a category, and what it shows."""
        options = self.options
        scene = plan(rng, category, options.split, options.sizes(category))
        return paint(scene, rng), scene

    def _crop_pair(self, rng: np.random.Generator, canvas: Image.Image, scene: Scene) -> Pair:
        """The digit in a crop around a tile; a wide crop might show both tiles of two."""
        tile = scene.tiles[rng.integers(len(scene.tiles))]
        wide = len(scene.tiles) == 1 and rng.random() < WIDE_CROPS
        window = _window(rng, tile, max(tile.cells, 2 if wide else 1))
        crop = _shrunk(canvas.crop(window), self.options.crop_px)
        return Pair((crop, Text("digit:")), str(tile.digit), raw=True)


def _window(rng: np.random.Generator, tile: Tile | None, cells: int) -> tuple[int, int, int, int]:
    """A square window in canvas pixels that holds the tile's block; anywhere without a tile."""
    corner = []
    for block in (tile.x, tile.y) if tile else (0, 0):
        low = max(0, block + tile.cells - cells) if tile else 0
        high = min(block, CELLS - cells) if tile else CELLS - cells
        corner.append(int(rng.integers(low, high + 1)) * CELL_PX)
    left, top = corner
    return left, top, left + cells * CELL_PX, top + cells * CELL_PX


def _shrunk(image: Image.Image, side: int) -> Media:
    """The image at ``side`` x ``side``, resized as a vision preprocessor does."""
    return image_media(image.resize((side, side), Image.Resampling.BICUBIC))


def _answer(digits: Sequence[int]) -> str:
    """The digits, in the order of the question."""
    return " ".join(map(str, digits))


def _code_turn(window: tuple[int, int, int, int]) -> str:
    """A turn that shows a window of the first image.

    Windows are square, and one number gives both sides: sampled apart, the right and the bottom
    border of a tiny model agree in two of three windows only.
    """
    left, top, right, _ = window
    code = (
        f"x,y,s={left},{top},{right - left}\n"
        "plt.imshow(image_clue_0.crop((x,y,x+s,y+s)))\nplt.show()"
    )
    return f"<code>\n```python\n{code}\n```\n</code>"


def _answer_turn(digits: Sequence[int]) -> str:
    """A turn that answers."""
    return f"<answer>\n\\boxed{{{_answer(digits)}}}\n</answer>"

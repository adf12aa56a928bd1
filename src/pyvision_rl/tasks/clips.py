"""The clips tasks: questions about a small video that the right frames answer, and only they.

In: a seed. Out: as many ``Task`` records as wanted, each with an mp4 file that is made when the
task is first asked for; scripts that solve them, and perception pairs. Task ``i`` is a function of
(seed, split, i) and the other options alone.

``which``: the digit on a card that is shown for a while.
``flash``: the same question, but the digit is on the card for a few of its frames only.
``when``, ``where``, ``count``, ``order``: quarter, corner, number, or colour of the first card.
``move``: which way a ball goes while a card is shown.

A script looks from coarse to fine (``clips_scripts``), or answers at once. It gives the right
answer, also when it looked away, but for ``misread``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyvision_rl.config import TasksConfig
from pyvision_rl.registry import missing, parse_options
from pyvision_rl.tasks.clips_file import clip, default_folder
from pyvision_rl.tasks.clips_pairs import frame_pair, scene_pairs
from pyvision_rl.tasks.clips_scene import CATEGORIES, SHEET_FRAMES, Category, Scene, paint, plan
from pyvision_rl.tasks.clips_scripts import answer_turn, answers, looks, question
from pyvision_rl.tasks.needle_scene import Split, digits_file
from pyvision_rl.types import Gold, Pair, Task, TaskInput, VideoFacts

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]

VERSION = 1
"""Of the pictures: files of another version are not taken for these."""
NUM_FRAMES = (128, 1024)
"""Least and most frames of a video."""
PAIR_WEIGHTS: dict[Category, float] = {
    "which": 2,
    "flash": 5,
    "when": 1,
    "where": 2,
    "count": 2,
    "order": 1,
    "move": 3,
}
"""How often perception pairs show a category: more where there is more to decide."""
DIGIT_PAIRS = 2
"""Frames with a digit that each scene's pairs come with: handwriting takes the most examples."""

# Every use of randomness has a stream of its own: changing how scripts are drawn must not
# change the pictures.
_SCENES, _SCRIPTS, _PAIRS = range(3)


class Options(BaseModel):
    """The options of ``[tasks] name = "clips"``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(0, ge=0)
    size: int = Field(100_000, gt=0)
    """Number of tasks; they are drawn when asked for."""
    split: Split = "train"
    """Whose handwriting and which backgrounds: the splits share neither."""
    mix: dict[Category, Weight] = dict.fromkeys(CATEGORIES, 1.0)
    """Weights by which a task's category is drawn."""
    num_frames: tuple[int, ...] = Field((256,), min_length=1)
    """Lengths, drawn evenly; multiples of 64."""
    fps: float = Field(2.0, gt=0, le=1000)
    """Frames per second: 256 frames are 128 s."""
    side_px: Literal[56, 112, 224] = 56
    """Width and height; everything in the frame grows with it."""
    flash_frames: tuple[int, int] = (2, 3)
    """Least and most frames for which the digit of ``flash`` is there."""
    distract: Share = 0.5
    """Probability of a blue card, and of a ball, that nobody asks for."""
    drift: bool = True
    """Whether the light grows with the time: it tells a small model where in a sheet it looks."""
    direct: Share | dict[Category, Share] = 0.5
    """Share of scripts that answer without looking; one number, or one per category."""
    miss: Share = 0.0
    """Probability that a script's window or frame is any instead of the right one."""
    misread: Share = 0.0
    """Probability that a script that looked gives another of the answers than the right one."""
    folder: str = ""
    """Where the videos are kept; empty is a folder of this user under the system's temporary one.
    Each set of options that changes the videos has a folder of its own in it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check what single fields cannot."""
        if not sum(self.mix.values()) > 0:
            raise ValueError("mix needs a category with a weight above 0")
        low, high = NUM_FRAMES
        bad = [n for n in self.num_frames if n % SHEET_FRAMES or not low <= n <= high]
        if bad:
            raise ValueError(
                f"num_frames has {bad[0]}; wants multiples of {SHEET_FRAMES}, {low} to {high}"
            )
        least, most = self.flash_frames
        if not 1 <= least <= most <= 4:
            raise ValueError(f"flash_frames = {least}, {most}: wants least and most, of 1 to 4")
        if isinstance(self.direct, dict):
            absent = [c for c in self.categories if c not in self.direct]
            if absent:
                raise ValueError(f"direct has no share for {absent[0]!r}, which mix draws")
        return self

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories that are drawn at all."""
        return tuple(c for c in CATEGORIES if self.mix.get(c, 0) > 0)

    def direct_share(self, category: Category) -> float:
        """Share of scripts of a category that answer without looking."""
        return self.direct[category] if isinstance(self.direct, dict) else self.direct


class ClipsTasks:
    """Drawn videos with known answers, scripts and perception pairs."""

    def __init__(self, config: TasksConfig) -> None:
        """Check the options; make no video.

        Raises:
            ConfigError: An option is wrong, a package is not installed, or the default folder
                is not to be had.
        """
        self.options = parse_options(Options, config.options, "tasks.options")
        self._size = min(self.options.size, config.limit or self.options.size)
        self._shares = _shares([self.options.mix[c] for c in self.options.categories])
        digits_file("the task set 'clips'")
        folder = Path(self.options.folder) if self.options.folder else default_folder()
        self.folder = folder / _key(self.options, _require("av").__version__)
        """Of the videos of these options."""

    def __len__(self) -> int:
        """Number of tasks."""
        return self._size

    def __getitem__(self, index: int) -> Task:
        """Return task ``index``, always the same; the first time its video is made.

        Raises:
            IndexError: There is no such task.
            TaskError: Its video can be neither read nor written.
        """
        scene, options = self.scene(index), self.options
        facts = VideoFacts(scene.num_frames, options.fps, scene.num_frames / options.fps)
        name = f"{options.split}-{options.seed}-{index}"
        video = clip(
            self.folder / f"{name}.mp4",
            scene.side,
            facts,
            lambda: paint(scene, range(scene.num_frames)),
        )
        answer = answers(scene)[0]
        return Task(
            TaskInput(
                id=f"clips-{name}",
                question=question(scene),
                media=(video,),
                category=scene.category,
                data_source="clips",
            ),
            Gold(answer, "integer" if answer.isdigit() else "text"),
        )

    def scene(self, index: int) -> Scene:
        """Return what the video of task ``index`` shows, and when.

        Raises:
            IndexError: There is no such task.
        """
        if not 0 <= index < self._size:
            raise IndexError(f"task {index} of {self._size}")
        rng = self._rng(index, _SCENES)
        drawn = rng.choice(len(self._shares), p=self._shares)
        return self._plan(rng, self.options.categories[drawn])

    def script(self, index: int) -> tuple[str, ...]:
        """Return the assistant turns for task ``index``; the last one answers.

        Raises:
            IndexError: There is no such task.
        """
        scene, options = self.scene(index), self.options
        rng = self._rng(index, _SCRIPTS)
        turns: tuple[str, ...] = ()
        if rng.random() >= options.direct_share(scene.category):
            turns = looks(scene, rng, options.miss)
        right, *wrong = answers(scene)
        if turns and rng.random() < options.misread:
            right = wrong[rng.integers(len(wrong))]
        return (*turns, answer_turn(right))

    def pairs(self, count: int) -> tuple[Pair, ...]:
        """Return ``count`` raw perception pairs: what a sheet, a window or a frame tells.

        Categories that the tasks have are drawn by ``PAIR_WEIGHTS``, not by the mix: what is rare
        among the tasks must be learnt too.
        """
        categories = self.options.categories
        shares = _shares([PAIR_WEIGHTS[c] for c in categories])
        made: list[Pair] = []
        number = 0
        while len(made) < count:
            rng = self._rng(number, _PAIRS)
            made.extend(scene_pairs(self._plan(rng, categories[rng.choice(len(shares), p=shares)])))
            if {"which", "flash"} & set(categories):
                for _ in range(DIGIT_PAIRS):
                    digit = self._plan(rng, "which")
                    made.append(frame_pair(digit, digit.cards[0]))
            number += 1
        return tuple(made[:count])

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """The generator of one task and one use."""
        options = self.options
        return np.random.default_rng([options.seed, int(options.split == "test"), index, stream])

    def _plan(self, rng: np.random.Generator, category: Category) -> Scene:
        """A scene of a category."""
        options = self.options
        return plan(
            rng,
            category,
            options.split,
            num_frames=int(rng.choice(options.num_frames)),
            side=options.side_px,
            flash_frames=options.flash_frames,
            distract=options.distract,
            drift=options.drift,
        )


def _shares(weights: list[float]) -> list[float]:
    """The weights as probabilities."""
    return [weight / sum(weights) for weight in weights]


def _key(options: Options, encoder: str) -> str:
    """The folder's name of all options that change what is on the videos."""
    told = options.model_dump(exclude={"size", "direct", "miss", "misread", "folder"})
    text = json.dumps([VERSION, encoder, told], sort_keys=True)
    return f"v{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _require(module: str) -> Any:
    """The module of an optional package.

    Raises:
        ConfigError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(error, "the task set 'clips'") from error

"""Clips are functions of their index, need their frames, and scripts find what is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("av")

from pyvision_rl.config import TasksConfig
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import open_image
from pyvision_rl.parsing import parse
from pyvision_rl.rewards.answers import match
from pyvision_rl.tasks.base import Paired, Scripted
from pyvision_rl.tasks.clips import ClipsTasks
from pyvision_rl.tasks.clips_file import clip
from pyvision_rl.tasks.clips_scene import (
    CATEGORIES,
    Frames,
    Scene,
    ball_place,
    direction_of,
    paint,
    sheet_cell,
    window_of,
)
from pyvision_rl.tasks.clips_scripts import answers
from pyvision_rl.tasks.needle_scene import frame_px, glyphs
from pyvision_rl.types import GiveAnswer, Media, RunCode, StopReason, Task, Text, VideoFacts


def clips(folder: Path | str = "unused", limit: int | None = None, **options: Any) -> ClipsTasks:
    options = {"folder": str(folder), **options}
    return ClipsTasks(TasksConfig(name="clips", limit=limit, options=options))


@lru_cache(maxsize=64)
def decoded(path: Path) -> Frames:
    import av

    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def video(task: Task) -> Media:
    (media,) = task.input.media
    assert isinstance(media.source, Path)
    return media


def of_category(tasks: ClipsTasks, category: str, count: int) -> list[int]:
    """The first ``count`` tasks of a category."""
    fitting = (i for i in range(len(tasks)) if tasks.scene(i).category == category)
    return list(islice(fitting, count))


# Rules of sight: they know the design, and nothing of the scene at hand.


def mask_of(pixels: Frames, color: str) -> npt.NDArray[np.bool_]:
    """[..., H, W] where the colour of a card's frame is."""
    red, green, blue = (pixels[..., c].astype(int) for c in range(3))
    if color == "red":
        return (red > 180) & (green < 80) & (blue < 72)
    return (blue > 180) & (green < 90) & (red < 110)


def frames_with(pixels: Frames, color: str) -> list[int]:
    """Numbers of the frames in which a card of this colour is seen."""
    return np.flatnonzero(mask_of(pixels, color).sum(axis=(1, 2)) > 60).tolist()


def runs_of(numbers: Sequence[int]) -> int:
    return sum(i == 0 or numbers[i] > numbers[i - 1] + 1 for i in range(len(numbers)))


def box_of(frame: Frames, color: str = "red") -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(mask_of(frame, color).sum(axis=a) > 3) for a in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def paper_of(frame: Frames) -> npt.NDArray[np.float64]:
    left, top, right, bottom = box_of(frame)
    border = frame_px((right - left) * 26 // 32) + 1
    return frame[top + border : bottom - border, left + border : right - border].mean(axis=-1)


def has_ink(frame: Frames) -> bool:
    return bool(paper_of(frame).min() < 130)


def digit_on(frame: Frames) -> int:
    """The meaning of the handwritten digit that is nearest to what is on the red card."""
    from PIL import Image

    paper = Image.fromarray(paper_of(frame).astype(np.uint8))
    ink = 1 - np.asarray(paper.resize((16, 16), Image.Resampling.BOX), np.float64) / 255
    known = _sharp_glyphs()
    ink = (ink - ink.mean()) / ink.std()
    return int(glyphs().digit[(known * ink).sum(axis=(1, 2)).argmax()])


@lru_cache(maxsize=1)
def _sharp_glyphs() -> npt.NDArray[np.float64]:
    from PIL import Image

    made = []
    for glyph in glyphs().ink:
        large = Image.fromarray((255 * glyph).astype(np.uint8)).resize(
            (32, 32), Image.Resampling.BICUBIC
        )
        # paper_of cuts one pixel off each side of about 30.
        inner = large.crop((1, 1, 31, 31)).resize((16, 16), Image.Resampling.BOX)
        ink = np.asarray(inner, np.float64)
        made.append((ink - ink.mean()) / ink.std())
    return np.stack(made)


def ball_at(frame: Frames) -> tuple[float, float] | None:
    """(x, y) of the yellow ball's middle."""
    red, green, blue = (frame[..., c].astype(int) for c in range(3))
    y, x = np.nonzero((red > 190) & (green > 170) & (blue < 140))
    return (float(x.mean()), float(y.mean())) if len(x) > 20 else None


def seen_answer(question: str, pixels: Frames) -> str:
    """The answer that all frames give to a question."""
    reds, blues = frames_with(pixels, "red"), frames_with(pixels, "blue")
    first = pixels[reds[0]]
    if question.startswith("digit"):
        return str(digit_on(pixels[next(n for n in reds if has_ink(pixels[n]))]))
    if question.startswith("quarter"):
        return str(4 * reds[0] // len(pixels) + 1)
    if question.startswith("how many"):
        return str(runs_of(reds))
    if question.startswith("first"):
        return "red" if reds[0] < blues[0] else "blue"
    left, top, right, bottom = box_of(first)
    middle = pixels.shape[1]
    if question.startswith("corner"):
        across = "right" if left + right > middle else "left"
        return f"{'bottom' if top + bottom > middle else 'top'} {across}"
    return moved(pixels[reds], "x" if "left" in question else "y")


def moved(pixels: Frames, axis: str) -> str:
    places = [place["xy".index(axis)] for place in map(ball_at, pixels) if place]
    ahead = places[-1] > places[0]
    return {"x": ("left", "right"), "y": ("up", "down")}[axis][ahead]


# What a task is.


def test_it_offers_scripts_and_pairs() -> None:
    assert isinstance(clips(), Scripted)
    assert isinstance(clips(), Paired)


def test_a_task_depends_on_its_index_only(tmp_path: Path) -> None:
    one, other = clips(tmp_path / "a"), clips(tmp_path / "b")
    forwards = [one[i] for i in range(6)]
    backwards = [other[i] for i in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len({video(task).sha256 for task in forwards}) == 6
    assert [one.script(i) for i in range(6)] == [other.script(i) for i in range(6)]


def test_a_second_run_finds_the_videos_of_the_first(tmp_path: Path) -> None:
    first = clips(tmp_path)[0]
    made = video(first).source
    assert isinstance(made, Path)
    before = made.stat()
    again = clips(tmp_path, direct=0.0, size=3)[0]
    assert again == first
    assert video(again).source == made
    assert (made.stat().st_mtime_ns, made.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [p.name for p in made.parent.iterdir()] == ["train-0-0.mp4"]


def test_options_that_change_the_videos_have_another_folder() -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"split": "test"},
        {"mix": {"which": 1}},
        {"num_frames": [128]},
        {"fps": 4},
        {"side_px": 112},
        {"flash_frames": [1, 1]},
        {"distract": 0},
        {"drift": False},
    ]
    folders = {clips(**change).folder for change in [{}, *changes]}
    assert len(folders) == len(changes) + 1
    assert clips(direct=0.1, miss=0.2, misread=0.3, size=9).folder == clips().folder


def test_no_video_is_made_before_its_task_is_asked_for(tmp_path: Path) -> None:
    tasks = clips(tmp_path / "videos")
    tasks.script(0)
    assert not (tmp_path / "videos").exists()
    tasks[1]
    assert [p.name for p in tasks.folder.iterdir()] == ["train-0-1.mp4"]


def test_makers_that_share_a_folder_find_whole_files_only(tmp_path: Path) -> None:
    def made(_: int) -> list[Task]:
        tasks = clips(tmp_path, num_frames=[128])
        return [tasks[i] for i in range(4)]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(made, range(4))
    assert all(other == first for other in others)
    names = sorted(path.name for path in clips(tmp_path, num_frames=[128]).folder.iterdir())
    assert names == [f"train-0-{i}.mp4" for i in range(4)]


def test_a_video_that_cannot_be_made_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> Frames:
        raise MemoryError

    with pytest.raises(MemoryError):
        clip(tmp_path / "a.mp4", 56, VideoFacts(128, 2.0, 64.0), fail)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TaskError, match="file/v1-"):
        clips(tmp_path / "file")[0]


@pytest.mark.parametrize(("frames", "side", "fps"), [(256, 56, 2.0), (128, 112, 12.5)])
def test_the_record_tells_what_the_file_holds(
    tmp_path: Path, frames: int, side: int, fps: float
) -> None:
    media = video(clips(tmp_path, num_frames=[frames], side_px=side, fps=fps)[0])
    assert media.video is not None
    import av

    with av.open(str(media.source)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(stream.average_rate) == media.video.fps == fps
        assert (stream.width, stream.height) == (media.width, media.height) == (side, side)
        shown = [frame.time for frame in container.decode(stream)]
    assert len(shown) == media.video.num_frames == frames
    assert shown == pytest.approx([n / fps for n in range(frames)])
    assert media.video.duration_s == frames / fps


def test_default_videos_last_two_minutes() -> None:
    tasks = clips()
    lengths = [tasks.scene(i).num_frames / tasks.options.fps for i in range(50)]
    assert sum(length >= 120 for length in lengths) >= len(lengths) / 2


def test_splits_share_neither_handwriting_nor_background() -> None:
    seen: dict[str, set[str]] = {}
    for split in ("train", "test"):
        tasks = clips(split=split)
        scenes = [tasks.scene(i) for i in range(400)]
        seen[split] = {f"glyph {card.glyph}" for s in scenes for card in s.cards}
        seen[split] |= {f"background {s.background}" for s in scenes}
    assert len(seen["train"]) > 400
    assert not seen["train"] & seen["test"]


def test_length_is_the_smaller_of_size_and_limit() -> None:
    assert len(clips()) == 100_000
    assert len(clips(size=10, limit=4)) == 4
    for index in (-1, 4):
        with pytest.raises(IndexError):
            clips(size=10, limit=4)[index]


def test_categories_follow_the_mix() -> None:
    tasks = clips(mix={"which": 3, "count": 1})
    counts = Counter(tasks.scene(i).category for i in range(1600))
    # 1600 draws at 3:1 expect 400, with a standard deviation of 17.3.
    assert counts.keys() == {"which", "count"}
    assert 330 <= counts["count"] <= 470


# What can be known, with and without frames.


def test_frames_answer_every_question(tmp_path: Path) -> None:
    tasks = clips(tmp_path, split="test")
    right: dict[str, list[bool]] = defaultdict(list)
    for category in CATEGORIES:
        for index in of_category(tasks, category, 6):
            task = tasks[index]
            pixels = decoded(video(task).source)  # type: ignore[arg-type]
            said = seen_answer(task.input.question, pixels)
            right[category].append(match(said, task.gold.answer, task.gold.answer_type).correct)
    assert {c: sum(r) for c, r in right.items()} == dict.fromkeys(CATEGORIES, 6)


CHANCE = {
    "which": 1 / 10,
    "flash": 1 / 10,
    "when": 1 / 4,
    "where": 1 / 4,
    "count": 1 / 4,
    "order": 1 / 2,
    "move": 1 / 2,
}


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_blind_player_is_right_by_chance_only(category: str) -> None:
    # It knows how often each question has each answer, and all that a prompt tells.
    train, test = (clips(split=s, mix={category: 1}) for s in ("train", "test"))
    habit: dict[object, Counter[str]] = defaultdict(Counter)
    asked = [(tasks.scene(i), tasks) for tasks in (train, test) for i in range(1000)]
    told = [(_told(scene), answers(scene)[0]) for scene, _ in asked]
    for prompt, answer in told[:1000]:
        habit[prompt][answer] += 1
    right = sum(habit[prompt].most_common(1)[0][0] == answer for prompt, answer in told[1000:])
    chance = CHANCE[category]
    # Three standard deviations of 1000 draws; digits are not quite equally frequent.
    assert right / 1000 == pytest.approx(chance, abs=3 * (chance * (1 - chance) / 1000) ** 0.5)
    assert {len(answers(scene)) for scene, _ in asked} == {round(1 / chance)}


def _told(scene: Scene) -> tuple[str, int, int]:
    from pyvision_rl.tasks.clips_scripts import question

    return question(scene), scene.num_frames, scene.side


def test_every_answer_is_allowed_by_its_question_and_graded_right(tmp_path: Path) -> None:
    tasks = clips(tmp_path, num_frames=[128])
    for index in range(14):
        task, allowed = tasks[index], answers(tasks.scene(index))
        assert task.gold.answer == allowed[0]
        graded = [match(a, task.gold.answer, task.gold.answer_type).correct for a in allowed]
        assert graded == [True] + [False] * (len(allowed) - 1)
        words = set(re.findall(r"[a-z]+|\d+", task.input.question))
        numbers = [int(word) for word in words if word.isdigit()]
        for answer in allowed:
            known = not numbers or min(numbers) <= int(answer) <= max(numbers)
            assert known
            assert numbers or set(answer.split()) <= words


VISIBLE = {
    # Frames that a uniform sample of K shows, every 256/K: a digit that is there for L frames is
    # seen by min(1, L K / 256) of them. which: L is 4, 8 or 12.
    ("which", 8): 0.25,  # (4 + 8 + 12) / 3 / 32
    ("which", 16): 0.5,  # (4 + 8 + 12) / 3 / 16
    ("which", 32): 0.833,  # (1/2 + 1 + 1) / 3
    ("which", 64): 1.0,
    # flash: L is 2 or 3, and begins more often early in its window than late.
    ("flash", 8): 0.075,
    ("flash", 16): 0.145,
    ("flash", 32): 0.345,
    ("flash", 64): 0.64,
    ("flash", 128): 1.0,
}


@pytest.mark.parametrize(("category", "count"), VISIBLE)
def test_a_uniform_sample_sees_the_digit_as_often_as_promised(category: str, count: int) -> None:
    tasks = clips(mix={category: 1})
    cards = [tasks.scene(i).cards[0] for i in range(1500)]
    distance = 256 // count
    sample = range(distance // 2, 256, distance)
    seen = [any(card.inked[0] <= n < card.inked[1] for n in sample) for card in cards]
    # At most 0.013 of standard deviation.
    assert np.mean(seen) == pytest.approx(VISIBLE[category, count], abs=0.04)


def test_a_flashing_digit_is_there_in_exactly_the_frames_claimed(tmp_path: Path) -> None:
    tasks = clips(tmp_path, mix={"flash": 1})
    for index in range(6):
        card = tasks.scene(index).cards[0]
        pixels = decoded(video(tasks[index]).source)  # type: ignore[arg-type]
        shown = frames_with(pixels, "red")
        assert shown == list(range(card.first, card.end))
        assert [n for n in shown if has_ink(pixels[n])] == list(range(*card.inked))
        assert 2 <= card.inked[1] - card.inked[0] <= 3
        assert card.end - card.first in (7, 8, 9)


def test_coding_costs_little_and_digits_stay_readable(tmp_path: Path) -> None:
    tasks = clips(tmp_path, split="test", mix={"which": 1, "flash": 1})
    errors, read = [], []
    for index in range(12):
        scene, media = tasks.scene(index), video(tasks[index])
        pixels = decoded(media.source)  # type: ignore[arg-type]
        errors.append(np.abs(pixels.astype(int) - paint(scene, range(256))).mean())
        card = scene.cards[0]
        read += [digit_on(pixels[n]) == card.digit for n in range(*card.inked)]
    assert max(errors) < 4
    assert np.mean(read) > 0.9


@pytest.mark.parametrize("num_frames", [128, 256, 1024])
def test_a_sheet_shows_every_card_and_a_window_what_flashes_in_it(num_frames: int) -> None:
    tasks = clips(num_frames=[num_frames])
    step = num_frames // 64
    for scene in map(tasks.scene, range(300)):
        cells = []
        for card in scene.cards:
            row, column = sheet_cell(scene, card)
            cells.append(8 * row + column)
            assert card.first <= step * cells[-1] < card.end <= num_frames
            assert 0 <= card.left <= card.left + card.side <= scene.side
            assert 0 <= card.top <= card.top + card.side <= scene.side
        # Between two cards at least one frame of the sheet shows neither.
        ordered = sorted(scene.cards, key=lambda card: card.first)
        for one, other in pairwise(ordered):
            assert any(one.end <= n < other.first for n in range(0, num_frames, step))
        card, begin = scene.cards[0], 8 * window_of(scene, scene.cards[0])
        assert 0 <= begin <= num_frames - 16
        if scene.category == "flash":
            assert begin <= card.inked[0] < card.inked[1] <= begin + 16
        if scene.category == "when":
            assert 4 * card.first // num_frames == 4 * (card.end - 1) // num_frames


def test_a_ball_goes_one_way_while_the_card_is_shown_and_as_often_the_other() -> None:
    tasks = clips(mix={"move": 1})
    for scene in map(tasks.scene, range(60)):
        card, ball = scene.cards[0], scene.ball
        assert ball is not None
        ways = [direction_of(ball, n) for n in range(card.first, card.end)]
        assert set(ways) == {answers(scene)[0]}
        places = [ball_place(ball, n, scene.side) for n in range(card.first, card.end)]
        assert abs(places[-1] - places[0]) > 20
        # Half of the video, but for the crossings that are cut off at its ends.
        share = np.mean([direction_of(ball, n) == ways[0] for n in range(256)])
        assert 0.4 < share < 0.6
        lane = range(ball.lane - 5, ball.lane + 6)
        across = (card.top if ball.axis == "x" else card.left) + np.arange(card.side)
        assert not set(lane) & set(across.tolist())


def test_the_light_tells_the_time_unless_it_is_told_not_to() -> None:
    lit, plain = clips().scene(0), clips(drift=False).scene(0)
    # The middle value of a frame is of its background, also while there is a card.
    numbers = range(0, 256, 4)
    red, green = (np.median(paint(lit, numbers)[..., c], axis=(1, 2)).astype(int) for c in (0, 1))
    assert green[-1] > green[0] + 110
    for row in range(0, 64, 8):
        assert red[row + 7] > red[row] + 90
    steady = np.median(paint(plain, numbers), axis=(1, 2))
    assert np.abs(steady - steady[0]).max() < 12


def test_larger_frames_show_the_same_scene() -> None:
    small, large = clips(), clips(side_px=112)
    for index in range(10):
        one, other = small.scene(index), large.scene(index)
        assert answers(one) == answers(other)
        for card, twice in zip(one.cards, other.cards, strict=True):
            assert (2 * card.left, 2 * card.px) == (twice.left, twice.px)
        assert paint(other, [0]).shape == (1, 112, 112, 3)


# Scripts.


class Reader:
    """Stands in for a video reader: what scripts use of it."""

    def __init__(self, pixels: Frames) -> None:
        self.pixels = pixels
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def get_batch(self, numbers: Sequence[int]) -> Reader:
        self.fetched += numbers
        self._got = self.pixels[list(numbers)]
        return self

    def asnumpy(self) -> Frames:
        return self._got


class Plot:
    """Stands in for pyplot: keeps what is shown, and at which size."""

    def __init__(self) -> None:
        self.shown: list[Frames] = []
        self.inches: list[float] = []
        self._size = 1.12

    def figure(self, figsize: tuple[float, float]) -> None:
        assert figsize[0] == figsize[1]
        self._size = figsize[0]

    def imshow(self, image: Frames) -> None:
        self._image = image

    def show(self) -> None:
        self.shown.append(self._image)
        self.inches.append(self._size)
        self._size = 1.12


def played(script: Sequence[str], pixels: Frames) -> tuple[Plot, Reader, str]:
    """What a script shows and fetches, and its answer."""
    reader, plot = Reader(pixels), Plot()
    space = {"video_clue_0": reader, "np": np, "plt": plot}
    for turn in script[:-1]:
        action = parse(turn, StopReason.STOP_STRING)
        assert isinstance(action, RunCode)
        exec(action.code, space)
    last = parse(script[-1], StopReason.END)
    assert isinstance(last, GiveAnswer)
    return plot, reader, last.answer


@pytest.mark.parametrize("num_frames", [128, 256])
def test_scripts_show_what_a_perfect_eye_needs(num_frames: int) -> None:
    tasks = clips(direct=0.0, num_frames=[num_frames])
    calls: dict[str, Counter[int]] = defaultdict(Counter)
    for category in CATEGORIES:
        for index in of_category(tasks, category, 8):
            scene, script = tasks.scene(index), tasks.script(index)
            plot, reader, answer = played(script, paint(scene, range(num_frames)))
            assert answer == answers(scene)[0]
            assert seen_in(scene, plot.shown) == answer
            assert len(reader.fetched) in (64, 64 + 16)
            sizes = {448: 2.24, 224: 2.24, 56: 1.12}
            assert plot.inches == [sizes[image.shape[0]] for image in plot.shown]
            calls[category][len(script) - 1] += 1
    assert {c: set(n) for c, n in calls.items() if c in ("when", "count", "order")} == {
        "when": {1},
        "count": {1},
        "order": {1},
    }
    assert set(calls["where"]) == set(calls["move"]) == {2}
    assert set(calls["flash"]) | set(calls["which"]) <= {2, 3, 4}


def seen_in(scene: Scene, shown: list[Frames]) -> str:
    """The answer that a script's pictures give: the sheet, the window, or the last frame."""
    sheet, last = shown[0], shown[-1]
    small = sheet.reshape(8, 56, 8, 56, 3).swapaxes(1, 2).reshape(64, 56, 56, 3)
    reds, blues = frames_with(small, "red"), frames_with(small, "blue")
    if scene.category in ("which", "flash"):
        assert has_ink(last)
        return str(digit_on(last))
    if scene.category == "where":
        left, top, right, bottom = box_of(last)
        return (
            f"{'bottom' if top + bottom > 56 else 'top'} {'right' if left + right > 56 else 'left'}"
        )
    if scene.category == "move":
        inside = last.reshape(4, 56, 4, 56, 3).swapaxes(1, 2).reshape(16, 56, 56, 3)
        assert scene.ball is not None
        return moved(inside[frames_with(inside, "red")], scene.ball.axis)
    return {
        "when": lambda: str(reds[0] // 16 + 1),
        "count": lambda: str(runs_of(reds)),
        "order": lambda: "red" if reds[0] < blues[0] else "blue",
    }[scene.category]()


def test_direct_is_the_share_of_scripts_that_only_answer() -> None:
    assert all(len(clips(direct=1.0).script(i)) == 1 for i in range(50))
    shares = dict.fromkeys(CATEGORIES, 0.0) | {"when": 1.0}
    tasks = clips(direct=shares)
    for index in range(60):
        assert (len(tasks.script(index)) == 1) == (tasks.scene(index).category == "when")
    mixed = clips(direct=0.7)
    alone = sum(len(mixed.script(i)) == 1 for i in range(500))
    # Binomial(500, 0.7): mean 350, standard deviation 10.2.
    assert 310 <= alone <= 390


def test_missed_looks_lie_anywhere_and_the_answer_stays_right() -> None:
    tasks, right = clips(direct=0.0, miss=1.0), clips(direct=0.0)
    same = places = 0
    for index in of_category(tasks, "where", 60):
        missed, found = tasks.script(index), right.script(index)
        assert (missed[0], missed[-1]) == (found[0], found[-1])
        assert re.search(r"f\[[0-7],[0-7]\]", missed[1])
        same += missed[1] == found[1]
        places += 1
    assert same < places / 4
    for index in of_category(tasks, "move", 20):
        played(tasks.script(index), paint(tasks.scene(index), range(256)))


def test_a_misreading_teacher_errs_after_looking_only_and_names_another_answer() -> None:
    tasks = clips(direct=0.5, misread=1.0)
    for index in range(80):
        script, allowed = tasks.script(index), answers(tasks.scene(index))
        said = parse(script[-1], StopReason.END)
        assert isinstance(said, GiveAnswer)
        assert said.answer in allowed
        assert (said.answer == allowed[0]) == (len(script) == 1)


def test_script_options_leave_the_videos_alone() -> None:
    plain, noisy = clips(), clips(direct=0.0, miss=1.0, misread=1.0)
    assert [plain.scene(i) for i in range(5)] == [noisy.scene(i) for i in range(5)]
    assert plain.script(0) != noisy.script(0)


# Pairs.


def test_pairs_are_the_same_every_time_and_begin_as_scripts_do() -> None:
    pairs = clips().pairs(60)
    assert clips().pairs(60) == pairs
    assert clips().pairs(7) == pairs[:7]
    assert clips(seed=1).pairs(4) != pairs[:4]
    assert all(pair.raw for pair in pairs)
    scripts = "".join(turn for i in range(200) for turn in clips(direct=0.0).script(i))
    for pair in pairs:
        asked, _, before = pair.parts
        assert isinstance(asked, Text)
        assert isinstance(before, Text)
        assert before.text in scripts
        shape = {"[": r"\d,\d", "*": r"\d\+8\*\d"}.get(before.text[-1], r"\d|[a-z ]+")
        assert re.fullmatch(shape, pair.target)


def test_pairs_show_what_their_target_says() -> None:
    checked: Counter[str] = Counter()
    for pair in clips().pairs(160):
        asked, media, before = pair.parts
        assert isinstance(media, Media)
        pixels = np.asarray(open_image(media))
        kind = before.text.strip() if isinstance(before, Text) else ""
        place = re.fullmatch(r"(\d),(\d)", pair.target)
        if kind == "plt.imshow(f[" and place:
            # A window has 4 places a side, a sheet 8: the card asked for is seen at its place.
            row, column = int(place[1]), int(place[2])
            found = [side for side in (4, 8) if row < side > column]
            assert any(_red_share(pixels, side, row, column) > 0.03 for side in found)
        elif kind == "\\boxed{" and media.width == 56 and asked.text.startswith("digit"):  # type: ignore[union-attr]
            checked["read"] += digit_on(pixels) == int(pair.target)
            checked["digits"] += 1
        checked[kind] += 1
    assert checked["read"] > 0.9 * checked["digits"] > 20
    assert checked.keys() >= {"plt.imshow(f[", "i=n//8*", "\\boxed{"}


def _red_share(pixels: Frames, side: int, row: int, column: int) -> float:
    px = pixels.shape[0] // side
    tile = pixels[row * px : (row + 1) * px, column * px : (column + 1) * px].astype(int)
    return float((tile[..., 0] - tile[..., 1:].max(axis=-1) > 60).mean())


def test_pairs_speak_of_the_categories_of_the_tasks_only() -> None:
    asked = {
        p.parts[0].text for p in clips(mix={"count": 1}).pairs(20) if isinstance(p.parts[0], Text)
    }
    assert asked == {"how many red cards, 1 to 4?\n"}


# Configs and faults.


@pytest.mark.parametrize("name", ["tiny_video_sft", "tiny_video_rl"])
def test_packaged_configs_learn_from_one_split_and_are_judged_on_the_other(name: str) -> None:
    config = load_config(find_config(name))
    assert config.tasks is not None
    assert config.eval.tasks is not None
    assert config.tasks.name == config.eval.tasks.name == "clips"
    assert ClipsTasks(config.tasks).options.split == "train"
    assert ClipsTasks(config.eval.tasks).options.split == "test"
    used = [config.tasks, *(d.tasks for s in config.sft.stages for d in s.data if d.tasks)]
    seeds = [ClipsTasks(section).options.seed for section in used]
    assert config.probe.tasks is not None
    assert ClipsTasks(config.probe.tasks).options.seed not in seeds


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"mix": {"which": 0}}, "mix needs a category"),
        ({"mix": {"who": 1}}, "who"),
        ({"num_frames": [100]}, "num_frames has 100"),
        ({"num_frames": [64]}, "num_frames has 64"),
        ({"num_frames": []}, "num_frames"),
        ({"flash_frames": [3, 2]}, "flash_frames"),
        ({"flash_frames": [1, 5]}, "flash_frames"),
        ({"side_px": 60}, "side_px"),
        ({"fps": 0}, "fps"),
        ({"direct": {"which": 0.5}}, "direct has no share for 'flash'"),
        ({"miss": 1.5}, "miss"),
        ({"split": "val"}, "split"),
        ({"sizes": 3}, "tasks.options.sizes"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        clips(**options)
    assert part in str(error.value)


@pytest.mark.parametrize("package", ["av", "sklearn"])
def test_a_missing_package_is_an_error_that_names_its_extra(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from pyvision_rl.config import TasksConfig\n"
        "from pyvision_rl.tasks.clips import ClipsTasks\n"
        "ClipsTasks(TasksConfig(name='clips', options={'folder': 'unused'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"the task set 'clips' needs {package}, which is not installed" in done.stderr
    assert "pyvision-rl[" in done.stderr
    # An ImportError as its cause makes it a note of ``pvrl check``, not a failure.
    assert "ModuleNotFoundError" in done.stderr
    assert "direct cause" in done.stderr

"""Drawn tasks are functions of their index, solvable, and as hard as they claim."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.media import open_image
from pyvision_rl.tasks.base import Paired, Scripted
from pyvision_rl.tasks.needle import NeedleTasks
from pyvision_rl.tasks.needle_scene import CELL_PX, FRAMES, Tile, frame_px, glyphs
from pyvision_rl.types import Media, Text

Box = tuple[int, int, int, int]
ALL = {"easy": 1, "hard": 1, "pair": 1}
CODE = re.compile(
    r"<code>\n```python\nx,y,s=(\d+),(\d+),(\d+)\n"
    r"plt\.imshow\(image_clue_0\.crop\(\(x,y,x\+s,y\+s\)\)\)\nplt\.show\(\)\n```\n</code>"
)
ANSWER = re.compile(r"<answer>\n\\boxed\{(.*)\}\n</answer>")


def needle(limit: int | None = None, **options: Any) -> NeedleTasks:
    return NeedleTasks(TasksConfig(name="needle", limit=limit, options=options))


def windows(script: tuple[str, ...]) -> list[Box]:
    found = [CODE.fullmatch(turn) for turn in script[:-1]]
    corners = [(int(m[1]), int(m[2]), int(m[3])) for m in found if m]
    return [(x, y, x + side, y + side) for x, y, side in corners]


def holds(window: Box, tile: Tile) -> bool:
    left, top, right, bottom = window
    side = tile.px + 2 * frame_px(tile.px)
    inside_x = left <= tile.left and tile.left + side <= right
    return inside_x and top <= tile.top and tile.top + side <= bottom


def share_of(image: Image.Image, color: str) -> float:
    """Share of pixels that have exactly the colour of a frame."""
    return float((np.asarray(image) == FRAMES[color]).all(axis=-1).mean())


def test_it_offers_scripts_and_pairs() -> None:
    tasks = needle()
    assert isinstance(tasks, Scripted)
    assert isinstance(tasks, Paired)


def test_a_task_depends_on_its_index_only() -> None:
    one, other = needle(mix=ALL), needle(mix=ALL)
    forwards = [one[i] for i in range(6)]
    backwards = [other[i] for i in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert [one.script(i) for i in range(6)] == [other.script(i) for i in range(6)]


def test_seed_and_split_change_the_pictures() -> None:
    digests = {
        needle(seed=seed, split=split)[3].input.media[0].sha256
        for seed in (0, 1)
        for split in ("train", "test")
    }
    assert len(digests) == 4


def test_script_options_leave_the_pictures_alone() -> None:
    plain, noisy = needle(), needle(direct=0.0, miss=1.0, chain=[0, 0, 1])
    assert [plain[i] for i in range(3)] == [noisy[i] for i in range(3)]
    assert plain.script(0) != noisy.script(0)


def test_length_is_the_smaller_of_size_and_limit() -> None:
    assert len(needle()) == 100_000
    assert len(needle(size=10)) == 10
    assert len(needle(size=10, limit=4)) == 4
    for index in (-1, 4):
        with pytest.raises(IndexError):
            needle(size=10, limit=4)[index]


def test_ids_are_unique_and_name_the_task() -> None:
    tasks = needle(seed=5, split="test", limit=20)
    assert tasks[7].id == "needle-test-5-7"
    assert len({tasks[i].id for i in range(20)}) == 20


def test_the_digits_are_scikit_learn_s_and_it_is_not_imported_for_them():
    program = "import sys; from pyvision_rl.tasks.needle_scene import glyphs; glyphs()\n"
    program += "assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    known, theirs = glyphs(), pytest.importorskip("sklearn.datasets").load_digits()
    assert (known.ink * 16 == theirs.images).all()
    assert (known.digit == theirs.target).all()


def test_splits_share_neither_handwriting_nor_background() -> None:
    seen: dict[str, Counter[str]] = {}
    for split in ("train", "test"):
        tasks = needle(split=split, mix=ALL)
        scenes = [tasks.scene(i) for i in range(400)]
        seen[split] = Counter(f"glyph {tile.glyph}" for s in scenes for tile in s.tiles)
        seen[split].update(f"background {s.background}" for s in scenes)
    assert not seen["train"].keys() & seen["test"].keys()
    assert len(glyphs().train) == 1400
    assert len(glyphs().test) == 397


def test_categories_follow_the_mix() -> None:
    tasks = needle()
    counts = Counter(tasks.scene(i).category for i in range(3200))
    # 3200 draws at 15:1 expect 200 hard ones, with a standard deviation of 13.7.
    assert counts.keys() == {"easy", "hard"}
    assert 145 <= counts["hard"] <= 255


def test_the_answer_is_what_the_tiles_show() -> None:
    tasks = needle(mix=ALL)
    for index in range(30):
        task, scene = tasks[index], tasks.scene(index)
        assert task.input.category == scene.category
        assert task.gold.answer.split() == [str(glyphs().digit[t.glyph]) for t in scene.tiles]
        many = len(scene.tiles) > 1
        assert task.gold.answer_type == ("sequence" if many else "integer")
        assert ("blue" in task.input.question) == many


def test_each_frame_lies_in_its_block_of_the_picture() -> None:
    tasks = needle(mix=ALL)
    for index in range(12):
        picture = open_image(tasks[index].input.media[0])
        assert picture.size == (448, 448)
        for tile in tasks.scene(index).tiles:
            left, top = tile.x * CELL_PX, tile.y * CELL_PX
            block = (left, top, left + tile.cells * CELL_PX, top + tile.cells * CELL_PX)
            assert holds(block, tile)
            inside = share_of(picture.crop(block), tile.color) * (block[2] - left) ** 2
            assert inside > 100
            assert inside == pytest.approx(share_of(picture, tile.color) * 448**2)


def test_tiles_have_the_sizes_of_their_category() -> None:
    tasks = needle(mix=ALL, easy_px=[80], hard_px=[20, 24])
    for scene in map(tasks.scene, range(40)):
        assert all(t.px in ((80,) if scene.category == "easy" else (20, 24)) for t in scene.tiles)


def test_the_background_tells_the_place() -> None:
    picture = np.asarray(open_image(needle()[0].input.media[0]), np.float64)
    assert picture[:, -112:, 0].mean() > picture[:, :112, 0].mean() + 60
    assert picture[-112:, :, 1].mean() > picture[:112, :, 1].mean() + 60


def test_scripts_answer_right_and_end_at_the_tile() -> None:
    tasks = needle(mix=ALL, direct=0.0)
    for index in range(60):
        script, scene = tasks.script(index), tasks.scene(index)
        looks = windows(script)
        answer = ANSWER.fullmatch(script[-1])
        assert answer is not None
        assert answer[1] == tasks[index].gold.answer
        assert len(looks) == len(script) - 1 >= 1
        assert all(0 <= edge <= 448 and edge % CELL_PX == 0 for w in looks for edge in w)
        assert all(any(holds(window, tile) for window in looks) for tile in scene.tiles)
        if len(scene.tiles) == 1:
            sides = [right - left for left, _, right, _ in looks]
            assert all(holds(window, scene.tiles[0]) for window in looks)
            assert all(wide >= narrow for wide, narrow in pairwise(sides))
            assert sides[-1] == scene.tiles[0].cells * CELL_PX


def test_the_last_window_of_a_script_shows_the_whole_frame() -> None:
    tasks = needle(mix={"hard": 1}, direct=0.0)
    for index in range(5):
        picture = open_image(tasks[index].input.media[0])
        shown = picture.crop(windows(tasks.script(index))[-1])
        assert share_of(shown, "red") * CELL_PX**2 == pytest.approx(
            share_of(picture, "red") * 448**2
        )


def test_direct_is_the_share_of_scripts_that_only_answer() -> None:
    assert all(len(needle(direct=1.0).script(i)) == 1 for i in range(50))
    tasks = needle(mix={"easy": 1, "hard": 1}, direct={"easy": 1.0, "hard": 0.0})
    for index in range(50):
        easy = tasks.scene(index).category == "easy"
        assert (len(tasks.script(index)) == 1) == easy
    mixed = needle(direct=0.77)
    alone = sum(len(mixed.script(i)) == 1 for i in range(1000))
    # Binomial(1000, 0.77): mean 770, standard deviation 13.3.
    assert 716 <= alone <= 824


def test_chain_gives_the_numbers_of_calls() -> None:
    for calls in (1, 2, 3):
        weights = [float(calls == n) for n in (1, 2, 3)]
        tasks = needle(mix={"hard": 1}, direct=0.0, chain=weights)
        for index in range(10):
            looks = windows(tasks.script(index))
            cells = [(right - left) // CELL_PX for left, _, right, _ in looks]
            assert cells == [4, 2, 1][3 - calls :]


def test_missed_windows_lie_anywhere_and_the_answer_stays_right() -> None:
    tasks = needle(mix={"easy": 1, "hard": 1}, direct=0.0, chain=[1, 0, 0], miss=1.0)
    corners = set()
    hits = 0
    for index in range(200):
        script, tile = tasks.script(index), tasks.scene(index).tiles[0]
        window = windows(script)[0]
        corners.add(window[:2])
        hits += holds(window, tile)
        assert window[2] - window[0] == tile.cells * CELL_PX
        assert script[-1] == needle(mix={"easy": 1, "hard": 1}, direct=1.0).script(index)[-1]
    assert len(corners) > 40
    assert hits < 20


def test_a_misreading_teacher_errs_after_looking_only_and_names_another_digit() -> None:
    always = needle(mix={"easy": 1, "hard": 1}, direct=0.5, misread=1.0)
    right = needle(mix={"easy": 1, "hard": 1}, direct=1.0)
    for index in range(100):
        script, (answer,) = always.script(index), right.script(index)
        assert (script[-1] == answer) == (len(script) == 1)
        assert re.fullmatch(r"<answer>\n\\boxed\{\d\}\n</answer>", script[-1])


def test_half_of_the_looks_are_misread_at_one_half() -> None:
    tasks = needle(mix={"easy": 1, "hard": 1}, direct=0.0, misread=0.5)
    right = needle(mix={"easy": 1, "hard": 1}, direct=1.0)
    wrong = sum(tasks.script(i)[-1] != right.script(i)[-1] for i in range(400))
    assert 160 < wrong < 240  # sd 10


def test_pairs_come_in_their_proportions_and_are_the_same_every_time() -> None:
    pairs = needle().pairs(40)
    kinds = Counter(part.text for pair in pairs for part in pair.parts if isinstance(part, Text))
    assert kinds == {"red box at": 10, "digit:": 20, "red digit:": 10}
    assert needle().pairs(40) == pairs
    assert needle().pairs(7) == pairs[:7]
    assert needle(seed=1).pairs(4) != pairs[:4]
    assert all(pair.raw for pair in pairs)


def test_pairs_show_what_their_target_says() -> None:
    sizes = {"red box at": 112, "blue box at": 112, "digit:": 56}
    for pair in needle(mix={"easy": 1, "hard": 1}).pairs(40):
        media, text = pair.parts
        assert isinstance(media, Media)
        assert isinstance(text, Text)
        assert media.width == media.height == sizes.get(text.text, 112)
        if not text.text.endswith("box at"):
            assert re.fullmatch("[0-9]", pair.target)
            continue
        left, top = (int(edge) for edge in pair.target.split(","))
        assert left % CELL_PX == top % CELL_PX == 0
        # The canvas is 448 px and the picture 112: red stands out of the block at a quarter.
        pixels = np.asarray(open_image(media), np.float64)
        redness = pixels[..., 0] - pixels[..., 1:].max(axis=-1)
        y, x = np.unravel_index(redness.argmax(), redness.shape)
        assert 0 <= 4 * x - left < 2 * CELL_PX
        assert 0 <= 4 * y - top < 2 * CELL_PX


def test_small_tiles_are_as_frequent_in_pairs_as_large_ones() -> None:
    places = [pair.target for pair in needle().pairs(400) if "," in pair.target]
    odd = sum(any(int(edge) % (2 * CELL_PX) for edge in p.split(",")) for p in places)
    # Large tiles lie on even cells. Small ones do not in 3 of 4 cases: 100 * 1/2 * 3/4 = 37.5.
    assert 18 <= odd <= 58


def test_pairs_know_both_colours_where_the_tasks_do() -> None:
    texts = {p.parts[1].text for p in needle(mix=ALL).pairs(200) if isinstance(p.parts[1], Text)}
    # Whole pictures are read at the largest tiles only, and those are red.
    assert texts == {"red box at", "blue box at", "digit:", "red digit:"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"mix": {"easy": 0}}, "mix needs a category"),
        ({"mix": {"medium": 1}}, "medium"),
        ({"mix": {"easy": -1}}, "mix.easy"),
        ({"chain": [0, 0, 0]}, "chain needs a weight"),
        ({"easy_px": [93]}, "easy_px has 93"),
        ({"hard_px": [60]}, "hard_px has 60"),
        ({"hard_px": []}, "hard_px"),
        ({"direct": 1.5}, "direct"),
        ({"direct": {"easy": 0.5}}, "direct has no share for 'hard'"),
        ({"split": "val"}, "split"),
        ({"sizes": 3}, "tasks.options.sizes"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        needle(**options)
    assert part in str(error.value)

"""Scripts of the tiny videos run in real sessions and show the frames that they mean to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from semantics_bench import Bench

from pyvision_rl.config import TasksConfig
from pyvision_rl.media import open_image
from pyvision_rl.parsing import parse
from pyvision_rl.tasks.clips import ClipsTasks
from pyvision_rl.tasks.clips_pairs import sheet, window
from pyvision_rl.tasks.clips_scene import CATEGORIES, sheet_cell, window_cell, window_of
from pyvision_rl.types import ExecStatus, Execution, RunCode, StopReason, VideoFrames
from pyvision_rl.video import file_video

NAME = "video_clue_0"


def played(bench: Bench, tasks: ClipsTasks, index: int) -> list[Execution]:
    actions = [parse(turn, StopReason.STOP_STRING) for turn in tasks.script(index)[:-1]]
    codes = [action.code for action in actions if isinstance(action, RunCode)]
    return bench.cells(*codes, bindings={NAME: tasks[index].input.media[0]})


@pytest.mark.parametrize("category", CATEGORIES)
def test_scripts_fetch_and_show_what_they_say(bench: Bench, tmp_path: Path, category: str) -> None:
    tasks = ClipsTasks(
        TasksConfig(
            name="clips",
            options={"folder": str(tmp_path), "direct": 0.0, "mix": {category: 1}},
        )
    )
    for index in range(3):
        scene = tasks.scene(index)
        card, begin = scene.cards[0], 8 * window_of(scene, scene.cards[0])
        coarse = VideoFrames(NAME, tuple(range(0, 256, 4)))
        fine = VideoFrames(NAME, tuple(range(begin, begin + 16)))
        row, column = sheet_cell(scene, card)
        inner = window_cell(scene, card)
        one = {
            coarse: VideoFrames(NAME, (4 * (8 * row + column),)),
            fine: VideoFrames(NAME, (begin + 4 * inner[0] + inner[1],)),
        }
        last: VideoFrames | None = None
        for ran in played(bench, tasks, index):
            assert (ran.status, ran.error, ran.output) == (ExecStatus.OK, "", "")
            (picture,) = ran.images
            if ran.fetched:
                (last,) = ran.fetched
                assert last in (coarse, fine)
                assert (picture.width, picture.height) == (112, 112)
                assert ran.sources == (last,)
                painted = sheet(scene) if last == coarse else window(scene, begin // 8)
                apart = np.asarray(open_image(picture), float) - np.asarray(open_image(painted))
                assert np.abs(apart).mean() < 4
            else:
                assert last is not None
                assert (picture.width, picture.height) == (56, 56)
                assert ran.sources == (one[last],)


def test_a_file_that_is_probed_tells_what_its_task_says(tmp_path: Path) -> None:
    tasks = ClipsTasks(TasksConfig(name="clips", options={"folder": str(tmp_path)}))
    (media,) = tasks[0].input.media
    assert isinstance(media.source, Path)
    assert file_video(media.source) == media

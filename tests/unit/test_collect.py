"""Scripts become trajectories by being executed, and a rollout run keeps everything."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyvision_rl.collect import collect_scripts, run_rollout, shrink
from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.images import VisionSpec, grid, num_tokens, patches
from pyvision_rl.media import image_media
from pyvision_rl.runs import RunReader
from pyvision_rl.types import EndReason, Media, Segment, Trajectory
from tests.fakes import Colours

CONFIG = Config.model_validate(
    {
        "tasks": {"name": "tests.fakes:Colours"},
        "sandbox": {"name": "scripted", "options": {"outputs": ["done"]}},
        "rollout": {"group_size": 2, "max_tool_calls": 2},
        "policy": {"name": "scripted"},
    }
)
TASKS = TasksConfig(name="tests.fakes:Colours")


def test_scripts_are_executed_and_graded() -> None:
    done = collect_scripts(CONFIG, TASKS, 3)
    assert [t.task_id for t in done] == ["colour-0", "colour-1", "colour-2"]
    assert all(t.reward and t.reward.parts["accuracy"] == 1.0 for t in done)
    assert all(t.num_tool_calls == 1 for t in done)


def test_a_script_that_does_not_reach_its_answer_is_an_error_that_names_the_task() -> None:
    broken = CONFIG.model_copy(
        update={"rollout": CONFIG.rollout.model_copy(update={"max_tool_calls": 0})}
    )
    with pytest.raises(TrainError, match=r"'tests\.fakes:Colours'.*'colour-0' ended turn_limit"):
        collect_scripts(broken, TASKS, 3)


@pytest.mark.parametrize(
    ("turns", "word"),
    [
        (
            ("<answer>\n\\boxed{no such colour}\n</answer>",),
            "'colour-0' with answer 'no such colour'",
        ),
        (("```python\nx\n```", "```python\nx\n```"), "ended turn_limit"),
    ],
)
def test_a_script_that_teaches_something_wrong_is_refused(
    turns: tuple[str, ...], word: str
) -> None:
    class Wrong(Colours):
        def script(self, index: int) -> tuple[str, ...]:
            return turns

    sys.modules["wrong_colours"] = types.ModuleType("wrong_colours")
    sys.modules["wrong_colours"].Wrong = Wrong  # type: ignore[attr-defined]
    one_call = CONFIG.model_copy(
        update={"rollout": CONFIG.rollout.model_copy(update={"max_tool_calls": 1})}
    )
    with pytest.raises(TrainError, match=word):
        collect_scripts(one_call, TasksConfig(name="wrong_colours:Wrong"), 1)


def test_an_unreliable_teacher_may_be_wrong_as_often_as_allowed_and_no_oftener() -> None:
    class Half(Colours):
        def script(self, index: int) -> tuple[str, ...]:
            wrong = ("<answer>\n\\boxed{no such colour}\n</answer>",)
            return wrong if index % 2 else super().script(index)

    sys.modules["half_colours"] = types.ModuleType("half_colours")
    sys.modules["half_colours"].Half = Half  # type: ignore[attr-defined]
    tasks = TasksConfig(name="half_colours:Half")
    done = collect_scripts(CONFIG, tasks, 4, max_wrong=0.5)
    assert [t.reward.correct for t in done if t.reward] == [True, False, True, False]
    with pytest.raises(TrainError, match=r"2 of 4 scripts .* max_wrong = 0.4"):
        collect_scripts(CONFIG, tasks, 4, max_wrong=0.4)


def test_a_task_set_without_scripts_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    rows = tmp_path / "tasks.jsonl"
    rows.write_text('{"id": "a", "question": "?", "answer": "1", "images": ["a.png"]}\n')
    with pytest.raises(ConfigError, match="'jsonl' has no scripts"):
        collect_scripts(CONFIG, TasksConfig(name="jsonl", path=str(rows)), 1)


def test_a_rollout_run_keeps_every_trajectory(tmp_path: Path) -> None:
    run_rollout(CONFIG, tmp_path / "run")
    saved = list(RunReader(tmp_path / "run").trajectories())
    assert len(saved) == 8 * 2
    assert all(s.kept for s in saved), "nothing is selected, whatever [selection] says"
    assert {s.trajectory.end for s in saved} == {EndReason.ANSWERED}


SMALL = VisionSpec(min_pixels=784, max_pixels=12544)


def shrunk(width: int, height: int, vision: VisionSpec) -> tuple[Media, Media]:
    """A picture, and what is kept of it."""
    picture = image_media(Image.radial_gradient("L").resize((width, height)).convert("RGB"))
    whole = Trajectory(
        "t", 0, (Segment((1,), False, media=(picture,)),), (), (), EndReason.ANSWERED
    )
    return picture, shrink(whole, vision).segments[0].media[0]


@pytest.mark.parametrize(
    ("width", "height", "vision"),
    [
        (1000, 36, SMALL),  # seen as 588 x 28, which would be seen as 504 x 28
        (36, 1000, SMALL),
        (7200, 36, VisionSpec()),  # seen as 7196 x 28, which no model takes
        (300, 200, VisionSpec(min_pixels=12000, max_pixels=12544)),
    ],
)
def test_a_picture_that_would_be_scaled_again_is_kept_as_it_is(
    width: int, height: int, vision: VisionSpec
) -> None:
    picture, small = shrunk(width, height, vision)
    assert small == picture


@given(st.integers(20, 2000), st.integers(20, 2000), st.integers(1, 40), st.integers(1, 40))
def test_shrinking_never_changes_what_is_seen(width: int, height: int, low: int, more: int) -> None:
    vision = VisionSpec(min_pixels=low * 784, max_pixels=(low + more) * 784)
    picture, small = shrunk(width, height, vision)
    assert grid(small, vision) == grid(picture, vision)
    assert (patches(small, vision) == patches(picture, vision)).all()


def test_shrinking_changes_neither_tokens_nor_patches() -> None:
    vision = SMALL
    picture, small = shrunk(448, 300, vision)
    assert small.width * small.height <= 12544 < picture.width * picture.height
    assert num_tokens(small, vision) == num_tokens(picture, vision)
    assert (patches(small, vision) == patches(picture, vision)).all()

"""What `pvrl show` prints is complete, and model text cannot act on the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from pyvision_rl.config import Config
from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.evaluate import result_of
from pyvision_rl.runs import RunWriter
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.show import render_rollout, render_run, sanitize
from pyvision_rl.synthesize import Synthesized
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Media,
    Message,
    Observation,
    Reward,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Text,
    Trajectory,
    Turn,
)

CODE = "crop = image_clue_0.crop((8, 8, 40, 40))\nplt.imshow(crop)\nplt.show()"
CROP = Media("image", "ab" * 32, 32, 24, source=bytes(32 * 24 * 3))
WHOLE = Media("image", "cd" * 32, 112, 100, source=bytes(112 * 100 * 3))


def episode(**turn: object) -> SavedRollout:
    """Code that shows a crop, then code that raises, then an answer."""
    task = Task(TaskInput("needle-7", "Which digit?", (WHOLE,), "hard"), Gold("7"))
    ran = Execution(ExecStatus.OK, "size (32, 24)", images=(CROP,), duration_s=0.021)
    broke = Execution(ExecStatus.KILLED, "", "stopped after 30 s", (), 30.0, True)
    first = Turn(
        text=f"I look closer.\n<code>\n```python\n{CODE}\n```\n</code>",
        stop=StopReason.STOP_STRING,
        action=RunCode(CODE),
        num_tokens=41,
        observation=Observation(Message("user", (Text("Result:"), CROP)), ran),
        execution=ran,
        sample_s=0.5,
    )
    second = Turn("<code>loop</code>", StopReason.END, RunCode("while 1: pass"), 5, execution=broke)
    third = Turn("<answer>7</answer>", StopReason.END, GiveAnswer("7"), 6)
    trajectory = Trajectory(
        task_id=task.id,
        rollout=2,
        segments=(),
        prompt=(Message("user", (Text("Which digit?"), WHOLE)),),
        turns=(replace(first, **turn), second, third),  # type: ignore[arg-type]
        end=EndReason.ANSWERED,
        answer="7",
        reward=Reward({"accuracy": 1.0, "tool_use": 0.1}, True, "equal integers", "rule"),
    )
    return SavedRollout(task, trajectory, 0.375, "surplus", 3)


def printed(*parts: RenderableType, color: bool = False) -> str:
    """The bytes a terminal would receive, as text."""
    out = io.StringIO()
    colors = "standard" if color else None
    console = Console(file=out, width=100, force_terminal=color, color_system=colors)
    for part in parts:
        console.print(part)
    return out.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunWriter(tmp_path / "r", Config(), "rl", command="pvrl rl tiny.toml") as writer:
        for step in (1, 2, 3):
            writer.rollouts(step, [episode(), replace(episode(), reason=None)])
            writer.metrics(step, {"reward": step / 4, "num_tokens": 100})
        writer.event("short_batch", "3 of 16 groups")
    return tmp_path / "r"


def test_a_trajectory_is_shown_whole() -> None:
    shown = printed(*render_rollout(episode()))
    for line in CODE.splitlines():
        assert line in shown
    for piece in (
        *("needle-7", "rollout 2", "step 3", "hard", "Which digit?", "112×100 media/cdcdcdcdcdcd"),
        *("I look closer.", "41 tokens", "stop_string", "size (32, 24)", "32×24 media/abababab"),
        *("execution: killed", "stopped after 30 s", "variables lost", "while 1: pass"),
        *("1.1 = accuracy 1 + tool_use 0.1", "+0.3750", "no: surplus"),
        "yes, by rule (equal integers)",
    ):
        assert piece in shown, piece


def test_code_appears_once() -> None:
    assert printed(*render_rollout(episode())).count("plt.imshow(crop)") == 1


def test_markup_in_model_text_is_shown_not_obeyed() -> None:
    text = "[bold red]x[/bold red] [link=http://evil]y[/link] [/] :smile:"
    shown = printed(*render_rollout(episode(text=text)), color=True)
    assert text in shown


@pytest.mark.parametrize("place", ["text", "action", "output", "error", "answer", "id", "category"])
def test_no_escape_code_reaches_the_terminal(place: str) -> None:
    evil = "a\x1b[2J\x1b]8;;http://evil\x07b\x9b31m\r\u202ec\ud800"
    saved = episode()
    first, *rest = saved.trajectory.turns
    assert first.execution is not None
    match place:
        case "text":
            first = replace(first, text=evil)
        case "action":
            first = replace(first, text=evil + CODE, action=RunCode(evil + CODE))
        case "output" | "error":
            first = replace(first, execution=replace(first.execution, **{place: evil}))
    trajectory = replace(saved.trajectory, turns=(first, *rest))
    task = saved.task
    if place == "answer":
        trajectory = replace(trajectory, answer=evil)
    elif place in ("id", "category"):
        task = replace(task, input=replace(task.input, **{place: evil}))
    shown = printed(*render_rollout(replace(saved, task=task, trajectory=trajectory)))
    assert "\u241b" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e\ud800")


@given(st.text(st.characters()))
def test_sanitized_text_is_printable_and_keeps_lines(text: str) -> None:
    safe = sanitize(text)
    safe.encode()
    assert all(c in "\n\t" or c.isprintable() or not c.isascii() for c in safe)
    assert safe.count("\n") == text.count("\n")
    assert sanitize(safe) == safe


def test_the_summary_says_what_the_run_is(run: Path) -> None:
    shown = printed(render_run(run))
    for piece in (
        *("rl", "pvrl rl tiny.toml", "python", "3 steps (1 to 3)", "2 trajectories, 1 kept"),
        *("1 surplus", "reward", "0.25", "0.75", "short_batch: 3 of 16 groups", "total"),
    ):
        assert piece in shown, piece


def test_the_summary_of_an_evaluation_shows_its_result(run: Path) -> None:
    saved = episode()
    result = result_of([(saved.task.input, saved.trajectory)])
    (run / "result.json").write_text(json.dumps(result.to_json()))
    shown = printed(render_run(run))
    for piece in ("accuracy_se", "tool_calls", "hard", "all"):
        assert piece in shown, piece


def test_an_evaluation_that_nobody_could_grade_shows_no_rates(run: Path) -> None:
    lost = replace(episode().trajectory, reward=None)
    (run / "result.json").write_text(json.dumps(result_of([(TaskInput("a", "?"), lost)]).to_json()))
    (line,) = (x for x in printed(render_run(run)).splitlines() if x.strip().startswith("answered"))
    assert line.split() == ["answered", "-"]


def test_the_summary_of_a_synthesis_shows_its_counts(run: Path) -> None:
    made = Synthesized(9, 18, 7, 5, {"wrong": 10, "too_long": 1})
    (run / "result.json").write_text(json.dumps(made.to_json()))
    lines = [line.split() for line in printed(render_run(run)).splitlines()]
    for row in (["episodes", "18"], ["tasks_kept", "5"], ["rejected.wrong", "10"]):
        assert row in lines, row


@pytest.mark.parametrize(
    "content", ["{", "[1]", "7", '{"overall": null}', '{"overall": {"a": 1}, "categories": []}']
)
def test_a_result_that_cannot_be_read_is_a_remark(run: Path, content: str) -> None:
    (run / "result.json").write_text(content)
    shown = printed(render_run(run))
    assert "result.json cannot be read: " in shown
    assert "short_batch: 3 of 16 groups" in shown


def test_a_cut_line_is_mentioned(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as out:
        out.write('{"step": 4, "rew')
    assert "metrics.jsonl, line 4: cut short" in printed(render_run(run))


def test_a_step_lists_every_trajectory_with_its_fate(run: Path) -> None:
    shown = printed(render_run(run, step=2))
    assert shown.count("needle-7  hard, reference 7") == 1
    assert shown.count("answered") == 2
    assert "surplus" in shown
    assert "+0.375" in shown


def test_a_task_is_found_in_the_last_step_that_has_it(run: Path) -> None:
    assert "step 3" in printed(render_run(run, id="needle-7"))
    assert "step 1" in printed(render_run(run, step=1, id="needle-7", rollout=2))


def test_an_unknown_task_names_a_near_one(run: Path) -> None:
    with pytest.raises(RunError, match="needle-7"):
        render_run(run, id="needel-7")
    with pytest.raises(RunError, match="no rollout 5"):
        render_run(run, id="needle-7", rollout=5)
    with pytest.raises(RunError, match="no rollouts of step 9; there are: 1 to 3"):
        render_run(run, step=9)

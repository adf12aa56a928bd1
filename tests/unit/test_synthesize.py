"""Synthesis keeps what it should, says why not of everything else, and goes on after a kill."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config, SynthesizeConfig
from pyvision_rl.conversations import learnable
from pyvision_rl.errors import ConfigError, RunError, TrainError
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.runs import RunReader
from pyvision_rl.synthesize import REASONS, run_synthesize, verdicts
from pyvision_rl.tasks.needle import NeedleTasks
from pyvision_rl.testing.fake_openai import FakeOpenAI
from pyvision_rl.types import (
    Action,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Malformed,
    Reward,
    RunCode,
    Segment,
    StopReason,
    Trajectory,
    Turn,
)
from tests.tiny_models import noise

RENDERER = CharsRenderer()
OK, RAISED = Execution(ExecStatus.OK, "1"), Execution(ExecStatus.RAISED, "", "NameError")


def turn(text: str, action: Action, execution: Execution | None = None) -> Turn:
    return Turn(text, StopReason.END, action, 1, execution=execution)


def call(execution: Execution = OK) -> Turn:
    return turn("code", RunCode("x"), execution)


ANSWER = turn("answer", GiveAnswer("1"))
ODD = turn("odd", Malformed("neither"))


def made(*turns: Turn, right: bool | None = True, images: int = 1, **more: Any) -> Trajectory:
    segments = (Segment((2,) * images, False, media=tuple(map(noise, range(images)))),)
    reward = None if right is None else Reward({"accuracy": float(right)}, right)
    values = {"end": EndReason.ANSWERED, "reward": reward, **more}
    return Trajectory("t", 0, segments, (), turns, **values)


def judged(*trajectories: Trajectory, **section: Any) -> tuple[str | None, ...]:
    return verdicts(trajectories, SynthesizeConfig(**section), RENDERER)


GOOD = made(call(), ANSWER)


@pytest.mark.parametrize(
    ("trajectory", "section", "why"),
    [
        (GOOD, {}, None),
        (made(right=None, end=EndReason.FAILED), {}, "failed"),
        (made(call(), ANSWER, right=None), {}, "ungraded"),
        (made(call(), right=False, end=EndReason.TURN_LIMIT), {}, "no_answer"),
        (made(call(), ANSWER, right=False), {}, "wrong"),
        (made(ODD, call(), ANSWER), {}, "malformed"),
        (made(ODD, call(), ANSWER), {"max_malformed": 1}, None),
        (made(call(RAISED), call(), ANSWER), {}, None),
        (made(call(RAISED), call(), ANSWER), {"code_errors": "none"}, "code_error"),
        (made(call(), call(RAISED), ANSWER), {}, "code_error"),
        (made(call(), call(RAISED), ANSWER), {"code_errors": "any"}, None),
        (made(ANSWER), {}, "too_few_calls"),
        (made(ANSWER), {"min_tool_calls": 0}, None),
        # A call that raised is none that counts.
        (made(call(RAISED), ANSWER), {"code_errors": "any"}, "too_few_calls"),
        (made(call(), call(), ANSWER), {"max_tool_calls": 1}, "too_many_calls"),
        (made(call(), ANSWER, images=3), {"max_images": 2}, "too_many_images"),
        (made(call(), ANSWER, images=3), {"max_images": 3}, None),
        # In characters, an image counts as one token.
        (made(call(), ANSWER, images=3), {"max_tokens": 2}, "too_long"),
        (made(call(), ANSWER, images=3), {"max_tokens": 3}, None),
    ],
)
def test_a_rollout_is_kept_or_has_one_reason(
    trajectory: Trajectory, section: dict[str, Any], why: str | None
) -> None:
    assert judged(trajectory, **section) == (why,)


def test_of_one_task_the_first_few_that_differ_are_kept() -> None:
    other = made(turn("other code", RunCode("y"), OK), ANSWER)
    third = made(turn("third code", RunCode("z"), OK), ANSWER)
    wrong = replace(other, reward=Reward({"accuracy": 0.0}, False))
    rollouts = (GOOD, wrong, GOOD, other, third)
    assert judged(*rollouts, max_per_task=2) == (None, "wrong", "duplicate", None, "surplus")
    assert judged(*rollouts) == (None, "wrong", "duplicate", "surplus", "surplus")


NEEDLE = {
    "seed": 5,
    "size": 24,
    "mix": {"easy": 1, "hard": 1},
    "direct": 0.3,
    "chain": (0.2, 0.5, 0.3),
    "misread": 0.3,
    "miss": 0.3,
}


def needle_config(**section: Any) -> Config:
    return Config.model_validate(
        {
            "tasks": {"name": "needle", "options": NEEDLE},
            "policy": {"name": "scripted"},
            "sandbox": {"wall_s": 30.0, "figure": {"figure.dpi": 30}},
            "synthesize": {"samples": 1, "tasks_per_step": 10, **section},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Played-back scripts of 24 tasks in the real sandbox, in three steps."""
    out = tmp_path_factory.mktemp("synthesized") / "run"
    run_synthesize(needle_config(max_tool_calls=2), out)
    return out


def test_what_is_kept_and_what_is_not_can_be_read_off_the_scripts(run: Path) -> None:
    config = needle_config(max_tool_calls=2)
    assert config.tasks is not None
    tasks = NeedleTasks(config.tasks)
    want: dict[str, str | None] = {}
    for index in range(len(tasks)):
        script, task = tasks.script(index), tasks[index]
        calls = len(script) - 1
        if f"\\boxed{{{task.gold.answer}}}" not in script[-1]:
            want[task.id] = "wrong"
        else:
            want[task.id] = {0: "too_few_calls", 3: "too_many_calls"}.get(calls)
    saved = list(RunReader(run).trajectories())
    assert {s.task.id: s.reason for s in saved} == want
    counted = Counter(why for why in want.values() if why)
    assert set(counted) == {"wrong", "too_few_calls", "too_many_calls"}
    result = json.loads((run / "result.json").read_text())
    assert result["rejected"] == counted
    assert result["kept"] == result["tasks_kept"] == list(want.values()).count(None) > 0
    assert result["episodes"] == result["kept"] + sum(result["rejected"].values()) == 24


def test_sft_and_exports_read_only_what_was_kept(run: Path) -> None:
    right = [s for s in RunReader(run).trajectories() if s.trajectory.reward.correct]  # type: ignore[union-attr]
    kept = [s.task.id for s, good in learnable(run) if good]
    assert kept == [s.task.id for s in right if s.kept]
    assert 0 < len(kept) < len(right)
    first = [s.task.id for s in RunReader(run).trajectories(1) if s.kept]
    file = run / "rollouts" / "step_000001.jsonl"
    assert [s.task.id for s, good in learnable(file) if good] == first


def test_every_kept_picture_is_there_whatever_the_run_section_says(tmp_path: Path) -> None:
    config = needle_config(tasks_per_step=3).model_copy(
        update={"run": Config.model_validate({"run": {"media_every": 0}}).run}
    )
    config = config.model_copy(update={"tasks": config.tasks.model_copy(update={"limit": 6})})  # type: ignore[union-attr]
    run_synthesize(config, tmp_path / "run")
    media = {m for s in RunReader(tmp_path / "run").trajectories() for m in s.trajectory.media}
    assert len(media) > 6
    assert all((tmp_path / "run" / "media" / f"{m.sha256}.png").exists() for m in media)


COLOURS = {
    "tasks": {"name": "tests.fakes:Colours"},
    "policy": {"name": "scripted"},
    "sandbox": {"name": "scripted", "options": {"outputs": ["done"]}},
    "synthesize": {"samples": 2, "tasks_per_step": 3},
}


def rows(run: Path) -> list[tuple[str, int, str | None]]:
    return [(s.task.id, s.trajectory.rollout, s.reason) for s in RunReader(run).trajectories()]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("torn", [False, True], ids=["between steps", "before the step's metrics"])
def test_a_killed_synthesis_goes_on_to_the_same_set(tmp_path: Path, torn: bool) -> None:
    config = Config.model_validate(COLOURS)
    whole = run_synthesize(config, tmp_path / "whole")
    assert (whole.episodes, whole.kept, whole.rejected) == (16, 8, {"duplicate": 8})

    def kill(line: str) -> None:
        if "6 of 8" in line:
            raise Killed

    out = tmp_path / "cut"
    with pytest.raises(Killed):
        run_synthesize(config, out, report=kill)
    assert not (out / "result.json").exists()
    if torn:
        metrics = out / "metrics.jsonl"
        metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    before = (out / "rollouts" / "step_000001.jsonl").stat().st_mtime_ns
    lines: list[str] = []
    resumed = run_synthesize(config, out, resume=out, report=lines.append)
    assert len(lines) == (2 if torn else 1)
    assert resumed == whole
    assert rows(out) == rows(tmp_path / "whole")
    assert (out / "rollouts" / "step_000001.jsonl").stat().st_mtime_ns == before


def test_only_the_same_synthesis_can_be_gone_on_with(tmp_path: Path) -> None:
    config = Config.model_validate(COLOURS)
    run_synthesize(config, tmp_path / "run")
    others: dict[str, Any] = {
        "seed": 4,
        "synthesize": {"samples": 9},
        "rewards": {"tool_use_per_call": 0.5},
    }
    for section, values in others.items():
        other = Config.model_validate({**COLOURS, section: values})
        with pytest.raises(RunError, match=rf"another \[{section}\] section"):
            run_synthesize(other, tmp_path / "run", resume=tmp_path / "run")
    slower = Config.model_validate(
        {
            **COLOURS,
            "rollout": {"max_live_episodes": 1},
            "rewards": {"judge": {"max_calls": 3}},
            "watch": {"window": 3},
        }
    )
    assert run_synthesize(slower, tmp_path / "run", resume=tmp_path / "run").kept == 8
    run_rollout(config, tmp_path / "rollout")
    with pytest.raises(RunError, match="a run of 'rollout'; synthesize cannot go on in it"):
        run_synthesize(config, tmp_path / "rollout", resume=tmp_path / "rollout")


def test_a_teacher_that_cannot_be_reached_stops_the_run_or_is_counted_as_ours(
    tmp_path: Path,
) -> None:
    raw = {**COLOURS, "policy": {"name": "tests.fakes:Unreachable"}}
    with pytest.raises(TrainError, match="6 of 6 episodes failed: PolicyError: the server is gone"):
        run_synthesize(Config.model_validate(raw), tmp_path / "stopped")
    allowed = Config.model_validate({**raw, "rollout": {"max_failed_share": 1.0}})
    result = run_synthesize(allowed, tmp_path / "counted")
    assert (result.kept, result.rejected) == (0, {"failed": 16})
    events = RunReader(tmp_path / "counted").events()
    assert [(e["name"], e["step"]) for e in events] == [("failed_episodes", k) for k in (1, 2, 3)]


def test_a_judge_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    raw = {**COLOURS, "rewards": {"name": "tests.fakes:BrokenGrader"}}
    with pytest.raises(TrainError, match=r"6 of 6 episodes are ungraded: .*the judge is gone"):
        run_synthesize(Config.model_validate(raw), tmp_path / "stopped")


def test_what_the_judge_was_asked_is_in_the_metrics(tmp_path: Path) -> None:
    with FakeOpenAI(lambda _: "1") as server:
        judge = {"url": server.url, "model": "m", "cache": "", "rules_first": False}
        raw = {**COLOURS, "rewards": {"name": "judge", "judge": judge}}
        run_synthesize(Config.model_validate(raw), tmp_path / "run")
    calls = [line["judge_requests"] for line in RunReader(tmp_path / "run").metrics()]
    # Two equal rollouts of a task share a call: eight tasks, three a step.
    assert calls == [3, 3, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"rollouts": "none"}}, r"run\.rollouts"),
        ({"synthesize": {"min_tool_calls": 3, "max_tool_calls": 2}}, "min_tool_calls = 3"),
        ({"synthesize": {"min_tool_calls": 5}}, r"rollout\.max_tool_calls = 4"),
        ({"tasks": None}, r"\[tasks\] is missing"),
    ],
)
def test_a_synthesis_that_could_keep_nothing_is_refused_before_work_starts(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_synthesize(Config.model_validate({**COLOURS, **values}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_reason_is_named_twice() -> None:
    assert len(set(REASONS)) == len(REASONS)

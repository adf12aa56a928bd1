"""What rules leave undecided goes to the judge, with the question that a reader needs."""

from __future__ import annotations

import asyncio
import json

import pytest

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.suites.grading import SuiteGrader
from pyvision_rl.suites.mathverse import MathVerse
from pyvision_rl.testing.fake_openai import FakeOpenAI
from pyvision_rl.types import EndReason, Gold, Task, TaskInput, Trajectory
from tests.suites import minis_maths as minis

OPTIONS = {"suite": "mathverse", "path": "unused", "protocol": "official"}


def episode(task, answer):
    return Trajectory(task.id, 0, (), (), (), EndReason.ANSWERED, answer=answer)


def graded(config, task, answer):
    async def run():
        grader = SuiteGrader(config)
        try:
            return await grader(task, episode(task, answer)), grader.stats()
        finally:
            await grader.close()

    return asyncio.run(run())


@pytest.fixture
def vision_only(tmp_path):
    tasks = MathVerse().tasks(minis.mathverse_parquet(tmp_path), "official")
    return next(t for t in (tasks[i] for i in range(len(tasks))) if t.id == "3/vision-only")


def test_the_judge_reads_the_question_that_only_the_picture_tells(vision_only):
    seen = []

    def judge(body):
        seen.append(json.loads(body["messages"][-1]["content"]))
        return "1"

    with FakeOpenAI(judge) as server:
        section = {"url": server.url, "model": "m", "cache": ""}
        config = RewardsConfig.model_validate({"options": OPTIONS, "judge": section})
        grade, stats = graded(config, vision_only, "S 45 W")
    assert grade.correct
    assert seen[0]["question"] == "Find the bearing of X from Y."
    assert seen[0]["answer"] == "S 45 W"
    assert stats["suite_undecided"] == 1


@pytest.mark.parametrize(
    ("named", "lost"), [({"url": "http://127.0.0.1:9/v1"}, "model"), ({"model": "m"}, "url")]
)
def test_a_judge_that_is_half_named_is_refused(named, lost):
    for protocol in ("official", "pyvision"):
        options = OPTIONS | {"protocol": protocol}
        config = RewardsConfig.model_validate({"options": options, "judge": named})
        with pytest.raises(ConfigError, match=rf"rewards\.judge\.{lost}"):
            SuiteGrader(config)


def test_without_a_judge_an_undecided_answer_stays_ungraded(vision_only):
    with pytest.raises(RewardError, match="asks a language model whether"):
        graded(RewardsConfig(options=OPTIONS), vision_only, "S 45 W")
    grade, _ = graded(RewardsConfig(options=OPTIONS), vision_only, "225^\\circ T")
    assert (grade.correct, grade.rung) == (True, "suite:official")


@pytest.mark.parametrize("answer", ["12.41", "12.44"])
@pytest.mark.parametrize("protocol", ["pyvision", "paper"])
def test_an_answer_that_rounds_to_the_reference_is_the_judges_alone(answer, protocol):
    task = Task(TaskInput("t", "How long?", data_source="mathverse"), Gold("12.4"))
    options = OPTIONS | {"protocol": protocol}
    alone = RewardsConfig.model_validate({"options": options})
    with pytest.raises(RewardError, match="rounds to the reference"):
        graded(alone, task, answer)
    for said in "10":
        with FakeOpenAI(lambda _, said=said: said) as server:
            section = {"url": server.url, "model": "m", "cache": ""}
            config = RewardsConfig.model_validate({"options": options, "judge": section})
            grade, _ = graded(config, task, answer)
        assert (grade.correct, grade.rung) == (said == "1", "judge")


def test_our_own_protocol_lets_math_verify_see_what_its_rules_leave():
    options = {"suite": "mathvision", "path": "unused", "protocol": "pyvision"}
    gold = Gold("2x+4", "auto", {})
    task = Task(TaskInput("1", "How long is it?", (), "", "mathvision"), gold)
    grade, stats = graded(RewardsConfig(options=options), task, "2(x+2)")
    assert (grade.correct, grade.rung) == (True, "maths")
    assert stats["suite_undecided"] == 1
    with pytest.raises(RewardError, match="no rung decided"):
        graded(RewardsConfig(options=options), task, "as long as the side")

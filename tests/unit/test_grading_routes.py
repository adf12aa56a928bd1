"""Each data source leads to its grader, and one that leads nowhere is found before the run."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.assemble import assemble
from pyvision_rl.checks.sections import check_config
from pyvision_rl.checks.tasks import check_tasks
from pyvision_rl.config import Config, RewardsConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.testing.fake_openai import FakeOpenAI
from pyvision_rl.types import EndReason, Gold, Task, TaskInput, Trajectory

ROUTES = {
    "measured": {"grader": "relative_accuracy", "options": {"correct_from": 0.9}},
    "*_rule": {"grader": "relative_accuracy"},
    "exact*": {"grader": "match"},
    "exact_judge": {"grader": "judge", "options": {"domain": "maths"}},
    "other_judge": {"grader": "judge", "options": {"domain": "chart"}},
}
MATCH = {"grader": "match"}


def config(url: str = "http://localhost/v1", **options: Any) -> RewardsConfig:
    judge = {"url": url, "model": "m", "cache": "", "max_retries": 0, "rules_first": False}
    values = {"name": "route", "options": {"routes": ROUTES, **options}, "judge": judge}
    return RewardsConfig.model_validate(values)


def grade(rewards: RewardsConfig, *cases: tuple[str, str, str]) -> tuple[list[Trajectory], Any]:
    """Grade (data source, answer, reference) one after the other."""

    async def one_by_one() -> list[Trajectory]:
        found = []
        for source, answer, gold in cases:
            task = Task(TaskInput("t", "?", data_source=source), Gold(gold))
            episode = Trajectory("t", 0, (), (), (), EndReason.ANSWERED, answer=answer)
            found.append(await rewarder.grade(task, episode))
        await rewarder.close()
        return found

    rewarder = build_rewarder(rewards)
    return asyncio.run(one_by_one()), rewarder.stats()


def why(trajectory: Trajectory) -> str:
    assert trajectory.reward is not None, trajectory.error
    return trajectory.reward.why


def test_every_source_gets_its_grader_and_its_options() -> None:
    with FakeOpenAI(lambda _: "1") as server:
        found, stats = grade(
            config(server.url),
            ("measured", "104", "100"),
            ("measured", "120", "100"),
            ("vsi_rule", "120", "100"),
            ("exactly", "B", "(B)"),
            ("exact_judge", "x", "y"),
            ("other_judge", "x", "y"),
        )
        systems = [seen.body["messages"][0]["content"] for seen in server.requests]
    assert [why(t) for t in found] == [
        "off by 4%",
        "off by 20%",
        "off by 20%",
        "same letter",
        "judge m: right",
        "judge m: right",
    ]
    assert [t.reward and t.reward.correct for t in found] == [True, False, True, True, True, True]
    assert "Expressions" in systems[0]
    assert "trends of charts" in systems[1]
    assert stats["judge_calls"] == 2, "the judges of two routes are one"


def test_all_judges_share_one_budget() -> None:
    with FakeOpenAI(lambda _: "1") as server:
        rewards = config(server.url)
        judge = rewards.judge.model_copy(update={"max_calls": 1})
        cases = (("exact_judge", "x", "y"), ("other_judge", "x", "y"))
        found, stats = grade(rewards.model_copy(update={"judge": judge}), *cases)
    assert [t.reward is not None for t in found] == [True, False]
    assert stats["judge_over_budget"] == 1


SUITE = {"grader": "suite", "options": {"suite": "mathverse", "protocol": "pyvision"}}


def test_a_suite_is_a_route_for_its_own_source_and_shares_the_judge() -> None:
    routes = {"mathverse": SUITE, "exact_judge": ROUTES["exact_judge"]}
    with FakeOpenAI(lambda _: "1") as server:
        rewards = config(server.url, routes=routes)
        rewards = rewards.model_copy(
            update={"judge": rewards.judge.model_copy(update={"max_calls": 1})}
        )
        rewarder = build_rewarder(rewards)
        rewarder.check(lambda: frozenset({"mathverse", "exact_judge"}))
        cases = (("mathverse", "it is green", "about 7"), ("exact_judge", "x", "y"))
        found, stats = grade(rewards, *cases)
    assert [t.reward is not None for t in found] == [True, False], found[1].error
    assert stats["judge_over_budget"] == 1


def test_a_suite_is_no_route_for_another_source() -> None:
    rewarder = build_rewarder(config(routes={"m*": SUITE}))
    with pytest.raises(ConfigError, match="cannot score tasks of 'mine'"):
        rewarder.check(lambda: frozenset({"mathverse", "mine"}))


@pytest.mark.parametrize(
    ("source", "grader"),
    [
        ("exact_judge", "judge"),  # the exact name, though "exact*" is written first
        ("exact_rule", "relative"),  # two patterns fit: the first
        ("EXACT", "default"),  # names are not folded
        ("", "default"),
        ("[x]", "default"),
    ],
)
def test_exact_names_win_then_the_first_pattern_then_the_default(source: str, grader: str) -> None:
    default = {"grader": "match", "options": {"rel_tol": 0.5}}
    with FakeOpenAI(lambda _: "1") as server:
        (found,), _ = grade(config(server.url, default=default), (source, "10.5", "10.0"))
    want = {"judge": "judge m: right", "relative": "off by 5%", "default": "same float"}
    assert why(found) == want[grader]


@given(st.text(), st.sampled_from(["x", "y"]))
def test_a_source_is_graded_or_named(source: str, answer: str) -> None:
    rewards = RewardsConfig(name="route", options={"routes": {"a*": MATCH, "b": MATCH}})
    (found,), _ = grade(rewards, (source, answer, "x"))
    known = source.startswith("a") or source == "b"
    assert (found.reward is not None) == known
    assert known or f"no route for data source {source!r}; routes: 'a*', 'b'" in found.error


def test_the_routes_of_the_docs_are_those_of_the_paper() -> None:
    page = (Path(__file__).parents[2] / "docs" / "grading.md").read_text()
    block = page.split("```toml\n")[1].split("```")[0]
    rewarder = build_rewarder(Config.model_validate(tomllib.loads(block)).rewards)
    rules = {"vsi_numerical", "counting_rule_verifiable"}
    sources = {"vstar", "deepeyes", "minio3", "hrbench-4k", "hrbench-8k", "ecd", "vsi", "longvila"}
    sources |= {"wemath-standard", "wemath-pro", "v-interaction", "mathvision", *rules}
    sources |= {"wemath", "mathvista", "mathverse", "logicvista"}
    rewarder.check(lambda: frozenset(sources))
    with pytest.raises(ConfigError, match="zebra_cot"):
        rewarder.check(lambda: frozenset({"zebra_cot"}))
    asyncio.run(rewarder.close())


# Before the run.


def rows(folder: Path, *sources: str) -> Path:
    file = folder / "tasks.jsonl"
    lines = [
        json.dumps({"id": str(i), "question": "?", "answer": "5", "data_source": source})
        for i, source in enumerate(sources)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def run_of(path: Path, routes: dict[str, Any], **rewards: Any) -> Config:
    return Config.model_validate(
        {
            "tasks": {"path": str(path)},
            "rewards": {"name": "route", "options": {"routes": routes}, **rewards},
            "policy": {"model": "no/such-model"},
        }
    )


def test_an_unknown_source_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    config = run_of(rows(tmp_path, "vstar", "vsi", "vstra"), {"vstar": MATCH, "chart*": MATCH})
    with pytest.raises(ConfigError) as error, assemble(config):
        pass
    text = str(error.value)
    assert "no route for data source 'vsi', 'vstra'; did you mean 'vstar'?" in text
    assert "the tasks' sources: 'vsi', 'vstar', 'vstra'" in text
    assert "routes: 'chart*', 'vstar'" in text


def test_the_sources_of_the_evaluation_count_too(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    config = run_of(rows(tmp_path, "vstar"), {"vstar": MATCH})
    held_out = {"path": str(rows(tmp_path / "eval", "hrbench-4k"))}
    config = Config.model_validate({**config.model_dump(), "eval": {"tasks": held_out}})
    with pytest.raises(ConfigError, match="hrbench-4k"), assemble(config):
        pass


class Unsourced:
    """A task set that does not tell its sources; every third task is of another one."""

    def __init__(self, config: Any) -> None:
        pass

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Task:
        source = "rare" if index % 3 == 2 else "often"
        return Task(TaskInput(str(index), "?", data_source=source), Gold("5"))


def test_a_task_set_that_does_not_tell_its_sources_is_sampled() -> None:
    values = run_of(Path("unused"), {"often": MATCH}).model_dump()
    values["tasks"] = {"name": f"{__name__}:Unsourced"}
    with pytest.raises(ConfigError, match="'rare'"), assemble(Config.model_validate(values)):
        pass


def test_check_finds_it_without_a_run(tmp_path: Path) -> None:
    config = run_of(rows(tmp_path, "vsi"), {"vstar": MATCH})
    for findings in (check_config(config), check_tasks(config)):
        failed = [f for f in findings if not f.ok]
        assert any("no route for data source 'vsi'" in f.detail for f in failed)
    sound = run_of(rows(tmp_path, "vstar"), {"vstar": MATCH})
    assert not [f for f in check_tasks(sound) if not f.ok]


def test_check_config_notes_a_key_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"url": "http://localhost/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    config = run_of(rows(tmp_path, "vsi"), {"vsi": {"grader": "judge"}}, judge=judge)
    found = {f.name: f for f in check_config(config)}["[rewards]"]
    assert found.status == "note"
    assert "NO_SUCH_KEY" in found.detail


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"routes": {}}, "rewards.options.routes"),
        ({}, "rewards.options.routes is missing"),
        ({"routes": {"a": {"grader": "mach"}}}, "routes.'a'.grader = 'mach' is not known"),
        ({"routes": {"a": {"grader": "route"}}}, "routes.'a'.grader = 'route'"),
        ({"routes": {"a": {"grader": "match", "opts": {}}}}, "rewards.options.routes.a.opts"),
        (
            {"routes": {"a": {"grader": "match", "options": {"tol": 1}}}},
            "routes.'a': rewards.options.tol is not a key",
        ),
        ({"routes": {"a": {"grader": "judge"}}}, "rewards.judge.url is empty"),
        ({"routes": {"a": MATCH}, "default": {"grader": "mach"}}, "rewards.options.default"),
    ],
)
def test_a_wrong_table_is_named(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_rewarder(RewardsConfig(name="route", options=options))
    assert part in str(error.value)

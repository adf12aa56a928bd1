"""The verbs around evaluation as a person types them: options become keys, results become lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyvision_rl.cli.main import app

CONFIG = """
[tasks]
name = "tests.eval_fakes:Many"
options = { count = 9 }
[prompts]
template = "minimal"
[policy]
name = "tests.eval_fakes:SeedTeller"
[sandbox]
name = "scripted"
[rollout]
schedule = "async"
[rewards]
name = "tests.eval_fakes:EvenGrader"
"""
LETTERS = """
[policy]
name = "tests.eval_fakes:Says"
options = { q1 = "B", q2 = "unclear" }
[prompts]
template = "minimal"
[sandbox]
name = "scripted"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # The command adds the working directory; the next test must not see it.
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "letters.toml").write_text(LETTERS)
    (tmp_path / "letters.txt").write_text("A B C A")
    return tmp_path


def pvrl(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def planned(*arguments: str) -> dict[str, Any]:
    done = pvrl("eval", *arguments, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)["config"]
    return found


def refused(*arguments: str) -> str:
    done = pvrl(*arguments)
    assert done.exit_code == 2, done.output
    return str(done.stderr)


SUITE = ("--suite", "tests.eval_fakes:Letters", "--data", "letters.txt")


def test_options_stand_for_keys(here: Path) -> None:
    # A line ends where the file says so: this id holds what only looks like an end.
    (here / "ids.txt").write_text("item-3\n\nitem-1\nitem\u20289\nitem-3\n", encoding="utf-8")
    typed = ("--no-tools", "--limit", "4", "--samples", "3", "--max-judge-calls", "7")
    config = planned("run.toml", *typed, "--ids", "ids.txt")
    section = config["eval"]
    assert (section["tools"], section["num_tasks"], section["samples"]) == (False, 4, 3)
    assert section["ids"] == ["item-3", "item-1", "item\u20289"]
    assert config["rewards"]["judge"]["max_calls"] == 7
    assert planned("run.toml", "--ids", " a, b ")["eval"]["ids"] == ["a", "b"]
    # A list may be longer than the name of a file can be, and a file may begin with a mark.
    many = [f"item-{number:05d}" for number in range(500)]
    assert planned("run.toml", "--ids", ",".join(many))["eval"]["ids"] == many
    (here / "marked.txt").write_bytes("a\r\nb\r\n".encode("utf-8-sig"))
    assert planned("run.toml", "--ids", "marked.txt")["eval"]["ids"] == ["a", "b"]
    # What is set by its own name wins.
    assert (
        planned("run.toml", "--limit", "4", "--set", "eval.num_tasks=5")["eval"]["num_tasks"] == 5
    )


def test_a_suite_fills_in_tasks_rewards_and_what_its_protocol_asks_for(here: Path) -> None:
    config = planned("letters.toml", *SUITE, "--shuffle-options")
    options = {
        "suite": "tests.eval_fakes:Letters",
        "path": "letters.txt",
        "protocol": "strict",
        "shuffle_options": True,
    }
    assert config["eval"]["tasks"]["name"] == config["rewards"]["name"] == "suite"
    assert config["eval"]["tasks"]["options"] == config["rewards"]["options"] == options
    # Three turns are two calls and the answer.
    assert (config["eval"]["temperature"], config["eval"]["samples"]) == (0.25, 2)
    assert config["rollout"]["max_tool_calls"] == 2


def test_a_suite_that_the_config_names_asks_for_the_same(here: Path) -> None:
    options = 'options = { suite = "tests.eval_fakes:Letters", path = "letters.txt" }'
    named = f'[eval.tasks]\nname = "suite"\n{options}\n[rewards]\nname = "suite"\n{options}\n'
    (here / "named.toml").write_text(LETTERS + named)
    config, same = planned("named.toml"), planned("letters.toml", *SUITE)
    for section, key in (
        ("eval", "samples"),
        ("eval", "temperature"),
        ("rollout", "max_tool_calls"),
    ):
        assert config[section][key] == same[section][key], key


def test_the_number_that_a_suite_reports_is_told_first(here: Path) -> None:
    done = pvrl("eval", "letters.toml", *SUITE, "--out", "a")
    assert done.exit_code == 0, done.output
    rows = [line.split()[0] for line in done.stdout.splitlines() if "." in line.split(" ")[0]]
    assert rows[0] == "headline.overall"
    assert "headline: overall" in pvrl("show", "a").stdout
    as_json = pvrl("eval", "letters.toml", *SUITE, "--out", "b", "--json")
    assert next(iter(json.loads(as_json.stdout)["result"])) == "headline"


def test_what_is_set_by_its_own_name_wins_in_every_verb(here: Path) -> None:
    typed = ("--max-judge-calls", "5", "--set", "rewards.judge.max_calls=9", "--dry-run", "--json")
    for verb in ("eval", "rollout"):
        done = pvrl(verb, "run.toml", *typed)
        assert json.loads(done.stdout)["config"]["rewards"]["judge"]["max_calls"] == 9, verb


def test_what_the_config_says_itself_wins_over_the_protocol(here: Path) -> None:
    (here / "own.toml").write_text(LETTERS + "[eval]\nsamples = 1\n[rollout]\nmax_tool_calls = 4\n")
    config = planned("own.toml", *SUITE, "--set", "eval.temperature=1.0")
    # max_tool_calls is written although it is the default.
    assert (config["eval"]["samples"], config["rollout"]["max_tool_calls"]) == (1, 4)
    assert config["eval"]["temperature"] == 1.0
    assert planned("letters.toml", *SUITE, "--samples", "5")["eval"]["samples"] == 5
    other = planned("letters.toml", *SUITE, "--protocol", "lenient")
    assert (other["eval"]["samples"], other["rollout"]["max_context_tokens"]) == (1, 900)


def test_a_run_folder_as_config_has_set_only_what_is_not_default(here: Path) -> None:
    assert pvrl("eval", "run.toml", "--out", "first").exit_code == 0
    config = planned("first", *SUITE, "--set", 'policy.name="tests.eval_fakes:Says"')
    assert (config["eval"]["samples"], config["rollout"]["max_tool_calls"]) == (2, 2)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (("run.toml", "--data", "x"), "belong to --suite"),
        (("run.toml", "--protocol", "official"), "belong to --suite"),
        (("letters.toml", "--suite", "tests.eval_fakes:Letters"), "needs --data"),
        (("letters.toml", "--suite", "vstarr", "--data", "x"), "did you mean 'vstar'"),
        ((*("letters.toml", *SUITE), "--protocol", "strickt"), "did you mean 'strict'"),
        (("run.toml", "--retry-failed"), "goes with --resume"),
        (("run.toml", "--ids", " , "), "holds no id"),
        (("run.toml", "--ids", "item-99"), "no task 'item-99' among 9"),
        (("--resume", "first", "--no-tools"), "goes on with the tasks"),
    ],
)
def test_what_makes_no_sense_is_refused_before_work(
    here: Path, typed: Sequence[str], why: str
) -> None:
    assert why in refused("eval", *typed)
    assert not (here / "runs").exists() or not list((here / "runs").iterdir())


def test_evaluate_rescore_compare_and_export(here: Path) -> None:
    done = pvrl("eval", "letters.toml", *SUITE, "--out", "a", "--samples", "1")
    assert done.exit_code == 0, done.output
    assert "evaluated 4 of 4 episodes" in done.stderr
    assert done.stdout.splitlines()[-1] == "next: pvrl show a, or read a/result.md"
    # Right letters A B C A; answered A B unclear A, and nobody to ask.
    result = json.loads((here / "a" / "result.json").read_text())
    assert (result["overall"]["accuracy"], result["overall"]["ungraded"]) == (1.0, 1)

    again = pvrl("rescore", "a", "--out", "b", "--rewards", "match", "--json")
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)["result"]
    assert told["flips"] == {"right -> right": 3, "ungraded -> wrong": 1}

    compared = pvrl("compare", "a", "b")
    assert compared.exit_code == 0, compared.output
    assert "exact McNemar" in compared.stdout
    assert "without grade 1" in compared.stdout
    as_json = json.loads(pvrl("compare", "a", "b", "--json").stdout)["result"]
    assert as_json["overall"]["flips"] == {
        "both_right": 3,
        "only_a": 0,
        "only_b": 0,
        "both_wrong": 0,
    }

    exported = pvrl("export-log", "b", "--out", "log")
    assert exported.exit_code == 0, exported.output
    assert "episodes" in exported.stdout
    assert len((here / "log" / "messages.jsonl").read_text().splitlines()) == 4
    assert "not an empty folder" in refused("export-log", "b", "--out", "log")


def test_a_category_is_shown_as_it_is_called(here: Path) -> None:
    names = ("algebra [/hard]", "[red]", "bar \x1b[2J", "a|b \x1b]0;x\x07")
    rows = [{"question": "?", "answer": "1", "category": name} for name in names]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = ('tasks.name="jsonl"', 'tasks.path="rows.jsonl"', "tasks.options={}")
    more = [word for key in tasks for word in ("--set", key)]
    done = pvrl("eval", "run.toml", *more, "--out", "a")
    assert done.exit_code == 0, done.output
    for name in (*names[:2], "bar \u241b[2J"):
        assert f"categories.{name}.accuracy" in done.stdout
    assert pvrl("eval", "run.toml", *more, "--out", "b").exit_code == 0
    row = {"id": "\x1b]0;x\x07", "question": "?", "answer": "1", "answer_type": "none"}
    (here / "faulty.jsonl").write_text(json.dumps(row) + "\n")
    checked = pvrl("check", "tasks", "faulty.jsonl")
    assert checked.exit_code == 1
    compared = pvrl("compare", "a", "b")
    assert "a/b \u241b]0;x" in compared.stdout
    for said in (done, checked, compared):
        assert not {"\x1b", "\x07"} & set(said.stdout)


def test_a_judge_that_nobody_would_ask_is_refused(here: Path) -> None:
    typed = ("--out", "a", "--set", 'rewards.name="match"')
    assert pvrl("eval", "run.toml", *typed).exit_code == 0
    judge = ("--judge", "http://127.0.0.1:9/v1", "--judge-model", "m")
    assert "the grader 'match' asks no judge" in refused("rescore", "a", "--out", "b", *judge)
    assert "--judge-model m: the grader" in refused("rescore", "a", "--out", "b", *judge[2:])
    key = ("--set", "rewards.judge.model='m'")
    assert "rewards.judge.model='m': the grader 'match' asks no judge" in refused(
        "rescore", "a", "--out", "b", *key
    )
    assert not Path("b").exists()


def test_a_resumed_evaluation_grades_what_had_no_grade(here: Path) -> None:
    Path("down").write_text("item-1")
    down = 'rewards.options={down = "down"}'
    assert pvrl("eval", "run.toml", "--out", "a", "--set", down).exit_code == 0
    Path("down").unlink()
    done = pvrl("eval", "--resume", "a", "--json")
    assert done.exit_code == 0, done.output
    assert "graded again: 1 episodes, 0 still without a grade" in done.stderr
    assert json.loads(done.stdout)["result"]["overall"]["ungraded"] == 0


def test_rescoring_into_something_that_is_there_is_refused(here: Path) -> None:
    assert pvrl("eval", "run.toml", "--out", "a").exit_code == 0
    assert "not an empty folder" in refused("rescore", "a", "--out", "a")
    assert "reaches [eval]" in refused("rescore", "a", "--out", "b", "--set", "eval.samples=2")
    assert not Path("b").exists()
    for verb in (("eval", "run.toml"), ("rescore", "a")):
        assert "cannot make run.toml/x: Not a directory" in refused(*verb, "--out", "run.toml/x")

"""A result names how it was asked and graded, and its page and rows say what the JSON says."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from test_evaluation_runs import config, told

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.evaluation.choice import DirectPrompts
from pyvision_rl.evaluation.evaluate import result_of
from pyvision_rl.evaluation.items import item_of
from pyvision_rl.evaluation.page import page, rows
from pyvision_rl.evaluation.result import result_json
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.evaluation.suite import suite_facts
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import EndReason, Gold, Task, TaskInput, Trajectory
from tests.fakes import a_video

PICTURES = {"options": {"count": 6, "picture": True}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("protocol") / "run"
    run_eval(config(tasks=PICTURES, eval={"temperature": 0.25}), out)
    return out


def test_the_protocol_holds_the_very_text_of_the_first_prompt(run: Path) -> None:
    protocol = told(run)["protocol"]
    assert protocol == json.loads((run / "protocol.json").read_text())
    first = protocol["prompt"]["first"]
    assert first["task"] == "item-0"
    text = "<image_clue_0>[image 56 x 56]</image_clue_0>\nWhat is item-0?"
    assert first["messages"] == [{"role": "user", "text": text}]
    assert "What is item-0?" in first["as_tokens"]
    assert protocol["prompt"]["template_text"] == "{images}\n{query}\n"
    assert protocol["sampling"]["temperature"] == 0.25
    assert protocol["sampling"]["samples"] == 2
    assert protocol["limits"]["max_tool_calls"] == 4
    assert protocol["grading"] == {
        "grader": "tests.eval_fakes:EvenGrader",
        "options": {},
        "judge": None,
    }
    assert (protocol["tools"], protocol["seed"]) == (True, 0)
    assert "numpy" in protocol["versions"]


def test_the_templates_are_those_that_the_model_reads(tmp_path: Path) -> None:
    run_eval(config(prompts={"style": "pyvision", "template": ""}), tmp_path / "run")
    found = told(tmp_path / "run")["protocol"]["prompt"]
    assert (found["style"], found["template"], found["observation"]) == (
        "pyvision",
        "pyvision",
        "pyvision_error",
    )
    plain = (line for line in found["template_text"].splitlines() if "{" not in line)
    assert max(plain, key=len) in "".join(message["text"] for message in found["first"]["messages"])


def test_the_hash_of_the_config_is_that_of_what_decides_the_episodes(tmp_path: Path) -> None:
    hashes = []
    for sections in ({}, {"run": {"logprobs": False}}, {"seed_is": 1}):
        wanted = config(**{k: v for k, v in sections.items() if k != "seed_is"})
        if "seed_is" in sections:
            wanted = wanted.model_copy(update={"seed": 1})
        out = tmp_path / str(len(hashes))
        run_eval(wanted, out)
        hashes.append(told(out)["protocol"]["config_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_data_file_is_named_by_its_hash(tmp_path: Path) -> None:
    data = tmp_path / "tasks.jsonl"
    data.write_text('{"id": "a", "question": "?", "answer": "1"}\n')
    run_eval(config(tasks={"name": "jsonl", "path": str(data), "options": {}}), tmp_path / "run")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert told(tmp_path / "run")["protocol"]["data"] == {"tasks.jsonl": digest}


def test_everything_an_episode_used_is_summed(run: Path) -> None:
    result = told(run)
    assert result["episodes"]["all"] == 12
    assert result["episodes"]["ends"] == {"answered": 12}
    # One turn, no call, one picture of 2 x 2 tokens each.
    use = {name: (u["mean"], u["sum"]) for name, u in result["use"].items()}
    assert use["turns"] == (1.0, 12.0)
    assert use["images"] == (1.0, 12.0)
    assert use["executions"] == (0.0, 0.0)
    assert use["visual_tokens"][1] == 12 * result["use"]["visual_tokens"]["mean"]
    assert {"text_tokens", "sampled_tokens", "code_errors", "malformed"} <= set(use)
    seconds = json.loads((run / "result.json").read_text())["use"]["seconds"]["sum"]
    assert 0 < seconds < 60


def test_page_and_rows_say_what_the_result_says(run: Path) -> None:
    result, text = told(run), (run / "result.md").read_text()
    accuracy = result["overall"]["accuracy"]
    assert f"| all | 6 | 12 | 0 | 0 | {100 * accuracy:.2f} %" in text
    assert "What is item-0?" in text
    assert "pass@2" in text
    with (run / "row.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["part"] for row in found] == [
        "overall",
        "category:c0",
        "category:c1",
        "category:c2",
    ]
    assert float(found[0]["accuracy"]) == accuracy
    assert float(found[0]["low"]) == result["estimates"]["overall"]["accuracy_interval"]["low"]
    assert float(found[0]["pass_at_k"]) == result["estimates"]["overall"]["pass_at"]["2"]["value"]


def test_every_method_of_an_interval_is_named(run: Path) -> None:
    result = told(run)
    estimates = result["estimates"]["overall"], *result["estimates"]["categories"].values()
    wilson = {"low": 0.3, "high": 1.0, "method": "Wilson of a made-up category"}
    estimates[-1]["accuracy_interval"] = wilson
    overall = estimates[0]["accuracy_interval"]["method"]
    assert f"Interval: {overall}; {wilson['method']}." in page(result)


def test_what_a_server_is_not_told_is_nobodys_setting(letters: Path) -> None:
    whole = suite(letters)
    options = {**whole.policy.options, "omit": ["temperature"]}
    policy = whole.policy.model_copy(update={"options": options, "temperature": 0.25})
    silent = whole.model_copy(update={"policy": policy})
    facts = suite_facts(silent)
    assert facts is not None
    assert facts["differs_from_protocol"]["eval.temperature"] == {"protocol": 0.25, "run": None}
    told_it = suite_facts(
        whole.model_copy(update={"policy": whole.policy.model_copy(update={"temperature": 0.25})})
    )
    assert told_it is not None
    assert "eval.temperature" not in told_it["differs_from_protocol"]


def test_a_fence_in_what_is_shown_cannot_end_the_block() -> None:
    saved = SavedRollout(
        Task(TaskInput("a|b", "?", (), "x|y"), Gold("1")),
        Trajectory("a|b", 0, (), (), (), EndReason.FAILED, error="first\n## second"),
    )
    items = [item_of(0, saved)]
    protocol = {
        "tools": True,
        "prompt": {"first": {"task": "a", "messages": [{"role": "user", "text": "````\n# no"}]}},
    }
    shown = page(result_json(Config(), items, result_of([i.sample for i in items]), protocol))
    assert "`````text\n[user]\n````\n# no\n`````" in shown
    assert "- `a|b#0`: first ## second" in shown
    assert "| x/y |" in shown


def test_a_name_with_odd_line_ends_stays_on_its_line() -> None:
    category = "x\u2028y\x85z\x0cw"
    saved = SavedRollout(
        Task(TaskInput("a", "?", (), category), Gold("1")),
        Trajectory("a", 0, (), (), (), EndReason.FAILED, error="gone"),
    )
    items = [item_of(0, saved)]
    result = result_json(Config(), items, result_of([i.sample for i in items]), {})
    assert [line.count(category) for line in rows(result)] == [0, 0, 1]


def test_without_tools_the_first_turn_has_to_answer(tmp_path: Path) -> None:
    wanted = config(policy={"name": "tests.eval_fakes:Codes"}, eval={"tools": False, "samples": 1})
    result = run_eval(wanted, tmp_path / "run")
    # It writes code, which ends the episode unanswered: nothing is run.
    assert (result.overall.accuracy, result.overall.tool_calls) == (0.0, 0.0)
    found = told(tmp_path / "run")
    assert found["episodes"]["ends"] == {"turn_limit": 10}
    assert found["protocol"]["tools"] is False
    assert found["protocol"]["limits"]["max_tool_calls"] == 0
    assert found["protocol"]["prompt"]["template"] == "direct"
    text = found["protocol"]["prompt"]["first"]["messages"][0]["text"]
    assert "python" not in text.lower()
    assert text.endswith("<answer>\n\\boxed{your answer}\n</answer>")
    assert "without tools" in (tmp_path / "run" / "result.md").read_text()


def test_without_tools_the_scorer_and_the_luck_are_the_same(tmp_path: Path) -> None:
    with_tools = run_eval(config(), tmp_path / "with")
    assert run_eval(config(eval={"tools": False}), tmp_path / "without").overall.accuracy == (
        with_tools.overall.accuracy
    )


def test_media_that_only_code_would_see_need_tools(tmp_path: Path) -> None:
    hidden = config(prompts={"context": "runtime"}, eval={"tools": False})
    with pytest.raises(ConfigError, match="nobody would see the images"):
        run_eval(hidden, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    prompts = DirectPrompts(config(eval={"tools": False}))
    film = TaskInput("film", "?", (a_video(),))
    with pytest.raises(ConfigError, match="nobody would see the video of task 'film'"):
        prompts.prompt(film)
    PromptBuilder(config().prompts).prompt(film)


def test_thinking_first_is_another_template(tmp_path: Path) -> None:
    reason = config(eval={"tools": False, "direct_template": "reason", "num_tasks": 1})
    run_eval(reason, tmp_path / "run")
    text = told(tmp_path / "run")["protocol"]["prompt"]["first"]["messages"][0]["text"]
    assert "Think step by step." in text


def suite(path: Path, name: str = "tests.eval_fakes:Letters", **more: object) -> Config:
    options = {"suite": name, "path": str(path), "protocol": "strict"}
    sections = {
        "policy": {"name": "tests.eval_fakes:Says", "options": {"q1": "B", "q3": "C", "q4": "B"}},
        "rewards": {"name": "suite", "options": options},
        "eval": {"tasks": {"name": "suite", "options": options}, "samples": 1, **more},
    }
    return config(**sections)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    file = tmp_path / "letters.txt"
    file.write_text("A B C A B A D B")
    return file


def test_a_suite_adds_its_report_and_where_the_run_differs(letters: Path, tmp_path: Path) -> None:
    result = run_eval(suite(letters, num_tasks=6), tmp_path / "run")
    assert result.headline == {"overall": pytest.approx(4 / 6)}
    assert next(iter(result.to_json())) == "headline"
    assert told(tmp_path / "run")["headline"] == dict(result.headline)
    # Right: A B C A B A; answered: A B A C B A.
    found = told(tmp_path / "run")["suite"]
    assert found["name"] == "letters"
    assert found["protocol"] == "strict"
    assert found["sha256"] == {"letters.txt": hashlib.sha256(letters.read_bytes()).hexdigest()}
    assert (found["items_of_the_file"], found["items_of_the_run"]) == (8, 6)
    assert found["report"]["numbers"] == {"overall": pytest.approx(4 / 6)}
    assert found["differs_from_protocol"] == {
        "eval.temperature": {"protocol": 0.25, "run": 1.0},
        "eval.samples": {"protocol": 2, "run": 1},
        "rollout.max_tool_calls": {"protocol": 2, "run": 4},
    }
    text = (tmp_path / "run" / "result.md").read_text()
    assert "## letters, protocol `strict`" in text
    assert "`eval.samples` is 1; the protocol says 2" in text
    assert told(tmp_path / "run")["episodes"]["rungs"] == {"suite:strict": 6}


def test_the_limit_of_a_task_section_does_not_change_how_many_items_the_file_has(
    letters: Path, tmp_path: Path
) -> None:
    whole = suite(letters)
    assert whole.eval.tasks is not None
    tasks = whole.eval.tasks.model_copy(update={"limit": 3})
    some = whole.model_copy(update={"eval": whole.eval.model_copy(update={"tasks": tasks})})
    run_eval(some, tmp_path / "run")
    found = told(tmp_path / "run")["suite"]
    assert (found["items_of_the_file"], found["items_of_the_run"]) == (8, 3)


def test_positions_are_audited_by_number_of_options(letters: Path, tmp_path: Path) -> None:
    run_eval(suite(letters), tmp_path / "run")
    # Two options: q1, q3, q5, q7 with right letters B A A B, answered B C A A; C is no letter of
    # two. Four options: q0, q2, q4, q6 with A C B D, answered A A B A.
    two, four = told(tmp_path / "run")["position_bias"]
    assert (two["options"], two["items"], two["no_letter"]) == (2, 4, 1.0)
    assert [(x["letter"], x["right"], x["answered"], x["accuracy"]) for x in two["letters"]] == [
        ("A", 2, 2.0, 0.5),
        ("B", 2, 1.0, 0.5),
    ]
    assert [(x["right"], x["answered"], x["accuracy"]) for x in four["letters"]] == [
        (1, 3.0, 1.0),
        (1, 1.0, 1.0),
        (1, 0.0, 0.0),
        (1, 0.0, 0.0),
    ]
    assert 0 < four["p_accuracy"] <= 1
    assert two["p_accuracy"] == 1.0, "as often right for A as for B"
    assert "4 items with 2 options" in (tmp_path / "run" / "result.md").read_text()


def test_a_suite_whose_file_is_missing_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="get the data set of letters"):
        run_eval(suite(tmp_path / "nothing.txt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()

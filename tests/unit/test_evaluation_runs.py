"""Evaluations go on where they were cut, lose nothing, and have the same luck in every choice."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, RunError, TaskError
from pyvision_rl.evaluation.choice import choose
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.evaluation.steps import whole_parts
from pyvision_rl.runs import RunReader
from pyvision_rl.usage import NUMBERS
from tests.eval_fakes import Many, SeedTeller


def config(**sections: Any) -> Config:
    base: dict[str, Any] = {
        "tasks": {"name": "tests.eval_fakes:Many", "options": {"count": 10}},
        "prompts": {"template": "minimal"},
        "policy": {"name": "tests.eval_fakes:SeedTeller"},
        "sandbox": {"name": "scripted"},
        "rollout": {"schedule": "async"},
        "rewards": {"name": "tests.eval_fakes:EvenGrader"},
        "eval": {"samples": 2},
    }
    for name, keys in sections.items():
        base[name] = base.get(name, {}) | keys
    return Config.model_validate(base)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        skipped = ("sample_s", "duration_s", "seconds")
        return {k: timeless(v) for k, v in value.items() if k not in skipped}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def lines(out: Path) -> list[dict[str, Any]]:
    files = sorted((out / "rollouts").glob("*.jsonl"))
    return [timeless(json.loads(x)) for file in files for x in file.read_text().splitlines()]


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = timeless(json.loads((out / "result.json").read_text()))
    return found


def answers(out: Path) -> dict[tuple[str, int], str | None]:
    saved = RunReader(out).trajectories()
    return {(s.task.id, s.trajectory.rollout): s.trajectory.answer for s in saved}


def assert_same(out: Path, whole: Path) -> None:
    assert lines(out) == lines(whole)
    assert told(out) == told(whole)
    steps = [m["step"] for m in RunReader(out).metrics()]
    assert steps == [m["step"] for m in RunReader(whole).metrics()]
    assert not list(out.rglob("*.part"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run_eval(config(), out)
    return out


def test_every_sample_is_there_once_in_order(whole: Path) -> None:
    wanted = [(index, k) for index in range(10) for k in range(2)]
    assert [(line["index"], line["rollout"]) for line in lines(whole)] == wanted
    assert len(set(answers(whole).values())) == 20, "no two samples share their luck"


def test_a_prompt_that_leaves_no_room_for_a_turn_is_said_beside_the_score(tmp_path: Path) -> None:
    run_eval(config(rollout={"max_context_tokens": 5}), tmp_path / "run")
    note = "20 of 20 episodes had no turn, and count as wrong: their prompts alone fill "
    assert told(tmp_path / "run")["notes"] == [f"{note}rollout.max_context_tokens"]
    assert f"- {note}" in (tmp_path / "run" / "result.md").read_text()


def test_rows_for_a_table_tell_all_that_was_read_and_seen(whole: Path) -> None:
    table = csv.DictReader((whole / "row.csv").read_text().splitlines())
    first, means = next(table), told(whole)["overall"]
    assert set(NUMBERS) <= set(first)
    assert {name: first[name] for name in NUMBERS} == {
        name: "" if means.get(name) is None else str(means[name]) for name in NUMBERS
    }


def cut(out: Path, draw: random.Random) -> set[tuple[int, int]]:
    """Leave of a whole run what a kill at any point may: some lines, in the order of their ends."""
    (file,) = (out / "rollouts").glob("*.jsonl")
    kept = file.read_bytes().splitlines(keepends=True)
    draw.shuffle(kept)
    data = b"".join(kept)
    data = data[: draw.randrange(len(data) + 1)]
    file.write_bytes(data)
    for name in ("result.json", "result.md", "row.csv"):
        (out / name).unlink()
    if draw.random() < 0.5:
        (out / "metrics.jsonl").write_bytes(b"")
    done = [json.loads(x) for x in data.splitlines(keepends=True) if x.endswith(b"\n")]
    return {(line["index"], line["rollout"]) for line in done}


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_anywhere_changes_nothing_and_runs_nothing_twice(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    done = cut(out, random.Random(seed))
    SeedTeller.asked.clear()
    run_eval(config(), out, resume=out)
    missing = 20 - len(done)
    assert len(SeedTeller.asked) == missing
    assert_same(out, whole)


def test_in_lockstep_a_part_that_was_cut_is_run_again_as_a_whole(tmp_path: Path) -> None:
    # Four episodes at a time are two tasks.
    lockstep = config(rollout={"schedule": "lockstep", "max_live_episodes": 4})
    run_eval(lockstep, tmp_path / "whole")
    out = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", out)
    (file,) = (out / "rollouts").glob("*.jsonl")
    kept = file.read_text().splitlines(keepends=True)
    # Tasks 0 to 4 are whole, of task 5 the first sample.
    file.write_text("".join(kept[:11]))
    SeedTeller.asked.clear()
    run_eval(lockstep, out, resume=out)
    assert Counter(task for task, _ in SeedTeller.asked) == {f"item-{k}": 2 for k in range(4, 10)}
    assert_same(out, tmp_path / "whole")


@pytest.mark.parametrize(
    ("policy", "whole"), [("local", True), ("tests.eval_fakes:SeedTeller", True), ("vllm", False)]
)
def test_turns_of_a_server_do_not_depend_on_who_else_is_asked(policy: str, whole: bool) -> None:
    lockstep = config(policy={"name": policy}, rollout={"schedule": "lockstep"})
    assert whole_parts(lockstep) == whole


def test_progress_ends_at_its_total_where_parts_are_run_again(tmp_path: Path) -> None:
    lockstep = config(rollout={"schedule": "lockstep", "max_live_episodes": 4})
    run_eval(lockstep, tmp_path / "run")
    (file,) = (tmp_path / "run" / "rollouts").glob("*.jsonl")
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:11]))
    said: list[str] = []
    run_eval(lockstep, tmp_path / "run", resume=tmp_path / "run", report=said.append)
    # Tasks 4 and 5 are one part: three of its four episodes are there, and are run again.
    assert said[0] == "evaluated 8 of 20 episodes"
    assert said[-1] == "evaluated 20 of 20 episodes"


def test_a_file_of_an_earlier_release_is_read_in_order(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (file,) = (out / "rollouts").glob("*.jsonl")
    bare = [json.loads(line) for line in file.read_text().splitlines()]
    for line in bare:
        del line["index"]
    file.write_text("".join(json.dumps(line) + "\n" for line in bare))
    SeedTeller.asked.clear()
    run_eval(config(), out, resume=out)
    assert not SeedTeller.asked
    assert told(out)["overall"] == told(whole)["overall"]
    file.write_text("".join(json.dumps(line) + "\n" for line in bare[:5]))
    with pytest.raises(RunError, match="holds other episodes"):
        run_eval(config(), out, resume=out)


def test_what_has_no_grade_is_graded_again_and_not_run_again(tmp_path: Path) -> None:
    down, out = tmp_path / "down", tmp_path / "run"
    down.write_text("item-1 item-7")
    wanted = config(rewards={"options": {"down": str(down)}})
    result = run_eval(wanted, out)
    assert (result.overall.ungraded, result.overall.tasks) == (4, 8)
    names = [entry["id"] for entry in told(out)["ungraded"]]
    assert names == ["item-1#0", "item-1#1", "item-7#0", "item-7#1"]
    assert "the judge is gone" in told(out)["ungraded"][0]["why"]
    SeedTeller.asked.clear()
    down.write_text("item-7")
    assert run_eval(wanted, out, resume=out).overall.ungraded == 2
    down.unlink()
    result = run_eval(wanted, out, resume=out)
    assert not SeedTeller.asked, "the episodes themselves were whole"
    run_eval(wanted, tmp_path / "whole")
    assert_same(out, tmp_path / "whole")


def test_a_stop_between_two_chunks_that_are_graded_again_leaves_no_old_numbers(
    tmp_path: Path,
) -> None:
    down, out = tmp_path / "down", tmp_path / "run"
    down.write_text("item-1 item-299")
    options = {"options": {"down": str(down)}}
    tasks = {"options": {"count": 300}}
    wanted = config(tasks=tasks, rewards=options, eval={"samples": 1})
    run_eval(wanted, out)
    down.unlink()
    said: list[str] = []

    def stop_at_the_second(text: str) -> None:
        said.append(text)
        if sum(line.startswith("graded again") for line in said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_eval(wanted, out, resume=out, report=stop_at_the_second)
    run_eval(wanted, out, resume=out)
    assert [line["graded"] for line in RunReader(out).metrics()] == [256, 44]
    assert told(out)["episodes"]["ungraded"] == 0


def test_what_failed_counts_as_wrong_until_it_is_run_again(tmp_path: Path) -> None:
    down, out = tmp_path / "down", tmp_path / "run"
    down.write_text("item-2 item-3")
    wanted = config(policy={"options": {"down": str(down)}})
    result = run_eval(wanted, out)
    assert (result.overall.failed, result.overall.tasks) == (4, 10)
    failed = told(out)["failed"]
    assert [entry["id"] for entry in failed] == ["item-2#0", "item-2#1", "item-3#0", "item-3#1"]
    assert "the server is gone" in failed[0]["why"]
    down.unlink()
    SeedTeller.asked.clear()
    assert run_eval(wanted, out, resume=out).overall.failed == 4
    assert not SeedTeller.asked, "only on demand: failing may depend on the model"
    assert run_eval(wanted, out, resume=out, retry_failed=True).overall.failed == 0
    assert {task for task, _ in SeedTeller.asked} == {"item-2", "item-3"}
    run_eval(wanted, tmp_path / "whole")
    assert_same(out, tmp_path / "whole")


def test_chosen_tasks_meet_the_luck_they_have_among_all(whole: Path, tmp_path: Path) -> None:
    every = answers(whole)
    for name in ("Many", "Unlisted"):
        tasks = {"name": f"tests.eval_fakes:{name}"}
        out = tmp_path / name
        run_eval(config(tasks=tasks, eval={"ids": ["item-7", "item-2"]}), out)
        assert answers(out) == {k: v for k, v in every.items() if k[0] in ("item-2", "item-7")}
    run_eval(config(eval={"num_tasks": 3}), tmp_path / "few")
    assert answers(tmp_path / "few") == {k: v for k, v in every.items() if k[0] < "item-3"}


def test_an_id_that_is_not_there_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    Many.made.clear()
    with pytest.raises(ConfigError, match=r"no task 'item-11' among 10; did you mean 'item-1'"):
        run_eval(config(eval={"ids": ["item-2", "item-11"]}), tmp_path / "run")
    assert not Many.made
    assert not (tmp_path / "run").exists()


def test_a_broken_task_that_was_not_asked_for_ends_no_search_for_ids(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [
        {"id": name, "question": "?", "answer": "a", "ability": "", "image_path": f"{name}.png"}
        for name in ("bad", "good")
    ]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    # This set does not tell its ids: its tasks are made.
    tasks = {"name": "published", "path": str(tmp_path / "set.json"), "options": {}}
    assert choose(config(tasks=tasks, eval={"ids": ["good"]})).indices == (1,)
    for asked in (["bad"], ["good", "nope"]):
        # Nothing tells which of the two it is.
        with pytest.raises(TaskError, match=r"bad\.png: not a readable image"):
            choose(config(tasks=tasks, eval={"ids": asked}))


def test_tasks_that_changed_are_not_mixed_with_those_from_before(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (file,) = (out / "rollouts").glob("*.jsonl")
    kept = file.read_text().splitlines(keepends=True)[:3]
    file.write_text("".join(kept).replace("What is item-1?", "Who is item-1?"))
    with pytest.raises(RunError, match="task 'item-1' is not the one"):
        run_eval(config(), out, resume=out)


def test_a_data_file_that_changed_is_refused(tmp_path: Path) -> None:
    data, out = tmp_path / "tasks.jsonl", tmp_path / "run"
    data.write_text('{"id": "a", "question": "?", "answer": "1"}\n')
    wanted = config(tasks={"name": "jsonl", "path": str(data), "options": {}})
    run_eval(wanted, out)
    data.write_text('{"id": "a", "question": "?", "answer": "2"}\n')
    with pytest.raises(RunError, match=r"another tasks.jsonl \(its sha256 differs\)"):
        run_eval(wanted, out, resume=out)


def test_scripts_of_a_task_set_are_evaluated(tmp_path: Path) -> None:
    wanted = config(policy={"name": "scripted"}, rewards={"name": "match"}, eval={"samples": 1})
    # Of ten, 0, 3, 6 and 9 answer something else.
    assert run_eval(wanted, tmp_path / "run").overall.accuracy == 0.6


def test_progress_counts_episodes(tmp_path: Path) -> None:
    said: list[str] = []
    run_eval(config(), tmp_path / "run", report=said.append)
    assert said[0] == "evaluated 0 of 20 episodes"
    assert said[-1] == "evaluated 20 of 20 episodes"


def test_a_second_evaluation_is_kept_out_of_a_folder(tmp_path: Path) -> None:
    out, refused = tmp_path / "out", list[str]()

    def second(text: str) -> None:
        if (out / "run.json").exists():
            there = rf"an evaluation is running there \(process {os.getpid()}\)"
            with pytest.raises(RunError, match=there):
                run_eval(config(), out, resume=out)
            refused.append(text)

    run_eval(config(), out, report=second)
    assert "evaluated 20 of 20 episodes" in refused
    (file,) = (out / "rollouts").glob("*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:11]))
    refused.clear()
    run_eval(config(), out, resume=out, report=second)
    assert {"evaluated 11 of 20 episodes", "evaluated 20 of 20 episodes"} <= set(refused)
    # Nobody is there any more.
    run_eval(config(), out, resume=out)


def test_a_disk_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert run_eval(config(), tmp_path / "out").overall.episodes == 20


def test_terms_of_the_reward_are_added_once_whole_groups_are_there(tmp_path: Path) -> None:
    terms = {"terms": {"format": {"bonus": 0.25}}}
    run_eval(config(rewards=terms), tmp_path / "whole")
    parts = [line["reward"]["parts"] for line in lines(tmp_path / "whole")]
    assert all(part["format"] == 0.25 for part in parts)
    out = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", out)
    cut(out, random.Random(1))
    run_eval(config(rewards=terms), out, resume=out)
    assert_same(out, tmp_path / "whole")

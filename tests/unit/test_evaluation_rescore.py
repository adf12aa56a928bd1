"""Stored episodes are graded again without the model, and the run they come from never changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_evaluation_protocol import suite
from test_evaluation_runs import config, told

from pyvision_rl.collect import run_rollout
from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError, RewardError, RunError
from pyvision_rl.evaluation.compare import compare
from pyvision_rl.evaluation.export import export_log
from pyvision_rl.evaluation.rescore import rescore, rescore_config
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.runs import CARRIED, RunReader, RunWriter, read_info
from tests.eval_fakes import SeedTeller


def content(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rescore") / "run"
    run_eval(config(tasks={"options": {"count": 6, "picture": True}}), out)
    return out


def test_every_flip_is_counted_and_named(run: Path, tmp_path: Path) -> None:
    before, out = content(run), tmp_path / "again"
    SeedTeller.asked.clear()
    found = rescore(run, out, rescore_config(run, ["rewards.options={odd=true}"]))
    assert not SeedTeller.asked, "the model is not needed"
    assert content(run) == before
    was = told(run)["episodes"]["correct"]
    assert 0 < was < 12
    # Odd is right now: everything flips.
    assert found.flips == {"right -> wrong": was, "wrong -> right": 12 - was}
    assert (found.episodes, found.changed) == (12, 12)
    facts = told(out)["rescored"]
    assert facts["from"] == str(run)
    assert len(facts["changed"]["right -> wrong"]) == was
    assert facts["grading_before"]["options"] == {}
    assert facts["grading"]["options"] == {"odd": True}
    assert told(out)["overall"]["accuracy"] == pytest.approx(1 - told(run)["overall"]["accuracy"])
    assert read_info(out).verb == "rescore"
    assert told(out)["protocol"]["prompt"] == told(run)["protocol"]["prompt"]


def test_the_episodes_and_pictures_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    found = rescore(run, out, rescore_config(run))
    assert set(found.flips) == {"right -> right", "wrong -> wrong"}
    for old, new in zip(RunReader(run).trajectories(), RunReader(out).trajectories(), strict=True):
        assert old.task.input.id == new.task.input.id
        assert (old.trajectory.turns, old.trajectory.reward) == (
            new.trajectory.turns,
            new.trajectory.reward,
        )
        assert new.trajectory.media[0].source is not None
    assert {f.name for f in (out / "media").iterdir()} == {
        f.name for f in (run / "media").iterdir()
    }


def test_a_link_among_the_pictures_is_not_followed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"secret")
    picture = sorted((tmp_path / "run" / "media").glob("*.png"))[0]
    picture.unlink()
    for name in (picture.name, "notes.txt"):
        (picture.parent / name).symlink_to(tmp_path / "secret.png")
    rescore(tmp_path / "run", tmp_path / "again", rescore_config(tmp_path / "run"))
    found = {f.name for f in (tmp_path / "again" / "media").iterdir()}
    assert found == {f.name for f in picture.parent.iterdir() if not f.is_symlink()}


def test_what_a_grader_failed_on_is_counted_apart(run: Path, tmp_path: Path) -> None:
    down = tmp_path / "down"
    down.write_text("item-1")
    wanted = rescore_config(run, [f"rewards.options.down={json.dumps(str(down))}"])
    found = rescore(run, tmp_path / "again", wanted)
    lost = sum(n for name, n in found.flips.items() if name.endswith("-> ungraded"))
    assert (lost, found.changed) == (2, 2)
    down.write_text(" ".join(f"item-{k}" for k in range(6)))
    with pytest.raises(RewardError, match="none of 12 episodes could be graded"):
        rescore(run, tmp_path / "none", wanted)
    assert told(tmp_path / "none")["episodes"]["ungraded"] == 12


def test_another_protocol_of_the_suite(tmp_path: Path) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("A B C A B A D B")
    wanted = suite(letters)
    says = {"q0": "A because", "q1": "B", "q2": "A"}
    policy = wanted.policy.model_copy(update={"options": says})
    run_eval(wanted.model_copy(update={"policy": policy}), tmp_path / "run")
    letters.unlink()
    found = rescore(
        tmp_path / "run", tmp_path / "again", rescore_config(tmp_path / "run", (), "lenient")
    )
    assert found.flips["wrong -> right"] == 1
    assert told(tmp_path / "again")["rescored"]["changed"] == {"wrong -> right": ["q0#0"]}
    after = told(tmp_path / "again")["suite"]
    assert (after["protocol"], after["second_hand"]) == ("lenient", True)
    assert after["asked_by"] == "strict"
    note = "asked by protocol 'strict' and scored by 'lenient'"
    assert after["report"]["notes"][0].startswith(note)
    assert note in (tmp_path / "again" / "result.md").read_text()
    assert told(tmp_path / "run")["suite"]["protocol"] == "strict"


def test_episodes_of_other_tasks_are_no_benchmark(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("A B C A")
    held_out = suite(tmp_path / "letters.txt").eval
    mixed = config(rollout={"group_size": 2}).model_copy(update={"eval": held_out})
    run_rollout(mixed, tmp_path / "run")
    rescore(tmp_path / "run", tmp_path / "again", rescore_config(tmp_path / "run"))
    assert told(tmp_path / "again")["suite"] is None


def test_a_suite_among_the_tasks_is_reported_as_one_among_those_of_the_evaluation(
    tmp_path: Path,
) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("A B C A")
    held_out = suite(letters)
    assert held_out.eval.tasks is not None
    options = {k: v for k, v in held_out.eval.tasks.options.items() if k != "path"}
    tasks = TasksConfig(name="suite", path=str(letters), options=options)
    alone = held_out.eval.model_copy(update={"tasks": None})
    run_eval(held_out.model_copy(update={"tasks": tasks, "eval": alone}), tmp_path / "run")
    found = told(tmp_path / "run")["suite"]
    assert (found["name"], found["protocol"]) == ("letters", "strict")
    assert found["sha256"] == {"letters.txt": hashlib.sha256(letters.read_bytes()).hexdigest()}
    wanted = rescore_config(tmp_path / "run", (), "lenient")
    rescore(tmp_path / "run", tmp_path / "again", wanted)
    assert told(tmp_path / "again")["suite"]["protocol"] == "lenient"


def test_what_to_do_about_missing_grades_fits_the_verb(run: Path, tmp_path: Path) -> None:
    down = tmp_path / "down"
    down.write_text("item-1")
    wanted = rescore_config(run, [f"rewards.options.down={json.dumps(str(down))}"])
    rescore(run, tmp_path / "again", wanted)
    (note,) = told(tmp_path / "again")["notes"]
    assert note.endswith("pvrl rescore into another folder asks again, and what was told is kept")


def test_another_grader_is_no_protocol_of_the_suite(tmp_path: Path) -> None:
    letters, out = tmp_path / "letters.txt", tmp_path / "again"
    letters.write_text("A B C A")
    run_eval(suite(letters), tmp_path / "run")
    assert told(tmp_path / "run")["suite"]["report"]["notes"] == ["eight items are few"]
    by_match = rescore_config(tmp_path / "run", ['rewards.name="match"', "rewards.options={}"])
    rescore(tmp_path / "run", out, by_match)
    found = told(out)["suite"]
    assert (found["protocol"], found["asked_by"], found["source"]) == (None, "strict", "")
    assert found["report"]["notes"][0].startswith("graded by 'match', which is no protocol")
    page = (out / "result.md").read_text()
    assert "## letters, by no protocol of it" in page
    assert "protocol `" not in page
    with pytest.raises(ConfigError, match=r"rewards\.name is 'match', which grades by no protocol"):
        rescore_config(out, (), "lenient")


def test_only_the_grading_can_change(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reaches \[eval\]"):
        rescore_config(run, ["eval.samples=3"])
    with pytest.raises(ConfigError, match="not of a suite"):
        rescore_config(run, (), "official")
    with pytest.raises(RunError, match="already holds a run"):
        rescore(run, run, rescore_config(run))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no run folder"):
        rescore(tmp_path / "empty", tmp_path / "out", rescore_config(run))


def test_a_trajectory_that_was_carried_is_one_episode(tmp_path: Path) -> None:
    wanted = config(rollout={"group_size": 2}, rewards={"tool_use_per_call": 0.0})
    run_rollout(wanted, tmp_path / "made")
    made = list(RunReader(tmp_path / "made").trajectories())
    first, second, third = made[0:2], made[2:4], made[4:6]
    waiting = [replace(saved, reason=CARRIED) for saved in second]
    with RunWriter(tmp_path / "run", wanted, "rl") as writer:
        writer.rollouts(1, [*first, *waiting])
        # The run ends before the last one is used.
        writer.rollouts(2, [*waiting])
        writer.rollouts(3, [*second, *(replace(saved, reason=CARRIED) for saved in third)])
    found = rescore(tmp_path / "run", tmp_path / "again", rescore_config(tmp_path / "run"))
    assert (found.episodes, told(tmp_path / "again")["rescored"]["superseded"]) == (6, 4)
    estimates = told(tmp_path / "again")["estimates"]
    assert set(estimates["overall"]["pass_at"]) == {"1", "2"}
    counts = export_log(tmp_path / "run", tmp_path / "log", "openai")
    assert (counts.episodes, counts.superseded) == (6, 4)
    same = compare(tmp_path / "run", tmp_path / "again")
    assert (same.overall.items, same.overall.difference, same.superseded) == (3, 0.0, 4)


def test_runs_of_other_verbs_are_graded_again_too(tmp_path: Path) -> None:
    wanted = config(rollout={"group_size": 3}, rewards={"tool_use_per_call": 0.0})
    run_rollout(wanted, tmp_path / "run")
    found = rescore(tmp_path / "run", tmp_path / "again", rescore_config(tmp_path / "run"))
    assert found.episodes == 30
    again = list(RunReader(tmp_path / "again").trajectories())
    assert all(saved.advantage is None for saved in again)
    assert told(tmp_path / "again")["overall"]["tasks"] == 10

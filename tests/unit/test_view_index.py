"""A viewer must not fall over because of what it views."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.view.index import RunIndex, index_payload, step_list
from pyvision_rl.view.limits import parse_steps
from pyvision_rl.view.lines import MAX_NAMED
from pyvision_rl.view.site import Options, RunSite
from pyvision_rl.view.steps import ChangedError, index_step, records
from tests.unit.test_view_payloads import payload_of
from tests.view_example import HOSTILE, failing, graded, looking, saved_groups, write_run

PLAIN = Options()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "r", 2)


def data(site: RunSite, name: str, **query: str):
    """What a site gives under a name; None if nothing."""
    found = site.get(f"data/{name}.js", query)
    if found is None:
        return None
    assert isinstance(found.body, bytes)
    return payload_of(found.body, name)


def file_of(run: Path, step: int) -> Path:
    return run / "rollouts" / f"step_{step:06d}.jsonl"


def test_every_trajectory_has_its_entry(run: Path) -> None:
    found = index_payload(RunIndex(run).refresh())
    known = saved_groups(1) + saved_groups(2)
    assert [found["tasks"][k]["id"] for k in found["task"]] == [s.task.id for s in known]
    assert found["rollout"] == [s.trajectory.rollout for s in known]
    assert [found["ends"][k] for k in found["end"]] == [s.trajectory.end.value for s in known]
    reasons = [None if k < 0 else found["reasons"][k] for k in found["reason"]]
    assert reasons == [s.reason for s in known]
    rewards = [s.trajectory.reward for s in known]
    assert found["correct"] == [None if r is None else int(r.correct) for r in rewards]
    assert found["reward"] == [None if r is None else r.total for r in rewards]
    assert found["parts"]["tool_use"] == [
        None if r is None else r.parts["tool_use"] for r in rewards
    ]
    assert found["calls"] == [s.trajectory.num_tool_calls for s in known]
    assert found["tokens"] == [sum(t.num_tokens for t in s.trajectory.turns) for s in known]
    # Five groups a step.
    assert found["group"] == [k for _ in (1, 2) for k in range(5) for _ in range(4)]
    lengths = {len(found[name]) for name in ("step", "at", "chunk", "std", "seconds", "visual")}
    assert lengths == {40}


def test_std_is_that_of_the_graded_members(run: Path) -> None:
    found = index_payload(RunIndex(run).refresh())
    # looking(11): rewards 1.2, 1.1, 0, 0, so mean 0.575 and std
    # sqrt((0.625² + 0.525² + 2 · 0.575²) / 4) = sqrt(0.331875) = 0.576086
    assert found["std"][:4] == pytest.approx([0.576086] * 4, abs=1e-6)


def test_chunks_hold_whole_groups_of_about_64(tmp_path: Path) -> None:
    task, trajectories = looking(4)
    with RunWriter(tmp_path / "r", Config(), "rl") as writer:
        groups = [(task, t, 0.0, None) for _ in range(30) for t in trajectories]
        writer.rollouts(1, groups, write_media=False)
    step = index_step(1, file_of(tmp_path / "r", 1))
    assert step.chunks == ((0, 64), (64, 120))
    assert step.chunk_names() == ("c000001-00", "c000001-01")
    # One task drawn thirty times in a row is thirty groups.
    assert [row.group for row in step.rows] == [k for k in range(30) for _ in range(4)]


def test_index_and_chunks_agree(run: Path) -> None:
    site = RunSite(run, PLAIN)
    index = data(site, "index")
    for entry, (chunk, at) in enumerate(zip(index["chunk"], index["at"], strict=True)):
        made = data(site, index["chunks"][chunk]["name"])
        members = [(g, t) for g in made["groups"] for t in g["trajectories"]]
        group, t = members[at]
        assert (t["rollout"], group["group"]) == (index["rollout"][entry], index["group"][entry])
        assert group["task"]["id"] == index["tasks"][index["task"][entry]]["id"]


def test_a_run_that_grows_is_read_on_and_nothing_twice(run: Path) -> None:
    index, read = RunIndex(run), []
    first = index.refresh(read.append)
    assert len(read) == 2
    assert index.refresh(read.append) is first
    with RunWriter(run, Config(), "rl", resume_step=2) as writer:
        writer.rollouts(3, saved_groups(3)[:4], write_media=False)
    second = index.refresh(read.append)
    assert [s.step for s in second.steps] == [1, 2, 3]
    assert len(read) == 3
    assert second.version != first.version
    assert second.steps[0] is first.steps[0]


def test_the_page_is_told_when_nothing_changed(run: Path) -> None:
    site = RunSite(run, Options(live=True))
    version = data(site, "run")["version"]
    again = data(site, "run", after=version)
    assert again == {"schema": 1, "live": True, "version": version, "same": True}
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "time": 1.0, "reward": 0.5}\n')
    told = data(site, "run", after=version)
    assert told["metrics"]["steps"][-1] == 99
    assert told["metrics"]["columns"]["reward"][-1] == 0.5
    assert told["metrics"]["columns"]["accuracy"][-1] is None


def test_a_file_that_changed_is_not_read_by_an_old_index(run: Path) -> None:
    before = index_step(1, file_of(run, 1))
    content = file_of(run, 1).read_bytes()
    # Of the same length: every line still lies where the index says.
    file_of(run, 1).write_bytes(content.replace(b"I look closer.", b"I look further"))
    os.utime(file_of(run, 1), ns=(1, 1))
    with pytest.raises(ChangedError):
        list(records(before, 0))


def test_a_file_that_has_grown_is_read_by_an_old_index(run: Path) -> None:
    before = index_step(1, file_of(run, 1))
    wanted = list(records(before, 0))
    with file_of(run, 1).open("ab") as file:
        file.write(file_of(run, 2).read_bytes()[:-9])
    assert list(records(before, 0)) == wanted


def test_a_pinned_site_shows_one_moment(run: Path, tmp_path: Path) -> None:
    picture = sorted((run / "media").glob("*.png"))[0]
    picture.rename(tmp_path / "later.png")
    site = RunSite(run, PLAIN)
    site.pin()
    before = {name: data(site, name) for name in ("index", "c000001-00", "c000002-00")}
    images = site.images()
    (tmp_path / "later.png").rename(picture)
    with RunWriter(run, Config(), "rl", resume_step=2) as writer:
        writer.rollouts(3, saved_groups(3)[:4], write_media=False)
    with file_of(run, 2).open("ab") as file:
        file.write(file_of(run, 1).read_bytes())
    again = RunSite(run, PLAIN)
    assert {name: data(site, name) for name in before} == before
    assert site.images() == images
    assert picture.stem in again.images()
    assert len(data(again, "index")["step"]) > len(before["index"]["step"])
    # A site that is pinned anew shows what is there now.
    site.pin()
    assert data(site, "index") == data(again, "index")
    assert site.images() == again.images()


def test_a_step_written_anew_is_never_shown_half_old(run: Path) -> None:
    before = index_step(1, file_of(run, 1))
    site = RunSite(run, PLAIN)
    site.refresh()
    with RunWriter(run, Config(), "rl", resume_step=2) as writer:
        writer.rollouts(1, saved_groups(1)[:4])
    with pytest.raises(ChangedError):
        list(records(before, 0))
    assert len(data(site, "c000001-00")["groups"]) == 1


def test_a_cut_line_is_named_and_the_rest_shown(run: Path) -> None:
    whole = file_of(run, 2).read_bytes()
    file_of(run, 2).write_bytes(whole[:-40])
    site = RunSite(run, PLAIN)
    told = data(site, "run")
    assert "step_000002.jsonl, line 20: cut short, skipped" in told["problems"]
    assert [s["num"] for s in told["steps"]] == [20, 19]
    assert len(data(site, "c000002-00")["groups"][-1]["trajectories"]) == 3


@pytest.mark.parametrize(
    "junk", [b"not json\n", b"[1, 2]\n", b'{"step": 1}\n', b"\xff\xfe\n", b"\n"]
)
def test_a_line_that_is_no_trajectory_is_named_and_skipped(run: Path, junk: bytes) -> None:
    whole = file_of(run, 1).read_bytes().splitlines(keepends=True)
    file_of(run, 1).write_bytes(b"".join([*whole[:3], junk, *whole[3:]]))
    site = RunSite(run, PLAIN)
    told = data(site, "run")
    assert any(p.startswith("step_000001.jsonl, line 4: not a") for p in told["problems"])
    assert told["steps"][0]["num"] == 20
    assert sum(len(g["trajectories"]) for g in data(site, "c000001-00")["groups"]) == 20


def test_many_faults_are_counted_not_listed(run: Path) -> None:
    with file_of(run, 1).open("ab") as file:
        file.write(b"junk\n" * 50)
    problems = [p for p in data(RunSite(run, PLAIN), "run")["problems"] if "step_" in p]
    assert len(problems) == MAX_NAMED + 1
    assert problems[-1] == f"step_000001.jsonl: {50 - MAX_NAMED} more lines were skipped"


def test_broken_files_beside_the_rollouts_are_problems_not_crashes(run: Path) -> None:
    for name in ("metrics.jsonl", "events.jsonl", "notes.jsonl"):
        (run / name).write_bytes(b'{"time": 1}\n\x00\n{"step": ')
    (run / "result.json").write_text("{")
    (run / "media" / "videos.json").write_text("[]")
    told = data(RunSite(run, PLAIN), "run")
    for name in ("metrics", "events", "notes", "result", "videos"):
        assert any(name in problem for problem in told["problems"]), name
    assert told["metrics"]["steps"] == []


def test_missing_media_are_counted_and_marked(run: Path) -> None:
    pictures = sorted((run / "media").glob("*.png"))
    pictures[0].unlink()
    site = RunSite(run, PLAIN)
    told = data(site, "run")
    assert told["media"] == "some"
    assert told["num_media"] == {"named": len(pictures), "here": len(pictures) - 1}
    assert any("1 of" in p and "no file" in p for p in told["problems"])
    assert site.get(f"media/{pictures[0].stem}.png", {}) is None
    assert site.get(f"thumbs/{pictures[0].stem}.webp", {}) is None
    for picture in pictures[1:]:
        picture.unlink()
    assert data(RunSite(run, PLAIN), "run")["media"] == "none"


def test_an_older_run_shows_what_it_has(run: Path) -> None:
    """A folder from before tokens were counted, sources recorded and events kept."""
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps({k: values[k] for k in ("verb", "config")} | {"schema": 0})
    )
    (run / "events.jsonl").unlink()
    lines = [json.loads(line) for line in file_of(run, 1).read_text().splitlines()]
    for line in lines:
        line.pop("prompted", None)
        line.pop("segments")
        for turn in line["turns"]:
            turn.pop("observed", None)
            for name in ("sources", "fetched", "parts"):
                (turn["execution"] or {}).pop(name, None)
    file_of(run, 1).write_text("".join(json.dumps(line) + "\n" for line in lines))
    site = RunSite(run, PLAIN)
    told, index = data(site, "run"), data(site, "index")
    assert (told["created"], told["events"], told["steps"][0]["num"]) == ("", [], 20)
    assert index["visual"][:20] == [None] * 20
    assert index["chunks"][0]["tokens"] is None
    assert site.get("data/t000001-00.js", {}) is None
    ran = data(site, "c000001-00")["groups"][0]["trajectories"][0]["turns"][0]["execution"]
    assert (ran["images"][0]["crop"], ran["parts"], ran["fetched"]) == (None, [], [])


def test_a_newer_run_is_refused_with_its_version(run: Path) -> None:
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(values | {"schema": 99}))
    with pytest.raises(RunError, match="schema 99"):
        RunSite(run, PLAIN)


def test_a_run_that_has_only_begun_is_shown(run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "run.json").write_text((run / "run.json").read_text())
    site = RunSite(new, Options(live=True))
    told = data(site, "run")
    assert (told["steps"], told["events"], told["problems"], told["result"]) == ([], [], [], None)
    (run / "rollouts").rename(new / "rollouts")
    assert data(site, "run", after=told["version"])["steps"][1]["num"] == 20


def test_a_run_without_rollouts_has_curves(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", Config(), "sft") as writer:
        writer.metrics(1, {"loss": 2.5})
    site = RunSite(tmp_path / "r", PLAIN)
    assert data(site, "run")["metrics"]["columns"]["loss"] == [2.5]
    assert data(site, "index")["chunks"] == []


def test_text_that_looks_like_the_key_of_the_segments_is_text(tmp_path: Path) -> None:
    task, trajectories = failing()
    trap = ', "segments": [{"sampled": true}]}'
    members = [graded(t, "42") for t in trajectories]
    turn = members[3].turns[0]
    changed = type(members[3])(
        task.id, 3, (), (), (type(turn)(trap, turn.stop, turn.action, 3),), members[3].end, trap
    )
    with RunWriter(tmp_path / "r", Config(), "rl") as writer:
        writer.rollouts(1, [(task, changed, None, None)])
    step = index_step(1, file_of(tmp_path / "r", 1))
    [(_, record)] = records(step, 0)
    assert record.trajectory.answer == record.trajectory.turns[0].text == trap


def test_tokens_say_what_they_are(run: Path) -> None:
    site = RunSite(run, PLAIN)
    made = data(site, "t000001-00")
    assert len(made["trajectories"]) == 20
    first, second, *_ = made["trajectories"][0]
    assert not first["sampled"]
    assert first["logprobs"] is None
    assert first["texts"][0] == "<|im_start|>"
    assert len(first["images"]) == 1
    assert second["sampled"]
    assert len(second["logprobs"]) == len(second["ids"]) == len(second["texts"])
    assert "".join(second["texts"]).startswith("I look closer.")


def test_tokens_without_a_tokenizer_are_numbers(run: Path) -> None:
    values = json.loads((run / "run.json").read_text())
    values["config"]["policy"]["model"] = "nowhere/at-all"
    (run / "run.json").write_text(json.dumps(values))
    made = data(RunSite(run, PLAIN), "t000001-00")
    assert made["trajectories"][0][0]["texts"] is None
    assert made["trajectories"][0][0]["ids"]
    assert "nowhere/at-all" in made["why"]


def test_hostile_names_come_through(run: Path) -> None:
    index = data(RunSite(run, PLAIN), "index")
    assert any(task["id"] == f"evil/{HOSTILE}" for task in index["tasks"])
    assert "<b>bold</b>" in index["categories"]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("3", [3]),
        ("2-4", [2, 3, 4]),
        ("last:2", [9, 10]),
        ("every:5", [5, 10]),
        ("1, every:5,last:1", [1, 5, 10]),
        ("90-99", []),
    ],
)
def test_steps_can_be_limited(text: str, chosen: list[int]) -> None:
    assert parse_steps(text).choose(range(1, 11)) == chosen


@pytest.mark.parametrize("text", ["", "x", "1-", "last:0", "every:0", "-3", "1,,2", "1..3", "5-1"])
def test_a_choice_of_steps_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--limit-steps"):
        parse_steps(text)


@given(st.text(max_size=8))
def test_a_choice_of_steps_is_read_or_refused(text: str) -> None:
    try:
        chosen = parse_steps(text).choose(range(1, 6))
    except ConfigError:
        return
    assert set(chosen) <= set(range(1, 6))


def test_limits_reach_the_index(run: Path) -> None:
    found = RunIndex(run, parse_steps("last:1")).refresh()
    assert [entry["step"] for entry in step_list(found)] == [2]


def test_files_of_other_names_are_no_steps(run: Path) -> None:
    (run / "rollouts" / "step_abc.jsonl").write_text("x")
    (run / "rollouts" / "step_000009.jsonl.part").write_text("x")
    (run / "rollouts" / "step_000001 (copy).jsonl").write_text("x")
    assert sorted(RunIndex(run).refresh().steps, key=lambda s: s.step)[-1].step == 2
    assert RunReader(run).steps() == (1, 2)
    assert len(list(RunReader(run).trajectories())) == 40


def test_a_folder_that_cannot_be_read_is_a_problem(run: Path) -> None:
    if os.geteuid() == 0:
        file_of(run, 2).unlink()
        file_of(run, 2).mkdir()
    else:
        file_of(run, 2).chmod(0)
    told = data(RunSite(run, PLAIN), "run")
    assert any("step_000002.jsonl cannot be read" in p for p in told["problems"])
    assert told["steps"][0]["num"] == 20

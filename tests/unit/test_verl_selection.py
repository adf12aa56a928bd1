"""In verl our selection chooses the same trajectories, and accounts for every other one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.advantages import assign
from pyvision_rl.config import Config
from pyvision_rl.integrations.verl.choice import choose, masked_by, usable
from pyvision_rl.integrations.verl.journal import PENDING, Fate, Journal
from pyvision_rl.integrations.verl.summary import read_summary, summarize
from pyvision_rl.runs import RunReader
from pyvision_rl.runs_codec import RunInfo, SavedRollout, encode_info
from pyvision_rl.selection import select
from pyvision_rl.types import EndReason, Group
from tests.verl_examples import a_task, a_trajectory

ENDS = st.sampled_from([EndReason.ANSWERED, EndReason.TOKEN_LIMIT, EndReason.FAILED])
MEMBER = st.tuples(st.sampled_from([None, 0.0, 1.0]), ENDS, st.integers(0, 1))
ROUND = st.lists(st.lists(MEMBER, min_size=1, max_size=4), min_size=1, max_size=5)
ALL = ["infra", "ungraded", "over_length", "no_tool_image", "zero_std"]


def a_config(**selection: Any) -> Config:
    return Config.model_validate({"selection": {"groups_per_step": 2, **selection}})


def summaries(groups: list[Group]) -> dict[str, dict[int, SavedRollout]]:
    """Return groups as they come out of verl's queue: by prompt id, through their summaries."""
    return {
        f"uid{n}": {t.rollout: read_summary(summarize(g.task, t)) for t in g.trajectories}
        for n, g in enumerate(groups)
    }


def made(shape: list[list[tuple[float | None, EndReason, int]]]) -> list[Group]:
    return [
        Group(
            a_task(f"task{n}"),
            tuple(
                a_trajectory(k, reward, task=f"task{n}", end=end, shown=shown)
                for k, (reward, end, shown) in enumerate(members)
            ),
        )
        for n, members in enumerate(shape)
    ]


@given(shape=ROUND, recompute=st.booleans())
def test_the_choice_is_that_of_selection_and_loses_nothing(
    shape: list[list[tuple[float | None, EndReason, int]]], recompute: bool
) -> None:
    config = a_config(filters=ALL, recompute_advantages=recompute)
    groups = made(shape)
    choice = choose(summaries(groups), config, step=1)
    batch = select([assign(g) for g in groups], config.selection, step=1)
    want = {(f"uid{s.trajectory.task_id[4:]}", s.trajectory.rollout) for s in batch.samples}
    kept = {place for place, fate in choice.fates.items() if fate.reason is None}
    assert kept == want
    assert len(choice.fates) == sum(map(len, shape))
    assert kept <= choice.keys
    # What stays beside them has a reward that moves the baseline, and no gradient.
    for uid, rollout in choice.keys - kept:
        trajectory = groups[int(uid[3:])].trajectories[rollout]
        assert uid in choice.prompts
        assert not recompute
        assert trajectory.reward is not None
        assert masked_by(trajectory, config.selection) is not None


@given(shape=ROUND)
def test_what_selection_uses_is_never_masked_by_the_loop(
    shape: list[list[tuple[float | None, EndReason, int]]],
) -> None:
    config = a_config(filters=ALL)
    groups = made(shape)
    for (uid, rollout), fate in choose(summaries(groups), config, 1).fates.items():
        if fate.reason is None:
            trajectory = groups[int(uid[3:])].trajectories[rollout]
            assert masked_by(trajectory, config.selection) is None


def test_groups_are_ranked_by_spread() -> None:
    # Population std: 0, 0.433 (one of four right), 0.5 (two of four), 0.
    groups = made([[(r, EndReason.ANSWERED, 1) for r in rs] for rs in ([1.0] * 4, [0, 0, 0, 1.0])])
    groups += [
        Group(a_task(n), tuple(a_trajectory(k, r, task=n) for k, r in enumerate(rs)))
        for n, rs in (("half", (1.0, 1.0, 0.0, 0.0)), ("none", (0.0,) * 4))
    ]
    choice = choose(summaries(groups), a_config(), step=1)
    assert choice.prompts == ("uid2", "uid1")
    assert usable(summaries(groups), a_config()) == 2
    assert choice.numbers["dropped_zero_std"] == 8
    assert choice.numbers["groups"] == 4


def test_a_group_keeps_its_baseline_when_a_long_member_is_masked() -> None:
    # Rewards 1, 0 and, over length, 1: the baseline is 2/3 over all three.
    long = EndReason.TOKEN_LIMIT
    [group] = made([[(1.0, EndReason.ANSWERED, 1), (0.0, EndReason.ANSWERED, 1), (1.0, long, 1)]])
    choice = choose(summaries([group]), a_config(), step=1)
    assert choice.keys == {("uid0", 0), ("uid0", 1), ("uid0", 2)}
    assert choice.fates["uid0", 0].advantage == pytest.approx(1 / 3)
    assert choice.fates["uid0", 2].reason == "over_length"
    again = choose(summaries([group]), a_config(recompute_advantages=True), step=1)
    assert again.keys == {("uid0", 0), ("uid0", 1)}


def test_a_summary_holds_no_secret_and_no_text() -> None:
    line = summarize(a_task(), a_trajectory(0, 1.0))
    assert "Which colour" not in line
    assert "plt" not in line
    assert json.loads(line)["task"]["answer"] == ""
    saved = read_summary(line)
    assert saved.trajectory.num_tool_calls == 1
    assert saved.trajectory.reward == a_trajectory(0, 1.0).reward


def test_notes_of_workers_become_a_step_that_a_reader_reads(tmp_path: Path) -> None:
    config = Config()
    info = encode_info(RunInfo("rl", config.model_dump(mode="json")), 1)
    (tmp_path / "run.json").write_text(json.dumps(info))
    journal = Journal(tmp_path, config)
    for k in range(3):
        journal.note(f"uid_{k}", 2, a_task(), a_trajectory(k, float(k % 2)))
    fates = {"uid_0": Fate(-0.5, None), "uid_1": Fate(0.5, "surplus"), "gone_0": Fate(None, None)}
    assert journal.settle(2, fates) == 1
    journal.metrics(2, {"reward": 0.5})
    reader = RunReader(tmp_path)
    saved = list(reader.trajectories(2))
    assert [(s.trajectory.rollout, s.kept, s.reason, s.advantage) for s in saved] == [
        (0, True, None, -0.5),
        (1, False, "surplus", 0.5),
    ]
    assert reader.metrics()[0]["reward"] == 0.5
    # The third is no member of the step: it waits for its own.
    assert [f.name for f in (tmp_path / PENDING).iterdir()] == ["uid_2.json"]


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    info = encode_info(RunInfo("rl", Config().model_dump(mode="json")), 1)
    (tmp_path / "run.json").write_text(json.dumps(info))
    stopped = Journal(tmp_path, Config())
    for step in range(1, 5):
        stopped.note(f"uid{step}_0", step, a_task(), a_trajectory(0, 1.0))
        stopped.settle(step, {f"uid{step}_0": Fate(0.5, None)})
        stopped.metrics(step, {"reward": 0.1 * step})
    stopped.note("old_0", 5, a_task(), a_trajectory(0, 1.0))
    os.utime(tmp_path / PENDING / "old_0.json", (1.0, 1.0))
    again = Journal(tmp_path, Config())
    again.note("new_0", 3, a_task(), a_trajectory(0, 1.0))
    again.begin(3, since=100.0)
    reader = RunReader(tmp_path)
    assert [line["step"] for line in reader.metrics()] == [1, 2]
    assert reader.steps() == (1, 2)
    assert [f.name for f in (tmp_path / PENDING).iterdir()] == ["new_0.json"]

"""Each alarm is raised by what it names, once, cleared once, and not by healthy numbers."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pyvision_rl.config import Config
from pyvision_rl.config.watch import AlarmName
from pyvision_rl.train.watch import Alarm, Watch

HEALTHY = {
    "tool_calls": 1.0,
    "executions": 1.2,
    "train_entropy": 0.5,
    "sampled_tokens": 100.0,
    "groups": 8.0,
    "groups_trained": 4.0,
    "groups_all_right": 0.2,
    "groups_all_wrong": 0.2,
    "train_mismatch": 1e-5,
    "malformed_share": 0.05,
    "trajectories": 64.0,
    "graded": 64.0,
    "reward": 0.5,
    "accuracy": 0.4,
}
SICK: dict[AlarmName, dict[str, float]] = {
    "interaction_collapse": {"tool_calls": 0.3},
    "runaway_calls": {"executions": 4.0},
    "entropy_collapse": {"train_entropy": 0.01},
    "entropy_explosion": {"train_entropy": 2.0},
    "length_explosion": {"sampled_tokens": 400.0},
    "batch_too_easy": {"groups_trained": 1.0, "groups_all_right": 0.8, "groups_all_wrong": 0.0},
    "batch_too_hard": {"groups_trained": 1.0, "groups_all_right": 0.0, "groups_all_wrong": 0.8},
    "batch_filtered_out": {"groups_trained": 1.0},
    "mismatch_high": {"train_mismatch": 0.7},
    "malformed_rising": {"malformed_share": 0.3},
    "infra_failing": {"graded": 50.0},
    "reward_without_accuracy": {"reward": 0.7, "accuracy": 0.3},
}


def watch(more: dict[str, dict[str, Any]] | None = None, **section: Any) -> Watch:
    values: dict[str, dict[str, Any]] = {
        "watch": {"window": 3} | section,
        "rollout": {"max_tool_calls": 4},
        "selection": {"groups_per_step": 4},
    }
    for name, changed in (more or {}).items():
        values[name] = values.get(name, {}) | changed
    return Watch(Config.model_validate(values))


def feed(watch: Watch, *stretches: tuple[int, dict[str, float]]) -> list[Alarm]:
    """Show stretches of equal steps; return every change."""
    lines = [HEALTHY | sick for count, sick in stretches for _ in range(count)]
    return [alarm for step, line in enumerate(lines, 1) for alarm in watch.see(step, line)]


def test_every_alarm_has_a_case_here() -> None:
    assert set(SICK) == set(get_args(AlarmName))


def test_healthy_numbers_raise_nothing() -> None:
    seen = watch()
    assert feed(seen, (40, {})) == []
    assert seen.summary() == {}


@pytest.mark.parametrize("name", SICK)
def test_an_alarm_is_raised_once_cleared_once_and_summed_up(name: AlarmName) -> None:
    seen = watch()
    raised, cleared = feed(seen, (6, {}), (6, SICK[name]), (6, {}))
    assert (raised.name, raised.raised) == (cleared.name, not cleared.raised) == (name, True)
    # The window of three is sick from step 9 on at the latest, and well again at step 15.
    assert 7 <= raised.step <= 9
    assert 13 <= cleared.step <= 15
    assert "Likely cause: " in raised.text
    assert "(watch." in raised.text
    assert cleared.text.endswith("Cleared.")
    steps = f"raised at step {raised.step}, cleared at step {cleared.step}"
    assert seen.summary() == {name: steps}


@pytest.mark.parametrize("name", SICK)
def test_an_alarm_can_be_off_and_is_still_on_at_the_end(name: AlarmName) -> None:
    assert feed(watch(off=[name]), (6, {}), (6, SICK[name])) == []
    seen = watch()
    (raised,) = feed(seen, (6, {}), (6, SICK[name]))
    assert seen.summary() == {name: f"raised at step {raised.step}, still on"}


def test_the_collapse_is_seen_at_the_step_worked_by_hand() -> None:
    # Means of three: step 7 (1+1+0.3)/3 = 0.77, step 8 (1+0.6)/3 = 0.53, step 9 0.3 < 0.5.
    (alarm,) = feed(watch(), (6, {}), (3, {"tool_calls": 0.3}))
    assert alarm.step == 9
    assert "0.3 (watch.tool_calls_drop = 0.5)" in alarm.text


def test_calls_that_rose_before_they_fell_are_a_collapse_too() -> None:
    changes = feed(watch(), (3, {"tool_calls": 0.5}), (6, {"tool_calls": 2.5}), (4, {}))
    assert [(c.name, c.raised) for c in changes] == [("interaction_collapse", True)]


def names_of(alarms: list[Alarm]) -> list[str]:
    return [alarm.name for alarm in alarms]


def test_where_too_few_groups_were_drawn_no_cause_is_blamed() -> None:
    few = {"groups": 2.0, "groups_trained": 2.0, "groups_all_right": 0.0, "groups_all_wrong": 0.0}
    assert feed(watch({"selection": {"groups_per_step": 16}}), (10, HEALTHY | few)) == []
    one_right = few | {"groups": 8.0, "groups_trained": 7.0, "groups_all_right": 1 / 8}
    assert feed(watch({"selection": {"groups_per_step": 16}}), (10, HEALTHY | one_right)) == []


def test_shares_of_the_groups_that_were_judged_are_not_shares_of_all() -> None:
    # 32 groups: 16 without a grade, 10 all right, 6 trained on. Most were filtered out.
    lines = {"groups": 32.0, "groups_judged": 16.0, "groups_trained": 6.0}
    lines |= {"groups_all_right": 10 / 16, "groups_all_wrong": 0.0}
    found = feed(watch({"selection": {"groups_per_step": 16}}), (10, lines))
    assert names_of(found) == ["batch_filtered_out"]


def test_where_trajectories_are_ranked_an_update_is_made_of_them() -> None:
    # One member of each group of four is left: every group is trained on, three quarters missing.
    settings = {
        "selection": {"groups_per_step": 8, "rank_unit": "trajectory"},
        "rollout": {"max_tool_calls": 4, "group_size": 4},
    }
    lines = {"groups": 8.0, "groups_trained": 8.0, "trajectories": 32.0, "graded": 32.0}
    assert names_of(feed(watch(settings), (10, {**lines, "kept": 8.0}))) == ["batch_filtered_out"]
    assert feed(watch(settings), (10, {**lines, "kept": 32.0})) == []


def test_a_start_without_an_update_does_not_silence_an_alarm() -> None:
    seen = watch()
    bare = {k: v for k, v in HEALTHY.items() if k != "train_entropy"}
    found = [alarm for step in range(4) for alarm in seen.see(step + 1, bare)]
    for step in range(5, 20):
        entropy = 0.5 if step < 10 else 1e-4
        found += seen.see(step, bare | {"train_entropy": entropy})
    # Its start are steps 5 to 7; steps 10 to 12 are the first window below a tenth of it.
    assert names_of(found) == ["entropy_collapse"]


def test_a_policy_that_sampled_beside_its_update_may_differ_from_the_learner() -> None:
    ahead = watch({"policy": {"name": "vllm"}, "train": {"overlap": True}})
    assert feed(ahead, (6, {}), (6, SICK["mismatch_high"])) == []


def test_a_reading_at_the_limit_does_not_ring_every_step() -> None:
    limit = [{"train_mismatch": 0.19 if step % 2 else 0.21} for step in range(40)]
    # With a window of one step; 0.19 is within a fifth of the limit of 0.2.
    changes = feed(watch(window=1), *((1, line) for line in limit))
    assert [(c.name, c.raised) for c in changes] == [("mismatch_high", True)]


def test_a_run_that_never_calls_has_nothing_to_collapse() -> None:
    none = {"tool_calls": 0.0, "executions": 0.0}
    assert feed(watch(), (20, none)) == []


def test_numbers_that_are_missing_leave_alarms_as_they_are() -> None:
    seen = watch()
    feed(seen, (6, {}), (4, SICK["mismatch_high"]))
    bare = {"reward": 0.5, "accuracy": 0.4}
    assert [c for step in range(11, 20) for c in seen.see(step, bare)] == []
    assert seen.summary()["mismatch_high"].endswith("still on")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(sorted(SICK)), max_size=12), st.integers(0, 40))
def test_a_replayed_history_goes_on_as_if_never_stopped(names: list[AlarmName], cut: int) -> None:
    lines = [HEALTHY | SICK[name] for name in names for _ in range(4)]
    whole, again = watch(), watch()
    changes = [c for step, line in enumerate(lines, 1) for c in whole.see(step, line)]
    for step, line in enumerate(lines[:cut], 1):
        again.see(step, line)
    later = [c for step, line in enumerate(lines[cut:], cut + 1) for c in again.see(step, line)]
    assert later == [c for c in changes if c.step > cut]
    assert again.summary() == whole.summary()
    for name in SICK:
        kinds = [c.raised for c in changes if c.name == name]
        assert kinds == [index % 2 == 0 for index in range(len(kinds))]


def test_unknown_alarms_are_refused() -> None:
    with pytest.raises(ValidationError, match="interaction_collapse"):
        watch(off=["interaction_colapse"])

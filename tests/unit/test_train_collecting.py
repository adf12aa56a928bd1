"""A step's tasks, groups and batch: nothing is thrown away, and a resume goes on where it was."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.errors import TaskError, TrainError
from pyvision_rl.media import image_media
from pyvision_rl.metrics import selection_metrics
from pyvision_rl.train.carrying import pack, regrouped, unpack
from pyvision_rl.train.collecting import Collected, Collector
from pyvision_rl.train.task_stream import TaskStream, kinds
from pyvision_rl.types import (
    Candidate,
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    Group,
    Message,
    Observation,
    Reward,
    RunCode,
    Segment,
    StopReason,
    Task,
    TaskInput,
    Text,
    Trajectory,
    Turn,
)
from tests.fakes import a_video

RED, BLUE = (image_media(Image.new("RGB", (6, 4), name)) for name in ("red", "blue"))
FILM = a_video(source=Path("/data/film.mp4"))


class Kinds:
    """Tasks whose category is one letter of a text; ``!`` cannot be read."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def __len__(self) -> int:
        return len(self.letters)

    def __getitem__(self, index: int) -> Task:
        letter = self.letters[index]
        if letter == "!":
            raise TaskError(f"t{index} is torn")
        media = (FILM,) if letter == "v" else (RED,)
        return Task(TaskInput(f"t{index}", "?", media, category=letter), Gold("x"))


def stream(letters: str, **caps: int) -> TaskStream:
    limits = {f"category:{k}": n for k, n in caps.items()}
    return TaskStream(Kinds(letters), len(letters), seed=1, max_per_round=limits)


def letters(tasks: Sequence[Task]) -> str:
    return "".join(sorted(t.input.category for t in tasks))


def test_a_task_is_counted_by_medium_category_and_source() -> None:
    public = TaskInput("t", "?", (RED, FILM, BLUE), "hard", "vsi")
    found = ("media:image", "media:video", "category:hard", "data_source:vsi")
    assert kinds(public) == found


def test_the_surplus_of_a_kind_is_replaced_and_comes_in_the_next_round() -> None:
    made = stream("v" * 8 + "i" * 8, v=2)
    rounds = [made.take(4) for _ in range(4)]
    assert [len(r) for r in rounds] == [4] * 4
    assert max(letters(r).count("v") for r in rounds) == 2
    seen = {t.id for r in rounds for t in r}
    assert len(seen) < 16, "an image of the next epoch has taken the place of a video"
    assert len(seen | {t.id for t in made.take(4)}) == 16


def test_videos_can_be_capped() -> None:
    made = TaskStream(Kinds("vvvvii"), 6, seed=1, max_per_round={"media:video": 1})
    assert [letters(made.take(2)) for _ in range(2)] == ["iv", "iv"]


def test_a_task_that_waits_is_not_taken_for_an_unreadable_one() -> None:
    assert len(stream("!v", v=1).take(2)) == 1


def test_where_there_is_no_other_kind_the_round_is_short_and_nothing_is_lost() -> None:
    made = stream("v" * 100, v=2)
    rounds = [made.take(4) for _ in range(50)]
    assert [len(r) for r in rounds] == [2] * 50
    assert len({t.id for r in rounds for t in r}) == 100


@pytest.mark.parametrize("cap", [2, 8])
def test_a_kind_far_above_its_cap_does_not_shrink_rounds_for_good(cap: int) -> None:
    made = stream("vi" * 500, v=cap)
    assert [len(made.take(32)) for _ in range(60)] == [32] * 60
    assert len(made.state_dict()["held"]) <= 500, "each at most once"


def test_what_waits_is_never_more_than_the_data_set() -> None:
    made = stream("v" * 40, v=2)
    seen = {t.id for _ in range(20) for t in made.take(32)}
    assert len(seen) == 40
    assert len(made.state_dict()["held"]) <= 40


def test_without_a_cap_the_stream_is_the_seeded_order() -> None:
    plain = TaskStream(Kinds("viviviv"), 7, seed=1)
    capped = stream("viviviv", v=99)
    assert [t.id for t in plain.take(20)] == [t.id for t in capped.take(20)]


@given(
    st.text(st.sampled_from("vwi!"), min_size=1, max_size=12).filter(lambda t: set(t) != {"!"}),
    st.integers(1, 3),
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(0, 7),
)
def test_every_task_is_drawn_put_back_or_skipped_and_a_resume_draws_the_same(
    text: str, cap: int, numbers: list[int], stop: int
) -> None:
    whole, first = stream(text, v=cap, w=1), stream(text, v=cap, w=1)
    drawn = [whole.take(n) for n in numbers]
    for n, round_ in zip(numbers, drawn, strict=True):
        assert len(round_) <= n
        assert letters(round_).count("v") <= cap
        assert letters(round_).count("w") <= 1
    state = whole.state_dict()
    total = sum(map(len, drawn)) + len(state["held"]) + len(whole.skipped())
    # What is missing was passed by, as it waited already: once at a time.
    assert total <= state["position"]
    waiting = [whole._index(position) for position, _ in state["held"]]
    assert len(set(waiting)) == len(waiting)
    again = [first.take(n) for n in numbers[:stop]]
    second = stream(text, v=cap, w=1)
    second.load_state_dict(saved(first.state_dict()))
    again += [second.take(n) for n in numbers[stop:]]
    assert [[t.id for t in r] for r in again] == [[t.id for t in r] for r in drawn]


def test_an_unreadable_task_in_every_epoch_is_no_set_without_readable_tasks() -> None:
    assert len(stream("a!").take(9)) == 9


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """A state after a trip through a checkpoint's file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# Collecting ----------------------------------------------------------------------------------


@dataclass
class Rolled:
    """An assembly whose episodes are right as often as a plan says."""

    config: Config
    plan: list[tuple[float, ...]]
    """Rewards of each group, in the order of generation; the last is repeated."""
    seeds: list[int] = field(default_factory=list)

    def rollout(self, tasks: Sequence[Task], *, seed: int) -> list[Group]:
        self.seeds.append(seed)
        return [self._group(task) for task in tasks]

    def _group(self, task: Task) -> Group:
        rewards = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        members = (episode(task.id, i, reward) for i, reward in enumerate(rewards))
        return Group(task, tuple(members))


def episode(task_id: str, rollout: int, reward: float) -> Trajectory:
    grade = Reward({"accuracy": reward}, reward > 0, "as planned")
    shown = Execution(ExecStatus.OK, "out", images=(BLUE,), parts=("out", 0))
    message = Message("user", (Text("shown"), BLUE))
    turns = (
        Turn(
            "look", StopReason.STOP_STRING, RunCode("x"), 2, 3, Observation(message, shown), shown
        ),
    )
    segments = (
        Segment((1, 2), False, media=(RED,)),
        Segment((3, 4), True, (-0.1, -1 / 3)),
        Segment((5,), False, media=(BLUE,)),
    )
    prompt = (Message("user", (RED, Text("?"))),)
    ended = EndReason.ANSWERED
    return Trajectory(task_id, rollout, segments, prompt, turns, ended, "x", grade)


MIXED, WRONG, RIGHT = (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)


def collector(
    *plan: tuple[float, ...], make: type[Collector] = Collector, **selection: Any
) -> Collector:
    fields = {"groups_per_step": 2, "oversample": 1.0, **selection}
    config = Config.model_validate({"selection": fields, "train": {"steps": 3}})
    rolled = Rolled(config, list(plan))
    return make(rolled, stream("abcdefgh"))  # type: ignore[arg-type]


def test_rounds_end_when_enough_groups_survive_and_are_bounded() -> None:
    done = collector(WRONG, MIXED, WRONG, MIXED, MIXED, max_rounds=5).collect(1)
    assert len(done.groups) == 4
    assert len(done.batch.samples) == 4
    short = collector(WRONG, max_rounds=3).collect(1)
    assert len(short.groups) == 6
    assert short.batch.samples == ()
    short.check()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((WRONG, WRONG, MIXED, WRONG), r"1 of 4 .*3 are all wrong, 0 all right.*too hard for"),
        ((RIGHT, RIGHT, MIXED, RIGHT), r"1 of 4 .*0 are all wrong, 3 all right.*too easy for"),
        ((WRONG, RIGHT, MIXED, WRONG), r"1 of 4 .*2 are all wrong, 1 all right.*hard or too easy"),
    ],
)
def test_a_short_batch_that_must_not_be_says_whether_tasks_are_too_hard_or_too_easy(
    plan: tuple[tuple[float, ...], ...], message: str
) -> None:
    made = collector(*plan, max_rounds=2, on_short="error")
    with pytest.raises(TrainError, match=r"step 7: .* in 2 rounds; .* wants 2.*"):
        made.collect(7).check()
    with pytest.raises(TrainError, match=message):
        collector(*plan, max_rounds=2, on_short="error").collect(7).check()


def test_a_batch_short_by_filters_names_the_filter() -> None:
    filters = ("no_tool_image", "end_reason")
    made = collector(MIXED, on_short="error", filters=filters, reserve_ends=("turn_limit",))
    with pytest.raises(TrainError, match=r"4 end_reason. Most were left out as 'end_reason'"):
        made.collect(1).check()


def test_empty_steps_in_a_row_stop_the_run_and_a_full_one_starts_the_count_again() -> None:
    made = collector(*[WRONG] * 4, MIXED, *[WRONG] * 5, max_empty_steps=3)
    for step in range(1, 6):
        made.collect(step).check()
    again = collector(WRONG, max_empty_steps=3)
    again.load_state_dict(saved(made.state_dict()))
    with pytest.raises(TrainError, match=r"3 steps in a row had nothing to train on"):
        again.collect(6).check()


def test_a_resumed_run_that_allows_fewer_empty_steps_stops_at_the_next_one() -> None:
    made = collector(WRONG, max_empty_steps=9)
    for step in range(1, 5):
        made.collect(step).check()
    again = collector(MIXED, MIXED, WRONG, max_empty_steps=2)
    again.load_state_dict(saved(made.state_dict()))
    again.collect(5).check()
    again = collector(WRONG, max_empty_steps=2)
    again.load_state_dict(saved(made.state_dict()))
    with pytest.raises(TrainError, match=r"5 steps in a row had nothing to train on"):
        again.collect(5).check()


def test_what_is_collected_counts_every_trajectory_once() -> None:
    made = collector(MIXED, (1.0, 0.5), oversample=2.0, carry_over=True)
    first, second = made.collect(1), made.collect(2)
    assert (first.batch.num_generated, first.batch.num_carried_out) == (8, 4)
    assert second.carried_in == tuple(c.group for c in first.batch.carried)
    assert (second.batch.num_generated, second.batch.num_carried_in) == (8, 4)


def test_trajectories_that_are_carried_one_by_one_count_as_their_groups() -> None:
    # Of two groups of four the first step uses one; the second has only the other to train on.
    plan = ((1.0, 0.0, 1.0, 0.0), (1.0, 0.4, 0.9, 0.2), (0.0,) * 4)
    rules = {"groups_per_step": 1, "oversample": 2.0, "carry_over": True, "max_staleness": 3}
    made = collector(*plan, rank_unit="trajectory", min_survivors=1, **rules)
    made.collect(1)
    again = collector(plan[-1], rank_unit="trajectory", min_survivors=1, **rules)
    again.load_state_dict(saved(made.state_dict()))
    for each in (made, again):
        second = each.collect(2)
        (late,) = second.carried_in
        assert len(late.trajectories) == second.batch.num_carried_in == 4
        assert [late.advantages[t.rollout] for t in late.trajectories] == [  # type: ignore[index]
            s.advantage for s in second.batch.samples
        ]
        numbers = selection_metrics(second.groups, second.batch, second.carried_in)
        assert (numbers["groups_trained"], numbers["kept"]) == (1.0, 4.0)


def test_a_task_drawn_twice_in_a_step_is_carried_as_two_groups() -> None:
    task = Task(TaskInput("t", "?", (RED,), "c", "s"), Gold("7"))
    units = [
        Candidate(Group(task, (episode("t", rollout, 1.0),), (0.5,)), rank, born)
        for rank, born in ((0.5, 2), (0.5, 2), (0.5, 1), (0.25, 2))
        for rollout in (0, 2)
    ]
    assert [[t.rollout for t in g.trajectories] for g in regrouped(units)] == [[0, 2]] * 4


def test_carried_groups_spare_a_round() -> None:
    # The first step leaves a mixed group over; the second finds only one of its own.
    plan = (MIXED, MIXED, MIXED, WRONG, WRONG, MIXED, WRONG, WRONG, MIXED)
    for carry, rounds in ((True, 1), (False, 2)):
        made = collector(*plan, oversample=2.0, max_rounds=2, carry_over=carry)
        made.collect(1)
        assert len(made.collect(2).groups) == 4 * rounds


def test_a_stop_ends_the_rounds_and_the_same_step_is_made_again() -> None:
    def made() -> Collector:
        # The first step leaves a group over; the second wants more rounds than one.
        plan = (MIXED, MIXED, MIXED, WRONG)
        return collector(*plan, oversample=1.5, max_rounds=4, carry_over=True)

    whole = made()
    steps = [whole.collect(step) for step in (1, 2)]
    assert (len(steps[1].groups), len(steps[1].carried_in)) == (12, 1)
    stopped = made()
    assert stopped.collect(1, lambda: True) == steps[0], "a round is finished"
    assert stopped.collect(2, lambda: True) is None
    assert stopped.state_dict()["position"] == 3
    assert stopped.collect(2) == steps[1]


def test_a_resumed_collector_goes_on_with_the_groups_that_were_carried() -> None:
    def made() -> Collector:
        return collector(MIXED, (1.0, 0.5), oversample=2.0, carry_over=True)

    whole = made()
    steps = [whole.collect(step) for step in (1, 2)]
    first, second = made(), collector((1.0, 0.5), oversample=2.0, carry_over=True)
    first.collect(1)
    second.load_state_dict(saved(first.state_dict()))
    found: Collected = second.collect(2)
    assert found == steps[1]
    assert found.carried_in, "the test can only mean something if something was carried"


def test_carried_groups_keep_every_field_and_the_content_of_their_pictures() -> None:
    task = Task(TaskInput("t", "?", (RED, FILM), "c", "s"), Gold("7", "integer"))
    members = tuple(replace(episode("t", i, 1 / 3 * i), error="e") for i in range(3))
    before = (
        Candidate(Group(task, members, (0.1, -1 / 7, 1e-300)), 0.5, 3),
        Candidate(Group(task, members[:1], (2.0,)), 0.25, 2),
    )
    state = saved(pack(before))
    after = unpack(state)
    assert after == before
    media = [m for t in after[0].group.trajectories for m in t.media]
    assert [m.source for m in media] == [RED.source, BLUE.source] * 3
    assert after[1].group.task.input.media[1].source == FILM.source
    assert len(state["pixels"]) == 2, "each picture is stored once"

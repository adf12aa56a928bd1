"""Sampling beside an update: the same steps, one update behind, and nothing lost unsaid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyvision_rl.checks.rl import check_training
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.train.ahead import AheadCollector
from pyvision_rl.types import Group, Task
from tests.unit.test_train_collecting import MIXED, WRONG, Rolled, collector, saved, stream

WAIT_S = 20.0
PLAN = (MIXED, (1.0, 0.5), WRONG, MIXED, MIXED, (0.0, 0.5), MIXED)


def never() -> bool:
    return False


def ahead(*plan: tuple[float, ...], **selection: Any) -> AheadCollector:
    made = collector(*plan, make=AheadCollector, **selection)
    assert isinstance(made, AheadCollector)
    return made


class Meeting(Rolled):
    """Rolls out when told that an update is under way."""

    def __init__(self, updating: threading.Event, sampling: threading.Event) -> None:
        super().__init__(Config.model_validate({"train": {"steps": 3}}), [MIXED])
        self.updating, self.sampling = updating, sampling

    def rollout(self, tasks: Sequence[Task], *, seed: int) -> list[Group]:
        self.sampling.set()
        assert self.updating.wait(WAIT_S)
        return super().rollout(tasks, seed=seed)


def test_update_and_sampling_run_at_the_same_time() -> None:
    updating, sampling = threading.Event(), threading.Event()
    made = AheadCollector(Meeting(updating, sampling), stream("abcd"))  # type: ignore[arg-type]

    def update() -> bool:
        updating.set()
        return sampling.wait(WAIT_S)

    assert made.beside(update, 1, never)


def test_steps_are_those_of_a_collector_that_waits() -> None:
    waiting = collector(*PLAN, oversample=1.5, carry_over=True)
    want = [waiting.collect(step) for step in (1, 2, 3)]
    made, found = ahead(*PLAN, oversample=1.5, carry_over=True), []
    for step in (1, 2, 3):
        found.append(made.collect(step))
        assert made.beside(lambda: "stats", step, never) == "stats"
    assert found == want
    assert made.skipped() == []


def test_a_checkpoint_holds_the_place_before_what_was_sampled_ahead() -> None:
    made = ahead(*PLAN, oversample=1.5, carry_over=True)
    made.collect(1)
    before = saved(made.state_dict())
    made.beside(lambda: None, 1, never)
    assert saved(made.state_dict()) == before
    made.collect(2)
    assert made.state_dict()["position"] == before["position"] + 3


def test_nothing_is_sampled_behind_the_last_step_or_after_a_stop() -> None:
    for step, stopped in ((3, never), (1, lambda: True)):
        made = ahead(MIXED)
        made.beside(lambda: None, step, stopped)
        assert made.state_dict()["position"] == 0
        assert made.skipped() == []


def stopped_after(calls: int) -> Callable[[], bool]:
    answers = iter([False] * calls)
    return lambda: next(answers, True)


def test_what_a_stop_leaves_unused_is_said_once() -> None:
    for stopped in (never, stopped_after(1)):
        made = ahead(WRONG, max_rounds=3)
        made.beside(lambda: None, 1, stopped)
        assert [event for event, _ in made.skipped()] == ["dropped_step"]
        assert made.state_dict()["position"] == 0
    # The second stopped between two rounds.
    assert made.skipped() == []


def test_a_failed_update_ends_the_rounds_beside_it() -> None:
    made = ahead(WRONG, max_rounds=1000)

    def update() -> None:
        raise TrainError("a NaN")

    with pytest.raises(TrainError, match="a NaN"):
        made.beside(update, 1, never)
    assert made.state_dict()["position"] == 0


class Broken(Rolled):
    """Cannot roll out."""

    def rollout(self, tasks: Sequence[Task], *, seed: int) -> list[Group]:
        raise TrainError("no server")


def test_failed_sampling_is_raised_by_its_own_step() -> None:
    config = Config.model_validate({"train": {"steps": 3}})
    made = AheadCollector(Broken(config, [MIXED]), stream("abcd"))  # type: ignore[arg-type]
    assert made.beside(lambda: "stats", 1, never) == "stats"
    with pytest.raises(TrainError, match="no server"):
        made.collect(2)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"policy": {"name": "local"}}, r'policy\.name wants "vllm", got \'local\''),
        ({"train": {"overlap": True, "old_logprobs": "learner"}}, r"train\.tis_cap"),
    ],
)
def test_what_it_cannot_be_combined_with_is_named(sections: dict[str, Any], message: str) -> None:
    base = {"policy": {"name": "vllm"}, "train": {"overlap": True}}
    with pytest.raises(ConfigError, match=message):
        check_training(Config.model_validate(base | sections))

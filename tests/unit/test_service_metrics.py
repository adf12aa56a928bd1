"""What graders count reaches the metrics of RL, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyvision_rl.config import Config, RewardsConfig
from pyvision_rl.rewards.base import Grade
from pyvision_rl.runs import RunReader
from pyvision_rl.train.rl import run_rl
from pyvision_rl.types import Task, Trajectory
from tests.fakes import ParityGrader
from tests.tiny_models import make_tiny


class Counting(ParityGrader):
    """A grader that counts, and must be closed once the run is over."""

    checked: list[frozenset[str]] = []  # noqa: RUF012
    closed = 0

    def __init__(self, config: RewardsConfig) -> None:
        super().__init__(config)
        self.counts = {"count_calls": 0.0}

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        self.counts["count_calls"] += 1
        return await super().__call__(task, trajectory)

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        self.checked.append(sources())

    def stats(self) -> dict[str, float]:
        return self.counts  # its own, as a person's grader may

    async def close(self) -> None:
        Counting.closed += 1


def test_each_step_shows_its_own_share_and_the_grader_is_checked_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test counts with it too.
    monkeypatch.setattr(Counting, "checked", [])
    monkeypatch.setattr(Counting, "closed", 0)
    make_tiny(tmp_path / "model")
    config = Config.model_validate(
        {
            "tasks": {"name": "tests.fakes:Colours"},
            "prompts": {"template": "minimal"},
            "policy": {"model": str(tmp_path / "model"), "max_new_tokens": 8, "threads": 1},
            "sandbox": {"name": "scripted"},
            "rollout": {"group_size": 4, "max_tool_calls": 0},
            "rewards": {"name": f"{__name__}:Counting"},
            "selection": {"groups_per_step": 2, "oversample": 1.5},
            "train": {"steps": 2},
        }
    )
    run_rl(config, tmp_path / "run")
    # 2 * 1.5 groups of 4 in each step.
    counted = [line["count_calls"] for line in RunReader(tmp_path / "run").metrics()]
    assert counted == [12, 12]
    assert Counting.checked == [frozenset({""})]
    assert Counting.closed == 1

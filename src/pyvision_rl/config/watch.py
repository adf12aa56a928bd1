"""The section that says when RL raises an alarm."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from pyvision_rl.config.base import Section

AlarmName: TypeAlias = Literal[
    "interaction_collapse",
    "runaway_calls",
    "entropy_collapse",
    "entropy_explosion",
    "length_explosion",
    "batch_too_easy",
    "batch_too_hard",
    "batch_filtered_out",
    "mismatch_high",
    "malformed_rising",
    "infra_failing",
    "reward_without_accuracy",
]


class WatchConfig(Section):
    """When RL raises an alarm (docs/training.md). Alarms change nothing in a run."""

    off: tuple[AlarmName, ...] = ()
    """Alarms that are not wanted."""
    window: int = Field(5, gt=0)
    """Steps whose mean is compared; the first so many are the start of a run."""
    hysteresis: float = Field(0.2, ge=0, lt=1)
    """An alarm is cleared when its reading is back by this share of the limit."""
    tool_calls_drop: float = Field(0.5, gt=0, lt=1)
    """interaction_collapse: tool calls below this share of their highest mean so far."""
    calls_at_budget: float = Field(0.95, gt=0)
    """runaway_calls: executions above this share of ``rollout.max_tool_calls``."""
    entropy_drop: float = Field(0.1, gt=0, lt=1)
    """entropy_collapse: entropy below this share of its start."""
    entropy_rise: float = Field(3.0, gt=1)
    """entropy_explosion: entropy above so many times its start."""
    length_rise: float = Field(3.0, gt=1)
    """length_explosion: sampled tokens above so many times their start."""
    max_unfilled: float = Field(0.5, gt=0)
    """batch_too_easy, batch_too_hard, batch_filtered_out: updates lack more than this share of
    ``selection.groups_per_step`` (with ``rank_unit = "trajectory"``: of their members), mostly
    because groups were all right, all wrong, or filtered."""
    max_mismatch: float = Field(0.2, gt=0)
    """mismatch_high: the largest difference between a token's log-probability at sampling and at
    training (nats). Single precision stays below 1e-4; half precision reaches some 0.1."""
    malformed_rise: float = Field(0.1, gt=0)
    """malformed_rising: the share of malformed turns is by more than this above its start."""
    max_infra: float = Field(0.05, gt=0)
    """infra_failing: more than this share of trajectories failed by our own fault or was not
    graded."""
    reward_gain: float = Field(0.02, gt=0)
    """reward_without_accuracy: reward rose and accuracy fell, both by more than this."""

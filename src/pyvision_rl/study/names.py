"""The names of numbers that a study may compare or draw.

In: a metric of a comparison, or a panel of a figure. Out: whether a run can have it, and what would
have been allowed. Reads no runs: a name that passes may still be in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from pyvision_rl.types import UpdateStats
from pyvision_rl.usage import NUMBERS

TRAIN = "train"
"""What metrics of training begin with, as those of an evaluation do with its name."""
EVALUATED = ("accuracy", "tool_calls", "zero_tool_share", *NUMBERS)
"""Of an evaluation, overall and by category."""
COUNTED = ("failed", "ungraded")
"""Episodes of an evaluation, overall."""
TRAINED = ("reward", "accuracy", "tool_calls", "zero_tool_share", "kept_share", *NUMBERS)
"""Means over the last training steps."""
_STEPS = (
    *("reward", "accuracy", "correct_with_tool", "correct_without_tool"),
    *("tool_calls", "tool_share", "zero_tool_share", "executions", "images", "turns"),
    *("sampled_tokens", "malformed_share", "time_limits", "trajectories", "graded", *NUMBERS),
    *("groups", "groups_trained", "groups_judged", "groups_all_right", "groups_all_wrong"),
    *("kept", "kept_share", "carried_in", "carried_out"),
    *("correct_negative_advantage", "correct_negative_advantage_share"),
    *("sample_s", "update_s", "sample_gib", "update_gib"),
    *("eval_accuracy", "eval_accuracy_se", "eval_tool_calls", "eval_failed", "eval_ungraded"),
    "eval_graded_share",
    *(f"eval_{name}" for name in NUMBERS),
    *(f"train_{f.name}" for f in fields(UpdateStats) if f.name != "step"),
)
"""Of a line of an RL run's ``metrics.jsonl``."""
_FAMILIES = (
    *("accuracy_", "tool_calls_", "eval_accuracy_", "eval_tool_calls_", "reward_", "end_"),
    *("dropped_", "drop_share_", "judge_", "policy_", "sync_", "ladder_", "maths_", "suite_"),
)
"""Beginnings of names that end in a category, a term, an ending, a filter or a count."""


def metric_names(metric: str, evaluations: Sequence[str]) -> tuple[str, ...]:
    """Return what a comparison could have said instead; empty if ``metric`` is right."""
    mode, _, rest = metric.partition(".")
    name, dot, category = rest.partition(".")
    known = {TRAIN: TRAINED, **dict.fromkeys(evaluations, (*EVALUATED, *COUNTED))}
    if mode in known and name in known[mode]:
        # Only rates are by category, which nobody can know before the tasks are read.
        right = not dot or bool(category and mode != TRAIN and name in EVALUATED)
        return () if right else tuple(f"{mode}.{n}" for n in known[mode])
    ending = f".{category}" if category and mode != TRAIN else ""
    return tuple(f"{m}.{n}{ending}" for m, names in known.items() for n in names)


def panel_names(panel: str) -> tuple[str, ...]:
    """Return what a figure could have said instead; empty if ``panel`` is right."""
    family = any(panel.startswith(f) and panel != f for f in _FAMILIES)
    return () if panel in _STEPS or family else _STEPS

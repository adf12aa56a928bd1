"""Group-relative credit: from graded trajectories to one number each.

In: a group whose trajectories were graded, or the rewards alone. Out: the group with its
advantages, or the numbers. Knows nothing of tokens or of which trajectories will be trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from pyvision_rl.types import Group, population_std

Kind: TypeAlias = Literal["mean", "mean_std", "leave_one_out", "binary_baseline"]

_STD_FLOOR = 1e-6


def assign(group: Group, kind: Kind = "mean") -> Group:
    """Return ``group`` with the advantage of every trajectory.

    Ungraded and failed trajectories get 0.0 and do not move the baseline.
    """
    rewards = [None if t.reward is None else t.reward.total for t in group.trajectories]
    found = iter(credit([r for r in rewards if r is not None], kind))
    return replace(group, advantages=tuple(0.0 if r is None else next(found) for r in rewards))


def credit(rewards: Sequence[float], kind: Kind = "mean") -> tuple[float, ...]:
    """Return the advantage of each reward of one group.

    A single reward has no other to be compared with: its advantage is 0.0, but by
    ``binary_baseline``, whose baseline is no mean of the rewards.

    Args:
        rewards: Of the graded members.
        kind: What a reward is compared with:

            - ``mean``: the group's mean (paper eq. 2).
            - ``mean_std``: the same, divided by the population std plus 1e-6 (standard GRPO, arXiv
              2402.03300, section 4.1; the paper removes it).
            - ``leave_one_out``: the mean of the others (RLOO, arXiv 2402.14740), which is
              G / (G - 1) times the distance from the mean.
            - ``binary_baseline``: the share of rewards that are not 0 (the reference's
              ``grpo_w_anb``). With R = 1 + bonus for right answers and 0 for others, a right answer
              never has a negative advantage; the advantages sum to the group's bonuses, not to 0.
              A fractional score counts as 1 in the baseline, so that it may end up below it.
    """
    if not rewards:
        return ()
    size = len(rewards)
    if kind == "binary_baseline":
        baseline = sum(r != 0 for r in rewards) / size
        return tuple(r - baseline for r in rewards)
    mean = math.fsum(rewards) / size
    scale = 1.0
    if kind == "mean_std":
        scale = population_std(tuple(rewards)) + _STD_FLOOR
    elif kind == "leave_one_out" and size > 1:
        scale = (size - 1) / size
    return tuple((r - mean) / scale for r in rewards)

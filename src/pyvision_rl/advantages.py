"""Group-relative credit: from graded trajectories to one number each.

In: a group whose trajectories were graded. Out: the group with its advantages. Knows nothing of
tokens or of which trajectories will be trained on.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pyvision_rl.types import Group, population_std

_STD_FLOOR = 1e-6


def assign(group: Group, *, normalize_std: bool = False) -> Group:
    """Return ``group`` with each reward's distance from the group mean (paper eq. 2).

    Ungraded and failed trajectories get 0.0 and do not move the mean.

    Args:
        group: G trajectories of one task.
        normalize_std: Divide by the population std plus 1e-6 (standard GRPO, arXiv 2402.03300
            eq. 1 of section 4.1; the paper removes it).
    """
    rewards = [None if t.reward is None else t.reward.total for t in group.trajectories]
    graded = tuple(r for r in rewards if r is not None)
    mean = math.fsum(graded) / len(graded) if graded else 0.0
    scale = population_std(graded) + _STD_FLOOR if normalize_std else 1.0
    advantages = tuple(0.0 if r is None else (r - mean) / scale for r in rewards)
    return replace(group, advantages=advantages)

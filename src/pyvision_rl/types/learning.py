"""The records between graded episodes and a weight update.

    Trajectory -> Group -> Batch -> UpdateStats

G trajectories of one task form a group; selection turns groups into a batch in which every
trajectory is used, rejected with a reason, or carried into the next step. Imports the standard
library only.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from pyvision_rl.types.episode import Task, Trajectory


@dataclass(frozen=True, slots=True)
class Group:
    """G trajectories of one task, and their group-relative advantages once computed."""

    task: Task
    trajectories: tuple[Trajectory, ...]
    advantages: tuple[float, ...] | None = None
    """[G], or None before ``advantages.assign``. None is not the same as zeros."""

    def __post_init__(self) -> None:
        if any(t.task_id != self.task.id for t in self.trajectories):
            raise ValueError(f"group of task {self.task.id!r} holds another task's trajectory")
        if self.advantages is not None and len(self.advantages) != len(self.trajectories):
            raise ValueError("one advantage per trajectory")


def population_std(values: tuple[float, ...]) -> float:
    """Population standard deviation; 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


@dataclass(frozen=True, slots=True)
class Scored:
    """A trajectory that survived selection, with the credit the learner will apply."""

    trajectory: Trajectory
    advantage: float
    fresh: bool = True
    """Whether the weights that the step begins with sampled it (with ``train.overlap`` those before
    the last update); False for what was carried in."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A trajectory that selection left out, and the filter that did it."""

    trajectory: Trajectory
    reason: str
    advantage: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the filters left of a group: good enough to be trained on, waiting to be chosen."""

    group: Group
    """The survivors only, with the advantages they are trained on."""
    rank: float
    """What it is ranked by, larger first."""
    born: int
    """The step it was generated for, counted from 1; the weights were those after step born - 1."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one step may use, and an account of what was left out.

    generated + carried in = used + carried out + rejected, in trajectories, always.
    """

    samples: tuple[Scored, ...]
    rejected: tuple[Rejected, ...] = ()
    carried: tuple[Candidate, ...] = ()
    """Offered again in the next step."""
    num_carried_in: int = 0
    """Trajectories among the above that an earlier step had generated."""

    @property
    def num_carried_out(self) -> int:
        """Trajectories that the next step will be offered."""
        return sum(len(c.group.trajectories) for c in self.carried)

    @property
    def num_generated(self) -> int:
        """Trajectories that were made for this step."""
        accounted = len(self.samples) + len(self.rejected) + self.num_carried_out
        return accounted - self.num_carried_in

    @property
    def dropped(self) -> dict[str, int]:
        """Filter name -> trajectories it removed."""
        return dict(Counter(r.reason for r in self.rejected))


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one RL step did, in one or several optimizer steps. Written to ``metrics.jsonl``.

    Means are over all tokens that carried gradient: one seen in two epochs counts twice.
    """

    step: int
    """RL steps made so far, this one included."""
    num_optimizer_steps: int
    """Of this RL step."""
    loss: float
    approx_kl: float
    """Mean of ``ratio - 1 - log ratio`` over sampled tokens (nats)."""
    clip_fraction: float
    entropy: float
    """Mean over sampled tokens (nats)."""
    grad_norm: float
    """Before clipping; mean over the optimizer steps."""
    num_tokens: int
    """Sampled tokens of the batch."""
    mismatch: float | None
    """Largest |log-probability at sampling - at training|, before any weight moved: over what the
    weights of this step sampled, or over that of the first minibatch where only that was seen by
    then. None without any: groups that were carried in differ because the policy moved."""
    mismatch_kl: float | None
    """Mean of ``r - 1 - log r`` over the same tokens, r = probability at training / at sampling."""
    effective_share: float | None
    """Effective sample size of the weights r, as a share of those tokens; 1 without mismatch."""
    learning_rate: float
    kl_reference: float | None = None
    """Mean divergence from the reference policy (nats); None without one."""

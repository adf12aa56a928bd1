"""Why a step has too little to train on: are the tasks too hard, too easy, or is it the filters?

In: the groups of a step and the batch selected from them. Out: one message for people.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyvision_rl.config import SelectionConfig
from pyvision_rl.selection import num_usable, num_wanted
from pyvision_rl.types import Batch, Group


def explain(
    groups: Sequence[Group],
    batch: Batch,
    config: SelectionConfig,
    step: int,
    rounds: int,
    empty_steps: int,
) -> str:
    """Return what survived, what the others were, and what to change."""
    graded = [[t.reward.correct for t in g.trajectories if t.reward] for g in groups]
    judged = [members for members in graded if members]
    right = sum(all(members) for members in judged)
    wrong = sum(not any(members) for members in judged)
    dropped = ", ".join(f"{n} {why}" for why, n in sorted(batch.dropped.items())) or "none"
    unit = f"{config.rank_unit}s"
    of = len(groups) if config.rank_unit == "group" else sum(len(g.trajectories) for g in groups)
    empty = f" ({empty_steps} steps in a row had nothing to train on)" if empty_steps else ""
    return (
        f"step {step}: {num_usable(groups, config)} of {of} {unit} survived the filters in "
        f"{rounds} rounds; selection.groups_per_step wants {num_wanted(groups, config)}{empty}. "
        f"Of {len(groups)} groups {wrong} are all wrong, {right} all right, "
        f"{len(judged) - wrong - right} mixed, {len(groups) - len(judged)} ungraded. "
        f"Trajectories left out: {dropped}. {_verdict(len(groups), wrong, right, batch)}"
    )


def _verdict(total: int, wrong: int, right: int, batch: Batch) -> str:
    if 2 * wrong > total:
        return "The tasks are too hard for this model"
    if 2 * right > total:
        return "The tasks are too easy for this model"
    if 2 * (wrong + right) > total:
        return "The tasks are too hard or too easy for this model"
    if not batch.dropped:
        return "Generate more: raise selection.oversample or selection.max_rounds"
    most = max(sorted(batch.dropped), key=lambda why: batch.dropped[why])
    return f"Most were left out as {most!r}: see selection.filters, or generate more rounds"

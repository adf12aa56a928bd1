"""Does anybody have to doubt the rewards of a run? Graders that disagree, and rewards to look at.

In: a run folder, and its config. Out: an ``Audit``: every finding with its task, step and rollout.
Grades nothing anew and changes no file. A finding is a reason to read a trajectory, not a verdict.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyvision_rl.audit.opinions import Opinions
from pyvision_rl.audit.suspicions import suspicions
from pyvision_rl.config import Config
from pyvision_rl.runs import RunReader
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_order import comes_again


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason to look at one trajectory."""

    kind: str
    """``rules right, judge wrong`` and the like, or a name of ``suspicions.TITLES``."""
    task: str
    step: int
    rollout: int
    correct: bool
    """As it was rewarded."""
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found in one run."""

    run: str
    trajectories: int
    graded: int
    rungs: Mapping[str, int]
    """Graded trajectories by the rung that decided; "" where the run does not say."""
    opinions: Mapping[str, int]
    """How many trajectories each of stored, rules, maths and judge had an opinion on."""
    findings: tuple[Finding, ...]
    superseded: int = 0
    """Lines of trajectories that were carried to a later step, with which they are counted."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the number of findings by kind."""
        return {**asdict(self), "counts": dict(Counter(f.kind for f in self.findings))}


def audit(run: Path, config: Config, *, ask_judge: bool = False) -> Audit:
    """Return what there is to doubt in a run folder.

    Args:
        run: The folder; it may still be written.
        config: Its own, perhaps with another judge in ``[rewards.judge]``.
        ask_judge: Ask the judge where no verdict is stored or cached; else nobody is asked.

    Raises:
        RunError: It is no run folder, or a line of it cannot be understood.
        ConfigError: The judge is to be asked and none is named, or its key is not there.
    """
    reader = RunReader(run)
    opinions = Opinions(config.rewards, ask_judge=ask_judge)
    return asyncio.run(_audit(reader, config, opinions))


async def _audit(reader: RunReader, config: Config, opinions: Opinions) -> Audit:
    total, superseded, rungs, heard = 0, 0, Counter[str](), Counter[str]()
    findings: list[Finding] = []
    try:
        for step in (steps := reader.steps()):
            lines = list(reader.trajectories(step))
            saved = [s for s in lines if not comes_again(s, steps[-1])]
            total, superseded = total + len(saved), superseded + len(lines) - len(saved)
            graded = [s for s in saved if s.trajectory.reward is not None]
            said = await asyncio.gather(*(opinions.of(s) for s in graded))
            for one, views in zip(graded, said, strict=True):
                assert one.trajectory.reward is not None
                rungs[one.trajectory.reward.rung] += 1
                heard.update(list(views))
                findings += [_finding(one, *found) for found in _disagreements(one, views)]
                findings += [_finding(one, *found) for found in suspicions(one, config.rewards)]
    finally:
        await opinions.close()
    notes = (*opinions.notes(), *reader.problems)
    if superseded:
        notes += (f"{superseded} lines are of trajectories carried to a later step; counted there",)
    found = rungs.total(), dict(rungs), dict(heard), tuple(findings), superseded, notes
    return Audit(str(reader.path), total, *found)


def _disagreements(saved: SavedRollout, views: Mapping[str, bool]) -> list[tuple[str, str]]:
    """Every two opinions that differ, with what they are about."""
    names = list(views)
    detail = f"reference {saved.task.gold.answer!r:.80}, answer {saved.trajectory.answer!r:.80}"
    return [
        (f"{first} {_word(views[first])}, {second} {_word(views[second])}", detail)
        for index, first in enumerate(names)
        for second in names[index + 1 :]
        if views[first] != views[second]
    ]


def _word(right: bool) -> str:
    return "right" if right else "wrong"


def _finding(saved: SavedRollout, kind: str, detail: str) -> Finding:
    reward = saved.trajectory.reward
    assert reward is not None
    place = saved.task.id, saved.step, saved.trajectory.rollout
    return Finding(kind, *place, reward.correct, detail)

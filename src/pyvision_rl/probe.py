"""The probe: what is the tool worth to this model on these tasks, right now?

In: an assembly and ``[probe]``. Out: the free share of tool use, and accuracy with the first action
forced to be a tool call or a direct answer. The sign of E[R | tool] - E[R | direct] says which way
policy gradients will push the decision to look; near zero, noise decides. Trains nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyvision_rl.assemble import Assembly, assemble, build_tasks, num_tasks
from pyvision_rl.config import Config, ProbeConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.evaluation.evaluate import Score, judged, score, standard_error
from pyvision_rl.metrics import check_failures
from pyvision_rl.rollout import derive_seed
from pyvision_rl.types import Group, Trajectory


@dataclass(frozen=True, slots=True)
class Branch:
    """One category: accuracy with the first action forced each way."""

    tool: Score
    direct: Score


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the tool is worth, and what to expect of RL from here."""

    tool_share: float
    """Free episodes with at least one call that ran, weighted like the gains."""
    gain: float
    """E[R_acc | tool] - E[R_acc | direct]."""
    gain_se: float | None
    """Standard error of ``gain``, over tasks (paired); None where a category has one task only."""
    gain_with_bonus: float
    """The same with the tool reward added."""
    gain_with_bonus_se: float | None
    categories: dict[str, Branch]
    window_distance: float
    """0.0 inside the window of ``[probe]``; otherwise how far outside, summed."""

    @property
    def expectation(self) -> str:
        """One line: which behaviour to expect of RL from this start."""
        plain = _sign(self.gain, self.gain_se)
        paid = _sign(self.gain_with_bonus, self.gain_with_bonus_se)
        if plain > 0:
            return "tool use pays by itself: RL should keep it with or without the tool reward"
        if paid < 0:
            return "tool use loses even with the tool reward: RL should drop it either way"
        if plain < 0 < paid:
            return "plain RL should drop the tool, the tool reward should keep it"
        return "too close to call: noise may decide whether RL keeps the tool"

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {**asdict(self), "expectation": self.expectation}


def _sign(value: float, error: float | None) -> int:
    """The sign of a number beyond its error; 0 as well where nobody knows the error."""
    if error is None or abs(value) <= error:
        return 0
    return 1 if value > 0 else -1


def probe_model(assembly: Assembly) -> ProbeResult:
    """Return the probe of the assembly's policy as it is now."""
    config = assembly.config
    section = config.probe.tasks or config.tasks
    tasks = build_tasks(section, "probe.tasks")
    count = min(config.probe.num_tasks, num_tasks(tasks, section))
    drawn = [tasks[i] for i in range(count)]

    def roll(forced: str) -> list[Group]:
        return assembly.rollout(
            drawn,
            seed=derive_seed(config.seed, "probe"),
            group_size=config.probe.rollouts,
            forced=forced,
        )

    # The free ones last: a policy that cannot begin a turn as it is told to is found out at once.
    tool, direct, free = (roll(f) for f in (config.probe.tool_start, config.probe.direct_start, ""))
    check_failures([*free, *tool, *direct], config, "the probe")
    return _result(config.probe, free, tool, direct)


def _result(
    config: ProbeConfig, free: Sequence[Group], tool: Sequence[Group], direct: Sequence[Group]
) -> ProbeResult:
    names = sorted({g.task.input.category for g in free})
    weights = config.category_weights or {
        n: sum(g.task.input.category == n for g in free) for n in names
    }
    if sorted(weights) != names or not any(weights.values()):
        raise ConfigError(
            f"probe.category_weights = {dict(weights)}; wants one above 0, and these names of the "
            f"probe's tasks: {', '.join(names)}"
        )
    total = math.fsum(weights.values())
    share = gain = paid = 0.0
    errors: list[tuple[float, float | None]] = []
    paid_errors: list[tuple[float, float | None]] = []
    for name in names:
        weight = weights[name] / total
        rows = [i for i, g in enumerate(free) if g.task.input.category == name]
        pairs = [(tool[i], direct[i]) for i in rows if _graded(tool[i]) and _graded(direct[i])]
        plain_d = [_mean(t, _accuracy) - _mean(d, _accuracy) for t, d in pairs]
        paid_d = [_mean(t, _reward) - _mean(d, _reward) for t, d in pairs]
        graded = [free[i] for i in rows if _graded(free[i])]
        if weight and not (pairs and graded):
            sides = (side[i] for side in (free, tool, direct) for i in rows)
            errors_of = (t.error for group in sides for t in group.trajectories)
            why = next(filter(None, errors_of), "no reason given")
            raise TrainError(
                f"the probe: no task of category {name!r} could be graded: {why} "
                "(probe.category_weights may give it 0)"
            )
        share += weight * _average([_mean(group, _used_tool) for group in graded])
        gain += weight * _average(plain_d)
        paid += weight * _average(paid_d)
        errors.append((weight, standard_error(plain_d)))
        paid_errors.append((weight, standard_error(paid_d)))
    return ProbeResult(
        tool_share=share,
        gain=gain,
        gain_se=_combined(errors),
        gain_with_bonus=paid,
        gain_with_bonus_se=_combined(paid_errors),
        categories={n: Branch(_score(tool, n), _score(direct, n)) for n in names},
        window_distance=_outside(share, config.tool_share)
        + _outside(gain, config.gain)
        + _outside(paid, config.gain_with_bonus),
    )


def _combined(errors: Sequence[tuple[float, float | None]]) -> float | None:
    """The error of a weighted sum, from (weight, error) of its parts; None if one is not known."""
    told = [weight * error for weight, error in errors if weight and error is not None]
    known = len(told) == sum(weight != 0 for weight, _ in errors)
    return math.hypot(*told) if known else None


def _score(groups: Sequence[Group], category: str) -> Score:
    return score([item for item in judged(groups) if item[0].category == category])


def _accuracy(trajectory: Trajectory) -> float:
    return trajectory.reward.parts.get("accuracy", 0.0) if trajectory.reward else 0.0


def _reward(trajectory: Trajectory) -> float:
    return trajectory.reward.total if trajectory.reward else 0.0


def _used_tool(trajectory: Trajectory) -> float:
    return float(trajectory.num_tool_calls > 0)


def _graded(group: Group) -> list[Trajectory]:
    return [t for t in group.trajectories if t.reward is not None]


def _mean(group: Group, of: Callable[[Trajectory], float]) -> float:
    # What we failed to run or to grade says nothing about the model.
    return _average([of(t) for t in _graded(group)])


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _outside(value: float, window: tuple[float, float]) -> float:
    low, high = window
    return max(0.0, low - value, value - high)


def run_probe(config: Config, out: Path) -> ProbeResult:
    """Probe ``policy.model`` and write ``probe.json`` to ``out``."""
    with assemble(config) as assembly:
        result = probe_model(assembly)
    out.mkdir(parents=True, exist_ok=True)
    (out / "probe.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
    return result

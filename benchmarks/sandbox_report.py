"""What the sandbox benchmark's numbers say: ratios, goals with pass or fail, tables.

In: ``Measured``. Out: a dict for JSON, and Markdown. Every goal is a ratio of medians within one
run, a count, or a time that a limit sets: it means the same on another machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.sandbox_measures import Measured, Samples
from pyvision_rl.present import markdown

HANG_SLACK_S = 0.3
"""Beyond limit and grace."""
PER_GB = 1024.0
UNITS = {"tiny_faults": ("faults", 1.0)}
"""Measure -> unit and factor; the others are seconds, shown in ms."""
TITLES = {
    "start": "session start to first result",
    "print": "print(1), warm session",
    "show": "crop + plt.show, warm session",
    "lifecycle": "whole session, a picture each",
    "lifecycle_noise": "whole session, a picture of noise each",
    "lifecycle_group": "whole session, groups share a picture",
    "tiny_wall": "tiny run's session, wall",
    "tiny_cpu": "tiny run's session, CPU of all processes",
    "tiny_faults": "tiny run's session, minor faults",
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times the other arm's median is ours."""

    value: float
    low: float
    """Of the 95% bootstrap interval."""
    high: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A claim, what was measured, and what follows."""

    claim: str
    measured: str
    verdict: str
    """pass, floor (above the floor, below the goal), fail, or left out."""


def p99(values: Sequence[float]) -> float:
    """Return the smallest value that 99% of ``values`` do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def ratio(other: Sequence[float], ours: Sequence[float], *, draws: int = 1000) -> Ratio:
    """Return median of ``other`` / median of ``ours``, with its interval; seed 0."""
    rng = np.random.default_rng(0)

    def medians(values: Sequence[float]) -> Any:
        return np.median(rng.choice(np.asarray(values), (draws, len(values))), axis=1)

    low, high = np.percentile(medians(other) / medians(ours), (2.5, 97.5))
    return Ratio(median(other) / median(ours), float(low), float(high))


def judge(found: Measured) -> list[Goal]:
    """Return the goals."""
    ratios = (
        ("start", "cold", 50.0, None, "session start: at least 50x faster than a cold interpreter"),
        ("start", "jupyter", 70.0, None, "session start: at least 70x faster than Jupyter's"),
        ("lifecycle", "baseline", 6.0, 5.0, "whole sessions: 6x the baseline's, at least 5x"),
        ("lifecycle_noise", "baseline", 5.0, None, "the same with noise: at least 5x"),
        ("show", "jupyter", 3.0, None, "crop + plt.show: at least 3x faster than Jupyter"),
        ("show", "baseline", 2.0, None, "crop + plt.show: at least 2x faster than the baseline"),
        ("print", "jupyter", 20.0, None, "print: at least 20x faster than Jupyter"),
    )
    goals = [
        _at_least(claim, found.samples.get(measure, {}), other, goal, floor)
        for measure, other, goal, floor, claim in ratios
    ]
    if "earlier" in found.samples.get("tiny_cpu", {}):
        claim = "tiny run's session: no more CPU than the earlier version"
        goals.append(_at_least(claim, found.samples["tiny_cpu"], "earlier", 1.0, None))
    return [*goals, *_memory_goals(found), _many_goal(found), *_hang_goals(found), *_group(found)]


def _at_least(claim: str, samples: Samples, other: str, goal: float, floor: float | None) -> Goal:
    if not samples.get(other):
        return Goal(claim, f"no arm {other!r}", "left out")
    r = ratio(samples[other], samples["ours"])
    return Goal(
        claim, f"{r.value:.2f}x ({r.low:.2f} to {r.high:.2f})", _verdict(r.value, goal, floor)
    )


def _verdict(value: float, goal: float, floor: float | None = None) -> str:
    if value >= goal:
        return "pass"
    return "floor" if floor is not None and value >= floor else "fail"


def _memory_goals(found: Measured) -> list[Goal]:
    goals = []
    for what, least in (("idle", 200), ("active", 50)):
        row = found.memory.get(what, {})
        for key, how in (("available_mb", "MemAvailable"), ("private_mb", "private memory")):
            claim = f"at least {least} {what} sessions per GB by {how}"
            per_gb = sessions_per_gb(row.get(key))
            if per_gb is None:
                goals.append(Goal(claim, "not readable here, or lost in noise", "left out"))
            else:
                said = f"{per_gb:.0f} ({row[key]:.1f} MB each, {row['live']} live)"
                goals.append(Goal(claim, said, _verdict(per_gb, least)))
    return goals


def sessions_per_gb(mb: float | None) -> float | None:
    """Return how many sessions of ``mb`` MB fit into a GB; None if that is not known.

    A few sessions can seem to take less than nothing, where others gave memory back meanwhile.
    """
    return PER_GB / mb if mb is not None and mb > 0 else None


def _many_goal(found: Measured) -> Goal:
    row = found.many
    claim = "session start while many are live: at most 3x as long as with none"
    if not row.get("live"):
        return Goal(claim, row.get("note", "not measured"), "left out")
    factor = row["crowded_s"] / row["alone_s"]
    said = f"{factor:.2f}x ({row['live']} live; {row['alone_s'] * 1e3:.1f} ms with none)"
    return Goal(claim, said, "pass" if factor <= 3.0 else "fail")


def _hang_goals(found: Measured) -> list[Goal]:
    goals = []
    for row in found.hangs:
        most = row["limit_s"] + row["grace_s"] + HANG_SLACK_S
        claim = f"{row['case']}, {row['clock']} limit: back within limit + grace + 0.3 s"
        said = f"{row['took_s']:.2f} of {most:.2f} s ({', '.join(row['statuses'])})"
        goals.append(Goal(claim, said, "pass" if row["took_s"] <= most else "fail"))
    return goals


def _group(found: Measured) -> list[Goal]:
    shared, separate = (found.groups.get(what, {}) for what in ("shared", "separate"))
    goals = []
    for key, least, claim in (
        ("seconds", 5.0, "a group on one large picture: starts at least 5x faster"),
        ("available_mb", 2.0, "the same: at most half the memory by MemAvailable"),
        ("pss_mb", 2.0, "the same: at most half the memory by PSS"),
    ):
        if min(shared.get(key) or 0, separate.get(key) or 0) <= 0:
            goals.append(Goal(claim, "not measured, or lost in noise", "left out"))
            continue
        factor = separate[key] / shared[key]
        scale, unit = (1e3, "ms") if key == "seconds" else (1.0, "MB")
        said = (
            f"{factor:.1f}x ({shared[key] * scale:.0f} against {separate[key] * scale:.0f} {unit})"
        )
        goals.append(Goal(claim, said, _verdict(factor, least)))
    return goals


def summarize(found: Measured) -> dict[str, Any]:
    """Return medians, p99s, ratios and goals as JSON takes them."""
    measures = {
        measure: {arm: _summary(values) for arm, values in samples.items() if values}
        for measure, samples in found.samples.items()
    }
    ratios = {
        measure: {
            arm: asdict(ratio(values, samples["ours"]))
            for arm, values in samples.items()
            if values and arm != "ours"
        }
        for measure, samples in found.samples.items()
    }
    tiny = found.samples.get("tiny_cpu", {})
    return {
        "goals": [asdict(goal) for goal in judge(found)],
        "measures": measures,
        "ratios": ratios,
        "sessions_per_cpu_second": {arm: 1 / fmean(v) for arm, v in tiny.items() if fmean(v) > 0},
        "memory": found.memory,
        "many": found.many,
        "hangs": found.hangs,
        "groups": found.groups,
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": median(values),
        "p99": p99(values),
        "min": min(values),
        "max": max(values),
        "count": len(values),
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a page: goals, times, memory."""
    goals = [
        (g["claim"], g["measured"], g["verdict"] if g["verdict"] != "fail" else "**fail**")
        for g in result["goals"]
    ]
    arms = result["arms"]
    lines = [
        f"`{result['command']}`, {result['date']}, {result['hardware']['cpu']}, "
        f"{result['hardware']['cores']} cores\n",
        "".join(f"- {name}: {a['backend']}, isolation {a['level']}\n" for name, a in arms.items()),
        *(f"{note}\n" for note in result["notes"]),
        markdown(("goal", "measured", "verdict"), goals),
        markdown(("measure", "arm", "median", "p99", "n", "x ours"), _rows(result)),
    ]
    per_cpu = result["sessions_per_cpu_second"]
    if per_cpu:
        said = ", ".join(f"{arm} {value:.1f}" for arm, value in per_cpu.items())
        lines.append(f"Tiny run's sessions per CPU second: {said}\n")
    memory = [
        (what, *(_mb(row[key]) for key in ("available_mb", "private_mb", "pss_mb")))
        for what, row in result["memory"].items()
    ]
    lines.append(markdown(("MB a session", "MemAvailable", "private", "PSS"), memory))
    return "\n".join(lines)


def _rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for measure, arms in result["measures"].items():
        unit, factor = UNITS.get(measure, ("ms", 1e3))
        for arm, values in arms.items():
            against = result["ratios"][measure].get(arm)
            rows.append(
                (
                    TITLES[measure],
                    arm,
                    *(f"{values[key] * factor:.4g} {unit}" for key in ("median", "p99")),
                    f"{values['count']}",
                    f"{against['value']:.2f}" if against else "",
                )
            )
    return rows


def _mb(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"

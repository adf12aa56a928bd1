"""What the demo's benchmark says of its seeds: spreads, criteria, a page of tables, a figure.

In: rows of numbers by seed, and the runs' metrics. Out: records, Markdown and a PNG. Runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pyvision_rl.demo.figure import COLORS
from pyvision_rl.demo.kinds import KINDS, Kind, held_out
from pyvision_rl.demo.report import MODELS, SEEN, TITLES
from pyvision_rl.demo.stages import ARMS
from pyvision_rl.present import STYLE, markdown
from pyvision_rl.runs import RunReader

Row = dict[str, float]
"""One seed's numbers by name, e.g. ``hard_start`` or ``calls_plain``."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over seeds."""

    mean: float
    sd: float
    """Sample standard deviation; 0.0 for one seed."""
    se: float
    """Of the mean."""
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True, slots=True)
class Criterion:
    """A claim, what was measured, and whether it holds."""

    claim: str
    measured: str
    passed: bool


def spread(values: Sequence[float]) -> Spread:
    """Return mean, sample standard deviation and standard error over seeds."""
    count = len(values)
    mean = math.fsum(values) / count
    squares = math.fsum((v - mean) ** 2 for v in values)
    sd = math.sqrt(squares / (count - 1)) if count > 1 else 0.0
    return Spread(mean, sd, sd / math.sqrt(count), min(values), max(values), count)


def check(
    rows: Mapping[int, Row], spreads: Mapping[str, Spread], *, num_seeds: int, goal: str
) -> list[Criterion]:
    """Return the criteria of a ``goal``: keep a skill, learn one, or gain on videos."""

    def mean(name: str, low: float) -> tuple[str, bool]:
        if name not in spreads:
            return "no seed finished", False
        s = spreads[name]
        # Not for the last bit of a sum: a mean of exactly 0.20 is 0.20.
        return f"{s.mean:+.3f} ± {s.se:.3f} (se, n={s.num_seeds})", s.mean >= low - 1e-9

    def count(holds: Callable[[Row], bool], need: int) -> tuple[str, bool]:
        found = sum(holds(r) for r in rows.values())
        return f"{found} of {num_seeds}", found >= need

    finished = Criterion(
        "every seed finishes", f"{len(rows)} of {num_seeds}", len(rows) == num_seeds
    )
    if goal == "video":
        return [finished, *_video_criteria(spreads)]
    forced = mean("tool_hard_rise", 0.10 if goal == "learn" else 0.0)
    if goal == "learn":
        claim = "tool reward: forced-tool hard accuracy rises by at least 0.10 (mean)"
        return [finished, Criterion(claim, *forced)]
    four_of_five = math.ceil(0.8 * num_seeds)
    return [
        finished,
        Criterion(
            "tool reward: held-out hard accuracy rises by at least 0.20 (mean)",
            *mean("hard_rise", 0.20),
        ),
        Criterion(
            "tool reward: no seed's hard accuracy ends below its start",
            *count(lambda r: r["hard_rise"] >= -1e-9, num_seeds),
        ),
        Criterion(
            "tool reward: easy accuracy ends at 0.80 or more (mean)",
            *mean("easy_tool_reward", 0.80),
        ),
        Criterion(
            "tool reward: at least 0.9 tool calls per episode (mean)",
            *mean("calls_tool_reward", 0.9),
        ),
        Criterion(
            f"plain RL: ends below 0.2 tool calls in at least {four_of_five} of {num_seeds} seeds",
            *count(lambda r: r["calls_plain"] < 0.2, four_of_five),
        ),
        Criterion("tool reward: forced-tool hard accuracy does not fall (mean)", *forced),
    ]


def _video_criteria(spreads: Mapping[str, Spread]) -> list[Criterion]:
    """Return what is claimed of RL on videos: it gains, beyond what seeds differ by."""
    made = []
    for name, claim in (
        ("accuracy_rise", "tool reward: held-out accuracy, mean of all categories, rises"),
        ("hard_rise", "tool reward: held-out hard accuracy rises"),
    ):
        s = spreads.get(name)
        measured = "no seed finished" if s is None else f"{s.mean:+.3f} ± {s.se:.3f} (se)"
        clear = s is not None and s.mean > 2 * s.se
        made.append(Criterion(f"{claim} by more than two standard errors", measured, clear))
    return made


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a page: criteria, means, seeds."""
    verdicts = [
        (c["claim"], c["measured"], "pass" if c["passed"] else "**fail**")
        for c in result["criteria"]
    ]
    parts = [
        f"`{result['config']}`, seeds {', '.join(map(str, result['seeds']))}\n",
        markdown(("criterion", "measured", "verdict"), verdicts),
        *(_number_tables(result) if result["rows"] else ()),
        *(f"seed {seed} failed: {why}\n" for seed, why in result["failed"].items()),
    ]
    return "\n".join(parts)


_COLUMNS = {
    "calls": "tool calls",
    "easy": "easy",
    "hard": "hard",
    "tool_hard": "hard, forced to look",
    "direct_hard": "hard, forced direct",
}
_SEED_COLUMNS = (
    *("calls_start", "calls_plain", "calls_tool_reward", "easy_tool_reward", "hard_start"),
    *("hard_plain", "hard_tool_reward", "tool_hard_start", "tool_hard_tool_reward"),
    *("seconds", "peak_mb"),
)


def _number_tables(result: Mapping[str, Any]) -> list[str]:
    spreads = result["spread"]
    seen = {name: title for name, title in SEEN.items() if f"{name}_{MODELS[0]}" in spreads}
    columns = _COLUMNS | seen
    means = [
        (TITLES[model], *(_mean_se(spreads[f"{name}_{model}"]) for name in columns))
        for model in MODELS
    ]
    seeds = [
        (seed, *(f"{row[name]:.{0 if row[name] >= 100 else 2}f}" for name in _SEED_COLUMNS))
        for seed, row in result["rows"].items()
    ]
    return [
        "Mean ± standard error over seeds:\n",
        markdown(("model", *columns.values()), means),
        f"Rise of hard accuracy with the tool reward: {_mean_se(spreads['hard_rise'])} = "
        f"{spreads['rise_used_more']['mean']:+.2f} (uses the tool more) "
        f"{spreads['rise_used_better']['mean']:+.2f} (is better when it uses it) "
        f"{spreads['rise_rest']['mean']:+.2f} (rest)\n",
        markdown(("seed", *(name.replace("_", " ") for name in _SEED_COLUMNS)), seeds),
    ]


def draw(
    work: Path, rows: Mapping[int, Row], file: Path, *, title: str, kind: Kind = KINDS["image"]
) -> None:
    """Draw calls and held-out accuracies over RL steps: every seed thin, the mean thick."""
    panels = {
        "": "Tool calls per episode",
        "easy": "Held-out accuracy, easy tasks",
        "hard": "Held-out accuracy, hard tasks",
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.9), dpi=150, facecolor="white")
        axes = figure.subplots(1, 3)
        for panel, (tasks, name) in zip(axes, panels.items(), strict=True):
            for arm in ARMS:
                runs = {s: RunReader(work / f"seed-{s}" / f"rl-{arm}").metrics() for s in rows}
                curves = {s: _curve(run, getattr(kind, tasks, ())) for s, run in runs.items()}
                for seed, row in rows.items() if tasks else ():
                    ends = {runs[seed][-1]["step"]: row[f"{tasks}_{arm}"]}
                    curves[seed] = {0: row[f"{tasks}_start"]} | curves[seed] | ends
                _draw_arm(panel, list(curves.values()), arm)
            panel.set_title(name)
            panel.set_xlabel("RL step", color="#555555")
            panel.set_ylim(0, 1.02 if tasks else 1.3 * panel.get_ylim()[1])
            panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes[0].legend(frameon=False, labelcolor="linecolor", loc="upper left", handlelength=1.2)
        figure.suptitle(title, x=0.012, y=0.965, ha="left", fontsize=10, color="#555555")
        figure.subplots_adjust(left=0.045, right=0.985, top=0.8, bottom=0.14, wspace=0.16)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)


def _curve(run: Sequence[Mapping[str, Any]], categories: Sequence[str]) -> dict[int, float]:
    """Held-out accuracy of the categories by step; without any, the calls of training batches."""
    if not categories:
        # A training batch is sampled before its step's update, an evaluation after it.
        return {line["step"] - 1: line["tool_calls"] for line in run if "tool_calls" in line}
    values = {line["step"]: held_out(line, categories) for line in run}
    return {step: value for step, value in values.items() if value is not None}


def _draw_arm(panel: Any, curves: Sequence[Mapping[int, float]], arm: str) -> None:
    for curve in curves:
        panel.plot(list(curve), list(curve.values()), color=COLORS[arm], alpha=0.3, linewidth=1)
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [math.fsum(curve[step] for curve in curves) / len(curves) for step in common]
    panel.plot(common, means, color=COLORS[arm], linewidth=2.6, label=TITLES[arm])


def _mean_se(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['se']:.2f}"

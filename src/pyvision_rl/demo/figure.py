"""The demo's figure: tool calls and held-out accuracy over RL steps, with and without the reward.

In: the metrics of the RL runs and the outcomes of the evaluations. Out: one PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyvision_rl.demo.kinds import KINDS, Kind, held_out
from pyvision_rl.demo.report import TITLES, Outcome
from pyvision_rl.present import STYLE

COLORS = {"plain": "#d1495b", "tool_reward": "#00798c"}
_GREY = "#777777"


def draw(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    outcomes: Mapping[str, Outcome],
    file: Path,
    *,
    title: str,
    kind: Kind = KINDS["image"],
) -> None:
    """Draw the three panels.

    Args:
        runs: Arm (plain, tool_reward) -> lines of its ``metrics.jsonl``.
        outcomes: The evaluations, by model.
        file: The PNG to write.
        title: A line above the panels.
        kind: Which categories are easy and which hard.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.9), dpi=150, facecolor="white")
        calls, easy, hard = figure.subplots(1, 3)
        _calls_panel(calls, runs)
        _accuracy_panel(easy, runs, outcomes, ("easy", kind.easy))
        _accuracy_panel(hard, runs, outcomes, ("hard", kind.hard))
        for axes in (calls, easy, hard):
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_xlabel("RL step", color="#555555")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title, x=0.012, y=0.965, ha="left", fontsize=10, color="#555555")
        figure.subplots_adjust(left=0.045, right=0.985, top=0.8, bottom=0.14, wspace=0.16)
        figure.savefig(file)


def _calls_panel(axes: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    top = 0.5
    for arm, lines in runs.items():
        # The batch of step s was sampled with the weights after s - 1 steps.
        steps = [line["step"] - 1 for line in lines if "tool_calls" in line]
        values = [line["tool_calls"] for line in lines if "tool_calls" in line]
        if not steps:
            continue
        axes.plot(steps, values, color=COLORS[arm], linewidth=2.2, label=TITLES[arm])
        top = max(top, *values)
    axes.set_title("Tool calls per episode")
    axes.set_ylim(0, top * 1.3)
    axes.legend(frameon=False, loc="upper left", labelcolor="linecolor", handlelength=1.2)


def _accuracy_panel(
    axes: Axes,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    outcomes: Mapping[str, Outcome],
    tasks: tuple[str, tuple[str, ...]],
) -> None:
    """Of easy or hard tasks, which are the categories that ``tasks`` names."""
    name, categories = tasks
    start = getattr(outcomes["start"], name)
    forced = getattr(outcomes["start"], f"tool_{name}")
    end = 1
    for arm, lines in runs.items():
        values = [(line["step"], held_out(line, categories)) for line in lines]
        points = [(step, value) for step, value in values if value is not None]
        last = getattr(outcomes[arm], name)
        end = max([end, *(line["step"] for line in lines)])
        # The evaluation of the final model stands for the last point: same tasks, same numbers.
        points = [(0, start.value), *(p for p in points if p[0] != end), (end, last.value)]
        axes.plot(
            *zip(*points, strict=True), "o-", color=COLORS[arm], linewidth=2.2, markersize=4.5
        )
        axes.errorbar(end, last.value, last.se, color=COLORS[arm], capsize=3, linewidth=1.4)
    axes.axhline(forced.value, color=_GREY, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    # On the side of the line where the curves do not begin.
    above = forced.value > start.value or forced.value < 0.1
    axes.annotate(
        "start, forced to look",
        (0, forced.value),
        xytext=(0, 4 if above else -4),
        textcoords="offset points",
        va="bottom" if above else "top",
        fontsize=8.5,
        color=_GREY,
    )
    axes.set_title(f"Held-out accuracy, {name} tasks")
    axes.set_ylim(0, 1.02)

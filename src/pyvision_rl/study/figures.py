"""Figures of a study: metrics over steps, every seed thin, the mean thick, a band of its error.

In: rows with the lines of their runs' ``metrics.jsonl``. Out: PNG files. A panel whose metric is in
no run says so. Draws nothing of runs that did not finish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyvision_rl.present import STYLE
from pyvision_rl.study.reading import Row

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A", "#000000")
"""Told apart by colour-blind people (Okabe and Ito 2008, without yellow)."""
DYNAMICS = (
    "train_entropy",
    "train_grad_norm",
    "tool_calls",
    "sampled_tokens",
    "accuracy",
    "eval_accuracy",
    "correct_negative_advantage_share",
    "kept_share",
)
"""The paper's panels of training dynamics, and the share of trajectories that were trained on."""
_TITLES = {
    "train_entropy": "Entropy of the policy",
    "train_grad_norm": "Gradient norm",
    "tool_calls": "Tool calls per episode",
    "zero_tool_share": "Episodes without a tool call",
    "sampled_tokens": "Response length (tokens)",
    "visual_tokens": "Visual tokens per episode",
    "video_share": "Video that was seen (share)",
    "accuracy": "Accuracy in training",
    "eval_accuracy": "Held-out accuracy",
    "reward": "Reward",
    "correct_negative_advantage_share": "Correct, but A < 0 (share)",
    "kept_share": "Trajectories trained on (share)",
}
_SHARES = ("accuracy", "_share")
_COLUMNS = 4
_LEGEND_COLUMNS = 4
_MAX_WITH_SEEDS = 4
"""Variants in a figure; with more of them single seeds would hide the means."""
Curve = Mapping[int, float]
"""Step -> value."""
Range = tuple[float, float]
"""The lowest and the highest of some values."""


@dataclass(frozen=True, slots=True)
class Line:
    """One variant in a figure."""

    label: str
    color: str
    runs: tuple[tuple[Mapping[str, Any], ...], ...]
    """Lines of ``metrics.jsonl``, by seed."""


def lines_of(
    names: Sequence[str], rows: Sequence[Row], labels: Mapping[str, str], order: Sequence[str]
) -> list[Line]:
    """Return the variants of a figure; a variant has one colour in all figures of a study.

    Args:
        names: The variants to draw.
        rows: Of all models and seeds.
        labels: Variant -> label.
        order: All variants.
    """
    return [
        Line(
            labels[name],
            COLORS[order.index(name) % len(COLORS)],
            tuple(row.curves for row in rows if row.model == name and row.curves),
        )
        for name in names
    ]


def draw(lines: Sequence[Line], panels: Sequence[str], file: Path, *, title: str) -> None:
    """Draw one figure.

    Args:
        lines: The variants.
        panels: Metrics; ``tool_calls`` and the like are of the weights before the step.
        file: The PNG to write.
        title: A line above the panels.
    """
    columns = min(_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / columns)
    head = 0.76 + 0.22 * math.ceil(len(lines) / _LEGEND_COLUMNS)
    width, height = 12.0, 2.75 * num_rows + head
    with matplotlib.rc_context({**STYLE, "axes.titlesize": 10}):
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        axes = figure.subplots(num_rows, columns, squeeze=False).flat
        for index, panel in enumerate(axes):
            if index >= len(panels):
                panel.axis("off")
                continue
            _panel(panel, lines, panels[index], seeds=len(lines) <= _MAX_WITH_SEEDS)
            panel.set_xlabel("step" if index + columns >= len(panels) else "", color="#555555")
        thin = "thin: seeds, " if len(lines) <= _MAX_WITH_SEEDS else ""
        note = f"{thin}thick: mean over seeds, band: ± its standard error"
        figure.text(0.012, 1 - 0.1 / height, title, va="top", fontsize=11, fontweight="bold")
        figure.text(
            0.988, 1 - 0.13 / height, note, va="top", ha="right", fontsize=8.5, color="#555"
        )
        _legend(figure, lines, 1 - 0.34 / height)
        figure.subplots_adjust(
            left=0.045,
            right=0.988,
            top=1 - head / height,
            bottom=0.45 / height,
            wspace=0.2,
            hspace=0.42,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)


def _legend(figure: Figure, lines: Sequence[Line], top: float) -> None:
    handles = [
        matplotlib.lines.Line2D([], [], color=line.color, linewidth=2.6, label=_counted(line))
        for line in lines
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.006, top),
        ncols=min(len(lines), _LEGEND_COLUMNS),
        frameon=False,
        handlelength=1.4,
        fontsize=9.5 if len(lines) <= _MAX_WITH_SEEDS else 8.5,
        borderaxespad=0.0,
    )


def _counted(line: Line) -> str:
    return f"{line.label} (n={len(line.runs)})"


def _panel(panel: Axes, lines: Sequence[Line], metric: str, *, seeds: bool) -> None:
    panel.set_title(title_of(metric))
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    lowest, highest, drawn = 0.0, 0.0, False
    for line in lines:
        curves = [found for run in line.runs if (found := curve(run, metric))]
        if not curves:
            continue
        drawn = True
        low, high = _draw_line(panel, curves, line.color, seeds=seeds)
        lowest, highest = min(lowest, low), max(highest, high)
    if not drawn:
        panel.text(0.5, 0.5, f"no run has {metric}", ha="center", color="#777777", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
        return
    panel.set_xlim(left=min(0.0, panel.get_xlim()[0]))
    share = any(word in metric for word in _SHARES)
    top = 1.02 if share and highest > 0.5 else highest * 1.08
    panel.set_ylim(lowest * 1.08, top if top > lowest else 1.0)


def _draw_line(panel: Axes, curves: Sequence[Curve], color: str, *, seeds: bool) -> Range:
    """Draw seeds, mean and band of one variant; return the lowest and highest value of a seed."""
    sparse = max(map(len, curves)) <= 8
    for each in curves if seeds else ():
        panel.plot(list(each), list(each.values()), color=color, alpha=0.3, linewidth=0.9)
    steps, means, errors = mean_curve(curves)
    low = [m - e for m, e in zip(means, errors, strict=True)]
    high = [m + e for m, e in zip(means, errors, strict=True)]
    panel.fill_between(steps, low, high, color=color, alpha=0.16, linewidth=0)
    panel.plot(steps, means, "o-" if sparse else "-", color=color, linewidth=2.4, markersize=4)
    values = [v for each in curves for v in each.values()]
    return min(values), max(values)


def mean_curve(curves: Sequence[Curve]) -> tuple[list[int], list[float], list[float]]:
    """Return steps, means and standard errors, at the steps that every curve has."""
    steps = sorted(set.intersection(*(set(each) for each in curves)))
    means, errors = [], []
    for step in steps:
        values = [each[step] for each in curves]
        mean = math.fsum(values) / len(values)
        squares = math.fsum((v - mean) ** 2 for v in values)
        means.append(mean)
        errors.append(math.sqrt(squares / max(1, len(values) - 1) / len(values)))
    return steps, means, errors


def curve(run: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """Return a metric over steps; nothing if the run does not have it.

    An evaluation is made after its step's update; everything else is of the weights before it,
    and stands one step earlier.
    """
    shift = 0 if metric.startswith("eval_") else 1
    values = {line["step"] - shift: line.get(metric) for line in run if "step" in line}
    return {
        step: float(v)
        for step, v in values.items()
        if isinstance(v, (int, float)) and math.isfinite(v)
    }


def title_of(metric: str) -> str:
    """Return a panel's title."""
    for known in sorted(_TITLES, key=len, reverse=True):
        if metric == known:
            return _TITLES[known]
        if metric.startswith(f"{known}_"):
            return f"{_TITLES[known]}, {metric.removeprefix(known + '_')}"
    return metric

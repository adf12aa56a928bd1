"""What the curve of accuracy over visual tokens says: whether the goal is met, a table, a figure.

In: the points that ``benchmarks.video_tokens`` measured. Out: a verdict, Markdown, a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from pyvision_rl.present import STYLE, markdown

WITHIN = 0.02
"""As good as: at most so much less accurate."""
RATIO = 9
"""The paper's: 45 thousand visual tokens against 5 thousand."""


def goal(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return whether the policies reach the accuracy of a baseline with a ninth of its tokens.

    Compared with the cheapest baseline that is as good, and where none is, with the best one.
    """
    ours = [p for p in points if p["kind"] == "policy"]
    given = [p for p in points if p["kind"] == "baseline"]
    accuracy = sum(p["accuracy"] for p in ours) / len(ours)
    tokens = sum(p["visual_tokens"] for p in ours) / len(ours)
    equal = [p for p in given if p["accuracy"] >= accuracy - WITHIN]
    other = min(equal, key=lambda p: p["visual_tokens"]) if equal else None
    best = max(given, key=lambda p: p["accuracy"])
    ratio = (other or best)["visual_tokens"] / tokens
    return {
        "policy_accuracy": accuracy,
        "policy_visual_tokens": tokens,
        "cheapest_equal_baseline": other and other["name"],
        "best_baseline": best["name"],
        "best_baseline_accuracy": best["accuracy"],
        "ratio": ratio,
        # Better than every baseline is more than was asked for, if it is cheap as well.
        "met": ratio >= RATIO,
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a page."""
    categories = list(result["points"][0]["categories"])
    head = ("model", "visual tokens", "accuracy", *categories)
    rows = [
        (
            p["name"] + ("" if p.get("converged", True) else " (not converged)"),
            f"{p['visual_tokens']:.0f}",
            f"{p['accuracy']:.2f} ± {p['accuracy_se']:.2f}",
            *(f"{p['categories'][name]:.2f}" for name in categories),
        )
        for p in result["points"]
    ]
    g = result["goal"]
    if g["cheapest_equal_baseline"]:
        other = f"the cheapest baseline within {WITHIN} of it, {g['cheapest_equal_baseline']}"
    else:
        other = f"no baseline comes near it; the best one, {g['best_baseline']}"
    open_ = result["left_out"] and not g["cheapest_equal_baseline"]
    verdict = "open" if open_ else "met" if g["met"] else "**missed**"
    return (
        ("**A quick run: the numbers mean nothing.**\n\n" if result["quick"] else "")
        + markdown(head, rows)
        + (f"\nLeft out: {'; '.join(left)}.\n" if (left := result["left_out"]) else "")
        + f"\nPolicy: accuracy {g['policy_accuracy']:.3f} with {g['policy_visual_tokens']:.1f} "
        f"visual tokens; {other}, takes {g['ratio']:.1f} times as many. Goal {RATIO}: {verdict}.\n"
    )


def draw(points: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw accuracy over visual tokens: baselines joined by size of frame, policies as stars."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), dpi=150, facecolor="white")
        axes = figure.subplots()
        for px, color in ((56, "#d1495b"), (28, "#edae49")):
            line = [p for p in points if p.get("px") == px]
            axes.errorbar(
                [p["visual_tokens"] for p in line],
                [p["accuracy"] for p in line],
                [p["accuracy_se"] for p in line],
                fmt="o-",
                color=color,
                label=f"frames at equal distances, {px} px",
            )
        ours = [p for p in points if p["kind"] == "policy"]
        axes.errorbar(
            [p["visual_tokens"] for p in ours],
            [p["accuracy"] for p in ours],
            [p["accuracy_se"] for p in ours],
            fmt="*",
            markersize=12,
            color="#00798c",
            label="frames on demand",
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("visual tokens an episode", color="#555555")
        axes.set_title("Held-out accuracy")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.legend(frameon=False, labelcolor="linecolor", loc="upper left")
        figure.tight_layout()
        figure.savefig(file)

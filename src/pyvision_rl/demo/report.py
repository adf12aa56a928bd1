"""What the demo's numbers say: a table, where a rise came from, and one honest sentence.

In: the ``result.json`` files of nine evaluations (three models; free, forced to look, forced to
answer directly). Out: records, a Markdown table and text. Keeping a skill and learning one are
told apart: forced evaluations measure the skill, free ones also whether it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyvision_rl.demo.kinds import KINDS, Kind

MODELS = ("start", "plain", "tool_reward")
"""Before RL, after RL on accuracy alone, after RL with the tool reward; from the same start."""
MODES = ("free", "tool", "direct")
"""How the first turn begins: as the model likes, with a look, with an answer."""
TITLES = {"start": "start", "plain": "plain RL", "tool_reward": "RL with tool reward"}
SEEN = {"frames_fetched": "frames fetched", "visual_tokens": "visual tokens"}
"""Columns of a demo with videos."""
NEVER = 0.02
"""Calls per episode that are as good as none."""
DROPPED, KEPT, GREW = 0.25, 0.75, 1.25
"""Calls at the end as a share of the start's: bounds of dropped, used less, kept, used more."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean and its standard error over tasks; None where a category has one task only."""

    value: float
    se: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model on held-out tasks."""

    calls: float
    """Tool calls per episode, all categories."""
    easy: Measured
    hard: Measured
    """Accuracies, first turn free."""
    share_hard: float
    """Share of hard episodes in which the tool was used."""
    tool_easy: Measured
    tool_hard: Measured
    """Accuracies, first turn forced to be code."""
    direct_easy: Measured
    direct_hard: Measured
    """Accuracies, first turn forced to be an answer."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """What a free episode fetched and was given, by the names of ``usage.NUMBERS``; of videos."""


@dataclass(frozen=True, slots=True)
class Split:
    """Where a change of hard accuracy came from; the parts add up to ``total``."""

    total: float
    se: float | None
    """Of ``total``, over tasks. Start and end meet the same tasks, so this is rather too large."""
    used_more: float
    """The tool is used in more (or fewer) episodes, at its mean worth."""
    used_better: float
    """Forced-tool accuracy changed, at the mean share of use."""
    rest: float
    """Direct answers changed; and forced episodes are not quite like free ones."""


def outcome(results: Mapping[str, Mapping[str, Any]], kind: Kind = KINDS["image"]) -> Outcome:
    """Return one model's outcome from its evaluations, by mode, as ``pvrl eval`` writes them.

    Accuracies of several categories are averaged with equal weights.

    Raises:
        KeyError: A mode or a category is missing.
    """

    def scores(mode: str, categories: tuple[str, ...]) -> list[Mapping[str, Any]]:
        return [results[mode]["categories"][category] for category in categories]

    def accuracy(mode: str, categories: tuple[str, ...]) -> Measured:
        found = scores(mode, categories)
        error = _combined([score["accuracy_se"] for score in found])
        return Measured(_mean(found, "accuracy"), None if error is None else error / len(found))

    overall = results["free"]["overall"]
    return Outcome(
        calls=overall["tool_calls"],
        easy=accuracy("free", kind.easy),
        hard=accuracy("free", kind.hard),
        share_hard=_mean(scores("free", kind.hard), "tool_share"),
        tool_easy=accuracy("tool", kind.easy),
        tool_hard=accuracy("tool", kind.hard),
        direct_easy=accuracy("direct", kind.easy),
        direct_hard=accuracy("direct", kind.hard),
        seen={name: overall[name] for name in SEEN if "frames_fetched" in overall},
    )


def _combined(errors: Sequence[float | None]) -> float | None:
    """The error of a sum of independent numbers; None if one of theirs is not known."""
    told = [error for error in errors if error is not None]
    return math.hypot(*told) if len(told) == len(errors) else None


def _mean(scores: list[Mapping[str, Any]], name: str) -> float:
    return math.fsum(score[name] for score in scores) / len(scores)


def read_outcomes(folder: Path, kind: Kind) -> dict[str, Outcome]:
    """Return the outcomes by model from ``folder/<model>/<mode>/result.json``."""

    def read(model: str, mode: str) -> Any:
        return json.loads((folder / model / mode / "result.json").read_text())

    return {model: outcome({mode: read(model, mode) for mode in MODES}, kind) for model in MODELS}


def split_rise(start: Outcome, end: Outcome) -> Split:
    """Return how a change of hard accuracy divides.

    With p the share of episodes that look, t and d the forced-tool and forced-direct accuracies,
    accuracy is p t + (1 - p) d if looking is independent of the task. Its change splits exactly
    into (p1 - p0) * mean(t - d), mean(p) * (t1 - t0) and the direct part.
    """
    total = end.hard.value - start.hard.value
    worth = (
        (start.tool_hard.value - start.direct_hard.value)
        + (end.tool_hard.value - end.direct_hard.value)
    ) / 2
    used_more = (end.share_hard - start.share_hard) * worth
    mean_share = (start.share_hard + end.share_hard) / 2
    used_better = mean_share * (end.tool_hard.value - start.tool_hard.value)
    se = _combined([start.hard.se, end.hard.se])
    return Split(total, se, used_more, used_better, total - used_more - used_better)


def fate(start_calls: float, end_calls: float) -> str:
    """Return what became of tool use: not used, dropped, used less, kept, or used more."""
    if max(start_calls, end_calls) < NEVER:
        return "not used"
    share = end_calls / start_calls if start_calls else math.inf
    if share < DROPPED:
        return "dropped"
    if share < KEPT:
        return "used less"
    return "kept" if share <= GREW else "used more"


def sentence(outcomes: Mapping[str, Outcome]) -> str:
    """Return what happened, in a few plain clauses computed from the numbers."""
    start, plain, paid = (outcomes[model] for model in MODELS)
    split = split_rise(start, paid)
    fates = fate(start.calls, plain.calls), fate(start.calls, paid.calls)
    clauses = [_fates(fates, start.calls, plain.calls, paid.calls), _rise(start, paid, split)]
    return " ".join([*clauses, _lesson(split, fates[1])])


def _fates(fates: tuple[str, str], start: float, plain: float, paid: float) -> str:
    words = {
        "not used": "never used the tool",
        "dropped": "dropped the tool",
        "used less": "used the tool less",
        "kept": "kept the tool",
        "used more": "kept the tool and used it more",
    }
    first = f"({start:.2f} -> {plain:.2f} calls per episode)"
    second = f"({start:.2f} -> {paid:.2f})"
    if fates[0] == fates[1]:
        return f"Both arms {words[fates[0]]}: plain RL {first}, RL with the tool reward {second}."
    return (
        f"Plain RL {words[fates[0]]} {first}; RL with the tool reward {words[fates[1]]} {second}."
    )


def _rise(start: Outcome, paid: Outcome, split: Split) -> str:
    return (
        f"With the tool reward, held-out accuracy on easy tasks went from {start.easy.value:.2f} "
        f"to {paid.easy.value:.2f}, on hard ones from {start.hard.value:.2f} to "
        f"{paid.hard.value:.2f} ({split.total:+.2f} ± {told(split.se)}): "
        f"{split.used_more:+.2f} from using the tool more, {split.used_better:+.2f} from using it "
        f"better (forced-tool accuracy {start.tool_hard.value:.2f} -> {paid.tool_hard.value:.2f}), "
        f"{split.rest:+.2f} from the rest."
    )


def _lesson(split: Split, fate_paid: str) -> str:
    if fate_paid == "not used":
        return "There was no skill to keep."
    if fate_paid == "dropped":
        return "The tool reward did not save the skill this time."
    if split.se is None or abs(split.total) <= 2 * split.se:
        return "On hard tasks that is no clear change."
    if split.total < 0:
        return "That is a clear fall: RL with the tool reward made the model worse at hard tasks."
    if split.used_better < 0.25 * split.total:
        return "So RL mostly kept a skill the cold start had made, and taught little of it."
    if split.used_more < 0.25 * split.total:
        return "So RL mostly taught the model to use the tool better."
    return "So RL did both: it used a skill the cold start had made more often, and improved it."


def table_rows(outcomes: Mapping[str, Outcome]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the demo's table as (head, rows) of text."""
    seen = [name for name in SEEN if all(name in o.seen for o in outcomes.values())]
    head = (
        *("model", "calls", *(SEEN[name] for name in seen)),
        *("easy", "hard", "hard, forced look", "hard, forced direct"),
    )
    rows = [
        (
            TITLES[model],
            f"{o.calls:.2f}",
            *(f"{o.seen[name]:.1f}" for name in seen),
            *(_pm(m) for m in (o.easy, o.hard, o.tool_hard, o.direct_hard)),
        )
        for model, o in outcomes.items()
    ]
    return head, rows


def _pm(measured: Measured) -> str:
    return f"{measured.value:.2f} ± {told(measured.se)}"


def told(error: float | None, digits: int = 2) -> str:
    """Return an error for people; a question mark for one that is not known."""
    return "?" if error is None else f"{error:.{digits}f}"

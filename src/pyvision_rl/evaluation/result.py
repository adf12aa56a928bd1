"""The result of an evaluation: ``result.json``, and the same for people and for papers.

In: a run folder's config and protocol, and its items. Out: scores overall and by category (the keys
that studies read), estimates with intervals and pass@k, what episodes used, how they ended, what
failed and what has no grade, by name; for a suite its own report, and where options have letters
the audit of their positions. Reads no episode.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from pyvision_rl.config import Config
from pyvision_rl.evaluation.bias import position_bias
from pyvision_rl.evaluation.evaluate import EvalResult, Sample, result_of, standard_error
from pyvision_rl.evaluation.items import NUMBERS, Item
from pyvision_rl.evaluation.numbers import bootstrap, pass_at, pass_levels, wilson
from pyvision_rl.evaluation.page import page, rows
from pyvision_rl.evaluation.protocol import read_protocol
from pyvision_rl.evaluation.suite import suite_report
from pyvision_rl.runs_files import replace_file
from pyvision_rl.types import EndReason

Json: TypeAlias = dict[str, Any]


def write_result(
    folder: Path, config: Config, items: Sequence[Item], more: Mapping[str, Any] | None = None
) -> EvalResult:
    """Write ``result.json``, ``result.md`` and ``row.csv``, and return the scores.

    Args:
        folder: The run folder.
        config: The whole config.
        items: Every episode, in order.
        more: Further keys, e.g. what a rescored run came from.

    Raises:
        RunError: The disk refuses.
    """
    result = result_of([item.sample for item in items])
    more = dict(more or {})
    protocol, rescored = read_protocol(folder), "rescored" in more
    told = result_json(config, items, result, protocol, rescored=rescored) | more
    # The JSON last: where it is, the others are.
    replace_file(folder / "row.csv", rows(told))
    replace_file(folder / "result.md", [page(told).removesuffix("\n")])
    replace_file(
        folder / "result.json", [json.dumps(told, indent=2, ensure_ascii=False, default=str)]
    )
    return replace(result, headline=told.get("headline", {}))


def result_json(
    config: Config,
    items: Sequence[Item],
    result: EvalResult,
    protocol: Json,
    *,
    rescored: bool = False,
) -> Json:
    """Return what ``result.json`` holds."""
    categories = sorted({i.sample.category for i in items if i.sample.category})
    by_name = {n: [i.sample for i in items if i.sample.category == n] for n in categories}
    seed, suite = config.seed, _suite(config, items, protocol)
    if suite:
        name = suite["report"]["headline"]
        result = replace(result, headline={name: suite["report"]["numbers"].get(name)})
    return {
        **result.to_json(),
        "estimates": {
            "overall": estimate([i.sample for i in items], seed=seed),
            "categories": {n: estimate(s, seed=seed) for n, s in by_name.items()},
        },
        "episodes": _episodes(items),
        "use": _use(items),
        "failed": [{"id": i.name, "why": i.why} for i in items if _failed(i)],
        "ungraded": [{"id": i.name, "why": i.why} for i in items if i.ungraded],
        "suite": suite,
        "position_bias": position_bias(items, seed=seed),
        "protocol": protocol,
        "notes": _notes(items, rescored=rescored),
    }


def estimate(samples: Sequence[Sample], *, seed: int = 0) -> Json:
    """Return accuracy and score with errors and intervals, and pass@k.

    ``accuracy`` is avg@k: each task's samples are averaged, then the tasks. A share of tasks with
    one sample each has Wilson's interval, and so have tasks that are all right or all wrong;
    everything else has a bootstrap over tasks.

    Args:
        samples: Of some tasks, ungraded ones among them.
        seed: Of the bootstrap.
    """
    by_task: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.counts:
            by_task.setdefault(sample.task, []).append(sample)
    groups = list(by_task.values())
    counts = [len(g) for g in groups]
    right = [sum(bool(s.correct) for s in g) for g in groups]
    shares = [r / n for r, n in zip(right, counts, strict=True)]
    scores = [math.fsum(s.score or 0.0 for s in g) / len(g) for g in groups]
    if not groups:
        return {"tasks": 0, "samples": 0, "accuracy": None, "score": None, "pass_at": {}}
    # A bootstrap of equal shares would be certain after three tasks.
    rate = max(counts) == 1 or set(shares) in ({0.0}, {1.0})
    interval = wilson(round(sum(shares)), len(groups)) if rate else bootstrap(shares, seed=seed)
    of_scores = interval if scores == shares else bootstrap(scores, seed=seed)
    return {
        "tasks": len(groups),
        "samples": sum(counts),
        "samples_per_task": max(counts),
        "accuracy": math.fsum(shares) / len(shares),
        "accuracy_se": standard_error(shares),
        "accuracy_interval": interval and asdict(interval),
        "score": math.fsum(scores) / len(scores),
        "score_se": standard_error(scores),
        "score_interval": of_scores and asdict(of_scores),
        "pass_at": _pass_at(counts, right),
    }


def _pass_at(counts: Sequence[int], right: Sequence[int]) -> dict[str, Json]:
    """Unbiased pass@k; a task with fewer graded samples than k is left out, and counted."""
    found = {}
    for k in pass_levels(max(counts)):
        values = [pass_at(k, n, c) for n, c in zip(counts, right, strict=True) if n >= k]
        found[str(k)] = {
            "value": math.fsum(values) / len(values),
            "tasks": len(values),
            "left_out": len(counts) - len(values),
        }
    return found


def _episodes(items: Sequence[Item]) -> Json:
    """How many there are, how they ended, and who graded them."""
    return {
        "all": len(items),
        "graded": sum(i.sample.correct is not None for i in items),
        "correct": sum(bool(i.sample.correct) for i in items),
        "failed": sum(_failed(i) for i in items),
        "ungraded": sum(i.ungraded for i in items),
        "ends": dict(Counter(i.sample.end.value for i in items)),
        "rungs": dict(Counter(i.rung for i in items if i.rung)),
    }


def _use(items: Sequence[Item]) -> dict[str, Json]:
    """What episodes used: mean per episode, and the sum; of those that know the number."""
    found = {}
    names = [*NUMBERS, *sorted({n for i in items for n in i.sample.numbers} - set(NUMBERS))]
    for name in names:
        values = [i.sample.numbers[name] for i in items if name in i.sample.numbers]
        if values:
            total = math.fsum(values)
            found[name] = {"mean": total / len(values), "sum": total, "episodes": len(values)}
    return found


def _suite(config: Config, items: Sequence[Item], protocol: Json) -> Json | None:
    report = suite_report(config, items)
    if report is None:
        return None
    facts = protocol.get("suite") or {}
    tasks = protocol.get("tasks") or {}
    return {
        **facts,
        "sha256": protocol.get("data", {}),
        "items_of_the_file": tasks.get("of_the_set"),
        "items_of_the_run": len({i.index for i in items}),
        "report": report,
    }


def _notes(items: Sequence[Item], *, rescored: bool) -> list[str]:
    notes = []
    again = "--resume grades them again"
    if rescored:
        again = "pvrl rescore into another folder asks again, and what was told is kept"
    by_id: dict[str, set[int]] = {}
    for item in items:
        by_id.setdefault(item.task.id, set()).add(item.index)
    if twice := [name for name, places in by_id.items() if len(places) > 1]:
        notes.append(
            f"{len(twice)} ids stand for several tasks, e.g. {twice[0]!r}: these are averaged as "
            "if they were samples of one"
        )
    if ungraded := sum(i.ungraded for i in items):
        notes.append(f"{ungraded} episodes have no grade and are in no rate; {again}")
    if unasked := sum(_unasked(i.sample) for i in items):
        notes.append(
            f"{unasked} of {len(items)} episodes had no turn, and count as wrong: their prompts "
            "alone fill rollout.max_context_tokens"
        )
    if failed := sum(_failed(i) for i in items):
        notes.append(
            f"{failed} episodes failed by our own fault and count as wrong; --resume "
            f"{'of the evaluation itself ' if rescored else ''}with --retry-failed runs them again"
        )
    return notes


def _unasked(sample: Sample) -> bool:
    return sample.end is EndReason.TOKEN_LIMIT and not sample.numbers["sampled_tokens"]


def _failed(item: Item) -> bool:
    return item.sample.counts and item.sample.correct is None

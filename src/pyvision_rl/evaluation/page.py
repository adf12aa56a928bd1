"""The result of an evaluation as a page for people and as rows for a paper's table.

In: what ``result.json`` holds. Out: Markdown, and lines of CSV. Computes nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from pyvision_rl.present import markdown
from pyvision_rl.usage import NUMBERS

Json: TypeAlias = Mapping[str, Any]

_SHOWN = 20
"""Episodes of a list on the page; ``result.json`` has all."""
COLUMNS = (
    *("model", "tasks_from", "protocol", "tools", "samples", "part"),
    *("tasks", "episodes", "failed", "ungraded"),
    *("accuracy", "accuracy_se", "low", "high", "interval", "score", "pass_at_k"),
    *("tool_calls", "sampled_tokens", *NUMBERS),
)
"""Of ``row.csv``: a row for everything, one per category, and one per number of a suite."""


def rows(result: Json) -> list[str]:
    """Return the lines of ``row.csv``, the head first."""
    lines = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    lines.append(_row(result, "overall", result["overall"], result["estimates"]["overall"]))
    estimates = result["estimates"]["categories"]
    for name, score in result["categories"].items():
        lines.append(_row(result, f"category:{name}", score, estimates[name]))
    suite = result.get("suite")
    for name, value in (suite["report"]["numbers"] if suite else {}).items():
        lines.append(_about(result) | {"part": f"suite:{name}", "accuracy": value})
    out = io.StringIO()
    csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n").writerows(lines)
    return out.getvalue().removesuffix("\n").split("\n")


def page(result: Json) -> str:
    """Return the page."""
    about = _about(result)
    parts = [
        f"# Evaluation of {about['model'] or 'a policy'}",
        f"On {about['tasks_from'] or 'tasks'}"
        + (f", protocol `{about['protocol']}`" if about["protocol"] else "")
        + ("" if about["tools"] != "no" else ", without tools")
        + f"; {about['samples'] or '?'} sample(s) a task.",
        *_notes(result),
        "## Accuracy",
        _accuracy(result),
        "A failed episode counts as wrong; one without a grade is in no rate. Accuracy is the mean "
        "over tasks of each task's share of right samples (avg@k), its error the standard error "
        "over tasks. pass@k is unbiased.",
        *_suite(result),
        *_bias(result),
        "## What episodes used",
        _use(result),
        "## How they ended",
        _ends(result),
        *_lists(result),
        *_protocol(result),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for a table; a dash for what was not measured."""
    return "-" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """Return a share in per cent; a dash for what was not measured."""
    return "-" if value is None else f"{100 * value:.2f} %"


def _about(result: Json) -> dict[str, Any]:
    """The columns that all rows have in common."""
    protocol = result.get("protocol") or {}
    sampling, tasks = protocol.get("sampling", {}), protocol.get("tasks", {})
    suite = result.get("suite") or {}
    return {
        "model": sampling.get("model", ""),
        "tasks_from": suite.get("name") or tasks.get("path") or tasks.get("name", ""),
        "protocol": suite.get("protocol") or "",
        "tools": {True: "yes", False: "no"}.get(protocol.get("tools", ""), ""),
        "samples": sampling.get("samples", ""),
    }


def _row(result: Json, part: str, score: Json, estimate: Json) -> dict[str, Any]:
    interval = estimate.get("accuracy_interval") or {}
    levels = list(estimate["pass_at"].items())
    return _about(result) | {
        "part": part,
        "tasks": score["tasks"],
        "episodes": score["episodes"],
        "failed": score["failed"],
        "ungraded": score["ungraded"],
        "accuracy": score["accuracy"],
        "accuracy_se": score["accuracy_se"],
        "low": interval.get("low"),
        "high": interval.get("high"),
        "interval": interval.get("method"),
        "score": estimate["score"],
        "pass_at_k": levels[-1][1]["value"] if levels else None,
        "tool_calls": score["tool_calls"],
        "sampled_tokens": score["sampled_tokens"],
        **{name: score.get(name) for name in NUMBERS},
    }


def _notes(result: Json) -> list[str]:
    suite = result.get("suite")
    said = [*result["notes"], *(suite["report"]["notes"] if suite else ())]
    for key, values in (suite or {}).get("differs_from_protocol", {}).items():
        said.append(f"`{key}` is {values['run']}; the protocol says {values['protocol']}")
    if rescored := result.get("rescored"):
        said.append(f"graded again; the episodes are those of `{rescored['from']}`")
    return ["\n".join(f"- {note}" for note in said)] if said else []


def _accuracy(result: Json) -> str:
    estimates = result["estimates"]
    parts = {"all": (result["overall"], estimates["overall"])}
    for name, score in result["categories"].items():
        parts[name] = (score, estimates["categories"][name])
    levels = list(estimates["overall"]["pass_at"])
    head = ["", "tasks", "episodes", "failed", "ungraded", "accuracy", "± se", "95 % interval"]
    head += ["score", *(f"pass@{k}" for k in levels if k != "1")]
    body = []
    for name, (score, estimate) in parts.items():
        interval = estimate.get("accuracy_interval")
        between = f"{share(interval['low'])} to {share(interval['high'])}" if interval else "-"
        line = [
            name.replace("|", "/"),
            *(str(score[n]) for n in ("tasks", "episodes", "failed", "ungraded")),
        ]
        line += [share(score["accuracy"]), share(score["accuracy_se"]), between]
        line += [share(estimate["score"])]
        passed = (estimate["pass_at"].get(k, {}).get("value") for k in levels if k != "1")
        body.append(line + [share(value) for value in passed])
    told = [estimate.get("accuracy_interval") for _, estimate in parts.values()]
    methods = "; ".join(dict.fromkeys(each["method"] for each in told if each))
    method = f"\nInterval: {methods}.\n" if methods else ""
    return markdown(head, body) + method


def _suite(result: Json) -> list[str]:
    suite = result.get("suite")
    if not suite:
        return []
    report = suite["report"]
    lines = [[name, number(value)] for name, value in report["numbers"].items()]
    counts = ", ".join(f"{name} {count}" for name, count in report["counts"].items())
    return [
        f"## {suite['name']}, "
        + (f"protocol `{suite['protocol']}`" if suite["protocol"] else "by no protocol of it"),
        suite["source"],
        f"Headline: **{report['headline']} = {number(report['numbers'].get(report['headline']))}** "
        f"({suite['items_of_the_run']} of {suite['items_of_the_file']} items of the file; "
        f"{counts})",
        markdown(["number", "value"], lines),
    ]


def _bias(result: Json) -> list[str]:
    parts = []
    for audit in result.get("position_bias") or ():
        lines = [
            [x["letter"], str(x["right"]), number(x["answered"]), share(x["accuracy"])]
            for x in audit["letters"]
        ]
        parts += [
            f"{audit['items']} items with {audit['options']} options; no letter answered: "
            f"{number(audit['no_letter'])}; letters answered as often as right: p = "
            f"{number(audit['p_answered'])}; equal accuracy whichever is right: p = "
            f"{number(audit['p_accuracy'])}",
            markdown(["letter", "right", "answered", "accuracy where right"], lines),
        ]
    return ["## Positions of options", *parts] if parts else []


def _use(result: Json) -> str:
    lines = [
        [name.replace("_", " "), number(use["mean"]), f"{use['sum']:.10g}"]
        for name, use in result["use"].items()
    ]
    return markdown(["", "mean of an episode", "sum"], lines)


def _ends(result: Json) -> str:
    episodes = result["episodes"]
    lines = [[name, str(count)] for name, count in sorted(episodes["ends"].items())]
    lines += [[f"graded by {name}", str(n)] for name, n in sorted(episodes["rungs"].items())]
    return markdown(["", "episodes"], [*lines, ["all", str(episodes["all"])]])


def _lists(result: Json) -> list[str]:
    parts = []
    for name, title in (("failed", "Failed, counted as wrong"), ("ungraded", "Without a grade")):
        found = result[name]
        if found:
            lines = [f"- `{e['id']}`: {_one_line(e['why'])}" for e in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"- and {len(found) - _SHOWN} more, in `result.json`")
            parts += [f"## {title} ({len(found)})", "\n".join(lines)]
    return parts


def _protocol(result: Json) -> list[str]:
    protocol = dict(result.get("protocol") or {})
    if not protocol:
        return []
    prompt = dict(protocol.pop("prompt", {}))
    first = prompt.pop("first", None)
    parts = ["## How it was asked and graded"]
    if first:
        text = "\n\n".join(f"[{m['role']}]\n{m['text']}" for m in first["messages"])
        parts += [f"The first prompt, of task `{first['task']}`:", _fenced(text)]
    rest = protocol | {"prompt": {k: v for k, v in prompt.items() if not k.endswith("_text")}}
    return [*parts, _fenced(json.dumps(rest, indent=1, ensure_ascii=False), "json")]


def _fenced(text: str, kind: str = "text") -> str:
    """A block of code whose fence is longer than any in the text."""
    fence = "`" * (1 + max([2, *(len(run) for run in re.findall("`+", text))]))
    return f"{fence}{kind}\n{text}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]

"""What the page knows of a run besides its trajectories: ``data/run.js``.

In: a run folder and its steps in short. Out: JSON values: config, curves, events, result, and
everything that was skipped or is missing. Reads trajectories nowhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyvision_rl.runs_codec import RunInfo
from pyvision_rl.view import SCHEMA
from pyvision_rl.view.index import Snapshot, step_list
from pyvision_rl.view.lines import Problems, objects, read_json
from pyvision_rl.view.scripts import Json


def run_payload(path: Path, info: RunInfo, snapshot: Snapshot, problems: list[str]) -> Json:
    """Return what is known of a run.

    Args:
        path: The run folder.
        info: What its ``run.json`` says.
        snapshot: Its steps.
        problems: What else went wrong.
    """
    metrics, told = metrics_of(path)
    events, also = events_of(path)
    result = read_json(path / "result.json", problems)
    steps = [text for step in snapshot.steps for text in step.problems]
    return {
        "schema": SCHEMA,
        "version": snapshot.version,
        "name": path.resolve().name,
        "verb": info.verb,
        "created": info.created,
        "command": info.command,
        "versions": dict(info.versions),
        "resumed": [dict(entry) for entry in info.resumed],
        "config": info.config,
        "events": events,
        "problems": list(dict.fromkeys([*problems, *told, *also, *steps, *_missing(snapshot)])),
        "metrics": metrics,
        "steps": step_list(snapshot),
        "result": result,
        "study": None,
        "runs": [],
        "media": _media(snapshot),
        "num_media": {"named": snapshot.num_images, "here": snapshot.num_here},
    }


def metrics_of(path: Path) -> tuple[Json, tuple[str, ...]]:
    """Return the lines of ``metrics.jsonl`` by name, and what could not be read."""
    problems = Problems("metrics.jsonl")
    lines = []
    for line in objects(path / "metrics.jsonl", problems):
        if isinstance(line.get("step"), int):
            lines.append(line)
        else:
            problems.add(": a line without a step, skipped")
    names = [n for n in dict.fromkeys(n for line in lines for n in line) if n != "step"]
    columns: dict[str, list[Any]] = {name: [line.get(name) for line in lines] for name in names}
    return {
        "names": names,
        "steps": [line["step"] for line in lines],
        "columns": columns,
    }, problems.told()


def events_of(path: Path) -> tuple[list[Json], tuple[str, ...]]:
    """Return the remarks of a run, and what could not be read."""
    problems = Problems("events.jsonl")
    names = ("time", "step", "name", "text")
    found = [{n: line.get(n) for n in names} for line in objects(path / "events.jsonl", problems)]
    return found, problems.told()


def _missing(snapshot: Snapshot) -> list[str]:
    gone = snapshot.num_images - snapshot.num_here
    if not gone:
        return []
    return [
        f"{gone} of {snapshot.num_images} images have no file in media/ (run.media_every says "
        "whose are written)"
    ]


def _media(snapshot: Snapshot) -> str:
    if snapshot.num_here == snapshot.num_images:
        return "full"
    return "some" if snapshot.num_here else "none"

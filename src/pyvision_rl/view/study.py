"""A study folder for the page: its variants and seeds, with their curves and results.

In: a study folder, also one that is being run. Out: JSON values, and the run folders in it by name.
Judges nothing; computes no spread, for the page draws it from the curves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyvision_rl.errors import RunError
from pyvision_rl.runs import read_info
from pyvision_rl.study.notes import RETRYING, read_note
from pyvision_rl.view import SCHEMA
from pyvision_rl.view.lines import read_json
from pyvision_rl.view.run import metrics_of
from pyvision_rl.view.scripts import Json
from pyvision_rl.view.steps import stamp_of

FILE = "study.json"
_KINDS = {"variant": "variants", "start": "cold-starts"}
_PATTERN = "*/seed-*/*/run.json"


def is_study(path: Path) -> bool:
    """Return whether a folder holds a study."""
    return (path / FILE).is_file()


def runs_of(path: Path) -> dict[str, Path]:
    """Return the run folders in a study by the names of their units."""
    files = [f for top in _KINDS.values() for f in sorted((path / top).glob(_PATTERN))]
    return {file.parent.relative_to(path).as_posix(): file.parent for file in files}


def study_version(path: Path) -> str:
    """Return a text that changes when a unit ends or a curve grows."""
    files = [path / FILE, path / "result.json", path / "tables.md"]
    files += sorted((path / "units").glob("*.json"))
    files += [run / "metrics.jsonl" for run in runs_of(path).values()]
    told = "\n".join(f"{file} {stamp_of(file)}" for file in files)
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def study_payload(path: Path) -> Json:
    """Return the content of a study's ``data/run.js``."""
    problems: list[str] = []
    content = _object(read_json(path / FILE, problems))
    config = _object(content.get("config"))
    runs = runs_of(path)
    result = read_json(path / "result.json", problems)
    variants = [
        _variant(path, kind, name, label, runs, problems)
        for kind, name, label in _named(path, config)
    ]
    listed = [_run(name, folder, problems) for name, folder in runs.items()]
    return {
        "schema": SCHEMA,
        "version": study_version(path),
        "name": path.resolve().name,
        "verb": "study",
        "created": min((r["created"] for r in listed if r["created"]), default=""),
        "command": result.get("command", "") if isinstance(result, dict) else "",
        "versions": {},
        "resumed": [],
        "config": config,
        "events": [],
        "problems": list(dict.fromkeys(problems)),
        "metrics": {"names": [], "steps": [], "columns": {}},
        "steps": [],
        "result": None,
        "study": {
            "title": str(config.get("title", "")),
            "seeds": config.get("seeds", []),
            "quick": bool(content.get("quick")),
            "variants": variants,
            "result": result,
            "tables": _text(path / "tables.md", problems),
        },
        "runs": listed,
        "media": "full",
        "num_media": {"named": 0, "here": 0},
    }


def _object(value: Any) -> Json:
    """Return an object of a file; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _named(path: Path, config: Json) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and label: as the config lists them, then what else has a folder."""
    for kind, key in (("start", "cold_starts"), ("variant", "variants")):
        entries = config.get(key) or []
        known = {str(e["name"]): e for e in entries if isinstance(e, dict) and "name" in e}
        folder = path / _KINDS[kind]
        found = sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []
        for name in dict.fromkeys([*known, *found]):
            yield kind, name, str(known.get(name, {}).get("label") or name)


def _variant(
    path: Path, kind: str, name: str, label: str, runs: dict[str, Path], problems: list[str]
) -> Json:
    base = f"{_KINDS[kind]}/{name}"
    # Not joined from the config's name: that may be anything.
    units = [unit for unit in runs if unit.startswith(f"{base}/seed-")]
    seeds = sorted({unit.split("/")[2] for unit in units}, key=_seed)
    verb = "rl" if kind == "variant" else "sft"
    told = [_seed_of(path, f"{base}/{seed}", verb, runs, problems) for seed in seeds]
    return {"name": name, "label": label, "kind": kind, "seeds": told}


def _seed(folder: str) -> int:
    digits = folder.removeprefix("seed-")
    return int(digits) if digits.isdecimal() else -1


def _seed_of(path: Path, base: str, verb: str, runs: dict[str, Path], problems: list[str]) -> Json:
    unit = f"{base}/{verb}"
    metrics = None
    if unit in runs:
        metrics, told = metrics_of(runs[unit])
        problems += [f"{unit}: {text}" for text in told]
    evaluations = [
        {
            "name": name.removeprefix(f"{base}/eval-"),
            "run": name,
            "result": read_json(folder / "result.json", problems),
        }
        for name, folder in runs.items()
        if name.startswith(f"{base}/eval-")
    ]
    return {
        "seed": _seed(base.rsplit("/", 1)[1]),
        "status": _status(path, unit, there=unit in runs, problems=problems),
        "run": unit if unit in runs else None,
        "metrics": metrics,
        "evaluations": evaluations,
    }


def _status(path: Path, unit: str, *, there: bool, problems: list[str]) -> str:
    try:
        note = read_note(path, unit)
    except RunError as error:
        problems.append(str(error))
        note = None
    if note is not None and note.status != RETRYING:
        return note.status
    return "running" if there else "none"


def _run(name: str, folder: Path, problems: list[str]) -> Json:
    facts: dict[str, Any] = {"name": name, "href": f"runs/{name}/index.html", "label": name}
    try:
        info = read_info(folder)
    except RunError as error:
        problems.append(str(error))
        return {**facts, "verb": "", "created": ""}
    return {**facts, "verb": info.verb, "created": info.created}


def _text(file: Path, problems: list[str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else None
    except OSError as error:
        problems.append(f"{file.name} cannot be read: {error}")
        return None

"""A whole study: plan, run, read, compare, and write what was found.

In: a study config and a folder. Out: the folder filled:

    study.json     the config, as it was run
    cold-starts/   <name>/seed-<n>/{model,sft,eval-<name>}
    variants/      <name>/seed-<n>/{rl,eval-<name>}: run folders
    units/, logs/  what every unit was begun with, how it ended, and what it said
    figures/, tables.md, result.json

A study that was stopped at any point goes on with its unfinished units. Trains nothing itself.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyvision_rl.checks.rl import absent_model
from pyvision_rl.checks.sections import check_config
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.evaluation.evaluate import asked_alone
from pyvision_rl.present import hardware
from pyvision_rl.runs import read_info
from pyvision_rl.study.comparing import compare
from pyvision_rl.study.config import FIGURE, STUDY_FILE, StudyConfig, dump_study, load_study
from pyvision_rl.study.notes import DONE, FAILED, locked, write_json, write_text
from pyvision_rl.study.plan import Planner, Unit
from pyvision_rl.study.reading import Row, read_rows
from pyvision_rl.study.running import PVRL, Finished, Progress, Runner, notes_of
from pyvision_rl.study.tables import labels, summarize, to_markdown
from pyvision_rl.train.interrupts import Interrupted

RESULT, TABLES = "result.json", "tables.md"
_WALL = "wall.jsonl"


@dataclass(frozen=True, slots=True)
class Found:
    """What a study wrote."""

    result: dict[str, Any]
    """The content of ``result.json``."""
    paths: dict[str, str]
    """The files for people, by name."""
    failed: int
    """Units that failed, or waited for one that did."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"failed_units": self.failed, "paths": self.paths, **self.result}


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    jobs: int,
    quick: bool = False,
    retry_failed: bool = False,
    command: str = "",
    program: Sequence[str] = PVRL,
    report: Callable[[str], None] = lambda _: None,
    status: Callable[[Progress], None] = lambda _: None,
) -> Found:
    """Run what is not done yet, and write tables and figures.

    Args:
        study: What to run.
        out: A new or empty folder, or one of the same study; it may have grown by seeds, variants
            or evaluations.
        jobs: Units at a time, one core each; changes no number.
        quick: Apply the study's ``[quick]``.
        retry_failed: Run units again that failed; otherwise they stay failed.
        command: How it was said on a command line, for the record.
        program: What runs the units.
        report: Receives a line when a unit starts or ends.
        status: Receives the state of things while units run.

    Raises:
        ConfigError: A config is missing or wrong.
        RunError: The folder is another's, or another process runs a study there.
        Interrupted: A signal stopped the study; it can be resumed.
    """
    planner = Planner(study, out, quick=quick)
    units = planner.units()
    check_starts(study)
    check_units(units)
    _refuse_foreign(out, quick)
    began = time.time()
    with locked(out):
        # First: what is refused leaves the folder as it was.
        notes_of(out, units, retry_failed=retry_failed)
        write_study(study, out, quick=quick)
        runner = Runner(out, jobs=jobs, program=program, report=report, status=status)
        try:
            finished = runner.run(units, retry_failed=retry_failed)
        finally:
            with (out / _WALL).open("a", encoding="utf-8") as wall:
                wall.write(json.dumps({"began": began, "ended": time.time()}) + "\n")
        if finished.stopped is not None:
            raise Interrupted(128 + finished.stopped, f"pvrl study --resume {out}")
        facts = {"command": command, "quick": quick, "jobs": jobs}
        return _write_findings(study, planner, finished, out, facts)


def write_study(study: StudyConfig, out: Path, *, quick: bool) -> None:
    """Write ``study.json``: the config, and whether it is run with ``quick``."""
    write_json(out / STUDY_FILE, dump_study(study) | {"quick": quick})


def read_quick(out: Path) -> bool:
    """Return whether the study in a folder was begun with ``quick``."""
    file = out / STUDY_FILE
    if not file.exists():
        raise ConfigError(f"--resume {out}: no {STUDY_FILE} there")
    return bool(json.loads(file.read_text(encoding="utf-8")).get("quick"))


def check_starts(study: StudyConfig) -> None:
    """Raise ConfigError for a cold start whose model is not there: nobody will make it."""
    for start in study.cold_starts:
        if start.model and (why := absent_model(start.model)):
            raise ConfigError(f"cold_starts {start.name!r}: model: {why}")


def check_units(units: Iterable[Unit]) -> None:
    """Look at every distinct config before hours are spent on it.

    Raises:
        ConfigError: A task set, filter, template or name in a config is wrong.
    """
    seen: set[str] = set()
    for unit in units:
        config = load_config(find_config(unit.config), unit.overrides)
        if unit.verb == "eval":
            config = asked_alone(config)
        # Seeds and the models that are made on the way make no other config.
        policy = config.policy.model_copy(update={"model": ""})
        content = config.model_copy(update={"seed": 0, "policy": policy}).model_dump_json()
        if content in seen:
            continue
        seen.add(content)
        faults = [f"{f.name}: {f.detail}" for f in check_config(config) if not f.ok]
        if faults:
            raise ConfigError(f"{unit.name} ({unit.config}): {'; '.join(faults)}")


def _refuse_foreign(out: Path, quick: bool) -> None:
    if not out.exists():
        return
    if (out / STUDY_FILE).exists():
        load_study(out / STUDY_FILE)
        if read_quick(out) != quick:
            raise RunError(f"{out} holds a study with quick = {not quick}; name another folder")
    elif not out.is_dir() or any(f.name != "study.lock" for f in out.iterdir()):
        raise RunError(f"{out} is there already and not an empty folder; name another")


def _write_findings(
    study: StudyConfig, planner: Planner, finished: Finished, out: Path, facts: Mapping[str, Any]
) -> Found:
    rows = read_rows(study, planner, finished, out)
    failed = [n for n, note in finished.notes.items() if note.status == FAILED]
    units = {
        "done": len(finished.notes) - len(failed),
        "failed": len(failed),
        "blocked": len(finished.blocked),
        "seconds": round(sum(n.seconds for n in finished.notes.values()), 1),
        "failures": {name: asdict(note) for name, note in finished.notes.items() if note.failures},
    }
    provenance = {
        **facts,
        "config_sha256": _digest(study),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": _wall_s(out),
        "versions": _versions(finished, out),
        "hardware": hardware(),
        "units": units,
    }
    differences = compare(study, rows)
    result = summarize(study, planner.seeds, rows, differences, provenance)
    figures = draw_figures(study, rows, out / "figures", quick=bool(facts["quick"]))
    write_json(out / RESULT, result)
    relative = {path.relative_to(out).as_posix(): caption for path, caption in figures.items()}
    write_text(out / TABLES, to_markdown(result, relative))
    one = planner.rl_unit(study.variants[0].name, planner.seeds[0])
    paths = {"tables": out / TABLES, "numbers": out / RESULT, "one run": out / one}
    paths |= {f"figure {path.stem}": path for path in figures}
    return Found(
        result, {k: str(path) for k, path in paths.items()}, len(failed) + len(finished.blocked)
    )


def draw_figures(
    study: StudyConfig, rows: Sequence[Row], folder: Path, *, quick: bool = False
) -> dict[Path, str]:
    """Draw the figures of a study; return file -> caption, which two may share."""
    # matplotlib takes half a second: a plan does without.
    from pyvision_rl.study.figures import DYNAMICS, draw, lines_of

    names = [v.name for v in study.variants]
    titles = labels(study)
    wanted = [
        (f.name, f.title or f.name, f.variants or tuple(names), f.panels or DYNAMICS)
        for f in study.figures
    ]
    if not wanted:
        wanted.append((FIGURE, "Training dynamics", tuple(names), DYNAMICS))
        panels = ("tool_calls", *_held_out(rows))
        for variant in study.variants:
            other = variant.against or study.main or names[0]
            if other != variant.name:
                title = f"{titles[variant.name]} against {titles[other]}"
                wanted.append((variant.name, title, (other, variant.name), panels))
    drawn = {}
    for name, title, variants, panels in wanted:
        file = folder / f"{name}.png"
        title += " (quick: the numbers mean nothing)" if quick else ""
        draw(lines_of(variants, rows, titles, names), panels, file, title=title)
        drawn[file] = title
    return drawn


def _held_out(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the held-out accuracies that runs have: by category if there are any."""
    prefix = "eval_accuracy"
    found = {k for row in rows for line in row.curves for k in line if k.startswith(prefix)}
    split = sorted(found - {prefix, f"{prefix}_se"})
    return tuple(split) or (prefix,)


def _digest(study: StudyConfig) -> str:
    text = json.dumps(dump_study(study), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _wall_s(out: Path) -> float:
    """Return the seconds of all sittings; one that was killed outright is not counted."""
    seconds = 0.0
    for line in (out / _WALL).read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # half a line of a disk that was full
            sitting = json.loads(line)
            seconds += sitting["ended"] - sitting["began"]
    return round(seconds, 1)


def _versions(finished: Finished, out: Path) -> dict[str, str]:
    """Return the versions that the units ran with, as their run folders say."""
    for name, note in finished.notes.items():
        if note.status == DONE and (out / name / "run.json").exists():
            return dict(read_info(out / name).versions)
    return {}

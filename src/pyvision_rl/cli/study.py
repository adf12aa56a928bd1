"""``pvrl study``: variants times seeds, then tables and figures.

In: a study config. Out: a study folder, and its tables on the screen. Exit codes are those of every
verb; 1 also when a unit failed, after everything that could be run was run.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pyvision_rl.cli.execute import (
    AsJson,
    Debug,
    DryRun,
    Out,
    Overrides,
    Resume,
    guarded,
    say,
    write_json,
)
from pyvision_rl.errors import ConfigError

if TYPE_CHECKING:
    from pyvision_rl.study.plan import Planner
    from pyvision_rl.study.running import Progress

_STATUS_EVERY_S = 60.0
"""Off a terminal."""

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="TOML file of a study, or the bare name of a packaged one. Leave it out with "
        "--resume.",
    ),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Units at a time; default: the cores.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Apply the study's [quick], to see it run.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run units again that failed, from scratch.")
]


@guarded
def study(
    config: StudyArgument = "",
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    jobs: Jobs = None,
    quick: Quick = False,
    retry_failed: RetryFailed = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run variants times seeds, and write tables with spread, tests and figures."""
    from pyvision_rl.study.conduct import check_starts, check_units, read_quick, run_study
    from pyvision_rl.study.config import find_study, load_study
    from pyvision_rl.study.plan import Planner
    from pyvision_rl.study.running import existing

    if bool(config) == bool(resume) or (resume and out):
        raise ConfigError("name a CONFIG (and --out at will), or --resume STUDY alone")
    source = find_study(str(resume) if resume else config)
    wanted = load_study(source, overrides or ())
    if resume:
        begun = read_quick(resume)
        if quick and not begun:
            raise ConfigError(
                f"--quick: the study in {resume} was begun without it, and goes on as it was begun"
            )
        quick = begun
    folder = resume or out or _free_folder(source)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already and not an empty folder; use --resume")
    cores = jobs or len(os.sched_getaffinity(0))
    if dry_run:
        planner = Planner(wanted, folder, quick=quick)
        check_starts(wanted)
        check_units(planner.units())
        there = existing(folder, planner.units(), retry_failed=retry_failed)
        _show_plan(planner, folder, cores, there, as_json=as_json)
        return
    with _progress() as (report, status):
        found = run_study(
            wanted,
            folder,
            jobs=cores,
            quick=quick,
            retry_failed=retry_failed,
            command=shlex.join(["pvrl", *sys.argv[1:]]),
            report=report,
            status=status,
        )
    _show(found.to_json(), folder, as_json=as_json)
    if found.failed:
        raise typer.Exit(1)


def _show(result: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    from pyvision_rl.study.tables import main_tables

    failed = result["failed_units"]
    then = f"pvrl show {result['paths']['one run']}"
    if failed:
        then = f"pvrl study --resume {folder} --retry-failed"
    if as_json:
        write_json({"verb": "study", "out": str(folder), "result": result, "next": then})
        return
    say(main_tables(result))
    for name, path in result["paths"].items():
        say(f"{name}: {path}")
    if failed:
        say(f"{failed} units failed or could not be run; {folder}/logs has what they said")
    say(f"next: {then}")


def _show_plan(
    planner: Planner,
    folder: Path,
    jobs: int,
    there: Mapping[str, Collection[str]],
    *,
    as_json: bool,
) -> None:
    units = planner.units()
    verbs = Counter(unit.verb for unit in units)
    if as_json:
        rows = [{"name": u.name, "verb": u.verb, "needs": u.needs} for u in units]
        write_json({"verb": "study", "out": str(folder), "dry_run": True, "units": rows, **there})
        return
    states = {name: state for state, names in there.items() for name in names}
    for unit in units:
        say(f"{states.get(unit.name, 'new'):<12}{unit.verb:<10}{unit.name}")
    counted = ", ".join(f"{count} {verb}" for verb, count in verbs.items())
    seeds = " ".join(map(str, planner.seeds))
    say(f"{len(units)} units: {counted}; seeds {seeds}")
    say(", ".join(f"{len(names)} {state}" for state, names in there.items()))
    say(f"would run {jobs} at a time in {folder}{os.sep}")
    say("next: the same command without --dry-run")


def _free_folder(source: Path) -> Path:
    """Return the first ``runs/<study>-<n>`` that is not there."""
    number = 1
    while (folder := Path("runs") / f"{source.stem}-{number}").exists():
        number += 1
    return folder


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[Progress], None]]]:
    """Yield what shows a line, and what shows the state of things with the time left."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("planning") as line:
            yield (
                lambda text: console.print(Text(text)),
                lambda progress: line.update(Text(_state(progress), overflow="ellipsis")),
            )
        return
    last = [time.monotonic()]

    def now_and_then(progress: Progress) -> None:
        if time.monotonic() - last[0] >= _STATUS_EVERY_S:
            last[0] = time.monotonic()
            console.print(_state(progress), markup=False, highlight=False, soft_wrap=True)

    yield (
        lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        now_and_then,
    )


def _state(progress: Progress) -> str:
    left = progress.seconds_left
    eta = "" if left is None else f", about {int(left) // 60}:{int(left) % 60:02d} left"
    lost = f", {progress.failed} failed" if progress.failed else ""
    running = "; running " + ", ".join(progress.running) if progress.running else ""
    return f"{progress.done} of {progress.total} units done{lost}{eta}{running}"

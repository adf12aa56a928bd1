"""What every verb shares: options, run folders, errors to exit codes, results to text or JSON.

In: the options a person typed and the function that does the work. Out: an exit code: 0 done, 1 the
run failed, 2 bad usage or config, 130 interrupted. Knows no verb.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeAlias

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyvision_rl.cli.report import Reporter
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config, resolved
from pyvision_rl.errors import ConfigError, PVRLError
from pyvision_rl.registry import missing
from pyvision_rl.resuming import can_go_on
from pyvision_rl.train.interrupts import Interrupted

P = ParamSpec("P")

CONFIG_HELP = "TOML file, run folder, run.json, or the bare name of a packaged config."
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]
OptionalConfig = Annotated[
    str, typer.Argument(metavar="CONFIG", help=f"{CONFIG_HELP} Leave it out with --resume.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one config key; may be repeated."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where to write; new or empty.")
]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="RUN", help="Go on in this run folder.")
]
MaxJudgeCalls = Annotated[
    int | None,
    typer.Option("--max-judge-calls", min=0, help="Same as --set rewards.judge.max_calls=N."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run, and stop.")]
DeviceMemory = Annotated[
    float | None,
    typer.Option(
        "--device-memory-gb",
        min=0.0,
        metavar="GIB",
        help="With --dry-run: exit 1 if the run cannot fit so many GiB.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def judge_budget(max_calls: int | None) -> tuple[str, ...]:
    """Return the override that ``--max-judge-calls`` stands for."""
    return () if max_calls is None else (f"rewards.judge.max_calls={max_calls}",)


@dataclass(frozen=True, slots=True)
class Options:
    """What a person typed after a verb."""

    config: str = ""
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    resume: Path | None = None
    dry_run: bool = False
    as_json: bool = False
    device_memory_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One run, ready to start."""

    config: Config
    out: Path
    resume: Path | None
    report: Callable[[str], None]
    learner: dict[str, Any] = field(default_factory=dict)
    """``learner`` of ``run_rl`` and ``run_sft``, where it is not theirs."""


Then: TypeAlias = str | Callable[[Config], str]


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C, with the line that says how to go on."""


def guarded(verb: Callable[P, None]) -> Callable[P, None]:
    """Return ``verb`` with every error turned into one message on stderr and an exit code."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug"))
        _prepare(debug=debug)
        try:
            verb(*args, **kwargs)
        # A reader that left (| head) is no failure: typer ends the process without a word.
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Interrupted as stop:
            complain(f"stopped after a whole step, and saved; go on with: {stop.resume}")
            raise
        except KeyboardInterrupt as error:
            complain(str(error) or "interrupted")
            raise typer.Exit(130) from None
        # The outermost boundary: a message instead of a trace, whatever went wrong.
        except Exception as error:
            if debug:
                raise
            if isinstance(error, ModuleNotFoundError):
                error = missing(error, "this command")
            ours = isinstance(error, PVRLError)
            unexpected = f"{type(error).__name__}: {error} (--debug shows where)"
            said = str(error) if ours else unexpected
            complain("; ".join([said, *getattr(error, "__notes__", [])]))
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None

    return run


def run_verb(name: str, options: Options, work: Callable[[Job], Any], *, then: Then) -> None:
    """Load the config, make the run folder, do the work, show the result and what to do next.

    Args:
        name: The verb, for the default folder's name and the resume command.
        options: What was typed.
        work: Does the verb's work; returns a record with ``to_json``, or a path.
        then: The next useful command; ``{out}`` stands for the run folder, ``{config}`` for what
            was typed (or the run folder) and ``{model}`` for ``policy.model``. May depend on the
            config.

    Raises:
        ConfigError: Bad usage or config.
        PVRLError: The run failed.
        InterruptedRun: Ctrl-C.
    """
    if options.device_memory_gb is not None and not options.dry_run:
        raise ConfigError("--device-memory-gb belongs to --dry-run; a run does not look at it")
    source = source_of(options)
    config = load_config(source, options.overrides)
    if options.dry_run:
        _show_plan(name, options, config, source)
        return
    if config.train.parallel != "none" and name in ("rl", "sft"):
        from pyvision_rl.cli.parallel import together

        together(config, lambda made: _run(name, options, config, source, made, work, then))
    else:
        _run(name, options, config, source, {}, work, then)


def _run(
    name: str,
    options: Options,
    config: Config,
    source: Path,
    learner: dict[str, Any],
    work: Callable[[Job], Any],
    then: Then,
) -> None:
    with _run_folder(name, options, source) as out:
        try:
            with Reporter(Console(stderr=True), name) as report:
                result = work(Job(config, out, options.resume, report, learner))
        except KeyboardInterrupt as error:
            hint = f"; go on with: pvrl {name} --resume {out}" if can_go_on(name, out) else ""
            raise InterruptedRun(f"interrupted{hint}") from error
    typed = options.config or out
    words = then if isinstance(then, str) else then(config)
    following = words.format(out=out, config=typed, model=config.policy.model)
    if options.as_json:
        write_json({"verb": name, "out": str(out), "result": to_json(result), "next": following})
        return
    values = to_json(result)
    if isinstance(values, dict):
        print_result(values)
    say(f"wrote {out}")
    say(f"next: {following}")


def say(text: str) -> None:
    """Write one line to stdout."""
    typer.echo(text)


def complain(text: str) -> None:
    """Write one message to stderr."""
    typer.echo(f"pvrl: {text}", err=True)


def write_json(value: Any) -> None:
    """Write one JSON value to stdout; what is no finite number as the word that run files have."""
    from pyvision_rl.present import finite

    typer.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, default=str))


def to_json(result: Any) -> Any:
    """Return a verb's result as JSON values: records by their fields, paths as text."""
    if hasattr(result, "to_json"):
        return result.to_json()
    if is_dataclass(result) and not isinstance(result, type):
        return {f.name: to_json(getattr(result, f.name)) for f in fields(result)}
    return str(result) if isinstance(result, Path) else result


def result_table(values: dict[str, Any]) -> Table:
    """Return a result as a table: dotted name, value."""
    from pyvision_rl.present import flat
    from pyvision_rl.show import sanitize

    table = Table("result", "value", box=None, pad_edge=False)
    for key, value in flat(values):
        told = f"{value:.4g}" if isinstance(value, float) else str(value)
        # Names of categories are the data's: a plain str would be read as markup.
        table.add_row(Text(sanitize(key)), Text(sanitize(told)))
    return table


def wide_console(width: int = 500) -> Console:
    """Return a console for tables; off a terminal so wide that no name or line number is cut."""
    return Console(width=None if Console().is_terminal else width)


def print_result(values: dict[str, Any]) -> None:
    """Write a result as a table."""
    wide_console().print(result_table(values))


def _prepare(*, debug: bool) -> None:
    """Set up logging, and let configs name classes in the working directory."""
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pyvision_rl").setLevel(level)
    here = str(Path.cwd())
    # At the end: a file here must not shadow an installed package.
    if here not in sys.path:
        sys.path.append(here)


def source_of(options: Options) -> Path:
    """Return the config file to load.

    Raises:
        ConfigError: Not exactly one of CONFIG and --resume was given, or there is no such file.
    """
    if options.resume is None:
        if not options.config:
            raise ConfigError("name a CONFIG (a TOML file or a packaged name), or --resume RUN")
        return find_config(options.config)
    if options.config or options.out:
        raise ConfigError(
            "--resume RUN goes on in RUN with its own config: leave out CONFIG and --out, and "
            "change single keys with --set"
        )
    if not (options.resume / "run.json").exists():
        run = options.resume.parent.parent
        inside = (run / "run.json").exists()
        hint = f"; a run goes on from its newest checkpoint: --resume {run}" if inside else ""
        raise ConfigError(f"--resume {options.resume}: no run.json there{hint}")
    return options.resume


@contextmanager
def _run_folder(name: str, options: Options, source: Path) -> Iterator[Path]:
    """Yield the run folder; a new one that stays empty is taken away again."""
    if options.resume is not None:
        yield options.resume
    elif options.out is not None:
        with new_folder(options.out):
            yield options.out
    else:
        out = _claim(name, source)
        try:
            yield out
        finally:
            with suppress(OSError):
                out.rmdir()


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Make a folder; one that stays empty is taken away again.

    Raises:
        ConfigError: It is there already, and not empty; or it cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already and not an empty folder; name another")
    _make(out, f"--out {out}")
    try:
        yield
    finally:
        with suppress(OSError):
            out.rmdir()


def _make(folder: Path, what: str) -> None:
    """Make a folder and those above it.

    Raises:
        ConfigError: The disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{what}: cannot make {folder}: {error.strerror}") from error


def writable(option: str, file: Path | None) -> None:
    """Make the folder of a file that will be written, before the work it is to hold.

    Raises:
        ConfigError: It cannot be made, or the file is a folder.
    """
    if file is not None:
        _make(file.parent, f"{option} {file}")
        if file.is_dir():
            raise ConfigError(f"{option} {file} is a folder; name a file")


def _claim(name: str, source: Path) -> Path:
    """Make and return the first free ``runs/<verb>-<config>-<n>``."""
    stem = re.sub(r"-\d+$", "", _label(source)).removeprefix(f"{name}-")
    number = 1
    _make(Path("runs"), "without --out")
    while True:
        out = Path("runs") / f"{name}-{stem}-{number}"
        try:
            out.mkdir()
        except FileExistsError:
            number += 1
        else:
            return out


def _label(source: Path) -> str:
    """Return the name a config goes by: its file's stem, or its run folder's name."""
    folder = source if source.is_dir() else source.parent
    return folder.resolve().name if source.is_dir() or source.name == "run.json" else source.stem


def _show_plan(name: str, options: Options, config: Config, source: Path) -> None:
    from pyvision_rl.sizes.plan import GIB, plan_of

    room = options.device_memory_gb
    sizes = None
    if name != "new-model":
        sizes = plan_of(name, config, None if room is None else int(room * GIB))
    out = options.resume or options.out or Path("runs") / f"{name}-{_label(source)}-<n>"
    if options.as_json:
        plan = {"verb": name, "source": str(source), "out": str(out), "config": resolved(config)}
        write_json(plan | {"dry_run": True, "sizes": sizes and sizes.to_json()})
    else:
        for key, value in resolved(config).items():
            say(f"{key} = {json.dumps(value, ensure_ascii=False)}")
        for line in sizes.lines() if sizes else ():
            say(line)
        say(f"would run: pvrl {name} with {source}, writing {out}{os.sep}")
        say(f"next: pvrl check config {source}")
    if sizes and sizes.fits == "no":
        raise typer.Exit(1)

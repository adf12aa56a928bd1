"""The verbs around evaluation: eval, rescore, compare, export-log.

In: what a person typed. Out: a run folder, a comparison or files, and one line that names the next
step. Turns options into keys of a config; computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pyvision_rl.cli.execute import (
    AsJson,
    Debug,
    DeviceMemory,
    DryRun,
    Job,
    MaxJudgeCalls,
    OptionalConfig,
    Options,
    Out,
    Overrides,
    Resume,
    guarded,
    judge_budget,
    new_folder,
    print_result,
    run_verb,
    say,
    source_of,
    to_json,
    write_json,
)
from pyvision_rl.cli.report import Reporter
from pyvision_rl.config import RewardsConfig
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


SuiteName = Annotated[
    str, typer.Option("--suite", metavar="NAME", help="A benchmark (docs/suites.md).")
]
SuiteData = Annotated[
    str, typer.Option("--data", metavar="PATH", help="The suite's file or folder, or hf:NAME.")
]
Protocol = Annotated[
    str, typer.Option("--protocol", metavar="NAME", help="Of the suite; default: its first.")
]
Shuffle = Annotated[
    bool, typer.Option("--shuffle-options", help="Draw the order of a suite's options.")
]
NoTools = Annotated[bool, typer.Option("--no-tools", help="Ask for the answer only; same scorer.")]
Samples = Annotated[
    int | None, typer.Option("--samples", min=1, help="Same as --set eval.samples=N.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Same as --set eval.num_tasks=N.")
]
Ids = Annotated[
    str, typer.Option("--ids", metavar="A,B|FILE", help="Only these tasks; a FILE has lines.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="With --resume: run failed episodes again.")
]


@guarded
def evaluate(
    config: OptionalConfig = "",
    suite: SuiteName = "",
    data: SuiteData = "",
    protocol: Protocol = "",
    shuffle_options: Shuffle = False,
    no_tools: NoTools = False,
    samples: Samples = None,
    limit: Limit = None,
    ids: Ids = "",
    overrides: Overrides = None,
    max_judge_calls: MaxJudgeCalls = None,
    out: Out = None,
    resume: Resume = None,
    retry_failed: RetryFailed = False,
    dry_run: DryRun = False,
    device_memory_gb: DeviceMemory = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Evaluate a model on held-out tasks or a benchmark suite; accuracy with intervals."""
    _refuse_mixtures(
        of_suite=bool(data or protocol or shuffle_options),
        suite=bool(suite),
        other_tasks=bool(suite or no_tools or ids or samples or limit),
        retry_failed=retry_failed,
        resume=resume is not None,
    )
    keys = _suite_keys(suite, data, protocol, shuffle=shuffle_options)
    keys += _keys(no_tools=no_tools, samples=samples, limit=limit, ids=ids)
    keys += judge_budget(max_judge_calls)
    typed = (*keys, *(overrides or ()))
    options = Options(config, typed, out, resume, dry_run, as_json, device_memory_gb)
    if resume is None:
        options = _with_settings(options)

    def work(job: Job) -> Any:
        from pyvision_rl.evaluation.run import run_eval

        return run_eval(
            job.config, job.out, resume=job.resume, retry_failed=retry_failed, report=job.report
        )

    run_verb("eval", options, work, then="pvrl show {out}, or read {out}/result.md")


@guarded
def rescore(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty.")],
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="Another one of the run's suite.")
    ] = "",
    rewards: Annotated[
        str, typer.Option("--rewards", metavar="NAME", help="Another grader, with its defaults.")
    ] = "",
    judge: Annotated[
        str, typer.Option("--judge", metavar="URL", help="Same as --set rewards.judge.url=URL.")
    ] = "",
    judge_model: Annotated[
        str, typer.Option("--judge-model", help="Same as --set rewards.judge.model=NAME.")
    ] = "",
    overrides: Overrides = None,
    max_judge_calls: MaxJudgeCalls = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Grade a run's episodes again, with another protocol, grader or judge; runs no model."""
    from pyvision_rl.evaluation.rescore import rescore as grade
    from pyvision_rl.evaluation.rescore import rescore_config

    named = {"rewards.judge.url": judge, "rewards.judge.model": judge_model}
    keys = [f"rewards.name={json.dumps(rewards)}", "rewards.options={}"] if rewards else []
    keys += [f"{key}={json.dumps(value)}" for key, value in named.items() if value]
    keys += judge_budget(max_judge_calls)
    config = rescore_config(run, [*keys, *(overrides or ())], protocol)
    own = next((key for key in overrides or () if key.startswith("rewards.judge.")), "")
    typed = (judge and f"--judge {judge}") or (judge_model and f"--judge-model {judge_model}")
    _refuse_idle_judge(config.rewards, own or typed)
    with new_folder(out), Reporter(Console(stderr=True), "rescore") as report:
        result = to_json(grade(run, out, config, report))
    _told("rescore", result, f"pvrl compare {run} {out}", as_json=as_json, out=out)


@guarded
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    common: Annotated[
        bool, typer.Option("--common", help="Compare the tasks in common; count the others.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare two evaluations of the same tasks, item by item."""
    from pyvision_rl.evaluation.compare import compare as compared

    found = compared(a, b, common=common)
    following = f"pvrl show {b} --task ID"
    if as_json:
        write_json({"verb": "compare", "result": found.to_json(), "next": following})
        return
    from pyvision_rl.show import sanitize

    say(sanitize(found.page()))
    say(f"next: {following}")


@guarded
def export_log(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty.")],
    form: Annotated[str, typer.Option("--format", help="openai or parquet.")] = "openai",
    data_urls: Annotated[
        bool, typer.Option("--data-urls", help="openai: images inside the lines.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a run's episodes as OpenAI messages (JSON lines), or as Parquet with images."""
    from pyvision_rl.evaluation.export import export_log as export

    counts = to_json(export(run, out, form, data_urls=data_urls))
    name = "messages.jsonl" if form == "openai" else "train.parquet"
    _told("export-log", counts, f"read {out / name}", as_json=as_json, out=out)


def _refuse_idle_judge(rewards: RewardsConfig, judge: str) -> None:
    """Refuse a judge that nobody would ask.

    Raises:
        ConfigError: One is named.
    """
    from pyvision_rl.rewards.route import may_ask_judge

    if judge and not may_ask_judge(rewards):
        raise ConfigError(
            f"{judge}: the grader {rewards.name!r} asks no judge; name one that does with "
            "--rewards judge or --rewards ladder"
        )


def _told(verb: str, result: Any, following: str, *, as_json: bool, out: Path) -> None:
    if as_json:
        write_json({"verb": verb, "out": str(out), "result": result, "next": following})
        return
    print_result(result)
    say(f"wrote {out}")
    say(f"next: {following}")


def _refuse_mixtures(
    *, of_suite: bool, suite: bool, other_tasks: bool, retry_failed: bool, resume: bool
) -> None:
    """Refuse options of ``eval`` that do not go together.

    Raises:
        ConfigError: There are some.
    """
    if of_suite and not suite:
        raise ConfigError("--data, --protocol and --shuffle-options belong to --suite NAME")
    if resume and other_tasks:
        raise ConfigError("--resume RUN goes on with the tasks and the protocol of RUN")
    if retry_failed and not resume:
        raise ConfigError("--retry-failed goes with --resume RUN")


def _keys(*, no_tools: bool, samples: int | None, limit: int | None, ids: str) -> tuple[str, ...]:
    """Return the overrides that options stand for."""
    keys = ["eval.tools=false"] if no_tools else []
    if samples is not None:
        keys.append(f"eval.samples={samples}")
    if limit is not None:
        keys.append(f"eval.num_tasks={limit}")
    if ids:
        keys.append(f"eval.ids={json.dumps(_listed(ids))}")
    return tuple(keys)


def _listed(ids: str) -> list[str]:
    """Return the ids of a list, or of the lines of a file.

    Raises:
        ConfigError: The file cannot be read, or there is no id.
    """
    try:
        # Editors of some systems begin a file with a mark.
        named = Path(ids).read_text("utf-8-sig").split("\n") if _names_file(ids) else ids.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--ids {ids}: cannot be read: {error}") from error
    found = list(dict.fromkeys(name.strip() for name in named if name.strip()))
    if not found:
        raise ConfigError(f"--ids {ids}: holds no id")
    return found


def _names_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    # More ids than a path has room for; or a NUL among them.
    except (OSError, ValueError):
        return False


def _suite_keys(name: str, data: str, protocol: str, *, shuffle: bool) -> tuple[str, ...]:
    if not name:
        return ()
    from pyvision_rl.evaluation.suite import suite_overrides

    return suite_overrides(name, data, protocol, shuffle=shuffle)


def _with_settings(options: Options) -> Options:
    """Return the options with what the suite's protocol asks for and the config does not say."""
    from dataclasses import replace

    from pyvision_rl.evaluation.suite import settings_overrides

    source = source_of(options)
    config = load_config(source, options.overrides)
    from_run = source.is_dir() or source.suffix == ".json"
    more = settings_overrides(config, typed=_typed(options.overrides), from_run=from_run)
    return replace(options, overrides=(*options.overrides, *more))


def _typed(overrides: Sequence[str]) -> set[str]:
    return {override.partition("=")[0].strip() for override in overrides}

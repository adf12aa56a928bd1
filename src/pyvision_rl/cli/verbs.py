"""The verbs that run something. Each is a lazy import and a next step; most share a signature.

The heavy modules are imported inside the verbs: ``pvrl --help`` must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pyvision_rl.cli.execute import (
    AsJson,
    ConfigArgument,
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
    Then,
    guarded,
    judge_budget,
    print_result,
    run_verb,
    say,
    to_json,
    write_json,
)
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError


@guarded
def new_model(
    config: ConfigArgument,
    target: Annotated[Path | None, typer.Argument(metavar="OUT", help="Same as --out.")] = None,
    overrides: Overrides = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a new model from [new_model]: random weights and a tokenizer, as a directory."""
    if target and out:
        raise ConfigError("OUT was given twice: as an argument and as --out")

    def work(job: Job) -> Any:
        from pyvision_rl.new_model import new_model as make

        return {"parameters": make(job.config, job.out), "model": str(job.out)}

    options = Options(config, tuple(overrides or ()), target or out, None, dry_run, as_json)
    run_verb("new-model", options, work, then="pvrl sft {config} --set policy.model={out}")


def _plain(name: str, work: Callable[[Job], Any], then: Then) -> Callable[..., None]:
    """Return the verb that does ``work``; the docstring of ``work`` is its help."""

    def verb(
        config: ConfigArgument,
        overrides: Overrides = None,
        max_judge_calls: MaxJudgeCalls = None,
        out: Out = None,
        dry_run: DryRun = False,
        device_memory_gb: DeviceMemory = None,
        as_json: AsJson = False,
        debug: Debug = False,
    ) -> None:
        keys = (*judge_budget(max_judge_calls), *(overrides or ()))
        options = Options(config, keys, out, None, dry_run, as_json, device_memory_gb)
        run_verb(name, options, work, then=then)

    verb.__doc__ = work.__doc__
    return guarded(verb)


def _resumable(name: str, work: Callable[[Job], Any], then: Then) -> Callable[..., None]:
    """Return the same for work that can go on in a run folder."""

    def verb(
        config: OptionalConfig = "",
        overrides: Overrides = None,
        max_judge_calls: MaxJudgeCalls = None,
        out: Out = None,
        resume: Resume = None,
        dry_run: DryRun = False,
        device_memory_gb: DeviceMemory = None,
        as_json: AsJson = False,
        debug: Debug = False,
    ) -> None:
        keys = (*judge_budget(max_judge_calls), *(overrides or ()))
        options = Options(config, keys, out, resume, dry_run, as_json, device_memory_gb)
        run_verb(name, options, work, then=then)

    verb.__doc__ = work.__doc__
    return guarded(verb)


def _probe(job: Job) -> Any:
    """Measure what the tool is worth to a model, by forcing the first action both ways."""
    from pyvision_rl.probe import run_probe

    return run_probe(job.config, job.out)


def _rollout(job: Job) -> Any:
    """Sample episodes and grade them; learn nothing."""
    from pyvision_rl.collect import run_rollout

    return run_rollout(job.config, job.out, job.report)


def _synthesize(job: Job) -> Any:
    """Make SFT data: roll out a policy over [tasks] and keep what [synthesize] asks for."""
    from pyvision_rl.synthesize import run_synthesize

    return run_synthesize(job.config, job.out, resume=job.resume, report=job.report)


def _sft(job: Job) -> Any:
    """Fine-tune on pairs, scripts, trajectories or conversations, in the stages of [sft]."""
    from pyvision_rl.train.sft import run_sft

    return run_sft(job.config, job.out, resume=job.resume, report=job.report, **job.learner)


def after_sft(config: Config) -> str:
    """A model is probed with tasks, where there are some."""
    if config.probe.tasks is None and config.tasks is None:
        return "pvrl show {out}"
    return "pvrl probe {config} --set policy.model={out}/final"


def _rl(job: Job) -> Any:
    """Train with reinforcement learning."""
    from pyvision_rl.train.rl import run_rl

    return run_rl(job.config, job.out, resume=job.resume, report=job.report, **job.learner)


probe = _plain("probe", _probe, "pvrl rl {config} --set policy.model={model}")
rollout = _plain("rollout", _rollout, "pvrl show {out}")
synthesize = _resumable("synthesize", _synthesize, "pvrl show {out}")
sft = _resumable("sft", _sft, after_sft)
rl = _resumable("rl", _rl, "pvrl show {out}")


@guarded
def export_sft(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or rollouts JSONL.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write; new or empty.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write what can be learnt from a run as conversations (JSON) and images."""
    from pyvision_rl.sft_format import write_conversations

    written = to_json(write_conversations(run, out))
    following = f"pvrl check conversations {written['path']}"
    if as_json:
        write_json({"verb": "export-sft", "out": str(out), "result": written, "next": following})
        return
    print_result(written)
    say(f"next: {following}")


@guarded
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    step: Annotated[int | None, typer.Option("--step", help="List one step's episodes.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Show a task's episodes.")] = None,
    rollout: Annotated[int | None, typer.Option("--rollout", help="Only this one.")] = None,
    images: Annotated[
        str | None,
        typer.Option("--images", help="kitty, iterm, sixel or none; default: as the terminal can."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a run folder, one step of it, or episodes turn by turn."""
    from pyvision_rl.cli.pictures import PROTOCOLS, pictures
    from pyvision_rl.runs import RunReader
    from pyvision_rl.show import render_run

    if images not in (None, "none", *PROTOCOLS):
        raise ConfigError(f"--images {images}: wants none, {', '.join(PROTOCOLS)}")
    if as_json and (step, task, rollout) != (None, None, None):
        raise ConfigError(
            "--json tells of the whole run: leave out --step, --task and --rollout; "
            f"pvrl export-log {run} --out DIR writes every episode as JSON"
        )
    if as_json:
        reader = RunReader(run)
        info = {"verb": reader.info.verb, "created": reader.info.created, "size": reader.size()}
        write_json({"run": str(run), **info, "steps": reader.steps(), "metrics": reader.metrics()})
        return
    Console().print(render_run(run, step, task, rollout, pictures(images)))
    if task is not None or rollout is not None:
        say(f"next: pvrl show {run}")
    elif step is not None:
        say(f"next: pvrl show {run} --step {step} --task TASK")
    elif RunReader(run).steps():
        say(f"next: pvrl show {run} --step N, then --task TASK for whole episodes")
    else:
        say(f"next: pvrl view {run}")

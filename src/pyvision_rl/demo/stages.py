"""The demo's stages in order: which verb runs on which config, with which overrides.

In: a seed and a folder. Out: the folder filled: ``model``, ``sft``, ``probe``, ``rl-plain``,
``rl-tool_reward``, ``eval/``, ``logs/``, the figure, the page, and ``demo.json`` with every number.
A demo that was interrupted goes on with its first unfinished stage. Does not print results.
"""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from pyvision_rl import __version__
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config, resolved, toml_value
from pyvision_rl.demo import figure, page, report
from pyvision_rl.demo.kinds import KINDS, Kind
from pyvision_rl.demo.processes import Command, Runner
from pyvision_rl.errors import RunError
from pyvision_rl.present import hardware, markdown
from pyvision_rl.runs import RunReader

ARMS = ("plain", "tool_reward")
_PLAN = "plan.json"
_RESULT = "demo.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demo is; two demos with equal plans give equal numbers."""

    seed: int
    rl_config: str = ""
    """Empty: that of the kind."""
    quick: bool = False
    """A few steps on a few tasks: everything runs, the numbers mean nothing."""
    threads: int = 1
    """CPU threads of the cold start; another number gives other last bits, and so another run."""
    version: str = __version__
    kind: str = "image"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rl_config", self.rl_config or self.of.rl_config)

    @property
    def of(self) -> Kind:
        """The configs and categories of the kind."""
        return KINDS[self.kind]

    def record(self) -> dict[str, Any]:
        """Return what ``plan.json`` holds: the plan, and what its configs say now.

        Raises:
            ConfigError: A config is missing or wrong.
        """
        hashes = {"sft_sha256": self.of.sft_config, "rl_sha256": self.rl_config}
        return asdict(self) | {key: config_sha256(name) for key, name in hashes.items()}


def config_sha256(name: str) -> str:
    """Return 12 hex digits that change with the resolved content of a config.

    Raises:
        ConfigError: It is missing or wrong.
    """
    content = json.dumps(resolved(load_config(find_config(name))), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def run_demo(plan: Plan, out: Path, *, jobs: int, console: Console) -> dict[str, Any]:
    """Run every stage that is not done yet; return what ``demo.json`` holds.

    Args:
        plan: What to run.
        out: New, empty, or the folder of an unfinished demo of the same plan.
        jobs: Processes at a time; changes no number.
        console: Shows a line per stage.

    Raises:
        RunError: The folder is someone else's, or a stage failed.
        ConfigError: A config is missing or wrong.
    """
    _claim(plan, out)
    if (out / _RESULT).exists():
        done: dict[str, Any] = json.loads((out / _RESULT).read_text())
        return done
    config = load_config(find_config(plan.rl_config))
    runner = Runner(out, jobs=jobs, console=console)
    for name, commands in stages(plan, out, config):
        runner.run(name, commands)
        for line in _cold_start_times(out / "sft") if name == "cold start" else ():
            console.print(f"    {line}", highlight=False)
    result: dict[str, Any] = {}
    runner.do("figure and page", lambda: result.update(_results(plan, out, config)))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result |= {
        "stages": [asdict(stage) for stage in runner.stages],
        "cold_start": _cold_start_times(out / "sft"),
        "seconds": round(sum(stage.seconds for stage in runner.stages), 1),
        "peak_mb": max(stage.peak_mb for stage in runner.stages),
        "largest_process_mb": round(usage.ru_maxrss / 1024, 1),
        "jobs": jobs,
        "hardware": hardware(),
        "versions": dict(RunReader(out / "rl-plain").info.versions),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    temporary = out / f"{_RESULT}.part"
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(out / _RESULT)
    return result


def stages(plan: Plan, out: Path, config: Config) -> list[tuple[str, list[Command]]]:
    """Return the stages by name, each with the commands that may run at the same time.

    Two of the three held-out evaluations run beside the longer arm of RL. The third has the machine
    to itself, and so a process for each way to begin.
    """
    seed = f"seed={plan.seed}"
    small_sft = _quick_sft(plan.of.sft_config) if plan.quick else ()
    small_rl = _QUICK_RL if plan.quick else ()
    new, start = out / "model", out / "sft" / "final"

    def sft(verb: str, target: str, *sets: str, threads: int = 1) -> Command:
        words = (seed, *sets, *small_sft)
        config = plan.of.sft_config
        return Command(target, _pvrl(verb), config, out / target, words, threads=threads)

    def rl(verb: str, target: str, *sets: str) -> Command:
        sets = (seed, f"policy.model={start}", *sets, *small_rl)
        return Command(target, _pvrl(verb), plan.rl_config, out / target, sets)

    def evaluation(name: str, model: Path) -> Command:
        sets = (seed, f"policy.model={model}", *small_rl)
        more = tuple(word for mode in starts for word in ("--start", f"{mode}={starts[mode]}"))
        module, folder = ("pyvision_rl.demo.evaluations",), out / "eval" / name
        return Command(f"eval-{name}", module, plan.rl_config, folder, sets, more)

    starts = {"free": "", "tool": config.probe.tool_start, "direct": config.probe.direct_start}

    def alone(name: str, model: Path, mode: str) -> Command:
        forced = f"eval.forced_start={toml_value(starts[mode])}"
        # Several run side by side, and each live sandbox session holds 11 MB.
        sets = (seed, f"policy.model={model}", forced, "rollout.max_live_episodes=64", *small_rl)
        folder = out / "eval" / name / mode
        return Command(f"eval-{name}-{mode}", _pvrl("eval"), plan.rl_config, folder, sets)

    # Once, halfway: the final model is evaluated in a stage of its own.
    every = f"train.eval_every={config.train.steps // 2 + 1}"
    paid = rl("rl", "rl-tool_reward", every)
    plain = rl("rl", "rl-plain", every, "rewards.tool_use_per_call=0.0")
    # Plain RL is over long before the other arm: a model that does not call tools is fast.
    meanwhile = evaluation("plain", plain.out / "final"), evaluation("start", start)
    last = ("tool", "free", "direct")  # the longest first
    cold_start = (f"policy.model={new}", f"policy.threads={plan.threads}")
    return [
        ("new model", [sft("new-model", "model")]),
        ("cold start", [sft("sft", "sft", *cold_start, threads=plan.threads)]),
        ("RL, two arms", [paid, replace(plain, then=meanwhile)]),
        ("held-out evaluation", [alone("tool_reward", paid.out / "final", mode) for mode in last]),
    ]


def _pvrl(verb: str) -> tuple[str, str]:
    return "pyvision_rl.cli.main", verb


_QUICK_RL = (
    *("train.steps=2", "train.eval_every=1", "selection.groups_per_step=2"),
    *("rollout.group_size=4", "eval.num_tasks=8", "eval.samples=1"),
    *("probe.num_tasks=4", "probe.rollouts=2"),
)


def _quick_sft(config: str) -> tuple[str, ...]:
    """Return overrides that leave every stage of the cold start two steps."""
    sets = ["new_model.corpus_count=40", "probe.num_tasks=4", "probe.rollouts=2"]
    for index, stage in enumerate(load_config(find_config(config)).sft.stages):
        key = f"sft.stages.{index}"
        sets += [f"{key}.steps=2", f"{key}.batch_size=4", f"{key}.min_steps=0"]
        sets += [f"{key}.probe_every=1"]
        sets += [f"{key}.data.{source}.count=16" for source in range(len(stage.data))]
        # Of so few scripts of an unreliable teacher any share may answer wrongly.
        scripts = [source for source, data in enumerate(stage.data) if data.kind == "scripts"]
        sets += [f"{key}.data.{source}.max_wrong=1.0" for source in scripts]
    return tuple(sets)


def _results(plan: Plan, out: Path, config: Config) -> dict[str, Any]:
    """Read what the stages wrote, draw the figure and write the page."""
    outcomes = report.read_outcomes(out / "eval", plan.of)
    probe = _probe_of_start(out / "sft")
    head, rows = report.table_rows(outcomes)
    happened = report.sentence(outcomes)
    if plan.quick:
        happened = f"(quick: a few steps, the numbers mean nothing) {happened}"
    paths = {
        "figure": str(out / "figure.png"),
        "page": str(out / "page.html"),
        "table": str(out / "table.md"),
        "numbers": str(out / _RESULT),
        "start model": str(out / "sft" / "final"),
        **{f"{report.TITLES[arm]}: model": str(out / f"rl-{arm}" / "final") for arm in ARMS},
        **{f"{report.TITLES[arm]}: run": str(out / f"rl-{arm}") for arm in ARMS},
    }
    figure.draw(
        {arm: RunReader(out / f"rl-{arm}").metrics() for arm in ARMS},
        outcomes,
        Path(paths["figure"]),
        kind=plan.of,
        title=f"{plan.rl_config}, seed {plan.seed}: two RL runs from the same cold start"
        + (" (quick: the numbers mean nothing)" if plan.quick else ""),
    )
    Path(paths["table"]).write_text(f"{markdown(head, rows)}\n{happened}\n")
    page.write_page(
        page.choose(
            out / "eval" / "tool_reward" / "free", out / "eval" / "plain" / "free", plan.of.hard
        ),
        Path(paths["page"]),
        happened=happened,
        figure=Path(paths["figure"]),
        table=(head, rows),
        notes=_notes(probe),
        max_pixels=config.policy.max_pixels,
    )
    start, paid = outcomes["start"], outcomes["tool_reward"]
    return {
        "plan": plan.record(),
        "sizes": _sizes(out),
        "happened": happened,
        "outcomes": {name: asdict(o) for name, o in outcomes.items()},
        "split": asdict(report.split_rise(start, paid)),
        "probe": probe,
        "table": {"head": head, "rows": rows},
        "paths": paths,
    }


def _notes(probe: dict[str, Any] | None) -> dict[str, str]:
    """Return what the page says beside its table, by heading."""
    notes = {
        "Table.": "Held-out tasks, mean ± standard error over tasks. Forced: the first turn "
        "must begin with code, or with an answer."
    }
    if probe is not None:
        notes["Probe before RL."] = (
            f"{probe['expectation']} "
            f"(gain {probe['gain']:+.3f} ± {report.told(probe['gain_se'], 3)}, "
            f"with the tool reward {probe['gain_with_bonus']:+.3f})."
        )
    notes["Tasks."] = (
        "Chosen for this page: hard, solved after looking, missed without. "
        "All of them are in the run folders."
    )
    return notes


def _probe_of_start(run: Path) -> dict[str, Any] | None:
    """Return the cold start's own probe of the weights that RL starts from; None without one."""
    readings = [line for line in RunReader(run).metrics() if "probe_distance" in line]
    if not readings:
        return None
    kept = min(readings, key=lambda line: line["probe_distance"])  # the first of equals
    marked = {k.removeprefix("probe_"): v for k, v in kept.items() if k.startswith("probe_")}
    return {"step": kept["step"], **marked}


def _sizes(out: Path) -> dict[str, int]:
    """Return how much was done, as the runs recorded it."""
    rl, sft = RunReader(out / "rl-plain").info.config, RunReader(out / "sft")
    evaluation = RunReader(out / "eval" / "start" / "free")
    return {
        "sft_steps": max(line["step"] for line in sft.metrics()),
        "rl_steps": rl["train"]["steps"],
        "rl_groups_trained_per_step": rl["selection"]["groups_per_step"],
        "rl_group_size": rl["rollout"]["group_size"],
        "eval_episodes": sum(1 for _ in evaluation.trajectories()),
        "eval_samples_per_task": evaluation.info.config["eval"]["samples"],
    }


def _claim(plan: Plan, out: Path) -> None:
    """Make the folder ours, or refuse it."""
    file, wanted = out / _PLAN, plan.record()
    if file.exists():
        there = json.loads(file.read_text())
        if there != wanted:
            raise RunError(f"{out} holds another demo ({there}, not {wanted}); name another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is there already and not an empty folder; name another")
    (out / "logs").mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(wanted))


def _cold_start_times(run: Path) -> Sequence[str]:
    """Return a line per stage of the cold start: steps, seconds, and how its probe ended."""
    ends: dict[str, dict[str, Any]] = {}
    for line in RunReader(run).metrics():
        ends[line["stage"]] = line
    lines, began = [], datetime.fromisoformat(RunReader(run).info.created).timestamp()
    for name, end in ends.items():
        text = f"{name}: {end['stage_step']} steps, {end['time'] - began:.1f} s"
        if "probe_distance" in end:
            text += f", probe: uses the tool in {end['probe_tool_share']:.0%} of episodes"
        lines.append(text)
        began = end["time"]
    return lines

"""The demo over several seeds: does what it claims hold, and how far do seeds spread?

In: seeds. Out: one JSON file with every seed's numbers, means, standard deviations and errors, and
the criteria with pass or fail; a Markdown table and a figure beside it. Every seed has its own
model and cold start. No seed is dropped or run again: one that fails is reported as failed, and
counts as a failure of every criterion about single seeds.

    python -m benchmarks.demo --seeds 10-14 --json results/demo.json
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pyvision_rl.demo.figure import COLORS
from pyvision_rl.demo.report import MODELS, TITLES
from pyvision_rl.demo.stages import ARMS, Plan
from pyvision_rl.errors import RunError
from pyvision_rl.present import STYLE, hardware, markdown
from pyvision_rl.runs import RunReader

CONFIGS = {"rl": "tiny_image_rl", "learn": "tiny_image_learn"}
Row = dict[str, float]
"""One seed's numbers by name, e.g. ``hard_start`` or ``calls_plain``."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over seeds."""

    mean: float
    sd: float
    """Sample standard deviation; 0.0 for one seed."""
    se: float
    """Of the mean."""
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True, slots=True)
class Criterion:
    """A claim, what was measured, and whether it holds."""

    claim: str
    measured: str
    passed: bool


def main() -> int:
    """Run the seeds that are not done, then write what all of them say; 0 if all criteria hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--seeds", type=parse_seeds, required=True, help="e.g. 10-14 or 1,2,7")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one core each")
    parser.add_argument("--config", default="rl", help="rl, learn, or a config's name or file")
    parser.add_argument("--work", type=Path, help="folder of the seeds' demos; kept")
    parser.add_argument(
        "--cold-starts",
        type=Path,
        help="work folder of another benchmark whose cold starts are taken over, seed by seed",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps; the numbers mean nothing"
    )
    options = parser.parse_args()
    config = CONFIGS.get(options.config, options.config)
    work = options.work or Path("runs") / f"bench-{Path(config).stem}"
    began = time.monotonic()
    if options.cold_starts:
        for seed in options.seeds:
            take_over(options.cold_starts, work, Plan(seed, config, options.quick))
    failed = run_seeds(options.seeds, work, config, jobs=options.jobs, quick=options.quick)
    demos = {
        s: json.loads((work / f"seed-{s}" / "demo.json").read_text())
        for s in options.seeds
        if s not in failed
    }
    result = summarize(options.seeds, demos, failed, config=config)
    result |= {
        "command": shlex.join(["python", "-m", "benchmarks.demo", *sys.argv[1:]]),
        "quick": options.quick,
        "jobs": options.jobs,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "hardware": hardware(),
        "plans": {str(s): d["plan"] for s, d in demos.items()},
        "versions": next((d["versions"] for d in demos.values()), {}),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = to_markdown(result)
    options.json.with_suffix(".md").write_text(text)
    if demos:
        title = f"{config}: {len(demos)} seeds, each with its own cold start; thin lines are seeds"
        rows = {seed: row(demo) for seed, demo in demos.items()}
        draw(work, rows, options.json.with_suffix(".png"), title=title)
    print(text)
    return 0 if all(c["passed"] for c in result["criteria"]) else 1


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``10-14`` or ``1,2,7``.

    Raises:
        argparse.ArgumentTypeError: It is neither, or a seed is named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or not (high if dash else low).isdigit():
            raise argparse.ArgumentTypeError(f"{text!r}: write seeds as 10-14 or 1,2,7")
        seeds += range(int(low), int(high or low) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r}: names no seed, or one twice")
    return tuple(seeds)


def run_seeds(
    seeds: Sequence[int], work: Path, config: str, *, jobs: int, quick: bool = False
) -> dict[int, str]:
    """Run the demo for every seed whose ``demo.json`` is not there; return why seeds failed.

    A seed that failed before is not tried again: its ``failed.txt`` is what is reported.
    """

    def one(seed: int) -> str:
        folder = work / f"seed-{seed}"
        failure = work / f"seed-{seed}.failed.txt"
        if failure.exists():
            return failure.read_text()
        if (folder / "demo.json").exists():
            _check_plan(folder, Plan(seed, config, quick))
            return ""
        print(f"seed {seed}: running", file=sys.stderr, flush=True)
        # One process at a time: the seeds share the cores.
        command = [sys.executable, "-m", "pyvision_rl.demo", "--seed", str(seed)]
        command += ["--out", str(folder), "--jobs", "1", "--threads", "1", "--rl-config", config]
        command += ["--quick"] if quick else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"seed {seed}: exit code {done.returncode}", file=sys.stderr, flush=True)
        # 130 is Ctrl-C: not a failure of the seed, and to be gone on with.
        if done.returncode not in (0, 130):
            failure.write_text(done.stderr[-4000:] or f"exit code {done.returncode}")
            return failure.read_text()
        return "" if done.returncode == 0 else "interrupted"

    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        reasons = dict(zip(seeds, pool.map(one, seeds), strict=True))
    return {seed: reason for seed, reason in reasons.items() if reason}


def take_over(source: Path, work: Path, plan: Plan) -> None:
    """Copy one seed's finished model and cold start, so that only RL differs between benchmarks.

    A seed whose folder is there already is left alone; one without a cold start makes its own; a
    cold start of another plan or config is a ``RunError``.
    """
    old, new = source / f"seed-{plan.seed}", work / f"seed-{plan.seed}"
    notes = [old / "logs" / f"{stage}.done.json" for stage in ("new-model", "cold-start")]
    if new.exists() or not all(note.exists() for note in notes):
        return
    wanted, found = plan.record(), json.loads((old / "plan.json").read_text())
    if any(found.get(key) != wanted[key] for key in wanted if not key.startswith("rl_")):
        raise RunError(f"{old} holds another cold start ({found}, not {wanted})")
    (new / "logs").mkdir(parents=True)
    for folder in ("model", "sft"):
        shutil.copytree(old / folder, new / folder, symlinks=True)
    for note in notes:
        shutil.copy(note, new / "logs")
    (new / "plan.json").write_text(json.dumps(wanted))


def _check_plan(folder: Path, plan: Plan) -> None:
    found = json.loads((folder / "plan.json").read_text())
    if found != plan.record():
        raise RunError(f"{folder} holds another demo ({found}, not {plan.record()})")


def summarize(
    seeds: Sequence[int],
    demos: Mapping[int, Mapping[str, Any]],
    failed: Mapping[int, str],
    *,
    config: str,
) -> dict[str, Any]:
    """Return rows, spreads and criteria of the seeds that finished."""
    rows = {seed: row(demo) for seed, demo in demos.items()}
    names = list(next(iter(rows.values()), {}))
    spreads = {name: spread([r[name] for r in rows.values()]) for name in names}
    criteria = check(rows, spreads, num_seeds=len(seeds), learn="learn" in config)
    return {
        "benchmark": "demo",
        "config": config,
        "seeds": list(seeds),
        "failed": {str(seed): reason for seed, reason in failed.items()},
        "criteria": [asdict(c) for c in criteria],
        "spread": {name: asdict(s) for name, s in spreads.items()},
        "rows": {str(seed): r for seed, r in rows.items()},
        "happened": {str(seed): demo["happened"] for seed, demo in demos.items()},
        "expected": {str(seed): demo["probe"]["expectation"] for seed, demo in demos.items()},
        "sizes": next((demo["sizes"] for demo in demos.values()), {}),
    }


def row(demo: Mapping[str, Any]) -> Row:
    """Return one seed's numbers by name."""
    outcomes, split = demo["outcomes"], demo["split"]
    numbers: Row = {}
    for model in MODELS:
        outcome = outcomes[model]
        numbers[f"calls_{model}"] = outcome["calls"]
        for name in ("easy", "hard", "tool_hard", "direct_hard", "tool_easy", "direct_easy"):
            numbers[f"{name}_{model}"] = outcome[name]["value"]
        numbers[f"share_hard_{model}"] = outcome["share_hard"]
    numbers["hard_rise"] = split["total"]
    numbers["rise_used_more"] = split["used_more"]
    numbers["rise_used_better"] = split["used_better"]
    numbers["rise_rest"] = split["rest"]
    numbers["tool_hard_rise"] = numbers["tool_hard_tool_reward"] - numbers["tool_hard_start"]
    numbers["hard_difference"] = numbers["hard_tool_reward"] - numbers["hard_plain"]
    numbers["probe_gain"] = demo["probe"]["gain"]
    numbers["probe_gain_with_bonus"] = demo["probe"]["gain_with_bonus"]
    numbers["probe_tool_share"] = demo["probe"]["tool_share"]
    numbers["seconds"] = demo["seconds"]
    numbers["peak_mb"] = demo["peak_mb"]
    return numbers


def spread(values: Sequence[float]) -> Spread:
    """Return mean, sample standard deviation and standard error over seeds."""
    count = len(values)
    mean = math.fsum(values) / count
    squares = math.fsum((v - mean) ** 2 for v in values)
    sd = math.sqrt(squares / (count - 1)) if count > 1 else 0.0
    return Spread(mean, sd, sd / math.sqrt(count), min(values), max(values), count)


def check(
    rows: Mapping[int, Row], spreads: Mapping[str, Spread], *, num_seeds: int, learn: bool
) -> list[Criterion]:
    """Return the criteria. ``learn``: those of the config that is to teach, not only to keep."""

    def mean(name: str, low: float) -> tuple[str, bool]:
        if name not in spreads:
            return "no seed finished", False
        s = spreads[name]
        # Not for the last bit of a sum: a mean of exactly 0.20 is 0.20.
        return f"{s.mean:+.3f} ± {s.se:.3f} (se, n={s.num_seeds})", s.mean >= low - 1e-9

    def count(holds: Callable[[Row], bool], need: int) -> tuple[str, bool]:
        found = sum(holds(r) for r in rows.values())
        return f"{found} of {num_seeds}", found >= need

    finished = Criterion(
        "every seed finishes", f"{len(rows)} of {num_seeds}", len(rows) == num_seeds
    )
    forced = mean("tool_hard_rise", 0.10 if learn else 0.0)
    if learn:
        claim = "tool reward: forced-tool hard accuracy rises by at least 0.10 (mean)"
        return [finished, Criterion(claim, *forced)]
    four_of_five = math.ceil(0.8 * num_seeds)
    return [
        finished,
        Criterion(
            "tool reward: held-out hard accuracy rises by at least 0.20 (mean)",
            *mean("hard_rise", 0.20),
        ),
        Criterion(
            "tool reward: no seed's hard accuracy ends below its start",
            *count(lambda r: r["hard_rise"] >= -1e-9, num_seeds),
        ),
        Criterion(
            "tool reward: easy accuracy ends at 0.80 or more (mean)",
            *mean("easy_tool_reward", 0.80),
        ),
        Criterion(
            "tool reward: at least 0.9 tool calls per episode (mean)",
            *mean("calls_tool_reward", 0.9),
        ),
        Criterion(
            f"plain RL: ends below 0.2 tool calls in at least {four_of_five} of {num_seeds} seeds",
            *count(lambda r: r["calls_plain"] < 0.2, four_of_five),
        ),
        Criterion("tool reward: forced-tool hard accuracy does not fall (mean)", *forced),
    ]


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a page: criteria, means, seeds."""
    verdicts = [
        (c["claim"], c["measured"], "pass" if c["passed"] else "**fail**")
        for c in result["criteria"]
    ]
    parts = [
        f"`{result['config']}`, seeds {', '.join(map(str, result['seeds']))}\n",
        markdown(("criterion", "measured", "verdict"), verdicts),
        *(_number_tables(result) if result["rows"] else ()),
        *(f"seed {seed} failed: {why}\n" for seed, why in result["failed"].items()),
    ]
    return "\n".join(parts)


_COLUMNS = {
    "calls": "tool calls",
    "easy": "easy",
    "hard": "hard",
    "tool_hard": "hard, forced to look",
    "direct_hard": "hard, forced direct",
}
_SEED_COLUMNS = (
    *("calls_start", "calls_plain", "calls_tool_reward", "easy_tool_reward", "hard_start"),
    *("hard_plain", "hard_tool_reward", "tool_hard_start", "tool_hard_tool_reward"),
    *("seconds", "peak_mb"),
)


def _number_tables(result: Mapping[str, Any]) -> list[str]:
    spreads = result["spread"]
    means = [
        (TITLES[model], *(_mean_se(spreads[f"{name}_{model}"]) for name in _COLUMNS))
        for model in MODELS
    ]
    seeds = [
        (seed, *(f"{row[name]:.{0 if row[name] >= 100 else 2}f}" for name in _SEED_COLUMNS))
        for seed, row in result["rows"].items()
    ]
    return [
        "Mean ± standard error over seeds:\n",
        markdown(("model", *_COLUMNS.values()), means),
        f"Rise of hard accuracy with the tool reward: {_mean_se(spreads['hard_rise'])} = "
        f"{spreads['rise_used_more']['mean']:+.2f} (uses the tool more) "
        f"{spreads['rise_used_better']['mean']:+.2f} (is better when it uses it) "
        f"{spreads['rise_rest']['mean']:+.2f} (rest)\n",
        markdown(("seed", *(name.replace("_", " ") for name in _SEED_COLUMNS)), seeds),
    ]


def draw(work: Path, rows: Mapping[int, Row], file: Path, *, title: str) -> None:
    """Draw calls and held-out accuracies over RL steps: every seed thin, the mean thick."""
    panels = (
        ("tool_calls", "", "Tool calls per episode"),
        ("eval_accuracy_easy", "easy", "Held-out accuracy, easy tasks"),
        ("eval_accuracy_hard", "hard", "Held-out accuracy, hard tasks"),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.9), dpi=150, facecolor="white")
        axes = figure.subplots(1, 3)
        for panel, (key, category, name) in zip(axes, panels, strict=True):
            for arm in ARMS:
                runs = {s: RunReader(work / f"seed-{s}" / f"rl-{arm}").metrics() for s in rows}
                curves = {s: _curve(run, key) for s, run in runs.items()}
                for seed, row in rows.items() if category else ():
                    ends = {runs[seed][-1]["step"]: row[f"{category}_{arm}"]}
                    curves[seed] = {0: row[f"{category}_start"]} | curves[seed] | ends
                _draw_arm(panel, list(curves.values()), arm)
            panel.set_title(name)
            panel.set_xlabel("RL step", color="#555555")
            panel.set_ylim(0, 1.02 if category else 1.3 * panel.get_ylim()[1])
            panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes[0].legend(frameon=False, labelcolor="linecolor", loc="upper left", handlelength=1.2)
        figure.suptitle(title, x=0.012, y=0.965, ha="left", fontsize=10, color="#555555")
        figure.subplots_adjust(left=0.045, right=0.985, top=0.8, bottom=0.14, wspace=0.16)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)


def _curve(run: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    # A training batch is sampled before its step's update, an evaluation after it.
    shift = 1 if key == "tool_calls" else 0
    return {line["step"] - shift: line[key] for line in run if key in line}


def _draw_arm(panel: Any, curves: Sequence[Mapping[int, float]], arm: str) -> None:
    for curve in curves:
        panel.plot(list(curve), list(curve.values()), color=COLORS[arm], alpha=0.3, linewidth=1)
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [math.fsum(curve[step] for curve in curves) / len(curves) for step in common]
    panel.plot(common, means, color=COLORS[arm], linewidth=2.6, label=TITLES[arm])


def _mean_se(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['se']:.2f}"


if __name__ == "__main__":
    sys.exit(main())

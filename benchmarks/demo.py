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
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.demo_report import Row, check, draw, spread, to_markdown
from pyvision_rl.demo.kinds import KINDS, Kind
from pyvision_rl.demo.report import MODELS
from pyvision_rl.demo.stages import Plan
from pyvision_rl.errors import RunError
from pyvision_rl.present import hardware

CONFIGS = {"rl": "tiny_image_rl", "learn": "tiny_image_learn", "video": "tiny_video_rl"}
KIND_OF = {KINDS["video"].rl_config: "video"}
"""RL config -> kind of demo, where it is not that of images."""


def main() -> int:
    """Run the seeds that are not done, then write what all of them say; 0 if all criteria hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--seeds", type=parse_seeds, required=True, help="e.g. 10-14 or 1,2,7")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one core each")
    parser.add_argument(
        "--config", default="rl", help="rl, learn, video, or a config's name or file"
    )
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
            take_over(options.cold_starts, work, planned(seed, config, options.quick))
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
        rows = {int(seed): found for seed, found in result["rows"].items()}
        kind = KINDS[kind_of(config)]
        draw(work, rows, options.json.with_suffix(".png"), title=title, kind=kind)
    print(text)
    return 0 if all(c["passed"] for c in result["criteria"]) else 1


def planned(seed: int, config: str, quick: bool) -> Plan:
    """Return the demo of one seed."""
    return Plan(seed, config, quick, kind=kind_of(config))


def kind_of(config: str) -> str:
    """Return the kind of demo that an RL config, or its file, belongs to."""
    return KIND_OF.get(Path(config).stem, "image")


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
            _check_plan(folder, planned(seed, config, quick))
            return ""
        print(f"seed {seed}: running", file=sys.stderr, flush=True)
        # One process at a time: the seeds share the cores.
        command = [sys.executable, "-m", "pyvision_rl.demo", "--seed", str(seed)]
        command += ["--out", str(folder), "--jobs", "1", "--threads", "1", "--rl-config", config]
        command += ["--kind", kind_of(config)]
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
    kind = kind_of(config)
    rows = {seed: row(demo, kind) for seed, demo in demos.items()}
    names = list(next(iter(rows.values()), {}))
    spreads = {name: spread([r[name] for r in rows.values()]) for name in names}
    goal = "learn" if "learn" in Path(config).stem else {"image": "keep"}.get(kind, kind)
    criteria = check(rows, spreads, num_seeds=len(seeds), goal=goal)
    return {
        "benchmark": "demo",
        "config": config,
        "seeds": list(seeds),
        "failed": {str(seed): reason for seed, reason in failed.items()},
        "criteria": [asdict(c) for c in criteria],
        "spread": {name: asdict(s) for name, s in spreads.items()},
        "rows": {str(seed): r for seed, r in rows.items()},
        "happened": {str(seed): demo["happened"] for seed, demo in demos.items()},
        "expected": {
            str(seed): demo["probe"]["expectation"] for seed, demo in demos.items() if demo["probe"]
        },
        "sizes": next((demo["sizes"] for demo in demos.values()), {}),
    }


def row(demo: Mapping[str, Any], kind: str = "image") -> Row:
    """Return one seed's numbers by name."""
    outcomes, split = demo["outcomes"], demo["split"]
    numbers: Row = {}
    for model in MODELS:
        outcome = outcomes[model]
        numbers[f"calls_{model}"] = outcome["calls"]
        for name in ("easy", "hard", "tool_hard", "direct_hard", "tool_easy", "direct_easy"):
            numbers[f"{name}_{model}"] = outcome[name]["value"]
        numbers[f"share_hard_{model}"] = outcome["share_hard"]
        numbers |= {f"{name}_{model}": value for name, value in outcome.get("seen", {}).items()}
        numbers[f"accuracy_{model}"] = _accuracy(outcome, KINDS[kind])
    numbers["accuracy_rise"] = numbers["accuracy_tool_reward"] - numbers["accuracy_start"]
    numbers["hard_rise"] = split["total"]
    numbers["rise_used_more"] = split["used_more"]
    numbers["rise_used_better"] = split["used_better"]
    numbers["rise_rest"] = split["rest"]
    numbers["tool_hard_rise"] = numbers["tool_hard_tool_reward"] - numbers["tool_hard_start"]
    numbers["hard_difference"] = numbers["hard_tool_reward"] - numbers["hard_plain"]
    for name in ("gain", "gain_with_bonus", "tool_share") if demo["probe"] else ():
        numbers[f"probe_{name}"] = demo["probe"][name]
    numbers["seconds"] = demo["seconds"]
    numbers["peak_mb"] = demo["peak_mb"]
    return numbers


def _accuracy(outcome: Mapping[str, Any], kind: Kind) -> float:
    """The mean over all categories."""
    easy, hard = len(kind.easy), len(kind.hard)
    total = easy * float(outcome["easy"]["value"]) + hard * float(outcome["hard"]["value"])
    return total / (easy + hard)


if __name__ == "__main__":
    sys.exit(main())

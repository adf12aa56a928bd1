"""Does RL teach looking? Forced-tool accuracy on hard tasks, before and after RL, over seeds.

    python -m benchmarks.learn --cold-starts runs/bench-tiny_image_rl --seeds 10-14 --json FILE

In: the cold starts that ``benchmarks.demo`` made, one per seed. Out: JSON, a Markdown table, and a
run folder per seed. Only the arm with the tool reward is run. With the first turn forced to be
code, a rise cannot come from using the tool more often, only from using it better. No seed is
dropped or run again; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.demo import Row, parse_seeds, spread
from pyvision_rl.demo.stages import config_sha256
from pyvision_rl.errors import RunError
from pyvision_rl.present import hardware, markdown
from pyvision_rl.resuming import can_go_on
from pyvision_rl.runs import RunReader

CONFIG = "tiny_image_learn"
CLAIM = "forced-tool hard accuracy rises by at least 0.10 (mean)"
_STARTS = ("free=", "tool=<code>")
_COLUMNS = ("calls", "easy", "hard", "tool_easy", "tool_hard")


def main() -> int:
    """Run the seeds that are not done, write what they say; 0 if the claim holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learn", description=__doc__)
    parser.add_argument("--cold-starts", type=Path, required=True, help="work folder of the demo")
    parser.add_argument("--seeds", type=parse_seeds, required=True, help="e.g. 10-14 or 1,2,7")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one core each")
    parser.add_argument("--work", type=Path, default=Path("runs") / f"bench-{CONFIG}")
    options = parser.parse_args()

    def one(seed: int) -> str:
        return run_seed(seed, options.cold_starts / f"seed-{seed}", options.work / f"seed-{seed}")

    began = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        reasons = dict(zip(options.seeds, pool.map(one, options.seeds), strict=True))
    failed = {seed: why for seed, why in reasons.items() if why}
    rows = {s: row(options.work / f"seed-{s}") for s in options.seeds if s not in failed}
    result = summarize(options.seeds, rows, failed)
    result |= {
        "command": shlex.join(["python", "-m", "benchmarks.learn", *sys.argv[1:]]),
        "jobs": options.jobs,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "hardware": hardware(),
        "config_sha256": config_sha256(CONFIG),
        "cold_starts": {str(s): _plan(options.cold_starts / f"seed-{s}") for s in options.seeds},
        "versions": next(
            (dict(RunReader(options.work / f"seed-{s}" / "rl").info.versions) for s in rows), {}
        ),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = to_markdown(result)
    options.json.with_suffix(".md").write_text(text)
    print(text)
    return 0 if result["passed"] else 1


def run_seed(seed: int, cold_start: Path, out: Path) -> str:
    """Train and evaluate one seed unless that is done; return why it failed, or nothing.

    Raises:
        RunError: What is done was done with another content of the config.
    """
    content = config_sha256(CONFIG)
    start, trained = cold_start / "sft" / "final", out / "rl" / "final"
    train = ["pyvision_rl.cli.main", "rl", CONFIG, "--set", f"policy.model={start}"]
    steps = [(out / "rl", [*train, "--set", f"seed={seed}"])]
    for name, model in (("start", start), ("end", trained)):
        words = ["pyvision_rl.demo.evaluations", CONFIG, "--set", f"policy.model={model}"]
        words += ["--set", f"seed={seed}"]
        words += [word for each in _STARTS for word in ("--start", each)]
        steps.append((out / name, words))
    out.mkdir(parents=True, exist_ok=True)
    failed = out / "failed.txt"
    if failed.exists():  # no seed is run again
        return failed.read_text()
    for folder, words in steps:
        note = out / f"{folder.name}.done"
        if note.exists():
            if note.read_text() != content:
                raise RunError(f"{folder} is of another {CONFIG} ({note}); name another --work")
            continue
        if can_go_on(words[1], folder):  # it was interrupted
            words = ["pyvision_rl.cli.main", "rl", "--resume"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
            words = [*words, "--out"]
        done = subprocess.run(
            [sys.executable, "-m", *words, str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            why = done.stderr[-2000:] or f"exit code {done.returncode}"
            if done.returncode not in (130, 143):
                failed.write_text(why)
            return why
        note.write_text(content)
    return ""


def _plan(cold_start: Path) -> dict[str, Any]:
    """What made a cold start, its config's hash included; empty when there is none."""
    file = cold_start / "plan.json"
    plan: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return plan


def row(out: Path) -> Row:
    """Return one seed's numbers by name."""
    numbers: Row = {}
    for model in ("start", "end"):
        free, tool = (
            json.loads((out / model / mode / "result.json").read_text())
            for mode in ("free", "tool")
        )
        numbers[f"calls_{model}"] = free["overall"]["tool_calls"]
        for category in ("easy", "hard"):
            numbers[f"{category}_{model}"] = free["categories"][category]["accuracy"]
            numbers[f"tool_{category}_{model}"] = tool["categories"][category]["accuracy"]
    numbers["tool_hard_rise"] = numbers["tool_hard_end"] - numbers["tool_hard_start"]
    return numbers


def summarize(seeds: Sequence[int], rows: dict[int, Row], failed: dict[int, str]) -> dict[str, Any]:
    """Return rows, spreads and the verdict."""
    names = list(next(iter(rows.values()), {}))
    spreads = {name: spread([r[name] for r in rows.values()]) for name in names}
    rise = spreads.get("tool_hard_rise")
    return {
        "benchmark": "learn",
        "config": CONFIG,
        "seeds": list(seeds),
        "failed": {str(seed): why for seed, why in failed.items()},
        "claim": CLAIM,
        "passed": not failed and rise is not None and rise.mean >= 0.10,
        "spread": {name: asdict(s) for name, s in spreads.items()},
        "rows": {str(seed): r for seed, r in rows.items()},
    }


def to_markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    verdict = "pass" if result["passed"] else "**fail**"
    parts = [f"`{result['config']}`, seeds {', '.join(map(str, result['seeds']))}: {verdict}\n"]
    if result["rows"]:
        head = ("", *(n.replace("_", " ") for n in _COLUMNS))
        lines = []
        for model in ("start", "end"):
            cells = [result["spread"][f"{name}_{model}"] for name in _COLUMNS]
            lines.append((model, *(f"{s['mean']:.2f} ± {s['se']:.2f}" for s in cells)))
        rise = result["spread"]["tool_hard_rise"]
        parts.append(markdown(head, lines))
        parts.append(
            f"{result['claim']}: {rise['mean']:+.3f} ± {rise['se']:.3f} "
            f"(se over {rise['num_seeds']} seeds; lowest {rise['low']:+.3f}, "
            f"highest {rise['high']:+.3f})\n"
        )
        seeds = [
            (
                seed,
                *(f"{r[f'{n}_{m}']:.2f}" for n in ("hard", "tool_hard") for m in ("start", "end")),
            )
            for seed, r in result["rows"].items()
        ]
        parts.append(markdown(("seed", "hard start", "end", "forced start", "end"), seeds))
    parts += [f"seed {seed} failed: {why}\n" for seed, why in result["failed"].items()]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the demo: ``python -m pyvision_rl.demo --seed 0 --out runs/demo``.

Exit codes: 0 done, 1 a stage failed, 2 bad usage or config, 130 interrupted (run the same command
again to go on).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyvision_rl.demo.kinds import KINDS
from pyvision_rl.demo.stages import Plan, run_demo
from pyvision_rl.errors import ConfigError, PVRLError

_WIDTH = 110
"""Columns when the output is no terminal."""
MAX_PEAK_MB = 3 * 1024
"""The demo's goal for all its processes together; missing it is said, and is no failure."""


def main() -> int:
    """Run the demo and show what happened."""
    parser = argparse.ArgumentParser(
        prog="python -m pyvision_rl.demo",
        description="Train the tiny vision model end to end: cold start, RL with and without the "
        "tool reward, held-out evaluation, figure and page.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder to fill; default runs/demo-seed<SEED>")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one core each")
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="CPU threads of the cold start, which runs alone; changes the last bits",
    )
    parser.add_argument("--kind", choices=KINDS, default="image", help="what is looked at")
    parser.add_argument("--rl-config", default="", help="packaged config or TOML file of RL")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see it run")
    options = parser.parse_args()
    name = "demo" if options.kind == "image" else f"demo-{options.kind}"
    out = options.out or Path("runs") / f"{name}-seed{options.seed}"
    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    plan = Plan(options.seed, options.rl_config, options.quick, options.threads, kind=options.kind)
    console.print(f"demo, seed {plan.seed}, in {out}", markup=False, highlight=False)
    try:
        result = run_demo(plan, out, jobs=options.jobs, console=console)
    except PVRLError as error:
        errors.print(Text(f"demo: {error}"))
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        errors.print("demo: interrupted; the same command goes on with the unfinished stage")
        return 130
    _show(console, result)
    return 0


def _show(console: Console, result: dict[str, Any]) -> None:
    table = Table(title="held-out tasks (± standard error over tasks)", title_justify="left")
    for index, name in enumerate(result["table"]["head"]):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in result["table"]["rows"]:
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print(Text(f"\n{result['happened']}\n"))
    if result["peak_mb"] > MAX_PEAK_MB:
        console.print(f"peak memory was above the demo's goal of {MAX_PEAK_MB} MB")
    console.print(f"{result['seconds']:.0f} s, peak memory {result['peak_mb']:.0f} MB; wrote:")
    for name, path in result["paths"].items():
        console.print(Text(f"  {name + ':':<28}{path}"), soft_wrap=True)
    console.print(Text(f"next: open {result['paths']['page']} in a browser"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

"""The sandbox against other ways to run model code: one interleaved run, goals with pass or fail.

In: nothing, or paths of peers. Out: a JSON file with every number, the goals and what was measured
on what; a Markdown table beside it. The arms are ``ours`` (this project, through ``Sandbox.open``,
``Session.run`` and ``close`` only), ``baseline`` (the reference implementation's design, written
from its description), ``cold`` (a new interpreter with the imports for every session), ``jupyter``
(IPython kernels in an environment of their own) and ``earlier`` (another checkout of this project).

    python -m benchmarks.sandbox --json results/sandbox.json --jupyter-python PYTHON

Wants a machine that does nothing else. Linux only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.sandbox_measures import QUICK, Sizes, measure
from benchmarks.sandbox_peers import arms
from benchmarks.sandbox_report import summarize, to_markdown
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.present import hardware

TINY = "tiny_image_rl"
PATHS = ("--jupyter-python", "--earlier")
QUIET_LOAD = 0.5
SEEDS = {"pictures": 0, "bootstrap": 0, "sessions": "0, 1, 2, ... in each arm"}


def main() -> int:
    """Measure, write what was found; 0 if no goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sandbox",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--jupyter-python",
        type=Path,
        help="a Python with ipykernel, jupyter_client, numpy, matplotlib and Pillow",
    )
    parser.add_argument("--earlier", type=Path, help="another checkout, to compare with")
    parser.add_argument("--level", default="best", help="of isolation, for ours")
    parser.add_argument("--allow-unsafe", action="store_true", help="let ours run unisolated")
    parser.add_argument(
        "--quick", action="store_true", help="small counts; the numbers mean nothing"
    )
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    began = time.monotonic()
    load = Path("/proc/loadavg").read_text().split()[0]
    figure = load_config(find_config(TINY)).sandbox.figure
    with arms(
        jupyter=options.jupyter_python,
        earlier=options.earlier,
        level=options.level,
        allow_unsafe=options.allow_unsafe,
    ) as have:
        found = measure(have, sizes, figure=figure, note=_note)
        infos = {name: arm.call("info") for name, arm in have.items()}
    result = {
        "benchmark": "sandbox",
        "command": command(sys.argv[1:]),
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "load_before": float(load),
        "hardware": hardware(),
        "arms": infos | {"cold": {"backend": "python -c", "level": "none"}},
        "sizes": asdict(sizes),
        "seeds": SEEDS,
        "notes": notes(infos, quick=options.quick, load=float(load)),
        **summarize(found),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = to_markdown(result)
    options.json.with_suffix(".md").write_text(text)
    print(text)
    return int(any(goal["verdict"] == "fail" for goal in result["goals"]))


def command(words: list[str]) -> str:
    """Return the command line; paths of other environments belong to a machine and are cut."""
    shown, hide = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        hidden = f"{name}=PATH" if equals and name in PATHS else word
        shown.append("PATH" if hide else hidden)
        hide = word in PATHS
    return shlex.join(["python", "-m", "benchmarks.sandbox", *shown])


def notes(infos: Mapping[str, Mapping[str, Any]], *, quick: bool, load: float) -> list[str]:
    """Return what a reader must know of this run."""
    found = [
        "Pictures are synthetic; making a PNG of one costs what a photograph's does. Times are "
        "taken in each arm's own process. A cell that shows ends when the pixels are there."
    ]
    if quick:
        found.append("**A quick run: the numbers mean nothing.**")
    if load > QUIET_LOAD:
        found.append(f"**The machine was busy: its load was {load:.2f} before the run.**")
    if "jupyter" not in infos:
        found.append("Jupyter was left out: no `--jupyter-python` was given.")
    if infos["ours"]["level"] in ("none", "unsafe"):
        found.append("**Ours ran without isolation.**")
    return found


def _note(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

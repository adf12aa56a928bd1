"""One model evaluated several times in one process, each time with another forced start.

In: a config, overrides, and named starts (``free=``, ``tool=<code>``). Out: one run folder per
name, each as ``pvrl eval`` writes it. Saves loading torch anew for every evaluation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyvision_rl.config_file import find_config, load_config, toml_value
from pyvision_rl.errors import PVRLError
from pyvision_rl.evaluation.run import run_eval


def main() -> int:
    """Run the evaluations one after another; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m pyvision_rl.demo.evaluations")
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--start", action="append", required=True, metavar="NAME=TEXT")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    source = find_config(options.config)
    try:
        for start in options.start:
            name, _, text = start.partition("=")
            forced = f"eval.forced_start={toml_value(text)}"
            config = load_config(source, [*options.set, forced])
            run_eval(config, options.out / name, report=_report)
    except PVRLError as error:
        _report(str(error))
        return 1
    return 0


def _report(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

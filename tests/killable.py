"""Runs that can be killed: a process that has imported everything forks one child per run.

Started as ``python -m tests.killable rl`` (or ``eval``). In, on stdin: one JSON object per line
with ``config``, ``out`` and ``resume``. Out, on stdout: the child's process id, and at its end its
wait status. A child is a process like any other; it only starts in a moment instead of in ten
seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fork_server import ForkServer, alive


class Runner(ForkServer):
    """Starts runs of one verb (rl, eval) one at a time; a context manager."""

    def __init__(self, verb: str = "rl") -> None:
        super().__init__("tests.killable", verb)

    def run(
        self,
        config: dict[str, Any],
        out: Path,
        *,
        resume: bool = False,
        until: Callable[[int], bool] = lambda _: False,
        number: int = 9,
    ) -> int:
        """Run until it ends by itself, or send a signal when ``until(pid)`` says so.

        Returns:
            The exit code; negative is the signal that ended it.
        """
        self.order({"config": config, "out": str(out), "resume": resume})
        pid: int = self.answer()
        while alive(pid):
            if until(pid):
                os.kill(pid, number)
                break
            time.sleep(0.0005)
        code: int = self.answer()
        return code


def _verb(name: str) -> Callable[..., Any]:
    """Return what does the verb, with all that it needs imported."""
    if name == "eval":
        from pyvision_rl.evaluation.run import run_eval

        return run_eval
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import pyvision_rl.models.load  # noqa: F401
    from pyvision_rl.train.rl import run_rl

    return run_rl


def _serve(run: Callable[..., Any]) -> None:
    """Fork one child per order."""
    from pyvision_rl.config import Config

    for line in sys.stdin:
        order = json.loads(line)
        out = Path(order["out"])
        child = os.fork()
        if child == 0:
            config = Config.model_validate(order["config"])
            run(config, out, resume=out if order["resume"] else None)
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(_verb(sys.argv[1]))

"""Several processes of one run: a process that has imported everything forks them.

Started as ``python -m tests.parallel_runs``. In, on stdin: one JSON object per line with ``size``,
``stderr`` (a file) and either ``argv`` of ``pvrl`` or ``steps``, a file of scenarios (see
``tests.parallel_steps``). Out, on stdout: the process ids, and at their end the exit codes. A
launcher such as torchrun sets the same variables; the children only start in a moment instead of
in twenty seconds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fork_server import ForkServer, alive


class Runner(ForkServer):
    """Starts runs, one at a time; a context manager."""

    def __init__(self) -> None:
        super().__init__("tests.parallel_runs")

    def run(
        self,
        size: int,
        stderr: Path,
        *,
        argv: Sequence[object] = (),
        steps: Path | None = None,
        full: int | None = None,
        when: Callable[[], bool] = lambda: False,
        do: Callable[[list[int]], None] = lambda _: None,
    ) -> list[int]:
        """Run until all processes ended; ``do`` receives their ids once ``when`` says so.

        Args:
            size: How many.
            stderr: What they say.
            argv: Of ``pvrl``.
            steps: Or a file of scenarios.
            full: The process whose GPU is full in its first step, as torch would say it.
            when: Whether it is time for ``do``.
            do: Does something to them.

        Returns:
            The exit codes in the order of the processes; negative is the signal that ended it.
        """
        order = {"size": size, "stderr": str(stderr), "argv": [str(a) for a in argv]}
        self.order(order | {"steps": None if steps is None else str(steps), "full": full})
        pids = self.answer()
        while any(map(alive, pids)):
            if when():
                do(pids)
                break
            time.sleep(0.01)
        codes: list[int] = self.answer()
        return codes


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _child(order: dict[str, Any], rank: int, port: int) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    size = str(order["size"])
    if order["size"] > 1:
        os.environ |= where | {"RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    log = os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(log, 1)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    code = 1
    try:
        if order["full"] == rank:
            _fill()
        if order["steps"]:
            from tests.parallel_steps import run

            run(Path(order["steps"]))
        else:
            from pyvision_rl.cli.main import app

            app(order["argv"])
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fill() -> None:
    """Let this process find no memory on its device."""
    import torch

    from pyvision_rl.train.parallel import ParallelLearner

    def without_memory(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    setattr(ParallelLearner, "_backward", without_memory)  # noqa: B010


def _serve() -> None:
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import pyvision_rl.cli.parallel
    import pyvision_rl.models.load
    import pyvision_rl.train.parallel
    import pyvision_rl.train.rl
    import pyvision_rl.train.sft  # noqa: F401

    for line in sys.stdin:
        order, port = json.loads(line), _free_port()
        pids = []
        for rank in range(order["size"]):
            child = os.fork()
            if child == 0:
                _child(order, rank, port)
            pids.append(child)
        sys.stdout.write(f"{json.dumps(pids)}\n")
        sys.stdout.flush()
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        sys.stdout.write(f"{json.dumps(codes)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()

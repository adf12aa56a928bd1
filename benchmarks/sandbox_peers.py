"""The arms of the sandbox benchmark as processes: one each, so that none is in another's way.

In: which arms to have. Out: an ``Arm`` per name whose ``call`` carries out an operation there; the
arm takes its own times. A cold interpreter needs no such process: ``cold_start`` is all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyvision_rl
from benchmarks.sandbox_cells import IMPORTS, TRIVIAL

ROOT = Path(__file__).parents[1]
WAIT_S = 900.0
END_S = 20.0


class Arm(Protocol):
    """One side of the comparison."""

    @property
    def pid(self) -> int:
        """Process id of the root of its tree."""
        ...

    def call(self, op: str, **arguments: Any) -> Any:
        """Return what an operation answers."""
        ...


class ArmError(Exception):
    """An arm failed or does not answer."""


class Peer:
    """An arm in a process of its own; talks JSON lines (see ``sandbox_cells.serve``)."""

    def __init__(self, name: str, command: Sequence[str], source: Path | None = None) -> None:
        """Start it; ``source`` is the ``src`` folder it takes this project from."""
        self.name = name
        source = source or Path(pyvision_rl.__file__).parents[1]
        paths = [str(source), str(ROOT)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, op: str, **arguments: Any) -> Any:
        """Return what an operation answers.

        Raises:
            ArmError: It failed, ended, or took longer than ``WAIT_S``.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ArmError(f"{self.name}: {op}: {error}") from error
        answer = json.loads(self._line(op))
        if "error" in answer:
            raise ArmError(f"{self.name}: {op}: {answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _line(self, op: str) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + WAIT_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            if not data:
                raise ArmError(f"{self.name}: {op}: {'ended' if ready else 'no answer in time'}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextlib.contextmanager
def arms(
    *, jupyter: Path | None, earlier: Path | None, level: str = "best", allow_unsafe: bool = False
) -> Iterator[Mapping[str, Peer]]:
    """Have the arms that can be had: ``ours``, ``baseline``, and those whose path is given.

    Args:
        jupyter: A Python that has ipykernel, jupyter_client, numpy, matplotlib and Pillow.
        earlier: Another checkout of this project, to compare with.
        level: Of isolation, for ``ours``.
        allow_unsafe: Let ``ours`` run without isolation.
    """
    python = sys.executable
    ours = [python, "-m", "benchmarks.sandbox_ours", "--level", level]
    ours += ["--allow-unsafe"] if allow_unsafe else []
    with contextlib.ExitStack() as stack:
        found: dict[str, Peer] = {}

        def have(name: str, command: Sequence[str], source: Path | None = None) -> None:
            found[name] = Peer(name, command, source)
            stack.callback(found[name].close)

        have("ours", ours)
        have("baseline", [python, "-m", "benchmarks.sandbox_baseline"])
        if jupyter is not None:
            have("jupyter", [str(jupyter), "-m", "benchmarks.sandbox_jupyter"])
        if earlier is not None:
            have("earlier", [python, "-m", "benchmarks.sandbox_ours"], earlier / "src")
        yield found


def cold_start() -> float:
    """Return seconds from nothing to the first result of a new interpreter with the imports."""
    code = IMPORTS + f"print({TRIVIAL}, flush=True)\ninput()"
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        took = time.perf_counter() - began
        process.kill()
    if said.strip() != TRIVIAL.encode():
        raise ArmError(f"cold interpreter: said {said!r}")
    return took

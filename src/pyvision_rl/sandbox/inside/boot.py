"""How the zygote starts: tries the walls, loads and warms what children share, then serves.

In: the driver's socket. Out: two processes, a bare supervisor in the driver's namespaces, and the
zygote, which may be the first process of its own PID namespace and dies with the supervisor. Model
code runs in neither. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

from . import confine, kernel, namespaces, rlimits
from .preload import Late, load
from .zygote import FAILED, Zygote, send

LIBRARIES = ("os", "numpy", "PIL.Image", "matplotlib")
"""Whether a session's user can read these decides whether it gets a user of its own."""
END_S = 3
"""For a zygote that was asked to end its children and itself."""


def main(fd: int) -> None:
    """Serve the driver at the other end of ``fd``: say what can be done, then do what it picks."""
    control = socket.socket(fileno=fd)
    hello = json.loads(control.recv(2**18))
    kernel.prctl(kernel.PDEATHSIG, signal.SIGTERM)
    if os.getppid() != hello["driver"]:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Set before anything is tried: seccomp and Landlock need it, and nothing here may gain rights.
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    place = os.getcwd()  # noqa: PTH109
    send(control, {"op": "walls", "walls": confine.probe(place, hello["paths"])})
    answer = control.recv(4096)
    if not answer:
        return
    plan = confine.Plan(json.loads(answer)["level"], place, hello["paths"])
    try:
        if plan.namespaced:
            namespaces.leave()
        pid = os.fork()
    except OSError as error:
        send(control, {"op": "failed", "why": str(error)})
        return
    if pid == 0:
        _zygote(control, hello, plan)
    send(control, {"op": "zygote", "pid": pid})
    control.close()
    _supervise(pid, place)


def _supervise(pid: int, place: str) -> None:
    """Wait for the zygote, and take it down with this process."""

    def end(number: int, _: object) -> None:
        os.kill(pid, signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)
        signal.alarm(END_S)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    os.waitpid(pid, 0)
    shutil.rmtree(place, ignore_errors=True)


def _zygote(control: socket.socket, hello: dict[str, Any], plan: confine.Plan) -> NoReturn:
    """Load, warm and confine what the children share, then serve."""
    status = FAILED
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.SUBREAPER, 1)
        if plan.namespaced:
            namespaces.enter()
        sys.path[:0] = hello["path"]
        # An installed copy of this package may lie there; model code has no business with it.
        sys.modules["pyvision_rl"] = None  # type: ignore[assignment]
        null = os.open(os.devnull, os.O_RDWR)
        interpreter = _prepare(hello["figure"], hello["preload"])
        files = [sys.modules[name].__file__ or "" for name in LIBRARIES]
        zygote = Zygote(control, confine.Jail(plan, files), interpreter)
        os.dup2(null, 2)
        os.close(null)
        gc.collect()
        gc.disable()
        gc.freeze()
        zygote.serve()
        status = 0
    except Exception as error:  # noqa: BLE001 - whatever an import raises, the driver names it
        with contextlib.suppress(OSError):
            why = f"{type(error).__name__}: {error}"[:2000]
            send(control, {"op": "failed", "why": why})
    finally:
        os._exit(status)


def _prepare(figure: dict[str, Any], preload: list[str]) -> Any:
    """Load and warm what the children share, and return the interpreter they all copy."""
    load(["", *preload])
    from . import interpreter

    finder: Any = Late()
    sys.meta_path.append(finder)
    interpreter.install(figure)
    made = interpreter.Interpreter()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count
    if threads != 1:
        raise RuntimeError(f"the zygote has {threads} threads; forking it would not be safe")
    rlimits.inherit()
    # When memory runs out, the kernel ends sessions before the run.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    return made

"""The sandbox benchmark's baseline: a session as the reference implementation designs it.

Written from a description of that design, not from its code: a worker process that
``multiprocessing`` forks from the caller; ``exec`` in one namespace; a regular expression as the
guard; every image is sent again with every call, as PNG in base64; figures come back the same way.
What the description leaves open is chosen in the baseline's favour: the caller has loaded all
libraries before it forks, and only the initial images are sent again. No isolation, and code that
does not end is never stopped: do not use it for anything else.
"""

from __future__ import annotations

import base64
import contextlib
import io
import multiprocessing
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from benchmarks.sandbox_cells import (
    LIFECYCLE,
    NAME,
    PRINT,
    SHOW,
    TINY_SHOW,
    TRIVIAL,
    Pictures,
    serve,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

GUARD = re.compile(r"(input|os\.system|subprocess)\(")
TIMEOUT_S = 30.0
JOIN_S = 5.0
_FORK = multiprocessing.get_context("fork")


class Worker:
    """One session."""

    def __init__(self, figure: Mapping[str, Any] | None = None) -> None:
        """Fork it; ``figure`` holds rcParams."""
        self._inbox, self._outbox = _FORK.Queue(), _FORK.Queue()
        arguments = (self._inbox, self._outbox, dict(figure or {}))
        self._process = _FORK.Process(target=_work, args=arguments, daemon=True)
        self._process.start()

    def run(
        self, code: str, images: Mapping[str, Image.Image] | None = None
    ) -> tuple[str, list[Image.Image]]:
        """Return what the code printed and showed.

        Raises:
            RuntimeError: It raised.
            queue.Empty: No answer in time; the worker runs on.
        """
        packed = {name: _encode(image) for name, image in (images or {}).items()}
        self._inbox.put({"code": code, "images": packed})
        reply = self._outbox.get(timeout=TIMEOUT_S)
        if reply["error"]:
            raise RuntimeError(reply["error"])
        return reply["text"], [_decode(figure) for figure in reply["figures"]]

    def close(self) -> None:
        """End the worker."""
        self._process.terminate()
        self._process.join(JOIN_S)
        for queue in (self._inbox, self._outbox):
            queue.close()
            queue.cancel_join_thread()


def _work(inbox: Any, outbox: Any, figure: Any) -> None:
    """Run what comes until the caller terminates the process."""
    mpl.rcParams.update(figure)
    figures: list[str] = []
    names = {"np": np, "plt": plt, "Image": Image, "_capture": lambda: figures.append(_capture())}
    while True:
        call = inbox.get()
        names |= {name: _decode(packed) for name, packed in call["images"].items()}
        figures.clear()
        said, error = io.StringIO(), ""
        try:
            if GUARD.search(call["code"]):
                raise RuntimeError("forbidden call")
            with contextlib.redirect_stdout(said):
                exec(call["code"].replace("plt.show()", "_capture()"), names)
        except Exception as raised:  # noqa: BLE001 - the code may raise anything
            error = str(raised) or type(raised).__name__
        outbox.put({"text": said.getvalue(), "figures": list(figures), "error": error})


def _capture() -> str:
    buffer = io.BytesIO()
    plt.gcf().savefig(buffer, format="png")
    plt.close()
    return base64.b64encode(buffer.getvalue()).decode()


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _decode(packed: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(packed))).convert("RGB")


class Baseline:
    """The operations that ``benchmarks.sandbox`` asks for."""

    def __init__(self) -> None:
        self._warm: tuple[Worker, dict[str, Image.Image]] | None = None
        self._pictures: dict[tuple[int, int, bool], Pictures] = {}

    def info(self) -> dict[str, str]:
        """Return what is measured."""
        return {"backend": "reference design", "level": "none"}

    def start(self, n: int) -> list[float]:
        """Return seconds from nothing to the first result, ``n`` times."""
        seconds = []
        for _ in range(n):
            began = time.perf_counter()
            worker = Worker()
            worker.run(TRIVIAL)
            seconds.append(time.perf_counter() - began)
            worker.close()
        return seconds

    def warm(self, size: tuple[int, int]) -> None:
        """Open the session that ``cells`` uses, with one picture, and show once."""
        self._warm = (Worker(), {NAME: self._next(size)})
        self.cells("show", 1)

    def cells(self, what: str, n: int) -> list[float]:
        """Return seconds of ``n`` cells, ``print`` or ``show``, one after the other."""
        assert self._warm is not None, "warm first"
        worker, images = self._warm
        seconds = []
        for _ in range(n):
            began = time.perf_counter()
            text, shown = worker.run(PRINT if what == "print" else SHOW, images)
            seconds.append(time.perf_counter() - began)
            assert (text, len(shown)) == (("1\n", 0) if what == "print" else ("", 1))
        return seconds

    def cool(self) -> None:
        """Close the session of ``warm``."""
        assert self._warm is not None, "warm first"
        self._warm[0].close()
        self._warm = None

    def lifecycle(
        self, n: int, clients: int, size: tuple[int, int], group: int = 1, *, noise: bool = False
    ) -> float:
        """Return seconds for ``n`` whole sessions; ``group`` of them in a row share a picture."""
        shared = [self._next(size, noise=noise) for _ in range(-(-n // group))]

        def one(index: int) -> None:
            worker = Worker()
            for code in LIFECYCLE:
                _, shown = worker.run(code, {NAME: shared[index // group]})
            assert len(shown) == 1
            worker.close()

        with ThreadPoolExecutor(clients) as pool:
            began = time.perf_counter()
            list(pool.map(one, range(n)))
            return time.perf_counter() - began

    def tiny(self, n: int, group: int, figure: Mapping[str, Any]) -> float:
        """Return seconds for ``n`` sessions at 448x448 that show twice, one after the other."""
        shared = [self._next((448, 448)) for _ in range(-(-n // group))]
        began = time.perf_counter()
        for index in range(n):
            worker = Worker(figure)
            for _ in range(2):
                _, shown = worker.run(TINY_SHOW, {NAME: shared[index // group]})
                assert len(shown) == 1
            worker.close()
        return time.perf_counter() - began

    def _next(self, size: tuple[int, int], *, noise: bool = False) -> Image.Image:
        key = (size[0], size[1], noise)
        if key not in self._pictures:
            self._pictures[key] = Pictures(key[:2], noise=noise)
        return next(self._pictures[key])


def main() -> int:
    """Serve ``benchmarks.sandbox``."""
    arm = Baseline()
    names = ("info", "start", "warm", "cells", "cool", "lifecycle", "tiny")
    plt.close(plt.figure())  # fonts and figure classes are loaded in the caller, too
    serve({name: getattr(arm, name) for name in names})
    return 0


if __name__ == "__main__":
    sys.exit(main())

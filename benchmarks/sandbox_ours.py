"""The sandbox benchmark's own arm: this project's sandbox, through its contract only.

A session is ``Sandbox.open``, then ``Session.run``, then ``Session.close``. The backend is the one
that an empty ``[sandbox]`` section names, with the level that the command names. Runs against any
version of the project whose ``src`` folder is on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import platform
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import PIL

from benchmarks.sandbox_cells import (
    HANGS,
    LIFECYCLE,
    NAME,
    PRINT,
    SHOW,
    TINY_SHOW,
    TOUCH,
    TRIVIAL,
    Pictures,
    serve,
)
from pyvision_rl import __version__
from pyvision_rl.config import SandboxConfig
from pyvision_rl.media import image_media
from pyvision_rl.registry import resolve
from pyvision_rl.sandbox import TABLE
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.types import Execution, Media

MAX_RUNNING = 4
"""As many as the lifecycle's clients, so that admission is not what is measured."""


class Ours:
    """The operations that ``benchmarks.sandbox`` asks for."""

    def __init__(self, level: str = "best", *, allow_unsafe: bool = False) -> None:
        self._runner = asyncio.Runner()
        self._wanted = {"level": level, "allow_unsafe": allow_unsafe}
        self._box = self._sandbox({})
        self._tiny: tuple[Any, dict[str, Any]] | None = None
        self._warm: Any = None
        self._held: list[Any] = []
        self._media: list[Media] = []
        self._pictures: dict[tuple[int, int, bool], Pictures] = {}
        self._seeds = iter(range(2**31))

    def info(self) -> dict[str, Any]:
        """Return what is measured; the level is known once a session has started."""
        versions = {"numpy": np.__version__, "matplotlib": mpl.__version__}
        versions |= {"pillow": PIL.__version__, "python": platform.python_version()}
        versions["pyvision_rl"] = __version__
        unnamed = "unknown" if "level" in SandboxConfig.model_fields else "none"
        return {
            "backend": SandboxConfig().name,
            "level": str(getattr(self._box, "level", None) or unnamed),
            "versions": versions,
        }

    def start(self, n: int) -> list[float]:
        """Return seconds from nothing to the first result, ``n`` times."""

        async def run() -> list[float]:
            seconds = []
            for _ in range(n):
                session, took = await self._open({}, TRIVIAL)
                seconds.append(took)
                await session.close()
            return seconds

        return self._runner.run(run())

    def warm(self, size: tuple[int, int]) -> None:
        """Open the session that ``cells`` uses, with one picture, and show once."""

        async def run() -> None:
            self._warm, _ = await self._open({NAME: self._next(size)}, SHOW)

        self._runner.run(run())

    def cells(self, what: str, n: int) -> list[float]:
        """Return seconds of ``n`` cells, ``print`` or ``show``, one after the other."""

        async def run() -> list[float]:
            seconds = []
            for _ in range(n):
                began = time.perf_counter()
                done = await self._warm.run(PRINT if what == "print" else SHOW)
                seconds.append(time.perf_counter() - began)
                _expect(done, 0 if what == "print" else 1)
            return seconds

        return self._runner.run(run())

    def cool(self) -> None:
        """Close the session of ``warm``."""
        self._runner.run(self._warm.close())
        self._warm = None

    def lifecycle(
        self, n: int, clients: int, size: tuple[int, int], group: int = 1, *, noise: bool = False
    ) -> float:
        """Return seconds for ``n`` whole sessions; ``group`` of them in a row share a picture."""
        shared = [self._next(size, noise=noise) for _ in range(-(-n // group))]
        waiting = iter(range(n))

        async def client() -> None:
            for index in waiting:
                bound = {NAME: shared[index // group]}
                session = await self._box.open(bound, _limits(), next(self._seeds))
                for code in LIFECYCLE:
                    _expect(await session.run(code), int(code == SHOW))
                await session.close()

        async def run() -> float:
            began = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(clients)))
            return time.perf_counter() - began

        return self._runner.run(run())

    def tiny(self, n: int, group: int, figure: Mapping[str, Any]) -> float:
        """Return seconds for ``n`` sessions at 448x448 that show twice, one after the other."""
        if self._tiny is None or self._tiny[1] != dict(figure):
            self._tiny = self._sandbox(figure), dict(figure)
        box = self._tiny[0]
        shared = [self._next((448, 448)) for _ in range(-(-n // group))]

        async def run() -> float:
            began = time.perf_counter()
            for index in range(n):
                bound = {NAME: shared[index // group]}
                session = await box.open(bound, _limits(), next(self._seeds))
                for _ in range(2):
                    _expect(await session.run(TINY_SHOW), 1)
                await session.close()
            return time.perf_counter() - began

        return self._runner.run(run())

    def prepare(self, n: int, size: tuple[int, int]) -> None:
        """Make the pictures of the next ``hold``, so that they count as there before."""
        self._media = [self._next(size) for _ in range(n)]

    def hold(self, n: int, what: str) -> list[float]:
        """Open ``n`` sessions and keep them; return seconds to each one's first result.

        Args:
            n: How many, one after the other.
            what: ``idle``: nothing bound. ``active``: a picture of its own is bound and a crop of
                it shown. ``bound``: a picture is bound and looked at; sessions take turns through
                those of ``prepare``.
        """
        code = {"idle": TRIVIAL, "active": SHOW, "bound": TOUCH}[what]

        async def run() -> list[float]:
            seconds = []
            for index in range(n):
                media = self._media[index % len(self._media)] if self._media else None
                bound = {} if media is None or what == "idle" else {NAME: media}
                session, took = await self._open(bound, code)
                self._held.append(session)
                seconds.append(took)
            return seconds

        return self._runner.run(run())

    def release(self) -> None:
        """Close what ``hold`` keeps."""

        async def run() -> None:
            while self._held:
                await self._held.pop().close()

        self._runner.run(run())
        self._media = []

    def hang(self, case: str, limit_s: float, grace_s: float, clock: str = "wall") -> list[Any]:
        """Return how many seconds a cell that does not end took to return, and its status.

        ``clock`` names the limit that is set low: ``wall``, or ``cpu`` where the project has one;
        where it has none the answer is empty.
        """
        names = {field.name for field in dataclasses.fields(SandboxLimits)}
        if f"{clock}_s" not in names:
            return []
        changes: dict[str, Any] = {"grace_s": grace_s, f"{clock}_s": limit_s}
        limits = dataclasses.replace(_limits(), **changes)

        async def run() -> list[Any]:
            session = await self._box.open({}, limits, next(self._seeds))
            _expect(await session.run(TRIVIAL), 0)
            began = time.perf_counter()
            done = await session.run(HANGS[case])
            took = time.perf_counter() - began
            await session.close()
            return [took, str(done.status)]

        return self._runner.run(run())

    def close(self) -> None:
        """End the sandboxes."""
        self._runner.run(self._box.close())
        if self._tiny is not None:
            self._runner.run(self._tiny[0].close())
        self._runner.close()

    def _sandbox(self, figure: Mapping[str, Any]) -> Any:
        wanted = {"max_running": MAX_RUNNING, "figure": dict(figure)}
        wanted |= self._wanted
        fields = SandboxConfig.model_fields
        config = SandboxConfig(**{key: value for key, value in wanted.items() if key in fields})
        return resolve(config.name, TABLE, "sandbox.name")(config)

    async def _open(self, bound: Mapping[str, Media], code: str) -> tuple[Any, float]:
        began = time.perf_counter()
        session = await self._box.open(bound, _limits(), next(self._seeds))
        done = await session.run(code)
        took = time.perf_counter() - began
        _expect(done, int(code == SHOW))
        return session, took

    def _next(self, size: tuple[int, int], *, noise: bool = False) -> Media:
        key = (size[0], size[1], noise)
        if key not in self._pictures:
            self._pictures[key] = Pictures(key[:2], noise=noise)
        return image_media(next(self._pictures[key]))


def _limits() -> SandboxLimits:
    return SandboxLimits()


def _expect(done: Execution, num_images: int) -> None:
    if str(done.status) != "ok" or len(done.images) != num_images:
        raise RuntimeError(f"{done.status}, {len(done.images)} images: {done.error}")


def main() -> int:
    """Serve ``benchmarks.sandbox``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox_ours")
    parser.add_argument("--level", default="best")
    parser.add_argument("--allow-unsafe", action="store_true")
    options = parser.parse_args()
    # A live session takes a socket and a pidfd.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    arm = Ours(options.level, allow_unsafe=options.allow_unsafe)
    names = ["info", "start", "warm", "cells", "cool", "lifecycle", "tiny"]
    names += ["prepare", "hold", "release", "hang"]
    try:
        serve({name: getattr(arm, name) for name in names})
    finally:
        arm.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

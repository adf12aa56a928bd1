"""The sandbox of forked processes: one warm zygote, one isolated child per session that runs code.

In: code, images and videos as ``Media``. Out: an ``Execution`` per cell. The zygote is a fresh
interpreter that loads numpy, PIL and matplotlib once; a session's child is forked from it at the
session's first ``run``, so that a session that runs no code costs nothing. Sessions that begin with
the same images are forked from a group that holds them already.

What a child may reach is decided by the level (``levels``, ``inside/confine``): it is probed when
the zygote starts, tried with real attacks (``selfcheck``), and a sandbox that cannot hold it does
not start. What each level covers is in ``docs/sandbox.md``.

Belongs to one event loop, and ends with the thread that started it. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import SandboxError
from pyvision_rl.registry import parse_options
from pyvision_rl.sandbox import launch, levels
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.forkers import Forkers
from pyvision_rl.sandbox.given import check_binding, check_figure
from pyvision_rl.sandbox.pixels import PixelStore
from pyvision_rl.sandbox.process import START_S, Child, Forker, ZygoteProcess
from pyvision_rl.sandbox.selfcheck import self_check
from pyvision_rl.sandbox.session import ZygoteSession
from pyvision_rl.sandbox.videos import VideoFiles, check_videos, videos_of
from pyvision_rl.sandbox.watchdog import Watchdog
from pyvision_rl.types import Media


class Options(BaseModel):
    """``[sandbox.options]`` of the zygote sandbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    branchable: bool = False
    """Whether a live session can be forked."""
    preload: tuple[str, ...] = ()
    """Libraries to load before the first session. scipy, skimage, cv2 and av are loaded when code
    first imports one of them; the sessions after that one find it loaded."""
    ready: int = Field(0, ge=0)
    """Children forked in advance."""
    max_live: int = Field(1024, gt=0)
    """Children at the same time; who wants one more waits for a while."""
    max_groups: int = Field(4, ge=0)
    """Sets of images held for sessions to come."""


class ZygoteSandbox:
    """Runs model code in isolated children of one preloaded process."""

    def __init__(self, config: SandboxConfig) -> None:
        """Check the configuration; no process is started before the first cell.

        Raises:
            ConfigError: An unknown option, a library that is not installed, level unsafe without
                leave, or an rcParam that matplotlib does not take.
        """
        self._options = parse_options(Options, config.options, "sandbox.options")
        levels.check_level(config.level, config.allow_unsafe)
        launch.library_path(self._options.preload)
        check_figure(config.figure, "sandbox.figure")
        self._figure = dict(config.figure)
        self._checked = [self._figure]
        self._config = config
        self.running = asyncio.Semaphore(config.max_running)
        """Held while a cell runs."""
        self.pixels, self.videos = PixelStore(), VideoFiles()
        self.branchable = self._options.branchable
        self._live = asyncio.Semaphore(self._options.max_live)
        self._watchdog = Watchdog()
        self.watch, self.unwatch = self._watchdog.watch, self._watchdog.unwatch
        self._starting = asyncio.Lock()
        self._zygote: ZygoteProcess | None = None
        self._isolation: levels.Isolation | None = None
        """Of the latest zygote."""
        self._ready: deque[tuple[Forker, Child]] = deque()
        self._refill: asyncio.Task[None] | None = None
        self._forkers: Forkers | None = None
        self._folders: list[Path] = []
        """The working directory of each zygote; one that ends in order removes its own."""
        self._sessions: set[ZygoteSession] = set()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the zygote while it runs."""
        return None if self._zygote is None or self._zygote.lost else self._zygote.pid

    @property
    def level(self) -> levels.Level | None:
        """The level that sessions run at, once a zygote has started."""
        return None if self._isolation is None else self._isolation.level

    async def open(
        self, bindings: Mapping[str, Media], limits: SandboxLimits, seed: int
    ) -> ZygoteSession:
        """Return a session; its process is forked when it first runs code.

        ``limits.figure`` is laid over the configured rcParams.

        Raises:
            SandboxError: A binding that is no identifier, no image and no video, more videos than
                a session can hold, or the sandbox is closed.
            ConfigError: An rcParam in ``limits.figure`` that matplotlib does not take; or a video,
                and PyAV is not installed.
        """
        if self._closed:
            raise SandboxError("the sandbox is closed")
        for name, media in bindings.items():
            check_binding(name, media)
        check_videos(bindings)
        figure = dict(limits.figure)
        if figure and figure not in self._checked:
            check_figure(figure, "limits.figure")
            self._checked.append(figure)
        changed = {key: value for key, value in figure.items() if self._figure.get(key) != value}
        session = ZygoteSession(self, bindings, limits, seed, changed)
        self._sessions.add(session)
        return session

    async def close(self) -> None:
        """End every session, then the zygote, and remove their folders. Idempotent."""
        self._closed = True
        for session in tuple(self._sessions):
            await session.close()
        self.pixels.close()
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        async with self._starting:
            if self._zygote is not None:
                await self._drop(self._zygote)
                self._zygote = None
            while self._folders:
                await asyncio.to_thread(shutil.rmtree, self._folders.pop(), ignore_errors=True)

    async def isolate(self) -> levels.Isolation:
        """Return what holds the sessions; starts a zygote if none runs.

        Raises:
            SandboxError: None can be started at an allowed level, or isolation does not hold.
        """
        await self.start()
        assert self._isolation is not None
        return self._isolation

    async def start(self) -> ZygoteProcess:
        """Return the zygote; one that died is replaced first.

        Raises:
            SandboxError: None can be started at an allowed level, or isolation does not hold.
        """
        async with self._starting:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._zygote is None or self._zygote.lost:
                if self._zygote is not None:
                    await self._drop(self._zygote)
                self._zygote = await self._launch()
                offered = set(launch.installed(launch.EXTRAS)).difference(self._options.preload)
                self._forkers = Forkers(
                    self._zygote, self.pixels, offered, self._options.max_groups
                )
            return self._zygote

    async def spawn(self, bindings: Mapping[str, Media], limits: SandboxLimits) -> Child:
        """Return a fresh child for a session; it may hold some of the images already.

        Raises:
            SandboxError: No zygote can be started, it died just now, or too many children live.
        """
        await self.start()
        self._fill()
        # Children that are to hold the user's files get walls of their own.
        plain = limits.scratch_mb == self._config.scratch_mb and not videos_of(bindings)
        while self._ready and plain:
            forker, child = self._ready.popleft()
            self._fill()
            if not child.exited.done() and self._forkers and forker is self._forkers.base:
                return child
            await child.end()
        return await self._spawn(bindings, limits.scratch_mb)

    def notice(self, code: str) -> None:
        """See that libraries which code imports are loaded for sessions to come."""
        if self._forkers is not None:
            self._forkers.notice(code)

    def adopt(self, session: ZygoteSession) -> None:
        """Take a session that was not opened here; it is closed with the others."""
        self._sessions.add(session)

    def forget(self, session: ZygoteSession) -> None:
        """Drop a session that has closed."""
        self._sessions.discard(session)

    async def _spawn(self, bindings: Mapping[str, Media], scratch_mb: int) -> Child:
        """Return a child that is counted for as long as it lives."""
        try:
            await asyncio.wait_for(self._live.acquire(), START_S)
        except TimeoutError as error:
            most = self._options.max_live
            raise SandboxError(
                f"{most} sessions live (sandbox.options.max_live), and none ended in {START_S:g} s"
            ) from error
        try:
            if self._forkers is None:
                raise SandboxError("the sandbox zygote died")
            forker = await self._forkers.pick(bindings)
            child = await forker.spawn(scratch_mb, videos=bool(videos_of(bindings)))
        except BaseException:
            self._live.release()
            raise
        child.exited.add_done_callback(lambda _: self._live.release())
        return child

    async def _launch(self) -> ZygoteProcess:
        """Start a zygote and try its walls."""
        setup = launch.Setup(
            figure=self._figure,
            level=self._config.level,
            allow_unsafe=self._config.allow_unsafe,
            preload=self._options.preload,
        )
        self._folders.append(Path(tempfile.mkdtemp(prefix="pyvision-rl-")))
        zygote, level, walls = await launch.start(setup, self._folders[-1])
        self._isolation = levels.Isolation(level, walls)
        if level == "unsafe":
            text = f"model code runs WITHOUT ISOLATION: {self._isolation}"
            warnings.warn(text, levels.UnsafeSandboxWarning, stacklevel=2)
            return zygote
        try:
            tried = await self_check(zygote.spawn, level)
            self._isolation = levels.Isolation(level, walls, tried)
        except BaseException:
            await zygote.stop()
            raise
        return zygote

    async def _drop(self, zygote: ZygoteProcess) -> None:
        """End a zygote and all that belongs to it."""
        if self._forkers is not None:
            await self._forkers.close()
            self._forkers = None
        await zygote.stop()
        while self._ready:
            await self._ready.popleft()[1].end()

    def _fill(self) -> None:
        """See that children are forked in advance."""
        if len(self._ready) < self._options.ready and self._refill is None:
            self._refill = asyncio.get_running_loop().create_task(self._prepare())

    async def _prepare(self) -> None:
        try:
            # What goes wrong here goes wrong again where a session can say so.
            with contextlib.suppress(SandboxError):
                while len(self._ready) < self._options.ready and not self._live.locked():
                    forker = self._forkers.base if self._forkers else None
                    child = await self._spawn({}, self._config.scratch_mb)
                    if forker is not None:
                        self._ready.append((forker, child))
        finally:
            self._refill = None

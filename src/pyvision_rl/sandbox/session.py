"""One episode of the zygote sandbox, driver side: run cells, watch the clock, judge answers.

In: code. Out: ``Execution`` records, whatever the child does. The child is forked at the first run
and again after its variables were lost; then it gets the initial bindings and every image shown so
far. All that the child sends is taken for hostile (see ``replies``); how cells end is decided in
``cell``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pyvision_rl.errors import SandboxError
from pyvision_rl.media import pixels_media
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.cell import RunningCell
from pyvision_rl.sandbox.exchange import Exchange
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.pixels import PixelStore
from pyvision_rl.sandbox.process import START_S, Child
from pyvision_rl.sandbox.replies import Replies
from pyvision_rl.sandbox.sources import confirm, known_frames
from pyvision_rl.sandbox.videos import VideoFiles, videos_of
from pyvision_rl.types import ExecStatus, Execution, Media

_NAME = "image_clue_"
_IDLE_S = 0.05
"""Between two cells before the child is stopped: the next cell often comes at once."""


class Home(Protocol):
    """What a session needs of its sandbox."""

    running: asyncio.Semaphore
    pixels: PixelStore
    videos: VideoFiles
    branchable: bool
    """Whether sessions may be forked."""

    async def spawn(self, bindings: Mapping[str, Media], limits: SandboxLimits) -> Child:
        """Return a fresh child; it may already hold some of the bindings (``Child.bound``)."""
        ...

    def watch(self, cell: RunningCell) -> None:
        """Measure a cell that begins."""
        ...

    def unwatch(self, cell: RunningCell) -> None:
        """Stop measuring a cell."""
        ...

    def notice(self, code: str) -> None:
        """Take note of code that is about to run."""
        ...

    def adopt(self, session: ZygoteSession) -> None:
        """Take a session that was not opened here; it is closed with the others."""
        ...

    def forget(self, session: ZygoteSession) -> None:
        """Drop a session that has closed."""
        ...


@dataclass(frozen=True, slots=True)
class _Past:
    """How the state of the present child came about."""

    bindings: dict[str, Media]
    """What it started with."""
    next_image: int
    num_cells: int
    """Cells before its first one."""
    cells: list[tuple[str, ExecStatus]] = field(default_factory=list)


class ZygoteSession:
    """One episode's interpreter."""

    def __init__(
        self,
        home: Home,
        bindings: Mapping[str, Media],
        limits: SandboxLimits,
        seed: int,
        figure: Mapping[str, Any],
    ) -> None:
        self._home = home
        self._bindings = dict(bindings)
        """Grows with the images shown."""
        self._next = sum(name.startswith(_NAME) for name in bindings)
        self._limits = limits
        self._seed = seed
        self._figure = dict(figure)
        self._caps = protocol.caps(
            limits.max_output_chars,
            limits.max_images,
            limits.max_pixels,
            max_aspect=limits.max_aspect,
            time_s=limits.wall_s + limits.grace_s,
            videos=len(videos_of(bindings)),
        )
        self._child: Child | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._paused = False
        self._cells = 0
        self._past = _Past(dict(bindings), self._next, 0)
        self._owed: tuple[tuple[str, ExecStatus], ...] = ()
        """Cells to run again before the first one of our own."""
        self._busy = asyncio.Lock()
        self._closed = False

    async def run(self, code: str) -> Execution:
        """Run one cell; see ``base.Session.run``.

        Raises:
            SandboxError: The session is closed, or the zygote failed.
        """
        async with self._busy, self._home.running:
            if self._closed:
                raise SandboxError("the session is closed")
            clean = False
            try:
                execution = await self._run(code)
                clean = not (execution.state_lost or self._closed)
            except OSError as error:  # descriptors, say; of the code's own errors none is raised
                raise SandboxError(f"the sandbox ran short of something: {error}") from error
            finally:
                # Lost, failed or cancelled: what the child would say next belongs to nobody.
                if not clean and self._child is not None:
                    child, self._child = self._child, None
                    await child.end()
            if self._closed:
                raise SandboxError("the session was closed while its code ran")
            if self._child is not None:
                self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._pause)
            return execution

    async def fork(self) -> ZygoteSession:
        """Return a session that runs the cells so far again before its own first cell.

        Equal seeds and equal code give equal states, so this is what a copy of the process would
        be, but for what depends on the time. Nothing is shared: not the memory, not the scratch.

        Raises:
            SandboxError: Sessions here are not branchable, this one is closed, or one of its cells
                was interrupted, so that its state cannot be had twice.
        """
        if not self._home.branchable:
            raise SandboxError("sessions can be forked with sandbox.options.branchable = true only")
        async with self._busy:
            if self._closed:
                raise SandboxError("the session is closed")
            past = self._state()
            if any(status is ExecStatus.TIMEOUT for _, status in past.cells):
                raise SandboxError("the session cannot be forked: one of its cells was interrupted")
            twin = ZygoteSession(self._home, past.bindings, self._limits, self._seed, self._figure)
            twin._next, twin._cells = past.next_image, past.num_cells
            twin._past = replace(past, cells=[])
            twin._owed = (*past.cells, *self._owed)
            self._home.adopt(twin)
            return twin

    async def close(self) -> None:
        """End the session's process and all it started. Idempotent."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        self._home.forget(self)
        child, self._child = self._child, None
        if child is not None:
            await child.end()

    def _pause(self) -> None:
        self._idle = None
        if self._child is not None:
            self._child.pause()
            self._paused = True

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._paused and self._child is not None:
            self._child.resume()
        self._paused = False

    async def _run(self, code: str) -> Execution:
        self._wake()
        if self._child is None:
            if self._owed and self._past.cells:
                raise SandboxError("the session could not be made: it is a fork that failed")
            self._past = self._state()
            self._child = await self._home.spawn(self._bindings, self._limits)
            if self._closed:  # meanwhile
                raise SandboxError("the session is closed")
            await self._start(self._child)
        for again, status in self._owed:
            found = (await self._cell(self._child, again)).status
            if found is not status:
                raise SandboxError(f"a fork went another way: {found} instead of {status}")
        self._owed = ()
        return await self._cell(self._child, code)

    def _state(self) -> _Past:
        """How the state came about that the next cell finds."""
        if self._child is None and self._past.cells and not self._owed:  # it was lost
            return _Past(dict(self._bindings), self._next, self._cells)
        return self._past

    async def _cell(self, child: Child, code: str) -> Execution:
        """Run one cell in a child that has started."""
        self._cells += 1
        self._home.notice(code)
        cell = RunningCell(child, self._limits, self._caps)
        self._home.watch(cell)
        try:
            status, error = await cell.run(code, self._cells)
        finally:
            self._home.unwatch(cell)
            cell.exchange.close()
        duration = asyncio.get_running_loop().time() - cell.began
        self._past.cells.append((code, status))
        return self._execution(status, error, cell.exchange.replies, duration)

    def _execution(
        self, status: ExecStatus, error: str, replies: Replies, duration_s: float
    ) -> Execution:
        """The record of a cell; its pictures are bound from now on."""
        output, parts = replies.text()
        images, sources = [], []
        for shown in replies.images:
            sources.append(confirm(shown, self._bindings, self._home.pixels.pixels))
            media = pixels_media(shown.width, shown.height, bytes(shown.pixels))
            self._bindings[f"{_NAME}{self._next}"] = media
            self._next += 1
            images.append(media)
        fetched = [known_frames(claim, self._bindings) for claim in replies.fetched]
        return Execution(
            status,
            output,
            error,
            tuple(images),
            duration_s,
            state_lost=status not in (ExecStatus.OK, ExecStatus.RAISED, ExecStatus.TIMEOUT),
            parts=parts,
            sources=tuple(sources),
            fetched=tuple(frames for frames in fetched if frames is not None),
        )

    async def _start(self, child: Child) -> None:
        """Give a fresh child its bindings, seed and limits; it answers when it has them."""
        limits = self._limits
        videos = videos_of(self._bindings)
        held = {*child.bound, *videos}
        images = {name: m for name, m in self._bindings.items() if name not in held}
        by_file = self._home.pixels.files(images)
        head = {
            "op": "start",
            "images": [[name, m.width, m.height, name in by_file] for name, m in images.items()],
            "videos": list(videos),
            "next_image": self._next,
            "seed": self._seed,
            "figure": self._figure,
            "memory_mb": limits.memory_mb,
            "max_output_chars": limits.max_output_chars,
            "max_images": limits.max_images,
            "max_pixels": limits.max_pixels,
            "max_aspect": limits.max_aspect,
        }
        pixels = self._home.pixels.pixels
        blobs = [pixels(media) for name, media in images.items() if name not in by_file]
        exchange = Exchange(child.sock, self._caps)
        try:
            async with asyncio.timeout(START_S):
                with self._home.videos.opened(videos) as files:
                    await exchange.ask(head, blobs, (*by_file.values(), *files))
                await exchange.over
        except (protocol.Violation, protocol.Ended, OSError, TimeoutError) as error:
            why = child.fault or repr(error)
            raise SandboxError(f"a session did not start: {why}") from error
        finally:
            exchange.close()
        if exchange.replies.flags:
            raise SandboxError(f"a session did not start: {exchange.replies.error}")

"""A sandbox of forked processes: one warm zygote, one child per episode that runs code.

In: code, and images as ``Media``. Out: an ``Execution`` per cell. The zygote is a fresh
interpreter that loads numpy, PIL and matplotlib once; a session's child is forked from it at the
session's first ``run``, so that a session that runs no code costs nothing.

Covered: time (interrupt, then kill of the process group and of all it started), memory, output,
images, file size, open files, core dumps; the driver's environment (an allow-list is passed on);
crashes and exits; a hostile peer on the socket; nothing outlives the driver.

NOT covered: THERE IS NO ISOLATION YET. Model code runs as the driver's user, on the driver's file
system and network. It can read secrets on disk, delete files, open connections, signal or trace
other processes of the same user, and read what another session wrote. Do not run untrusted models
against it outside a container. For root the kernel does not enforce the limit on processes. What
subprocesses print is dropped. Output of a cell that had to be killed is lost.

Belongs to one event loop, and ends with the thread that started it. Linux only (pidfd, SEQPACKET).
"""

from __future__ import annotations

import asyncio
import json
import keyword
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.registry import parse_options, suggestion
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.pixels import PixelStore
from pyvision_rl.sandbox.process import Child, ZygoteProcess
from pyvision_rl.sandbox.session import RunningCell, ZygoteSession
from pyvision_rl.types import Media


class Options(BaseModel):
    """``[sandbox.options]`` of the zygote sandbox: none so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ZygoteSandbox:
    """Runs model code in children of one preloaded process. NO ISOLATION: see the module."""

    def __init__(self, config: SandboxConfig) -> None:
        """Check the configuration; no process is started before the first cell.

        Raises:
            ConfigError: An unknown option, or an rcParam that matplotlib does not take.
        """
        parse_options(Options, config.options, "sandbox.options")
        check_figure(config.figure, "sandbox.figure")
        self._figure = dict(config.figure)
        self._checked = [self._figure]
        self.running = asyncio.Semaphore(config.max_running)
        """Held while a cell runs."""
        self.pixels = PixelStore()
        self.branchable = False
        self._starting = asyncio.Lock()
        self._zygote: ZygoteProcess | None = None
        self._folders: list[Path] = []
        """The working directory of each zygote; one that ends in order removes its own."""
        self._sessions: set[ZygoteSession] = set()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the zygote while it runs."""
        return None if self._zygote is None or self._zygote.lost else self._zygote.pid

    async def open(
        self, bindings: Mapping[str, Media], limits: SandboxLimits, seed: int
    ) -> ZygoteSession:
        """Return a session; its process is forked when it first runs code.

        ``limits.figure`` is laid over the configured rcParams.

        Raises:
            SandboxError: A binding that is no identifier or no image, or the sandbox is closed.
            ConfigError: An rcParam in ``limits.figure`` that matplotlib does not take.
        """
        if self._closed:
            raise SandboxError("the sandbox is closed")
        for name, media in bindings.items():
            _check_binding(name, media)
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
        async with self._starting:
            if self._zygote is not None:
                await self._zygote.stop()
                self._zygote = None
            while self._folders:
                await asyncio.to_thread(shutil.rmtree, self._folders.pop(), ignore_errors=True)

    def watch(self, cell: RunningCell) -> None:
        """Measure a cell that begins."""

    def unwatch(self, cell: RunningCell) -> None:
        """Stop measuring a cell."""

    async def spawn(self, bindings: Mapping[str, Media], limits: SandboxLimits) -> Child:
        """Return a fresh child for a session; a zygote that died is replaced first.

        Raises:
            SandboxError: No zygote can be started, or it died just now.
        """
        async with self._starting:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._zygote is None or self._zygote.lost:
                self._folders.append(Path(tempfile.mkdtemp(prefix="pyvision-rl-")))
                self._zygote = await ZygoteProcess.start(self._figure, self._folders[-1])
            zygote = self._zygote
        return await zygote.spawn()

    def adopt(self, session: ZygoteSession) -> None:
        """Take a session that was not opened here; it is closed with the others."""
        self._sessions.add(session)

    def forget(self, session: ZygoteSession) -> None:
        """Drop a session that has closed."""
        self._sessions.discard(session)


def check_figure(figure: Mapping[str, Any], where: str) -> None:
    """Check that matplotlib takes the rcParams, and that they can be sent to the zygote.

    Raises:
        ConfigError: Names the key, the value and what is wrong with it.
    """
    if not figure:
        return
    # Loaded here: without rcParams the driver has no use for matplotlib.
    from matplotlib import RcParams, rcParamsDefault

    for key, value in figure.items():
        if key.startswith("backend"):
            raise ConfigError(f"{where}.{key}: the sandbox brings its own backend")
        try:
            RcParams({key: value})
            json.dumps(value, allow_nan=False)
        except KeyError as error:
            near = suggestion(key, rcParamsDefault)
            raise ConfigError(f"{where}.{key} is not a matplotlib rcParam{near}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}.{key} = {value!r}: {error}") from error


def _check_binding(name: str, media: object) -> None:
    if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
        raise SandboxError(f"binding {name!r} is no Python identifier")
    if type(media) is not Media:
        raise SandboxError(f"binding {name!r} is a {type(media).__name__}, wants a Media")
    if media.kind != "image":
        raise SandboxError(f"binding {name!r} is a {media.kind}; this sandbox binds images only")
    if media.source is None:
        raise SandboxError(f"binding {name!r} has no source to take its pixels from")
    if isinstance(media.source, bytes):
        want = 3 * media.width * media.height
        if len(media.source) != want:
            found = len(media.source)
            raise SandboxError(f"binding {name!r} has {found} bytes of pixels, wants {want}")

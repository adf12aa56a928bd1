"""Runs attacks through the public contract, and looks from outside whether they did harm.

In: an ``Attack`` and a level. Out: assertions. Sessions get the facts that an attacker would have
to guess: the process ids, a folder on the host that anyone may read and write, listeners on
loopback. The folder and the listeners are checked after each attack.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_records import LOST, PRELUDE, Attack, Expect
from PIL import Image

from pyvision_rl import sandbox as sandboxes
from pyvision_rl.config import SandboxConfig
from pyvision_rl.media import image_media
from pyvision_rl.registry import resolve
from pyvision_rl.sandbox.base import Sandbox, SandboxLimits
from pyvision_rl.types import ExecStatus, Execution, Media

CANARY = "canary-5e1f0c"
"""Planted on the host where no session may find it."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyvision-rl"
"""Where the list of fonts is; sessions may read it."""
LIMITS: Mapping[str, Any] = {
    "cpu_s": 20.0,
    "wall_s": 60.0,
    "grace_s": 0.4,
    "memory_mb": 256,
    "scratch_mb": 4,
    "max_output_chars": 2000,
}
SLACK_S = 5.0
"""A loaded machine may be this late."""
AFTER = "print('kept' if globals().get('keep') == 42 else 'fresh')"


def limits(**changes: Any) -> SandboxLimits:
    return SandboxLimits(**{**LIMITS, **changes})


def picture(width: int = 40, height: int = 30, seed: int = 7) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return image_media(Image.fromarray(pixels))


def make_sandbox(level: str, **changes: Any) -> Sandbox:
    """A sandbox at one level, with the libraries of every session and no more."""
    wanted = {
        "level": level,
        "allow_unsafe": level == "unsafe",
        "max_running": 4,
        "options": {"preload": ()},
        **changes,
    }
    config = SandboxConfig(**wanted)
    build: Any = resolve(config.name, sandboxes.TABLE, "sandbox.name")
    sandbox: Sandbox = build(config)
    return sandbox


def missing(level: str) -> str:
    """What the kernel lacks for a level, asked of the kernel and not of our own probe; or ""."""
    if level in ("full", "ll") and ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:
        return "Landlock"
    if level in ("full", "ns"):
        alone = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000))"
        if subprocess.run([sys.executable, "-c", alone], check=False).returncode:
            return "user namespaces"
    return ""


class Listeners:
    """Loopback sockets that count who comes, on every family a session could try."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._ends = threading.Event()
        path = str(folder / "listener")
        kinds: dict[str, tuple[int, int, Any]] = {
            "TCP": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "TCP6": (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            "UDP": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "UNIX": (socket.AF_UNIX, socket.SOCK_STREAM, path),
            "ABSTRACT": (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + path),
            "DATAGRAM": (socket.AF_UNIX, socket.SOCK_DGRAM, path + "-2"),
            "DATAGRAM2": (socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + path + "-2"),
        }
        self.facts: dict[str, Any] = {
            name: address for name, (_, _, address) in kinds.items() if isinstance(address, str)
        }
        self._sockets = []
        for name, (family, kind, address) in kinds.items():
            try:
                sock = socket.socket(family, kind)
                sock.bind(address)
            except OSError:  # no IPv6 here: attacks on it find a closed port
                self.facts[name] = 9
                continue
            if kind == socket.SOCK_STREAM:
                sock.listen()
            sock.settimeout(0.1)
            if family != socket.AF_UNIX:
                self.facts[name] = sock.getsockname()[1]
            self._sockets.append(sock)
        for file in folder.glob("listener*"):
            file.chmod(0o777)
        self._threads = [threading.Thread(target=self._serve, args=(s,)) for s in self._sockets]
        for thread in self._threads:
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        while not self._ends.is_set():
            with suppress(TimeoutError, OSError):
                if sock.type == socket.SOCK_DGRAM:
                    sock.recvfrom(512)
                    self.count += 1
                    continue
                peer, _ = sock.accept()
                self.count += 1
                with peer:
                    peer.settimeout(1)
                    peer.recv(512)
                    peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    def wait(self, more_than: int, within_s: float) -> bool:
        """Whether somebody comes in time."""
        end = time.monotonic() + within_s
        while self.count <= more_than and time.monotonic() < end:
            time.sleep(0.01)
        return self.count > more_than

    def close(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


class Host:
    """A throw-away folder, and shared memory, that permissions do not protect: a sandbox must."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pvrl-host-"))
        self.path.chmod(0o777)
        self.shared = Path("/dev/shm") / self.path.name
        self.listeners = Listeners(self.path)
        self.renew()

    def renew(self) -> None:
        victims = (self.path / "victim.txt", self.shared)
        for file, text in ((self.path / "canary.txt", CANARY), *((v, "victim") for v in victims)):
            file.write_text(text)
            file.chmod(0o666)
        (self.path / "folder").mkdir(exist_ok=True)
        (self.path / "folder").chmod(0o777)

    def state(self) -> dict[str, tuple[Any, ...]]:
        """All that an attack could have changed."""
        found = {}
        for path in sorted([self.shared, self.path, *self.path.rglob("*")]):
            stat = path.lstat()
            text = path.read_text() if path.is_file() and stat.st_size < 1000 else ""
            found[str(path)] = (stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns, text)
        return found

    def close(self) -> None:
        self.listeners.close()
        self.shared.unlink()
        shutil.rmtree(self.path)


class Arena:
    """One sandbox at one level, an event loop, and a host to defend."""

    def __init__(
        self,
        level: str,
        runner: asyncio.Runner,
        host: Host,
        folder: Path,
        **changes: Any,
    ) -> None:
        self.folder = folder
        """Where the sandbox makes its folders."""
        self.level = level
        self.runner = runner
        self.host = host
        self.sandbox: Any = make_sandbox(level, **changes)

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "HOST": str(self.host.path),
            "SHARED": str(self.host.shared),
            "DRIVER": os.getpid(),
            "ZYGOTE": self.sandbox.pid or 0,
            "CACHE": str(CACHE),
            **self.host.listeners.facts,
        }

    def preamble(self, **more: Any) -> str:
        given = {**self.facts, **more}
        return PRELUDE + "\n".join(f"{name} = {value!r}" for name, value in given.items())

    async def session(
        self, *codes: str, seed: int = 0, media: Media | None = None, **changes: Any
    ) -> list[Execution]:
        bindings = {"image_clue_0": media or picture()}
        session = await self.sandbox.open(bindings, limits(**changes), seed)
        try:
            return [await session.run(textwrap.dedent(code)) for code in codes]
        finally:
            await session.close()

    def cells(self, *codes: str, **options: Any) -> list[Execution]:
        """Run the codes as the cells of one new session."""
        return self.runner.run(self.session(*codes, **options))

    def play(self, attack: Attack, paths: tuple[str, ...]) -> tuple[Execution, Execution]:
        """Run an attack in a new session: what it gave, and what the next cell gave."""
        targets = [path.format(host=self.host.path) for path in paths]
        preamble = self.preamble(TARGETS=targets)
        first, attacked, after = self.cells(preamble, attack.code, AFTER, **attack.limits)
        assert (first.status, first.error) == (ExecStatus.OK, "")
        return attacked, after

    def repel(self, attack: Attack) -> None:
        """The attack gets the answer its record says, and changes nothing outside."""
        self.host.renew()
        before, contacts = self.host.state(), self.host.listeners.count
        attacked, after = self.play(attack, attack.paths)
        check(attacked, attack.expected(self.level))
        check_next(attacked, after)
        allowed = limits(**attack.limits)
        assert attacked.duration_s < allowed.wall_s + allowed.grace_s + SLACK_S
        assert self.host.state() == before
        if attack.contact:
            assert not self.host.listeners.wait(contacts, 0.05), "somebody reached a listener"

    def show(self, attack: Attack) -> None:
        """The attack does what it is meant to do: it is refused elsewhere for a reason."""
        assert attack.control is not None
        if attack.root and os.geteuid():
            pytest.skip("platform: this control needs root")
        self.host.renew()
        contacts = self.host.listeners.count
        ours = tuple(path for path in attack.paths if path.startswith("{host}"))
        attacked, _ = self.play(attack, ours)
        check(attacked, attack.control)
        if attack.contact:
            assert self.host.listeners.wait(contacts, 2.0), "nobody reached a listener"


def check(execution: Execution, want: Expect) -> None:
    """Hold an execution against an expectation."""
    said = f"{execution.status}: output {execution.output!r}, error {execution.error!r}"
    assert execution.status in want.status, said
    found = set(execution.output.split())
    if want.words:
        assert found, said
        assert found <= want.words, said
    assert re.search(want.error, execution.error), said
    assert re.search(want.output, execution.output), said
    if not want.error and ExecStatus.OK in want.status:
        assert execution.error == "", said
    assert execution.state_lost == (execution.status in LOST), said


def check_next(attacked: Execution, after: Execution) -> None:
    """The cell after an attack is served, with the variables kept or, as announced, lost."""
    want = "fresh\n" if attacked.state_lost else "kept\n"
    said = f"the next cell: {after.status}: output {after.output!r}, error {after.error!r}"
    assert (after.status, after.output, after.error) == (ExecStatus.OK, want, ""), said


def loud(level: str) -> AbstractContextManager[Any]:
    """To be unsafe is said loudly."""
    words = "WITHOUT ISOLATION"
    return pytest.warns(UserWarning, match=words) if level == "unsafe" else nullcontext()


@contextmanager
def arena_at(level: str, **changes: Any) -> Iterator[Arena]:
    """An arena whose sandbox is running; what is left of it is removed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Host()) as host,
        asyncio.Runner() as runner,
    ):
        arena = Arena(level, runner, host, Path(folder), **changes)
        try:
            with loud(level), pytest.MonkeyPatch.context() as patch:
                patch.setattr(tempfile, "tempdir", folder)
                arena.cells("pass")  # loads the libraries, so that the zygote's pid is known
            yield arena
        finally:
            runner.run(arena.sandbox.close())

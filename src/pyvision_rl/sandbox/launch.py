"""How a zygote comes to be: a fresh interpreter, a look at what the machine allows, a level.

In: what sessions start with and the level that is asked for. Out: a ``ZygoteProcess`` that is ready
to fork, or a ``SandboxError`` with the process's last words. The process gets an environment and a
view of the file system of its own; nothing is inherited from the driver but an allow-list.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.sandbox.levels import Level, choose
from pyvision_rl.sandbox.process import START_S, ZygoteProcess

_BOOT = (
    "import sys,types;p=types.ModuleType('sandbox_child');p.__path__=[sys.argv[2]];"
    "sys.modules['sandbox_child']=p;from sandbox_child.boot import main;main(int(sys.argv[1]))"
)
"""Loads the child's files under a name of their own: this package is not importable there."""

PASSED_ON = ("LD_LIBRARY_PATH",)
"""The only variables of the driver's environment that model code can see."""
LIBRARIES = ("numpy", "PIL", "matplotlib")
"""What every session has."""
EXTRAS = ("scipy", "skimage", "cv2", "av")
"""What is loaded when code first imports it, for the sessions after that one."""
SYSTEM = (
    "/lib /lib32 /lib64 /usr/lib /usr/lib32 /usr/lib64 /usr/local/lib /usr/local/lib64 "
    "/etc/ld.so.cache /etc/localtime /etc/fonts /usr/share/zoneinfo /usr/share/fonts "
    "/usr/share/fontconfig /usr/local/share/fonts"
)
"""What sessions may read of the system: libraries, fonts and time zones."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a zygote is started with."""

    figure: dict[str, Any]
    """rcParams that every child starts with."""
    level: str
    allow_unsafe: bool
    preload: tuple[str, ...]
    """Names of libraries to load besides those that every session has."""


async def start(setup: Setup, folder: Path) -> tuple[ZygoteProcess, Level, dict[str, str]]:
    """Return a zygote that is ready to fork, its level, and which walls are missing and why.

    Args:
        setup: What it is started with.
        folder: An empty folder of its own, which it removes when it ends in order.

    Raises:
        SandboxError: The level cannot be had, or the process did not get ready; the message ends
            with what it said.
    """
    libraries = library_path((*LIBRARIES, *setup.preload, *installed(EXTRAS)))
    fonts = _font_folder(folder)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, tempfile.TemporaryFile() as said:
        try:
            process = _launch(theirs.fileno(), folder, fonts, said)
        except OSError as error:
            ours.close()
            raise SandboxError(f"the sandbox zygote did not start: {error}") from error
        theirs.close()

        def end() -> None:
            process.kill()
            process.wait()

        zygote = ZygoteProcess(ours, end, lambda: process.poll() is not None)
        hello = {
            "driver": os.getpid(),
            "figure": setup.figure,
            "preload": setup.preload,
            "path": libraries,
            "paths": readable_paths(libraries),
        }
        try:
            async with asyncio.timeout(START_S):
                return zygote, *await _meet(zygote, hello, setup)
        except (OSError, TimeoutError, LookupError) as error:
            zygote.lose()
            why = f"not ready after {START_S:g} s" if isinstance(error, TimeoutError) else error
            said.seek(0)
            end_of_it = said.read()[-2000:].decode("utf-8", "replace")
            text = f"the sandbox zygote did not start: {why}\n{end_of_it}"
            raise SandboxError(text.rstrip()) from error
        except BaseException:
            zygote.lose()
            raise


async def _meet(
    zygote: ZygoteProcess, hello: dict[str, Any], setup: Setup
) -> tuple[Level, dict[str, str]]:
    """Agree on a level with a process that has just started, and wait until it is ready."""
    zygote.send(hello)
    level: Level = "unsafe"
    walls: dict[str, str] = {}
    ready = False
    while not (ready and zygote.pid):
        news = await zygote.news.get()
        match news["op"]:
            case "walls":
                walls = news["walls"]
                level = choose(setup.level, setup.allow_unsafe, walls)
                zygote.send({"level": level})
            case "zygote":
                zygote.pid = int(news["pid"])
            case "ready":
                ready = True
            case _:
                raise OSError(news["why"])
    return level, walls


def _launch(fd: int, folder: Path, fonts: Path, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """The zygote's process: a fresh interpreter with nothing of ours but ``fd``."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(fonts),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
        # Else each thread takes 64 MB of the addresses that a session may have.
        "MALLOC_ARENA_MAX": "1",
    }
    here = str(Path(__file__).parent / "inside")
    return subprocess.Popen(
        # -s -S -P: neither the user's site, nor site, nor the working directory. -I would also
        # ignore PYTHONHASHSEED; the environment is our own, so it has nothing else to ignore.
        [sys.executable, "-s", "-S", "-P", "-B", "-c", _BOOT, str(fd), here],
        cwd=folder,
        env=environment,
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
    )


def _font_folder(otherwise: Path) -> Path:
    """Where matplotlib keeps its list of fonts from one zygote to the next."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    fonts = cache / "pyvision-rl" / "matplotlib"
    try:
        fonts.mkdir(parents=True, exist_ok=True)
    except OSError:
        return otherwise  # then the list is made anew by each zygote
    return fonts


def installed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the libraries that can be imported here."""
    return tuple(name for name in names if importlib.util.find_spec(name) is not None)


def library_path(names: tuple[str, ...]) -> list[str]:
    """Return the folders of ``sys.path`` that hold installed packages, in order.

    Raises:
        ConfigError: One of the packages is not installed.
    """
    needed = set()
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(f'sandbox.name = "zygote" needs {name}: it is not installed')
        folder = Path(spec.origin).parent.parent
        if Path.cwd().is_relative_to(folder.resolve()):
            raise ConfigError(f"sandbox.options.preload: {name} lies where your own files do")
        needed.add(str(folder))
    packages = ("site-packages", "dist-packages")
    on_path = [path for path in sys.path if path in needed or Path(path).name in packages]
    return [*on_path, *sorted(needed.difference(on_path))]


def readable_paths(libraries: list[str]) -> list[str]:
    """Return what an isolated interpreter must be able to read."""
    paths = [*SYSTEM.split(), *libraries]
    paths += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    # Absolute ones only: "." would show the driver's working directory.
    named = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p.startswith("/")]
    paths += [f"{sys.base_prefix}/lib", *named]
    # A link is shown as a link: what it leads to must be there too.
    return sorted({p for path in paths if path for p in (path, os.path.realpath(path))})

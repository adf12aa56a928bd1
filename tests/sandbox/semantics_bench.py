"""One sandbox for the tests of what a cell means, and ways to run cells in it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyvision_rl.media import image_media
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.types import Execution, Media

FIGURE: dict[str, Any] = {
    "figure.figsize": [1.12, 1.12],
    "figure.dpi": 50,
    "figure.subplot.left": 0,
    "figure.subplot.right": 1,
    "figure.subplot.bottom": 0,
    "figure.subplot.top": 1,
    "xtick.bottom": False,
    "xtick.labelbottom": False,
    "ytick.left": False,
    "ytick.labelleft": False,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}
LIMITS = SandboxLimits(wall_s=10.0)
SHORT = SandboxLimits(wall_s=0.5, grace_s=0.2)
SHOW = "plt.imshow(image_clue_0)\n"
SOCKET = """
import os, sys
frame = sys._getframe()
while "blob" not in frame.f_locals:
    frame = frame.f_back
request, fd = frame.f_locals["request"], frame.f_locals["sock"].fileno()
protocol = sys.modules["sandbox_child.protocol"]
"""
"""Model code that finds the socket and the request id it must answer."""


def picture(width: int = 40, height: int = 30) -> Media:
    pixels = np.random.default_rng(7).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return image_media(Image.fromarray(pixels))


def smooth(width: int = 400, height: int = 300) -> Media:
    """A picture whose parts differ from each other and survive being resized."""
    small = np.random.default_rng(7).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return image_media(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


class Bench:
    """One sandbox and one event loop for all tests of a file: a zygote takes seconds to load."""

    def __init__(self, runner: asyncio.Runner, sandbox: ZygoteSandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    async def session(
        self,
        *codes: str,
        limits: SandboxLimits = LIMITS,
        bindings: Mapping[str, Media] | None = None,
        seed: int = 0,
    ) -> list[Execution]:
        given = {"image_clue_0": picture()} if bindings is None else bindings
        session = await self.sandbox.open(given, limits, seed)
        try:
            return [await session.run(textwrap.dedent(code)) for code in codes]
        finally:
            await session.close()

    def cells(self, *codes: str, **options: Any) -> list[Execution]:
        """Run the codes as the cells of one new session."""
        return self.runner.run(self.session(*codes, **options))

    def cell(self, code: str, **options: Any) -> Execution:
        return self.cells(code, **options)[0]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids: list[int], within_s: float = 2.0) -> bool:
    end = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def said_by_killed_driver(script: str, folder: Path) -> str:
    """Run a driver of its own that kills itself in the end; return what it printed."""
    path = folder / "driver.py"
    path.write_text(textwrap.dedent(script))
    source = Path(sys.modules["pyvision_rl"].__file__ or "").parent.parent
    ran = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(source), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    return ran.stdout

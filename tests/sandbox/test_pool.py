"""Who forks a session: groups that hold its images, libraries loaded once, children kept ready."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.media import image_media
from pyvision_rl.sandbox import pool
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.types import Execution, Media

LIMITS = SandboxLimits(wall_s=30)


def picture(seed: int, side: int = 64) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return image_media(Image.fromarray(pixels))


class Pool:
    """One sandbox, and cells in sessions of their own."""

    def __init__(self, sandbox: ZygoteSandbox) -> None:
        self.sandbox = sandbox

    async def cell(self, code: str, bindings: Mapping[str, Media] | None = None) -> Execution:
        session = await self.sandbox.open(bindings or {}, LIMITS, 0)
        try:
            done = await session.run(code)
        finally:
            await session.close()
        assert not done.error, done.error
        return done

    def processes(self) -> int:
        """How many children the zygote has: sessions and groups."""
        pid = self.sandbox.pid
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def play(scenario: Callable[[Pool], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        sandbox = ZygoteSandbox(SandboxConfig(options=options))
        try:
            await scenario(Pool(sandbox))
        finally:
            await sandbox.close()

    asyncio.run(run())


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.01)


def test_a_group_gives_its_sessions_the_same_picture_and_nothing_of_each_other() -> None:
    async def scenario(box: Pool) -> None:
        given = {"image_clue_0": picture(1), "other": picture(2)}
        first = await box.cell("display(image_clue_0, other)", given)
        assert box.processes() == 0  # one session is not worth a group
        spoil = "image_clue_0.putpixel((0, 0), (1, 2, 3)); np.pi = 3; mine = 1"
        await box.cell(spoil, given)
        assert box.processes() == 1
        after = await box.cell("display(image_clue_0, other); print('mine' in globals())", given)
        assert after.images == first.images == (given["image_clue_0"], given["other"])
        assert after.output == "False\n"

    play(scenario)


def test_groups_are_few_and_the_one_used_last_stays() -> None:
    async def scenario(box: Pool) -> None:
        for seed in (1, 2, 3):
            for _ in range(2):
                await box.cell("1", {"a": picture(seed)})
        await until(lambda: box.processes() == 2)
        await box.cell("1", {"a": picture(2)})
        assert box.processes() == 2

    play(scenario, max_groups=2)


def test_a_group_that_is_given_up_ends_after_its_last_session() -> None:
    async def scenario(box: Pool) -> None:
        await box.cell("1", {"a": picture(1)})
        session = await box.sandbox.open({"a": picture(1)}, LIMITS, 0)
        await session.run("x = 1")
        for _ in range(2):
            await box.cell("1", {"a": picture(2)})
        assert box.processes() == 2
        assert (await session.run("x + 1")).output == "2\n"
        await session.close()
        await until(lambda: box.processes() == 1)

    play(scenario, max_groups=1)


def test_many_sessions_of_one_image_at_once_make_one_group() -> None:
    async def scenario(box: Pool) -> None:
        given = {"a": picture(1)}
        await asyncio.gather(*(box.cell("a.size", given) for _ in range(12)))
        assert box.processes() == 1

    play(scenario)


def test_a_group_that_died_is_replaced() -> None:
    async def scenario(box: Pool) -> None:
        given = {"a": picture(1)}
        for _ in range(2):
            await box.cell("1", given)
        pid = box.sandbox.pid
        [group] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(group), signal.SIGKILL)
        await until(lambda: box.processes() == 0)
        assert (await box.cell("a.size", given)).output == "(64, 64)\n"

    play(scenario)


def test_a_library_that_code_imports_is_loaded_for_the_sessions_to_come() -> None:
    pytest.importorskip("scipy")
    look = "import sys; 'scipy.ndimage' in sys.modules"

    async def scenario(box: Pool) -> None:
        assert (await box.cell(look)).output == "False\n"
        await box.cell("from scipy import ndimage")
        while (await box.cell(look)).output != "True\n":
            await asyncio.sleep(0.1)
        given = {"a": picture(1)}
        for _ in range(3):
            assert (await box.cell(f"a.size\n{look}", given)).output == "True\n"

    play(scenario)


def test_a_library_can_be_loaded_from_the_start() -> None:
    pytest.importorskip("scipy")

    async def scenario(box: Pool) -> None:
        assert (await box.cell("import sys; 'scipy.ndimage' in sys.modules")).output == "True\n"

    play(scenario, preload=["scipy"])


def test_a_library_that_is_not_installed_is_named_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="no_such_library"):
        ZygoteSandbox(SandboxConfig(options={"preload": ["no_such_library"]}))


def test_children_are_kept_ready() -> None:
    async def scenario(box: Pool) -> None:
        await box.cell("1")
        await until(lambda: box.processes() == 3)
        given = {"a": picture(1)}
        assert (await box.cell("a.size", given)).output == "(64, 64)\n"
        await until(lambda: box.processes() == 3)

    play(scenario, ready=3, max_groups=0)


def test_who_wants_one_session_too_many_waits_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START_S", 0.3)

    async def scenario(box: Pool) -> None:
        one = await box.sandbox.open({}, LIMITS, 0)
        two = await box.sandbox.open({}, LIMITS, 0)
        await one.run("1")
        with pytest.raises(SandboxError, match="max_live"):
            await two.run("1")
        waiting = asyncio.create_task(two.run("2"))
        await asyncio.sleep(0.1)
        await one.close()
        assert (await waiting).output == "2\n"
        await two.close()

    play(scenario, max_live=1)


def test_a_zygote_removes_its_folder_when_it_ends(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    play(lambda box: box.cell("open('f', 'w').write('x')"))  # type: ignore[arg-type, return-value]
    assert list(tmp_path.iterdir()) == []

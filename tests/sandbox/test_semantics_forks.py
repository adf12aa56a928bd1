"""A forked session goes on from the same state, and neither sees what the other does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from semantics_bench import FIGURE, SHORT, SHOW, Bench, picture, smooth

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.sandbox.session import ZygoteSession
from pyvision_rl.types import ExecStatus

SANDBOX = {"options": {"branchable": True}}
Play = Callable[[ZygoteSession], Awaitable[None]]


def play(bench: Bench, scenario: Play, limits: SandboxLimits = SHORT) -> None:
    async def run() -> None:
        session = await bench.sandbox.open({"image_clue_0": picture()}, limits, 7)
        try:
            await scenario(session)
        finally:
            await session.close()

    bench.runner.run(run())


def test_a_fork_has_variables_pictures_files_and_random_state(bench: Bench) -> None:
    code = (
        "import random\nx = [1]; open('f', 'w').write('a'); a = random.random(), np.random.rand()"
    )
    look = "print(x, open('f').read(), image_clue_1.size, random.random(), np.random.rand())\n"

    async def scenario(session: ZygoteSession) -> None:
        await session.run(code)
        await session.run(SHOW + "plt.show()\n1/0")
        twin = await session.fork()
        first, second = await session.run(look), await twin.run(look)
        await twin.close()
        assert first.output == second.output
        assert first.output.startswith("[1] a (56, 56) 0.")

    play(bench, scenario)


def test_forks_do_not_see_each_other(bench: Bench) -> None:
    async def scenario(session: ZygoteSession) -> None:
        await session.run("x = 1; import os")
        one, two = await session.fork(), await session.fork()
        await one.run("x = 2; open('f', 'w').write('a')")
        await session.run("x = 3; image_clue_0.show()")
        assert (await two.run("x, os.listdir(), 'image_clue_1' in globals()")).output == (
            "(1, [], False)\n"
        )
        assert (await one.run("x")).output == "2\n"
        # Cells are counted on, so errors name the same cells in each.
        assert 'File "<cell 3>"' in (await two.run("1/0")).error
        for fork in (one, two):
            await fork.close()

    play(bench, scenario)


def test_a_fork_outlives_its_session_and_can_be_forked(bench: Bench) -> None:
    async def scenario(session: ZygoteSession) -> None:
        await session.run("x = 1")
        child = await session.fork()
        await session.close()
        grandchild = await child.fork()
        await child.run("x = 2")
        assert (await grandchild.run("x")).output == "1\n"
        assert (await (await child.fork()).run("x")).output == "2\n"

    play(bench, scenario)


def test_a_fork_after_a_lost_state_starts_with_the_pictures(bench: Bench) -> None:
    async def scenario(session: ZygoteSession) -> None:
        await session.run("x = 1; image_clue_0.crop((0, 0, 5, 5)).show()")
        assert (await session.run("import os; os._exit(3)")).status is ExecStatus.DIED
        look = "'x' in globals(), image_clue_1.size, 'image_clue_2' in globals()"
        early = await session.fork()
        await session.run("y = 5; image_clue_1.show()")
        late = await session.fork()
        assert (await early.run(look)).output == "(False, (5, 5), False)\n"
        assert (await late.run("y, image_clue_2.size")).output == "(5, (5, 5))\n"

    play(bench, scenario)


def test_a_session_with_an_interrupted_cell_is_not_forked(bench: Bench) -> None:
    async def scenario(session: ZygoteSession) -> None:
        assert (await session.run("while True: pass")).status is ExecStatus.TIMEOUT
        with pytest.raises(SandboxError, match="interrupted"):
            await session.fork()

    play(bench, scenario)


def test_a_fork_that_goes_another_way_fails_and_stays_failed(bench: Bench) -> None:
    async def scenario(session: ZygoteSession) -> None:
        limit = time.time() + 0.3
        await session.run(f"import time; assert time.time() < {limit}")
        fork = await session.fork()
        await asyncio.sleep(0.4)
        for words in ("raised instead of ok", "failed"):
            with pytest.raises(SandboxError, match=words):
                await fork.run("1")
        await fork.close()

    play(bench, scenario)


def test_a_closed_session_is_not_forked(bench: Bench) -> None:
    async def scenario(session: ZygoteSession) -> None:
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await session.fork()

    play(bench, scenario)


def test_forking_is_off_unless_asked_for() -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig(figure=FIGURE))
        session = await sandbox.open({"image_clue_0": smooth()}, SHORT, 0)
        with pytest.raises(SandboxError, match=r"sandbox\.options\.branchable = true"):
            await session.fork()
        await sandbox.close()

    asyncio.run(scenario())

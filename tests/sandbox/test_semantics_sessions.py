"""A session from its opening to its end: what it sees, what it leaves, what is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from semantics_bench import LIMITS, Bench, all_gone, children, picture, said_by_killed_driver

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.media import open_image
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.types import ExecStatus, Execution, Media
from tests.fakes import a_video

SANDBOX = {"options": {"max_groups": 0}}
"""Every child of the zygote is a session."""


def test_the_driver_s_environment_is_not_passed_on(bench: Bench) -> None:
    code = """
    import os
    text = str(dict(os.environ)) + open('/proc/self/environ').read()
    text += open('/proc/1/environ').read()
    'CANARY' in text, 'canary' in text
    """
    assert bench.cell(code).output == "(False, False)\n"


def test_the_child_inherits_only_its_own_descriptors(bench: Bench) -> None:
    code = """
    import os
    links = {f: os.path.exists(f'/proc/self/fd/{f}') for f in sorted(os.listdir('/proc/self/fd'))}
    sum(links.values()), os.readlink('/proc/self/fd/0')
    """
    count, stdin = eval(bench.cell(code).output)
    assert stdin == "/dev/null"
    assert count <= 4


def test_this_package_is_not_importable_by_model_code(bench: Bench) -> None:
    assert bench.cell("import pyvision_rl").status is ExecStatus.RAISED


def test_the_zygote_has_one_thread(bench: Bench) -> None:
    assert len(list(Path(f"/proc/{bench.sandbox.pid}/task").iterdir())) == 1


def test_many_sessions_leave_no_descriptor_process_or_file(bench: Bench) -> None:
    def count() -> tuple[int, int, int]:
        pid = bench.sandbox.pid or 0
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            len(children(pid)) + len(list(Path(f"/proc/{pid}/cwd/").iterdir())),
        )

    async def many() -> None:
        for start in range(0, 200, 4):
            await asyncio.gather(
                *(
                    bench.session("open('f', 'w')" if i % 20 == 0 else "1")
                    for i in range(start, start + 4)
                )
            )

    bench.cell("1")
    before = count()
    bench.runner.run(many())
    assert count() == before


def test_open_starts_no_process() -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig())
        session = await sandbox.open({"image_clue_0": picture()}, LIMITS, 0)
        assert sandbox.pid is None
        assert children(os.getpid()) == before
        await session.close()
        await sandbox.close()

    before = children(os.getpid())
    asyncio.run(scenario())


def test_a_session_without_code_forks_no_child(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        assert children(bench.sandbox.pid or 0) == []
        await session.close()

    bench.runner.run(scenario())


def test_a_cancelled_run_ends_its_child_and_the_session_goes_on(bench: Bench) -> None:
    async def scenario() -> Execution:
        session = await bench.sandbox.open({}, LIMITS, 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.run("while True: pass"), 0.3)
        assert children(bench.sandbox.pid or 0) == []
        try:
            return await session.run("2")
        finally:
            await session.close()

    assert bench.runner.run(scenario()).output == "2\n"


def test_closing_twice_and_running_after_close(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        await session.run("1")
        await session.close()
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await session.run("1")

    bench.runner.run(scenario())


def test_closing_a_session_while_it_runs_fails_the_run(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        run = asyncio.create_task(session.run("while True: pass"))
        await asyncio.sleep(0.2)
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await run
        assert children(bench.sandbox.pid or 0) == []

    bench.runner.run(scenario())


def test_a_dead_zygote_fails_its_sessions_and_is_replaced(bench: Bench) -> None:
    async def scenario() -> Execution:
        old = bench.sandbox.pid or 0
        session = await bench.sandbox.open({}, LIMITS, 0)
        await session.run("x = 1")
        running = asyncio.create_task(session.run("while True: pass"))
        await asyncio.sleep(0.1)
        [child] = children(old)
        os.kill(old, signal.SIGKILL)
        with pytest.raises(SandboxError, match="zygote"):
            await running
        assert all_gone([child])
        await session.close()
        [result] = await bench.session("1")
        assert bench.sandbox.pid not in (None, old)
        return result

    assert bench.runner.run(scenario()).output == "1\n"


@pytest.mark.parametrize("program", ["/no/such/python", "/bin/false"])
def test_a_zygote_that_cannot_start_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig())
        session = await sandbox.open({}, LIMITS, 0)
        for _ in range(2):
            with pytest.raises(SandboxError, match="did not start"):
                await session.run("1")
        await session.close()
        await sandbox.close()

    monkeypatch.setattr(sys, "executable", program)
    before = len(list(Path("/proc/self/fd").iterdir()))
    asyncio.run(scenario())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = """
    import asyncio, os
    from pyvision_rl.config import SandboxConfig
    from pyvision_rl.sandbox.base import SandboxLimits
    from pyvision_rl.sandbox.pool import ZygoteSandbox

    async def main():
        sandbox = ZygoteSandbox(SandboxConfig())
        session = await sandbox.open({}, SandboxLimits(), 0)
        await session.run("1")
        zygote = sandbox.pid
        with open(f"/proc/{zygote}/task/{zygote}/children") as file:
            print(zygote, file.read(), flush=True)
        os.kill(os.getpid(), 9)

    asyncio.run(main())
    """
    said = said_by_killed_driver(script, tmp_path)
    words = said.split()
    assert len(words) == 2
    assert all_gone([int(word) for word in words])
    end = time.monotonic() + 2
    while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == [tmp_path / "driver.py"]


# Refusals


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"not a name": picture()}, "'not a name'"),
        ({"class": picture()}, "'class'"),
        ({"answer": "42"}, "'answer' is a str"),
        ({"clip": a_video()}, "'clip' is a video without a file"),
        ({"clue": Media("image", "0", 1, 1)}, "'clue' has no source"),
        ({"clue": Media("image", "0", 2, 2, b"abc")}, "'clue' has 3 bytes"),
    ],
)
def test_a_bad_binding_is_refused_by_name(
    bench: Bench, bindings: dict[str, Any], words: str
) -> None:
    with pytest.raises(SandboxError, match=words):
        bench.cell("1", bindings=bindings)


def test_a_subclass_of_media_is_refused(bench: Bench) -> None:
    class Secret(Media):
        pass

    with pytest.raises(SandboxError, match="Secret"):
        bench.cell("1", bindings={"clue": Secret("image", "0", 1, 1, b"abc")})


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"figure.dp": 50}, "sandbox.figure.figure.dp is not a matplotlib rcParam; did you mean"),
        ({"figure.dpi": "much"}, "sandbox.figure.figure.dpi = 'much'"),
        ({"backend": "agg"}, "sandbox.figure.backend"),
    ],
)
def test_a_bad_rc_param_is_named_before_anything_starts(figure: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        ZygoteSandbox(SandboxConfig(figure=figure))


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.options\.docker"):
        ZygoteSandbox(SandboxConfig(options={"docker": True}))


def test_a_file_that_is_gone_fails_the_run_not_the_model(bench: Bench, tmp_path: Path) -> None:
    media = Media("image", "0" * 64, 4, 4, tmp_path / "gone.png")
    with pytest.raises(SandboxError, match=r"gone\.png"):
        bench.cell("1", bindings={"image_clue_0": media})


def test_an_image_file_is_bound_like_pixels_in_memory(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "clue.png"
    open_image(picture()).save(path)
    media = Media("image", picture().sha256, 40, 30, path)
    assert bench.cell("image_clue_0", bindings={"image_clue_0": media}).images == (picture(),)

"""The scripted sandbox plays back what it was given, and says when it has nothing left."""

from __future__ import annotations

import asyncio

import pytest

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.scripted import ScriptedSandbox
from pyvision_rl.types import ExecStatus, Execution

FIRST = Execution(ExecStatus.OK, "one\n")
SECOND = Execution(ExecStatus.RAISED, "", "ValueError: two")


def play(sandbox: ScriptedSandbox, *codes: str) -> list[Execution]:
    async def episode() -> list[Execution]:
        session = await sandbox.open({}, SandboxLimits(), 0)
        try:
            return [await session.run(code) for code in codes]
        finally:
            await session.close()

    return asyncio.run(episode())


def test_every_session_plays_from_the_start() -> None:
    sandbox = ScriptedSandbox.playing([FIRST, SECOND])
    assert play(sandbox, "a", "b") == [FIRST, SECOND]
    assert play(sandbox, "c") == [FIRST]
    assert sandbox.codes == ["a", "b", "c"]


def test_executions_can_be_chosen_by_code() -> None:
    sandbox = ScriptedSandbox.playing({"a": FIRST, "b": SECOND})
    assert play(sandbox, "b", "a") == [SECOND, FIRST]


def test_executions_can_be_made_by_a_function() -> None:
    sandbox = ScriptedSandbox.playing(lambda run, code: Execution(ExecStatus.OK, f"{run} {code}"))
    assert [e.output for e in play(sandbox, "a", "b")] == ["0 a", "1 b"]


def test_a_config_can_list_outputs() -> None:
    sandbox = ScriptedSandbox(SandboxConfig(name="scripted", options={"outputs": ["x", "y"]}))
    assert [e.output for e in play(sandbox, "a", "b")] == ["x", "y"]


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.options\.output "):
        ScriptedSandbox(SandboxConfig(options={"output": []}))


@pytest.mark.parametrize("script", [[FIRST], {"a": FIRST}])
def test_a_script_that_is_used_up_is_an_error_of_ours(script: object) -> None:
    with pytest.raises(SandboxError, match="'b'"):
        play(ScriptedSandbox.playing(script), "a", "b")  # type: ignore[arg-type]


def test_nothing_runs_after_close() -> None:
    async def scenario() -> None:
        sandbox = ScriptedSandbox.playing([FIRST])
        session = await sandbox.open({}, SandboxLimits(), 0)
        await session.close()
        with pytest.raises(SandboxError):
            await session.run("a")
        await sandbox.close()
        with pytest.raises(SandboxError):
            await sandbox.open({}, SandboxLimits(), 0)

    asyncio.run(scenario())

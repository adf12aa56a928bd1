"""A sandbox that plays back given executions: for tests, and for trying prompts without code.

In: a list that every session plays from its start, or a function that makes each execution from
the session's run number and the code. Out: those executions. Runs nothing; keeps the codes it was
asked to run in ``codes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import SandboxError
from pyvision_rl.registry import parse_options
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.types import ExecStatus, Execution, Media


class Options(BaseModel):
    """``[sandbox.options]`` of the scripted sandbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: tuple[str, ...] = ()
    """What each run of a session prints, in order; every run ends well."""


class ScriptedSandbox:
    """Plays back executions instead of running code."""

    def __init__(self, config: SandboxConfig) -> None:
        """Play ``config.options["outputs"]``.

        Raises:
            ConfigError: An unknown option.
        """
        options = parse_options(Options, config.options, "sandbox.options")
        self._play = _listed([Execution(ExecStatus.OK, text) for text in options.outputs])
        self._closed = False
        self.codes: list[str] = []
        """Every code that was run, in the order of the calls."""

    @classmethod
    def playing(
        cls,
        script: Sequence[Execution] | Mapping[str, Execution] | Callable[[int, str], Execution],
    ) -> ScriptedSandbox:
        """Return a sandbox that plays ``script``.

        Args:
            script: Executions in the order of a session's runs, or by exact code, or a function of
                the session's run number (from 0) and the code. An execution may be a SandboxError
                only by way of a function that raises it.
        """
        sandbox = cls(SandboxConfig(name="scripted"))
        if callable(script):
            sandbox._play = script
        elif isinstance(script, Mapping):
            sandbox._play = _keyed(script)
        else:
            sandbox._play = _listed(script)
        return sandbox

    async def open(
        self, bindings: Mapping[str, Media], limits: SandboxLimits, seed: int
    ) -> ScriptedSession:
        """Return a session that plays from the start of the script."""
        if self._closed:
            raise SandboxError("the sandbox is closed")
        return ScriptedSession(self)

    async def close(self) -> None:
        """Refuse further sessions. Idempotent."""
        self._closed = True


class ScriptedSession:
    """One episode's place in the script."""

    def __init__(self, sandbox: ScriptedSandbox) -> None:
        self._sandbox = sandbox
        self._runs = 0
        self._closed = False

    async def run(self, code: str) -> Execution:
        """Return the next execution of the script.

        Raises:
            SandboxError: The session is closed, or the script has no execution for this run.
        """
        if self._closed:
            raise SandboxError("the session is closed")
        self._sandbox.codes.append(code)
        self._runs += 1
        return self._sandbox._play(self._runs - 1, code)

    async def close(self) -> None:
        """End the session. Idempotent."""
        self._closed = True


def _listed(script: Sequence[Execution]) -> Callable[[int, str], Execution]:
    def play(run: int, code: str) -> Execution:
        if run >= len(script):
            raise SandboxError(f"run {run + 1} of a script of {len(script)} executions: {code!r}")
        return script[run]

    return play


def _keyed(script: Mapping[str, Execution]) -> Callable[[int, str], Execution]:
    def play(run: int, code: str) -> Execution:
        if code not in script:
            raise SandboxError(f"the script has no execution for {code!r}")
        return script[code]

    return play

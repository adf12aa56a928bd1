"""Arenas for the attack tests: one sandbox per level and module, and one without isolation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from attack_bench import CANARY, Arena, arena_at, missing
from attack_records import LEVELS
from semantics_bench import FIGURE, Bench

from pyvision_rl.config import SandboxConfig
from pyvision_rl.sandbox.pool import ZygoteSandbox


@pytest.fixture(scope="module", params=LEVELS)
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """An arena at each level that the kernel offers."""
    level = request.param
    if lacks := missing(level):
        pytest.skip(f"platform: level {level} needs {lacks}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVRL_CANARY_KEY", CANARY)
        with arena_at(level, **getattr(request.module, "CONFIG", {})) as arena:
            yield arena


@pytest.fixture(scope="module")
def unsafe() -> Iterator[Arena]:
    """An arena without isolation, for positive controls."""
    with arena_at("unsafe") as arena:
        yield arena


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A sandbox as a run makes it, or with the module's ``SANDBOX``, for tests of the semantics."""
    changes = getattr(request.module, "SANDBOX", {})
    unsafe = changes.get("allow_unsafe", False)
    said = pytest.warns(UserWarning, match="WITHOUT ISOLATION") if unsafe else nullcontext()
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVRL_CANARY_KEY", "canary-secret")
        sandbox = ZygoteSandbox(SandboxConfig(figure=FIGURE, **changes))
        bench = Bench(runner, sandbox)
        with said:
            bench.cell("pass")  # loads the zygote while the canary is set
        try:
            yield bench
        finally:
            runner.run(sandbox.close())

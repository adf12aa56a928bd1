from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from semantics_bench import FIGURE, Bench

from pyvision_rl.config import SandboxConfig
from pyvision_rl.sandbox.pool import ZygoteSandbox


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A sandbox as a run makes it, for the tests of what a cell means."""
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVRL_CANARY_KEY", "canary-secret")
        sandbox = ZygoteSandbox(SandboxConfig(figure=FIGURE))
        bench = Bench(runner, sandbox)
        bench.cell("pass")  # loads the zygote while the canary is set
        try:
            yield bench
        finally:
            runner.run(sandbox.close())

"""Ten thousand sessions of all fates: no stale result, and nothing left behind (attack 97)."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sandbox"))
from attack_bench import Arena, arena_at, missing
from attack_records import LEVELS
from attack_traces import resident_bytes, traces
from test_attacks_host import settle, soak

ROUNDS, SESSIONS = 20, 500
MAX_GROWTH = 64 * 2**20


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """The best level here."""
    level = next((level for level in LEVELS if not missing(level)), None)
    if level is None:
        pytest.skip("platform: no isolation is possible here")
    with arena_at(level) as arena:
        yield arena


@pytest.fixture(scope="module")
def before(arena: Arena) -> tuple[dict[str, object], int]:
    """What is there after the first sessions, and the driver's memory."""
    arena.runner.run(soak(arena, 500))
    gc.collect()
    return traces(arena.sandbox.pid, arena.folder), resident_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_thousands_of_sessions_leave_nothing_behind(
    arena: Arena, before: tuple[dict[str, object], int], number: int
) -> None:
    arena.runner.run(soak(arena, SESSIONS, seed=number))
    arena.runner.run(settle(arena, before[0]))
    gc.collect()
    grown = resident_bytes() - before[1]
    assert grown < MAX_GROWTH, f"{grown} bytes after {number * SESSIONS} sessions"

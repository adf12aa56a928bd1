"""Ten thousand sessions of all fates: no stale result, and nothing left behind (attack 97)."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sandbox"))
from attack_bench import arena_at
from attack_records import LEVELS
from attack_traces import resident_bytes, traces
from test_attacks_host import soak

SESSIONS = 10_000
MAX_GROWTH = 64 * 2**20


@pytest.mark.slow
def test_ten_thousand_sessions_leave_nothing_behind() -> None:
    with arena_at(LEVELS[0]) as arena:
        arena.runner.run(soak(arena, 500))
        gc.collect()
        before, memory = traces(arena.sandbox.pid, arena.folder), resident_bytes()
        arena.runner.run(soak(arena, SESSIONS))
        gc.collect()
        assert traces(arena.sandbox.pid, arena.folder) == before
        assert resident_bytes() - memory < MAX_GROWTH

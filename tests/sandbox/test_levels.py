"""Which level is chosen, what is said when none can be had, and that nothing is weakened."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.sandbox.levels import REMEDIES, WALLS, Isolation, choose
from pyvision_rl.sandbox.pool import ZygoteSandbox

ALL = {"namespaces": "", "landlock": "", "seccomp": ""}


def without(*walls: str) -> dict[str, str]:
    return {**ALL, **{wall: f"{wall} said no" for wall in walls}}


@pytest.mark.parametrize(
    ("missing", "level"),
    [
        (ALL, "full"),
        (without("landlock"), "ns"),
        (without("namespaces"), "ll"),
    ],
)
def test_best_is_the_highest_level_whose_walls_are_all_there(
    missing: dict[str, str], level: str
) -> None:
    assert choose("best", False, missing) == level
    assert choose("best", True, missing) == level


@pytest.mark.parametrize(
    "missing", [without("seccomp"), without("namespaces", "landlock"), without(*ALL)]
)
def test_best_ends_at_no_isolation_only_with_leave(missing: dict[str, str]) -> None:
    assert choose("best", True, missing) == "unsafe"
    with pytest.raises(SandboxError, match="refuses to start"):
        choose("best", False, missing)


@pytest.mark.parametrize("level", ["full", "ns", "ll"])
@pytest.mark.parametrize("allow_unsafe", [True, False])
def test_a_named_level_is_never_weakened(level: str, allow_unsafe: bool) -> None:
    assert choose(level, allow_unsafe, ALL) == level
    for wall in WALLS[level]:  # type: ignore[index]
        with pytest.raises(SandboxError, match=f"level {level} is not possible") as raised:
            choose(level, allow_unsafe, without(wall))
        assert f"{wall} said no" in str(raised.value)
        assert REMEDIES[wall] in str(raised.value)


def test_the_remedy_of_a_wall_that_is_there_is_not_named() -> None:
    with pytest.raises(SandboxError) as raised:
        choose("full", False, without("landlock"))
    assert REMEDIES["namespaces"] not in str(raised.value)
    assert "sandbox.allow_unsafe" in str(raised.value)


def test_a_level_is_described_by_what_it_has_and_lacks() -> None:
    assert str(Isolation("full", ALL)) == "full: namespaces, landlock, seccomp, resource limits"
    assert str(Isolation("ns", without("landlock"))) == (
        "ns: namespaces, seccomp, resource limits, no landlock (landlock said no)"
    )
    assert "no namespaces (not asked for)" in str(Isolation("ll", ALL))


def test_level_unsafe_needs_leave() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.allow_unsafe"):
        ZygoteSandbox(SandboxConfig(level="unsafe"))


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("refused(NAME, lambda: open(__file__ if False else '/dev/null').read())", "is a test"),
        ("raise RuntimeError('unforeseen')", "unforeseen"),
        ("import os; os._exit(0)", "died"),
    ],
    ids=["got through", "broke", "ended"],
)
def test_an_attack_that_gets_through_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, attack: str, named: str
) -> None:
    from pyvision_rl.sandbox.inside.attacks import ATTACKS

    async def scenario() -> Any:
        sandbox = ZygoteSandbox(SandboxConfig(options={"preload": []}))
        try:
            await sandbox.isolate()
        finally:
            assert sandbox.pid is None
            await sandbox.close()

    monkeypatch.setitem(ATTACKS, "is a test", attack)
    with pytest.raises(SandboxError, match="does not hold here") as raised:
        asyncio.run(scenario())
    assert named in str(raised.value)

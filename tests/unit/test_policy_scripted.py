"""The scripted policy plays back turns and refuses what no script has."""

from __future__ import annotations

import asyncio

import pytest

from pyvision_rl.errors import PolicyError
from pyvision_rl.policy.scripted import ScriptedPolicy
from pyvision_rl.types import Completion, SampleLimits, SampleRequest, Segment, StopReason


def completion(text: str) -> Completion:
    ids = tuple(text.encode())
    return Completion(ids, (0.0,) * len(ids), text, StopReason.END)


def request(task: str, turn: int) -> SampleRequest:
    history = (Segment((1,), sampled=False),)
    return SampleRequest("e", task, turn, history, (), SampleLimits(4), seed=0)


POLICY = ScriptedPolicy({"a": ("one", "two"), "b": ("three",)}, completion)


def test_every_turn_of_a_task_is_the_scripts() -> None:
    asked = [("a", 0, "one"), ("a", 1, "two"), ("b", 0, "three")]
    for task, turn, text in asked:
        assert asyncio.run(POLICY.sample(request(task, turn))) == completion(text)


@pytest.mark.parametrize(("task", "turn"), [("a", 2), ("b", 1), ("a", -1)])
def test_a_missing_turn_is_named(task: str, turn: int) -> None:
    with pytest.raises(PolicyError, match=f"'{task}' has . turns; turn {turn} "):
        asyncio.run(POLICY.sample(request(task, turn)))


def test_a_task_without_a_script_is_named() -> None:
    with pytest.raises(PolicyError, match="no script for task 'c'"):
        asyncio.run(POLICY.sample(request("c", 0)))


def test_a_delay_lets_others_run_meanwhile() -> None:
    slow = ScriptedPolicy({"a": ("one",)}, completion, delay_s=0.01)
    order: list[str] = []

    async def ask(policy: ScriptedPolicy, name: str) -> None:
        await policy.sample(request("a", 0))
        order.append(name)

    async def both() -> None:
        await asyncio.gather(ask(slow, "slow"), ask(POLICY, "quick"))

    asyncio.run(both())
    assert order == ["quick", "slow"]


def test_release_and_close_may_be_called_any_time() -> None:
    POLICY.release("unknown")
    asyncio.run(POLICY.close())
    asyncio.run(POLICY.close())
    assert asyncio.run(POLICY.sample(request("b", 0))).text == "three"

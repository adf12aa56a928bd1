"""An evaluation that is killed, beside a judge that fails in every way, loses nothing."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_evaluation_runs import config, lines, told

from pyvision_rl.config import Config
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.testing.fake_openai import FakeOpenAI, Fault
from tests.eval_fakes import item_asked
from tests.killable import Runner

MUTE = 50
"""The judge says nothing useful of every item whose number leaves 7 when divided by it."""


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("eval") as started:
        yield started


def faults(count: int, draw: random.Random) -> Iterator[Fault | None]:
    """Of the first requests: errors, garbage, cut and slow answers, and some that are in time."""
    kinds = [
        Fault(status=500),
        Fault(status=503, headers={"Retry-After": "0"}),
        Fault(status=429),
        Fault(drop=True),
        Fault(truncate=True),
        Fault(body=b"<html>busy</html>"),
        Fault(close_after=True),
        Fault(delay_s=0.01),
        None,
        None,
        None,
        None,
    ]
    for number in range(count):
        # A few go over the time limit.
        yield Fault(delay_s=4.0) if number % 200 == 100 else draw.choice(kinds)


def verdict(body: dict[str, Any], *, healthy: bool) -> str:
    item = item_asked(body)
    if item % MUTE == 7 and not healthy:
        return "It depends on how one looks at it."
    return "0" if item % 3 == 0 else "1"


def wanted(url: str, count: int) -> Config:
    judge = {
        "url": url,
        "model": "judge",
        "rules_first": False,
        "timeout_s": 3.0,
        "max_retries": 12,
        "retry_wait_s": 0.001,
        "max_wait_s": 0.01,
        "max_concurrent": 8,
        "cache": "",
    }
    return config(
        tasks={"options": {"count": count}},
        policy={"name": "scripted"},
        rewards={"name": "judge", "judge": judge},
        rollout={"max_live_episodes": 64},
        eval={"samples": 1},
    )


def on_disk(out: Path) -> dict[int, str]:
    """Whole lines by item: what may never be run, or lost, again."""
    found: dict[int, str] = {}
    for file in sorted((out / "rollouts").glob("step_*.jsonl")):
        for raw in file.read_bytes().splitlines(keepends=True):
            if raw.endswith(b"\n"):
                line = json.loads(raw)
                found[line["index"]] = json.dumps(line)
    return found


def killed(runner: Runner, count: int, kills: int, out: Path) -> None:
    """Kill an evaluation at random points, mend the judge at last, and check every count."""
    draw = random.Random(count)
    healthy = False
    with FakeOpenAI(
        lambda body: verdict(body, healthy=healthy), faults=faults(2 * count, draw)
    ) as server:
        values = wanted(server.url, count).model_dump(mode="json")
        before: dict[int, str] = {}
        for kill in range(kills + 1):
            more = count // (kills + 1) - draw.randrange(count // (4 * kills + 4))
            goal = len(before) + max(1, more)
            server.requests.clear()

            def reached(_: int, goal: int = goal, last: bool = kill == kills) -> bool:
                return not last and len(on_disk(out)) >= goal

            code = runner.run(values, out, resume=(out / "run.json").exists(), until=reached)
            assert code == (0 if kill == kills else -9)
            now = on_disk(out)
            kept = {k: v for k, v in before.items() if k % MUTE != 7}
            assert {k: now[k] for k in kept} == kept, "what is on disk stays as it is"
            again = {item_asked(seen.body) for seen in server.requests} & set(kept)
            assert not again, "and nobody is asked about it again"
            before = now
        mute = len(range(7, count, MUTE))
        found = told(out)
        assert found["episodes"] == {
            "all": count,
            "graded": count - mute,
            "correct": sum(k % 3 != 0 and k % MUTE != 7 for k in range(count)),
            "failed": 0,
            "ungraded": mute,
            "ends": {"answered": count},
            "rungs": found["episodes"]["rungs"],
        }
        names = [entry["id"] for entry in found["ungraded"]]
        assert names == [f"item-{k}#0" for k in range(7, count, MUTE)]
        healthy = True
        server.requests.clear()
        assert runner.run(values, out, resume=True) == 0
        asked = Counter(item_asked(seen.body) for seen in server.requests)
        assert set(asked) == set(range(7, count, MUTE)), "only what had no grade"
        found = told(out)
        assert found["episodes"]["graded"] == count
        assert found["episodes"]["correct"] == sum(k % 3 != 0 for k in range(count))
    assert sorted(on_disk(out)) == list(range(count))
    assert not list(out.rglob("*.part"))
    with FakeOpenAI(lambda body: verdict(body, healthy=True)) as server:
        whole = out.with_name("whole")
        run_eval(wanted(server.url, count), whole)
    assert lines(out) == lines(whole), "as if nobody had disturbed it"


def test_kills_and_a_failing_judge_lose_nothing(runner: Runner, tmp_path: Path) -> None:
    killed(runner, 150, 3, tmp_path / "run")


@pytest.mark.slow  # Two thousand episodes, some of whose judge calls run into the time limit.
def test_two_thousand_items_kills_and_a_failing_judge_lose_nothing(
    runner: Runner, tmp_path: Path
) -> None:
    killed(runner, 2000, 8, tmp_path / "run")

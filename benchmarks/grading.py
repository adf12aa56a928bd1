"""The grading ladder: answers per second that rules decide, and that math-verify does; bombs.

In: nothing; the answers are made here. Out: a JSON file with every number, the goal and what was
measured on what. Three arms, through the ladder as a run uses it: ``rule``, typed answers of every
kind, each one new; ``maths``, pairs of expressions that only math-verify can compare, each one new;
``bomb``, expressions that cannot be computed, each followed by an honest one: the longest time from
asking to the honest answer's grade is what a bomb can stall. Asked concurrently, as by rollouts.

    pip install "pyvision-rl[grading]"
    python -m benchmarks.grading --json results/grading.json

Wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from pyvision_rl.config import RewardsConfig
from pyvision_rl.present import hardware
from pyvision_rl.rewards.ladder import LadderGrader
from pyvision_rl.types import (
    EndReason,
    GiveAnswer,
    Gold,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)

GOAL_PER_S = 500.0
"""Answers that rules decide, per second, on two cores."""
QUIET_LOAD = 0.5
PACKAGES = ("pyvision-rl", "math-verify", "latex2sympy2_extended", "sympy")
CHOICES = "Which colour has the ball?\nA. red\nB. green\nC. blue\nD. white"

Case = tuple[Task, Trajectory]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rules: int = 20_000
    maths: int = 300
    bombs: int = 10
    rounds: int = 3
    cpu_s: float = 2.0
    """Limit of one pair."""
    processes: int = 2


QUICK = Sizes(rules=70, maths=3, bombs=1, rounds=1, cpu_s=0.3, processes=1)


def case(gold: str, answer: str, kind: str = "auto", question: str = "How many?") -> Case:
    """Return a task and an episode that answers it."""
    turn = Turn(f"<answer>\n\\boxed{{{answer}}}\n</answer>", StopReason.END, GiveAnswer(answer), 9)
    episode = Trajectory("t", 0, (), (), (turn,), EndReason.ANSWERED, answer)
    return Task(TaskInput("t", question), Gold(gold, kind)), episode


def typed(count: int) -> list[Case]:
    """Return answers of every type, right and wrong, no two alike in a row."""
    made = []
    for n in range(count // 7):
        made += [
            case(str(n), str(n + n % 2)),
            case(f"{n}.25", f"{n}.2501"),
            case("ABCD"[n % 4], "(b) green", question=CHOICES),
            case("green", "ABCD"[n % 4], question=CHOICES),
            case(f"{n}, 2, 3", f"3, 2, {n}", "set"),
            case("Yes" if n % 2 else "No", "yes"),
            case(f"{n}/3", f"{n / 3:.3f}"),
        ]
    return made


def expressions(count: int, start: int = 0) -> list[Case]:
    """Return pairs of equal expressions, each of which must be computed."""
    forms = (
        ("{n}\\sqrt{{3}}", "\\sqrt{{{m}}}"),
        ("x^2+{n}x", "x(x+{n})"),
        ("\\frac{{{n}\\pi}}{{4}}", "0.25*{n}*pi"),
    )
    numbers = range(start + 2, start + 2 + count)
    made = [(n, *forms[n % len(forms)]) for n in numbers]
    return [case(g.format(n=n), a.format(n=n, m=3 * n * n)) for n, g, a in made]


def bombs(count: int, start: int = 0) -> list[Case]:
    """Return answers that cannot be computed."""
    return [case("7", f"9^{{9^{{9^{{{n}}}}}}}") for n in range(start + 9, start + 9 + count)]


def measure(sizes: Sizes) -> dict[str, Any]:
    """Return every number of the three arms."""
    found: dict[str, list[float]] = {"rule_per_s": [], "maths_per_s": [], "stall_s": []}
    asyncio.run(_rounds(sizes, found))
    middle = {f"{name}_median": median(values) for name, values in found.items()}
    return {**found, **middle, "worst_stall_s": max(found["stall_s"])}


async def _rounds(sizes: Sizes, found: dict[str, list[float]]) -> None:
    options = {"maths_cpu_s": sizes.cpu_s, "maths_processes": sizes.processes}
    for index in range(sizes.rounds):
        grader = LadderGrader(RewardsConfig(name="ladder", options=options))
        try:
            # The children are there before anything is timed.
            await _seconds(grader, expressions(sizes.processes * 2, 10_000), "maths")
            answers = typed(sizes.rules)
            found["rule_per_s"].append(len(answers) / await _seconds(grader, answers, "rule"))
            answers = expressions(sizes.maths)
            found["maths_per_s"].append(len(answers) / await _seconds(grader, answers, "maths"))
            for n, bomb in enumerate(bombs(sizes.bombs, index * sizes.bombs)):
                honest = expressions(1, 20_000 + n)
                began = time.perf_counter()
                await asyncio.gather(grader(*bomb), _seconds(grader, honest, "maths"))
                found["stall_s"].append(time.perf_counter() - began)
            told = grader.stats()["maths_over_limit"]
            assert told == sizes.bombs, f"{told} of {sizes.bombs} bombs went off"
        finally:
            await grader.close()


async def _seconds(grader: LadderGrader, answers: Sequence[Case], rung: str) -> float:
    """Grade all at once; return how long it took."""
    began = time.perf_counter()
    grades = await asyncio.gather(*(grader(*answer) for answer in answers))
    took = time.perf_counter() - began
    others = {g.why for g in grades if g.rung != rung or (rung == "maths" and not g.correct)}
    assert not others, f"not decided by {rung}: {others}"
    return took


def versions() -> dict[str, str]:
    """Return what was measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="only see it run")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    load = os.getloadavg()[0]
    numbers = measure(sizes)
    reached = numbers["rule_per_s_median"] >= GOAL_PER_S
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.grading", *sys.argv[1:]]),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "load_before": load,
        "quiet": load < QUIET_LOAD,
        "sizes": asdict(sizes),
        "goal": {"rule_per_s": GOAL_PER_S, "reached": reached},
        "numbers": numbers,
    }
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in ("rule_per_s_median", "maths_per_s_median", "stall_s_median", "worst_stall_s"):
        print(f"{name:20} {numbers[name]:.4g}")
    if not result["quiet"]:
        print(f"the machine was busy (load {load:.2f}): not a measurement")


if __name__ == "__main__":
    main()

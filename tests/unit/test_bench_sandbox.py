"""The sandbox benchmark counts what it says, its ratios are right, and every arm does the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.sandbox import command, notes
from benchmarks.sandbox_cells import Pictures
from benchmarks.sandbox_measures import (
    QUICK,
    Measured,
    Sizes,
    cells,
    groups,
    hangs,
    interleave,
    lifecycles,
    live_memory,
    many,
    starts,
    tiny,
)
from benchmarks.sandbox_peers import ArmError, Peer, arms
from benchmarks.sandbox_proc import Used, available_mb, memory, tree, used
from benchmarks.sandbox_report import judge, p99, ratio, sessions_per_gb, summarize, to_markdown
from pyvision_rl.media import image_media


def verdicts(found: Measured) -> dict[str, str]:
    return {goal.claim: goal.verdict for goal in judge(found)}


def found_with(**changes: Any) -> Measured:
    """A run that meets every goal, by hand numbers."""
    times = {
        "start": {"ours": [0.010], "cold": [0.6], "jupyter": [0.8]},
        "lifecycle": {"ours": [0.05], "baseline": [0.35]},
        "lifecycle_noise": {"ours": [0.05], "baseline": [0.30]},
        "show": {"ours": [0.04], "jupyter": [0.16], "baseline": [0.1]},
        "print": {"ours": [0.0002], "jupyter": [0.008]},
        "tiny_cpu": {"ours": [0.020], "baseline": [0.1], "earlier": [0.022]},
    }
    found = Measured(
        samples=times,
        memory={
            "idle": {"live": 64, "available_mb": 4.0, "private_mb": 3.0, "pss_mb": 3.5},
            "active": {"live": 64, "available_mb": 20.0, "private_mb": 18.0, "pss_mb": 19.0},
        },
        many={"live": 512, "alone_s": 0.01, "opening_s": 0.02, "crowded_s": 0.025},
        hangs=[
            {
                "case": "loop",
                "clock": "wall",
                "limit_s": 1.0,
                "grace_s": 0.5,
                "took_s": 1.1,
                "statuses": ["timeout"],
            }
        ],
        groups={
            "shared": {"seconds": 0.1, "available_mb": 200.0, "pss_mb": 190.0},
            "separate": {"seconds": 0.6, "available_mb": 500.0, "pss_mb": 480.0},
        },
    )
    return replace(found, **changes)


def test_a_ratio_is_the_others_median_over_ours():
    # Medians 6 and 2: 3x. One value each leaves nothing to draw: the interval is the value.
    assert ratio([5.0, 6.0, 100.0], [2.0, 1.0, 9.0]).value == 3.0
    assert (ratio([6.0], [2.0]).low, ratio([6.0], [2.0]).high) == (3.0, 3.0)
    wide = ratio([5.0, 6.0, 7.0], [1.0, 2.0, 3.0])
    assert 5 / 3 <= wide.low <= wide.value <= wide.high <= 7.0


def test_p99_is_a_value_that_one_in_a_hundred_exceeds():
    assert p99([float(k) for k in range(1, 201)]) == 198.0
    assert p99([3.0, 1.0, 2.0]) == 3.0


def test_sessions_per_gb_are_1024_mb_over_those_of_one():
    assert sessions_per_gb(5.12) == pytest.approx(200.0)
    assert sessions_per_gb(None) is None
    assert sessions_per_gb(-0.1) is None


def test_a_run_within_every_goal_passes_all():
    assert set(verdicts(found_with()).values()) == {"pass"}


@pytest.mark.parametrize(
    ("changes", "claim", "verdict"),
    [
        # 0.6 / 0.0121 = 49.6, below 50
        ({"start": {"ours": [0.0121], "cold": [0.6]}}, "than a cold interpreter", "fail"),
        # 0.35 / 0.06 = 5.8: between floor and goal
        ({"lifecycle": {"ours": [0.06], "baseline": [0.35]}}, "whole sessions: 6x", "floor"),
        # 0.35 / 0.08 = 4.4
        ({"lifecycle": {"ours": [0.08], "baseline": [0.35]}}, "whole sessions: 6x", "fail"),
        ({"print": {"ours": [0.001]}}, "print", "left out"),
        ({"tiny_cpu": {"ours": [0.02], "earlier": [0.019]}}, "no more CPU", "fail"),
    ],
)
def test_times_are_held_against_their_goal(changes, claim, verdict):
    found = found_with()
    found.samples |= changes
    assert [v for c, v in verdicts(found).items() if claim in c] == [verdict]


def test_memory_hangs_and_crowds_are_held_against_their_goals():
    memory_row = {"live": 64, "available_mb": 5.2, "private_mb": None}  # 1024 / 5.2 = 197
    late = {**found_with().hangs[0], "took_s": 1.81}  # 1.0 + 0.5 + 0.3 = 1.80
    missed = verdicts(
        found_with(
            memory={"idle": memory_row, "active": found_with().memory["active"]},
            many={"live": 512, "alone_s": 0.01, "crowded_s": 0.031},
            hangs=[late],
            groups={
                "shared": {"seconds": 0.1, "available_mb": 260.0, "pss_mb": 200.0},
                "separate": {"seconds": 0.4, "available_mb": 500.0, "pss_mb": 401.0},
            },
        )
    )
    assert {c for c, v in missed.items() if v == "fail"} == {
        "at least 200 idle sessions per GB by MemAvailable",
        "session start while many are live: at most 3x as long as with none",
        "loop, wall limit: back within limit + grace + 0.3 s",
        "a group on one large picture: starts at least 5x faster",
        "the same: at most half the memory by MemAvailable",
    }
    assert missed["at least 200 idle sessions per GB by private memory"] == "left out"


def test_arms_take_turns_and_another_begins_every_round():
    order: list[str] = []

    def op(name):
        return lambda: [float(order.append(name) or len(order))]

    samples = interleave({"a": op("a"), "b": op("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_no_two_pictures_are_the_same():
    pictures = Pictures((64, 48))
    assert len({image_media(next(pictures)).sha256 for _ in range(300)}) == 300
    assert np.asarray(next(Pictures((64, 48), noise=True))).std() > 70  # uniform: 73.9


def test_a_tree_counts_its_living_and_its_dead():
    code = "import os,time\nif os.fork()==0: x=sum(range(10**7)); os._exit(0)\nos.wait()\n"
    code += "pid=os.fork()\nprint(pid or '',end='\\n' if pid else '',flush=True)\ntime.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert tree(process.pid) == {process.pid, child}
            assert used(process.pid).cpu_s > 0.03  # the dead child's sum alone
            assert used(process.pid).minor_faults > 500
            held = memory({process.pid, child})
            assert held is not None
            assert 0.1 < held.private_mb <= held.pss_mb < 100
        finally:
            os.kill(child, 9)
            process.kill()
    assert Used(3.0, 10) - Used(1.0, 4) == Used(2.0, 6)
    assert available_mb() > 0


SMALL = replace(
    QUICK,
    **{"rounds": 1, "starts": 1, "prints": 1, "lifecycles": 4, "clients": 2},
    **{"tiny": 3, "live": 2, "many": 2, "image": (320, 240)},
)


@pytest.fixture(scope="module")
def peers():
    with arms(jupyter=None, earlier=None, allow_unsafe=True) as have:
        yield have


def test_every_arm_starts_prints_shows_and_lives(peers):
    samples = {**starts(peers, SMALL), **cells(peers, SMALL), **lifecycles(peers, SMALL)}
    assert {measure: set(by_arm) for measure, by_arm in samples.items()} == {
        "start": {"ours", "baseline", "cold"},
        **{
            measure: {"ours", "baseline"}
            for measure in ("print", "show", "lifecycle", "lifecycle_noise", "lifecycle_group")
        },
    }
    assert all(0 < v < 60 for arm in samples.values() for values in arm.values() for v in values)
    assert len(samples["start"]["ours"]) == SMALL.rounds * SMALL.starts


def test_cpu_and_faults_are_those_of_the_arms_processes(peers):
    samples = tiny(peers, SMALL, {"figure.figsize": [1.12, 1.12], "figure.dpi": 50})
    assert all(faults[0] > 300 for faults in samples["tiny_faults"].values())
    assert 0.001 < samples["tiny_cpu"]["ours"][0] < 5


def test_our_arm_is_asked_for_memory_crowds_hangs_and_groups(peers):
    ours = peers["ours"]
    found = Measured(
        memory=live_memory(ours, SMALL),
        many=many(ours, SMALL),
        hangs=hangs(ours, SMALL),
        groups=groups(ours, SMALL),
    )
    # A figure of 640x480 alone takes 1.2 MB.
    assert found.memory["active"]["pss_mb"] > found.memory["idle"]["pss_mb"] + 1.2
    assert found.many["live"] == 2
    assert {row["case"] for row in found.hangs} == {"loop", "C loop", "SIGINT ignored"}
    assert all(row["took_s"] >= QUICK.hang_s for row in found.hangs)
    assert found.groups["shared"]["seconds"] > 0


def test_the_page_and_the_file_hold_every_number(peers):
    result = {
        "command": command(["--json", "x.json"]),
        "date": "2026-01-01",
        "hardware": {"cpu": "a cpu", "cores": 2},
        "arms": {name: arm.call("info") for name, arm in peers.items()},
        "notes": ["a note"],
        **summarize(found_with()),
    }
    assert json.loads(json.dumps(result)) == result
    assert result["sessions_per_cpu_second"]["ours"] == pytest.approx(50.0)  # 1 / 0.020
    text = to_markdown(result)
    assert "| session start to first result | ours | 10 ms | 10 ms | 1 |  |" in text
    assert "| session start to first result | cold | 600 ms | 600 ms | 1 | 60.00 |" in text
    assert "ours 50.0, baseline 10.0" in text
    assert "| idle | 4.0 | 3.0 | 3.5 |" in text


def test_paths_of_other_environments_are_not_published():
    words = ["--json", "r.json", "--jupyter-python", "/home/me/python", "--earlier=/home/me/old"]
    said = command(words)
    assert "/home" not in said
    assert said.endswith("--json r.json --jupyter-python PATH --earlier=PATH")


def test_a_run_says_what_it_left_out():
    said = notes({"ours": {"level": "none"}}, quick=True, load=1.0)
    assert [n for n in said if "busy" in n]
    assert [n for n in said if "Jupyter" in n]
    assert [n for n in said if "without isolation" in n]
    assert len(notes({"ours": {"level": "full"}, "jupyter": {}}, quick=False, load=0.1)) == 1


def test_an_arm_that_fails_or_ends_is_named(tmp_path: Path):
    lines = 'import sys\nfor _ in sys.stdin:\n    print(\'{"error": "no"}\', flush=True)\n    break'
    peer = Peer("some arm", [sys.executable, "-c", lines])
    began = time.monotonic()
    try:
        with pytest.raises(ArmError, match="some arm: start: no"):
            peer.call("start")
        with pytest.raises(ArmError, match="some arm"):
            peer.call("start")
    finally:
        peer.close()
    assert time.monotonic() - began < 30


def test_sizes_of_a_quick_run_are_smaller():
    full = Sizes()
    assert all(getattr(QUICK, n) <= getattr(full, n) for n in Sizes.__slots__)

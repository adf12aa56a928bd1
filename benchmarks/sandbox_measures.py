"""What the sandbox benchmark measures, arm against arm, in one interleaved run.

In: arms (see ``sandbox_peers``) and sizes. Out: ``Measured``: samples by measure and arm, and what
is known of memory, hung cells and many sessions. Judges nothing (see ``sandbox_report``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.sandbox_cells import HANGS
from benchmarks.sandbox_peers import Arm, cold_start
from benchmarks.sandbox_proc import Used, available_mb, memory, tree, used

Samples = dict[str, list[float]]
"""Arm -> values, in the order they were taken."""
Op = Callable[[], list[float]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; seconds, pixels, counts."""

    rounds: int = 20
    """Of starts and cells; every arm has its turn in each."""
    starts: int = 10
    """A round, for arms that start in milliseconds; a cold one starts once a round."""
    prints: int = 25
    shows: int = 5
    slow_cells: int = 2
    """Cells a round of the baseline, whose every call re-sends the picture."""
    lifecycle_rounds: int = 6
    lifecycles: int = 48
    """Sessions a round; a quarter of it for the baseline."""
    clients: int = 4
    image: tuple[int, int] = (1024, 768)
    tiny_rounds: int = 6
    tiny: int = 48
    """Sessions a round; a third of it for the baseline."""
    group: int = 8
    live: int = 64
    memory_rounds: int = 3
    many: int = 512
    many_starts: int = 40
    hang_s: float = 1.0
    grace_s: float = 0.5
    hang_rounds: int = 3
    group_rounds: int = 5
    group_image: tuple[int, int] = (3840, 2160)
    settle_s: float = 0.5
    """For the kernel to take back what ended sessions held."""


QUICK = Sizes(
    rounds=2,
    starts=2,
    prints=3,
    shows=1,
    slow_cells=1,
    lifecycle_rounds=1,
    lifecycles=8,
    tiny_rounds=1,
    tiny=9,
    group=3,
    live=4,
    memory_rounds=1,
    many=8,
    many_starts=2,
    hang_s=0.3,
    grace_s=0.2,
    hang_rounds=1,
    group_rounds=1,
    group_image=(640, 480),
    settle_s=0.1,
)


@dataclass(slots=True)
class Measured:
    """Everything that was measured."""

    samples: dict[str, Samples] = field(default_factory=dict)
    """By measure. Seconds, but for ``tiny_faults``."""
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``idle`` and ``active``: MB a live session."""
    many: dict[str, Any] = field(default_factory=dict)
    hangs: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``shared`` and ``separate``: MB and seconds of a whole group."""


def measure(
    arms: Mapping[str, Arm],
    sizes: Sizes,
    *,
    figure: Mapping[str, Any],
    note: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Return what ``arms`` do; ``figure`` holds the rcParams of the tiny runs."""
    found = Measured()
    note("session starts")
    found.samples |= starts(arms, sizes)
    note("cells of a warm session")
    found.samples |= cells(arms, sizes)
    note("whole sessions")
    found.samples |= lifecycles(arms, sizes)
    note("tiny run's sessions")
    found.samples |= tiny(arms, sizes, figure)
    note("memory")
    found.memory = live_memory(arms["ours"], sizes)
    note("many live sessions")
    found.many = many(arms["ours"], sizes)
    note("cells that hang")
    found.hangs = hangs(arms["ours"], sizes)
    note("groups on one picture")
    found.groups = groups(arms["ours"], sizes)
    return found


def interleave(ops: Mapping[str, Op], rounds: int) -> Samples:
    """Return what each operation gives in ``rounds`` rounds; who begins changes every round."""
    samples: Samples = {name: [] for name in ops}
    names = list(ops)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name] += ops[name]()
    return samples


def starts(arms: Mapping[str, Arm], sizes: Sizes) -> dict[str, Samples]:
    """Return seconds from nothing to a session's first result."""
    counts = {name: 1 if name == "jupyter" else sizes.starts for name in arms}
    ops: dict[str, Op] = {name: _op(arms[name], "start", n=count) for name, count in counts.items()}
    ops["cold"] = lambda: [cold_start()]
    for name, op in ops.items():
        op() if name in ("jupyter", "cold") else arms[name].call("start", n=1)
    return {"start": interleave(ops, sizes.rounds)}


def cells(arms: Mapping[str, Arm], sizes: Sizes) -> dict[str, Samples]:
    """Return seconds of one cell in a session that has a picture and has shown before."""
    for arm in arms.values():
        arm.call("warm", size=sizes.image)
    found = {}
    for what, count in (("print", sizes.prints), ("show", sizes.shows)):
        counts = {name: sizes.slow_cells if name == "baseline" else count for name in arms}
        ops = {name: _op(arms[name], "cells", what=what, n=n) for name, n in counts.items()}
        found[what] = interleave(ops, sizes.rounds)
    for arm in arms.values():
        arm.call("cool")
    return found


def lifecycles(arms: Mapping[str, Arm], sizes: Sizes) -> dict[str, Samples]:
    """Return seconds a session at ``clients`` clients: picture, three cells, one shows, end.

    ``lifecycle``: every session has a picture of its own. ``lifecycle_noise``: likewise, of noise,
    which is the fastest to encode. ``lifecycle_group``: groups share a picture.
    """
    found = {}
    kinds: dict[str, dict[str, Any]] = {
        "lifecycle": {"group": 1},
        "lifecycle_noise": {"group": 1, "noise": True},
        "lifecycle_group": {"group": sizes.group},
    }
    for name, kind in kinds.items():
        counts = {n: sizes.lifecycles // (4 if n == "baseline" else 1) for n in _fast(arms)}

        def one(arm: Arm, n: int, kind: Mapping[str, Any] = kind) -> Op:
            common = {"clients": sizes.clients, "size": sizes.image, **kind}
            return lambda: [arm.call("lifecycle", n=n, **common) / n]

        ops = {n: one(arms[n], count) for n, count in counts.items()}
        found[name] = interleave(ops, sizes.lifecycle_rounds)
    return found


def tiny(arms: Mapping[str, Arm], sizes: Sizes, figure: Mapping[str, Any]) -> dict[str, Samples]:
    """Return wall seconds, CPU seconds and minor faults a session of the tiny runs' shape."""
    found: dict[str, Samples] = {key: {} for key in ("tiny_wall", "tiny_cpu", "tiny_faults")}

    def one(name: str, n: int) -> Op:
        def run() -> list[float]:
            before = used(arms[name].pid)
            took = arms[name].call("tiny", n=n, group=sizes.group, figure=dict(figure))
            spent = _settled(arms[name].pid, sizes.settle_s) - before
            for key, value in (
                ("tiny_wall", took),
                ("tiny_cpu", spent.cpu_s),
                ("tiny_faults", spent.minor_faults),
            ):
                found[key].setdefault(name, []).append(value / n)
            return []

        return run

    counts = {name: sizes.tiny // (3 if name == "baseline" else 1) for name in _fast(arms)}
    for name in counts:
        arms[name].call("tiny", n=1, group=1, figure=dict(figure))
    interleave({name: one(name, n) for name, n in counts.items()}, sizes.tiny_rounds)
    return found


def live_memory(ours: Arm, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return MB a live session, idle and active; what all sessions share is not counted."""
    ours.call("start", n=1)  # what the first session brings up is not the others' memory
    taken: dict[str, list[dict[str, float | None]]] = {"idle": [], "active": []}
    for _ in range(sizes.memory_rounds):
        for what, rows in taken.items():
            rows.append(
                _held(ours, sizes, sizes.live, what, sizes.image, num_pictures=sizes.live)[0]
            )
    return {
        what: {"live": sizes.live} | {key: _median(rows, key) for key in rows[0]}
        for what, rows in taken.items()
    }


def many(ours: Arm, sizes: Sizes) -> dict[str, Any]:
    """Return start seconds with nothing live and with ``sizes.many`` sessions live."""
    need = 1024.0 + 8.0 * sizes.many
    if available_mb() < need:
        return {"live": 0, "note": f"left out: needs {need:.0f} MB of memory"}
    alone = ours.call("start", n=sizes.many_starts)
    before = available_mb()
    opening = ours.call("hold", n=sizes.many, what="idle")
    try:
        time.sleep(sizes.settle_s)
        took = (before - available_mb()) / sizes.many
        crowded = ours.call("start", n=sizes.many_starts)
    finally:
        ours.call("release")
    time.sleep(sizes.settle_s)
    return {
        "live": sizes.many,
        "alone_s": median(alone),
        "opening_s": median(opening),
        "crowded_s": median(crowded),
        "available_mb": took,
    }


def hangs(ours: Arm, sizes: Sizes) -> list[dict[str, Any]]:
    """Return, for each cell that does not end, the longest time until it was given back."""
    rows = []
    for clock in ("wall", "cpu"):
        for case in HANGS if clock == "wall" else ("loop",):
            limits = {"limit_s": sizes.hang_s, "grace_s": sizes.grace_s, "clock": clock}
            done = [ours.call("hang", case=case, **limits) for _ in range(sizes.hang_rounds)]
            if all(done):
                took, statuses = [d[0] for d in done], sorted({d[1] for d in done})
                rows.append({"case": case, **limits, "took_s": max(took), "statuses": statuses})
    return rows


def groups(ours: Arm, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return seconds and MB of a group on one picture, and of as many on a picture each."""
    ours.call("start", n=1)
    taken: dict[str, list[dict[str, float | None]]] = {"shared": [], "separate": []}
    for _ in range(sizes.group_rounds):
        for what, rows in taken.items():
            count = 1 if what == "shared" else sizes.group
            each, seconds = _held(
                ours, sizes, sizes.group, "bound", sizes.group_image, num_pictures=count
            )
            whole = {key: None if mb is None else mb * sizes.group for key, mb in each.items()}
            rows.append(whole | {"seconds": sum(seconds)})
    return {
        what: {"sessions": sizes.group} | {key: _median(rows, key) for key in rows[0]}
        for what, rows in taken.items()
    }


def _held(
    ours: Arm, sizes: Sizes, n: int, what: str, image: tuple[int, int], *, num_pictures: int
) -> tuple[dict[str, float | None], list[float]]:
    """MB a session while ``n`` are held, and the seconds that each took to start.

    ``available_mb`` counts everything, page tables and what the driver keeps too; ``private_mb``
    what is in the sessions' own processes alone; ``pss_mb`` what all but the driver grew by.
    """
    if what != "idle":
        ours.call("prepare", n=num_pictures, size=image)
    old = tree(ours.pid)
    shared_before = memory(old - {ours.pid})
    before = available_mb()
    seconds = ours.call("hold", n=n, what=what)
    try:
        time.sleep(sizes.settle_s)
        took = before - available_mb()
        now = tree(ours.pid)
        of_sessions, shared = memory(now - old), memory(now - {ours.pid})
    finally:
        ours.call("release")
    time.sleep(sizes.settle_s)
    mb: dict[str, float | None] = {"available_mb": took / n, "private_mb": None, "pss_mb": None}
    if of_sessions is not None and shared is not None and shared_before is not None:
        mb["private_mb"] = of_sessions.private_mb / n
        mb["pss_mb"] = (shared.pss_mb - shared_before.pss_mb) / n
    return mb, seconds


def _settled(pid: int, settle_s: float) -> Used:
    # A session's last process may be reaped a moment after its close.
    time.sleep(settle_s)
    return used(pid)


def _median(rows: Sequence[Mapping[str, float | None]], key: str) -> float | None:
    values = [row[key] for row in rows]
    return median(v for v in values if v is not None) if None not in values else None


def _fast(arms: Mapping[str, Arm]) -> list[str]:
    return [name for name in arms if name != "jupyter"]


def _op(arm: Arm, op: str, **arguments: Any) -> Op:
    return lambda: list(arm.call(op, **arguments))

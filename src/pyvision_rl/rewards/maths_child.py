"""The process that runs math-verify: it compares two expressions at a time, and may be killed.

In: JSON lines on stdin, ``{"gold", "answer", "cpu_s"}``, both as TeX of a narrow alphabet. Out:
JSON lines on stdout: ``{"ready"}`` once, then for each request ``{"read": "gold"}`` when the
reference was understood and computed, and ``{"outcome"}``. Imports nothing of ours, writes no file,
and leaves it to the kernel to end it when a request takes too much CPU time or memory: no handler
of Python runs while a number of a billion digits is being computed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, TypeAlias

Read: TypeAlias = Callable[[str], Any]

OUT_OF_MEMORY = 12
"""Exit status where not even the error of a limit that was met had memory."""
MAX_ERROR = "1e-5"
"""Share of the larger number by which equal ones may differ: math-verify rounds to six decimals,
which makes all small numbers equal."""
NEAR = "1e-2"
"""Numbers that differ by less are not called unequal: one may be rounded."""


def main(memory_mb: int) -> None:
    """Answer requests until stdin ends."""
    # Libraries print; only replies may reach the driver.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    logging.disable()
    # The default action ends the process, whatever it is in; a library may have set another.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    read, equal = _load()
    _confine(memory_mb * 2**20)
    _send(out, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
        try:
            outcome = _compare(out, read, equal, request["gold"], request["answer"])
        except MemoryError:
            outcome = "over_limit"
        except (RecursionError, Exception):  # noqa: BLE001 a parser raises anything on odd text
            outcome = "unproved"
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(out, {"outcome": outcome})


def _load() -> tuple[Read, Callable[[Any, Any], bool]]:
    """Import the libraries once; return what reads an expression, and what compares two."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr

    # What was given is the expression, whole: nothing is searched for, stripped or mended. Units
    # that are stripped make 3 cm equal to 3 m.
    plain = NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=False,
        nits=False,
        boxed="none",
        equations=False,
    )
    only = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=plain)]

    def read(tex: str) -> Any:
        found = parse(
            f"${tex}$",
            only,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        return found[0] if len(found) == 1 and isinstance(found[0], Expr) else None

    def equal(gold: Any, answer: Any) -> bool:
        return bool(verify(gold, answer, timeout_seconds=None))

    # The first expression builds tables that cost more than most answers.
    equal(read(r"\frac{1}{2}+x"), read(r"x+\sqrt{2}"))
    return read, equal


def _confine(memory: int) -> None:
    """Give up what comparing does not need; lower limits that are there already stay."""
    for limit, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


def _compare(
    out: BinaryIO, read: Read, equal: Callable[[Any, Any], bool], gold: str, answer: str
) -> str:
    theirs = read(gold)
    if theirs is None:
        return "unreadable_gold"
    first = _number(theirs)
    # From here on the answer is to blame.
    _send(out, {"read": "gold"})
    mine = read(answer)
    if mine is None:
        return "unreadable"
    second = _number(mine)
    said = equal(theirs, mine)
    if first is None or second is None:
        return "equal" if said else "unproved"
    if said:
        return "equal" if _within(first, second, MAX_ERROR) else "unproved"
    return "unproved" if _within(first, second, NEAR) else "unequal"


def _number(expression: Any) -> Any:
    """The finite value of an expression without variables, or None."""
    if expression.free_symbols:
        return None
    value = expression.doit().evalf(30)
    return value if value.is_number and value.is_finite else None


def _within(first: Any, second: Any, share: str) -> bool:
    from sympy import Abs, Float, Max

    return bool(Abs(first - second) <= Float(share) * Max(Abs(first), Abs(second)))


def _send(out: BinaryIO, reply: dict[str, Any]) -> None:
    out.write(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)

"""Which steps of a run are shown.

In: what a person typed. Out: steps. Reads no run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyvision_rl.errors import ConfigError

_PART = re.compile(r"(?P<low>\d+)(-(?P<high>\d+))?|(?P<kind>last|every):(?P<count>\d+)")
ALLOWED = "a step (3), steps (1-10), last:N, every:N, or several with commas between"


@dataclass(frozen=True, slots=True)
class Steps:
    """A choice of steps; without parts it is all of them."""

    parts: tuple[tuple[str, int, int], ...] = ()
    """("range", first, last), ("last", n, 0) or ("every", n, 0)."""

    def choose(self, steps: Sequence[int]) -> list[int]:
        """Return those of ascending steps that are chosen."""
        if not self.parts:
            return list(steps)
        found: set[int] = set()
        for kind, first, last in self.parts:
            if kind == "range":
                found.update(s for s in steps if first <= s <= last)
            elif kind == "last":
                found.update(steps[-first:])
            else:
                found.update(s for s in steps if s % first == 0)
        return sorted(found)


ALL_STEPS = Steps()


def parse_steps(text: str | None) -> Steps:
    """Return the choice that a text like ``1,5-7,every:20,last:2`` means; None means all.

    Raises:
        ConfigError: It means nothing.
    """
    if text is None:
        return ALL_STEPS
    parts = []
    for piece in text.split(","):
        found = _PART.fullmatch(piece.strip())
        if found is None or (found["count"] and not int(found["count"])):
            raise ConfigError(f"--limit-steps {text!r}: {piece.strip()!r} is not {ALLOWED}")
        if found["kind"]:
            parts.append((found["kind"], int(found["count"]), 0))
            continue
        low, high = int(found["low"]), int(found["high"] or found["low"])
        if low > high:
            raise ConfigError(f"--limit-steps {text!r}: {piece.strip()!r} ends before it begins")
        parts.append(("range", low, high))
    return Steps(tuple(parts))

"""The two demos: which configs each runs, and which of their tasks count as easy and as hard.

In: a name. Out: a ``Kind``. An easy task can be answered from what the model is given, or from one
look at the whole; a hard one wants a closer look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """One demo."""

    sft_config: str
    rl_config: str
    easy: tuple[str, ...]
    """Categories of tasks; ``hard`` likewise."""
    hard: tuple[str, ...]


KINDS = {
    "image": Kind("tiny_image_sft", "tiny_image_rl", ("easy",), ("hard",)),
    "video": Kind(
        "tiny_video_sft",
        "tiny_video_rl",
        ("when", "where", "count", "order"),
        ("which", "flash", "move"),
    ),
}
"""By the name that ``--kind`` takes."""


def held_out(line: Mapping[str, Any], categories: Sequence[str]) -> float | None:
    """Return the mean of the categories' accuracies in one line of an RL run's metrics, if any."""
    values = [line.get(f"eval_accuracy_{category}") for category in categories]
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if len(found) == len(values) else None

"""What those who run many runs show alike: tables, a look, the machine, the end of a log.

In: cells, nested values, or a file. Out: Markdown; rows; settings for matplotlib; facts of this
machine; lines. Draws nothing and knows no result.
"""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyvision_rl.runs_codec import number

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
"""Of matplotlib, for every figure."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested values under dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def finite(value: Any) -> Any:
    """Return a value for JSON: what in it is no finite number as the word ``float`` reads back."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return number(value) if isinstance(value, float) else value


def last_lines(file: Path, count: int) -> list[str]:
    """Return the end of a log as it stands there; nothing if there is none."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, count)]
    except OSError:
        return []


def hardware() -> dict[str, str | int | None]:
    """Return what the numbers were measured on: CPU model, cores, memory."""
    info: dict[str, str | int | None] = {"machine": platform.machine(), "cores": os.cpu_count()}
    for file, key, name in (
        ("/proc/cpuinfo", "model name", "cpu"),
        ("/proc/meminfo", "MemTotal", "memory"),
    ):
        path = Path(file)
        text = path.read_text() if path.exists() else ""
        found = [line for line in text.splitlines() if line.startswith(key)]
        info[name] = found[0].partition(":")[2].strip() if found else None
    return info

"""Why a model cannot be loaded, said to the person who named it.

In: what was named, and transformers' error. Out: one sentence. A folder that is not there would
otherwise be taken for a name on the hub, and refused for its spelling.
"""

from __future__ import annotations

from pathlib import Path


def why_not(path: str, error: Exception) -> str:
    """Return the reason; the error's own words where ``path`` may be a name on the hub."""
    is_path = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not is_path or Path(path).exists():
        return f"cannot be loaded: {error}"
    if path.startswith("~"):
        return "is not there: ~ is not expanded; write the whole path"
    where = "" if path.startswith("/") else f" in {Path.cwd()}, where relative paths start"
    return f"is not there{where} (`pvrl new-model` makes one; `pvrl sft`, `pvrl rl` train it)"

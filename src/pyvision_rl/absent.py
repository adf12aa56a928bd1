"""Why something that was named is not there, said to the person who named it.

In: a path, or the name of a model with transformers' error. Out: one sentence, which says of a
relative path where it starts.
"""

from __future__ import annotations

from pathlib import Path


def no_file(path: Path | str) -> str:
    """Return that there is no such file, and where it was looked for."""
    return f"{path}: no such file{_where(path)}"


def no_model(path: str, error: Exception) -> str:
    """Return why a model cannot be loaded.

    A folder that is not there would otherwise be taken for a name on the hub, and refused for its
    spelling; where ``path`` may be such a name the error's own words are kept.
    """
    is_path = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not is_path or Path(path).exists():
        return f"cannot be loaded: {error}"
    if path.startswith("~"):
        return "is not there: ~ is not expanded; write the whole path"
    return (
        f"is not there{_where(path)} (`pvrl new-model` makes one; `pvrl sft`, `pvrl rl` train it)"
    )


def _where(path: Path | str) -> str:
    """Where a relative path was looked for; nothing for an absolute one."""
    return "" if Path(path).is_absolute() else f" in {Path.cwd()}, where relative paths start"

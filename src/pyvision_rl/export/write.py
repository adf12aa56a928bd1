"""From a run or one of its checkpoints to a directory that anyone can load.

In: a run folder, or a checkpoint of one. Out: a new folder with weights (adapters merged), config,
tokenizer and pixel rule, and ``README.md``, the card. What only training needs stays behind.
Nothing is copied from a checkpoint that is not whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.export.card import card_of

_OURS = {"MANIFEST.json", "trainer.pt"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    model: Path
    checkpoint: Path
    """Where it is from."""
    files: int
    bytes: int


def export_model(source: Path, out: Path, evaluations: Sequence[Path] = ()) -> Exported:
    """Write the model of ``source`` to ``out``, and return what was written.

    Args:
        source: A run folder of rl or sft (its last checkpoint is taken), or a checkpoint such as
            ``RUN/best`` or ``RUN/checkpoints/step_000010``.
        out: New or empty.
        evaluations: Run folders of ``pvrl eval`` whose results go into the card.

    Raises:
        ConfigError: ``out`` is taken, or ``source`` is neither.
        CheckpointError: The checkpoint is not whole.
        RunError: A ``run.json`` cannot be read.
    """
    from pyvision_rl.train.checkpoints import find_problem

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already and not an empty folder; name another")
    run, checkpoint = _locate(source)
    problem = find_problem(checkpoint, content=True)
    if problem:
        raise CheckpointError(f"{checkpoint} is not a whole checkpoint: {problem}")
    # Before anything is written: what cannot be told makes no half folder.
    card = card_of(run, checkpoint, evaluations)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name not in _OURS:
            shutil.copyfile(file, out / file.name)
    (out / "README.md").write_text(card, encoding="utf-8")
    files = [file for file in out.iterdir() if file.is_file()]
    return Exported(out, checkpoint, len(files), sum(file.stat().st_size for file in files))


def _locate(source: Path) -> tuple[Path, Path]:
    """Return the run folder and the checkpoint that ``source`` means."""
    from pyvision_rl.train.checkpoints import latest_checkpoint

    where = source.resolve()
    if (where / "run.json").is_file():
        latest = latest_checkpoint(where / "checkpoints")
        if latest is None:
            raise ConfigError(f"{source} holds no whole checkpoint: nothing to export")
        return source, latest
    run = where.parent.parent
    if where.name.startswith("step_") and (run / "run.json").is_file():
        return run, where
    raise ConfigError(
        f"{source} is neither a run folder (no run.json) nor a checkpoint of one (RUN/best, "
        "RUN/checkpoints/step_000010)"
    )

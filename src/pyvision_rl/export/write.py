"""From a run or one of its checkpoints to a directory that anyone can load.

In: a run folder, or a checkpoint of one. Out: a new folder with weights (adapters merged), config,
tokenizer and pixel rule, and ``README.md``, the card. What only training needs stays behind.
Nothing is copied from a checkpoint that is not whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.export.card import card_of
from pyvision_rl.runs import read_info

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
    _set_limits(run, out)
    (out / "README.md").write_text(card, encoding="utf-8")
    files = [file for file in out.iterdir() if file.is_file()]
    return Exported(out, checkpoint, len(files), sum(file.stat().st_size for file in files))


def _set_limits(run: Path, out: Path) -> None:
    """Write the run's own limits of a picture's pixels into the image processor's file.

    The checkpoint has those of the model that the run began with.
    """
    policy = read_info(run).config.get("policy", {})
    limits = {"shortest_edge": policy.get("min_pixels"), "longest_edge": policy.get("max_pixels")}
    limits = {name: value for name, value in limits.items() if value}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not limits or not (out / name).is_file():
            continue
        told = json.loads((out / name).read_text(encoding="utf-8"))
        rule = told if name.startswith("pre") else told.get("image_processor")
        if isinstance(rule, dict):
            rule["size"] = {**(rule.get("size") or {}), **limits}
            for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
                if old in rule and new in limits:
                    rule[old] = limits[new]
            (out / name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


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

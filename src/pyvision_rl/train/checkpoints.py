"""Checkpoints: written whole or not at all, checked before they are read.

    checkpoints/step_000010/
        config.json, model.safetensors, tokenizer.json, ...   an ordinary Hugging Face directory
        trainer.pt       optimizers, random generators, and what the loop wants to remember
        MANIFEST.json    every other file's size and SHA-256, written last

In: a model, a learner and plain values. Out: the folder above; and from it a ``Checkpoint``. A
process killed while saving leaves a temporary folder that nobody reads and the next save removes;
one killed while it replaces a step leaves the old folder under another name, which counts until the
new one is in its place.
``trainer.pt`` holds tensors and plain containers only and is read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import CheckpointError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.learner import Learner

MANIFEST = "MANIFEST.json"
_TRAINER = "trainer.pt"
_TEMPORARY = ".saving_"
_REPLACED = ".replaced_"
_NAME = re.compile(r"step_(\d{6,})")
_NOT_TOKENIZER = re.compile(
    r".*\.(safetensors|bin|pt|pth|gguf|h5|msgpack|onnx|md)|.*\.index\.json|\..*"
    rf"|config\.json|generation_config\.json|{MANIFEST}"
)
_log = logging.getLogger(__name__)
_TOKENIZER_PATTERNS = ["*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint, read into memory except for the weights."""

    path: Path
    """Load the model from here like from any Hugging Face directory."""
    step: int
    learner: dict[str, Any] | None
    """For ``Learner.load_state_dict``; None when the next step starts with new optimizers."""
    rng: dict[str, Any]
    """For ``restore_rng``."""
    extra: dict[str, Any]

    def adapters(self) -> Path | None:
        """Return the folder of the adapters that were trained; None if the network itself was."""
        return folder if (folder := self.path / "adapter").is_dir() else None


def step_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` lies in ``folder``."""
    return folder / f"step_{step:06d}"


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: VisionLanguageModel,
    source: str,
    learner: Learner | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``folder/step_<step>`` and return it; one that is already there is replaced.

    Args:
        folder: Usually ``<run>/checkpoints``; made if missing. What the run has written so far is
            flushed to the disk first.
        step: Names the checkpoint.
        model: Its weights and config.
        source: Where the model came from (directory or name): tokenizer and preprocessor files
            are copied from it, or from an earlier checkpoint if it is gone.
        learner: Its optimizers are saved too; None leaves them out.
        extra: What the loop needs to go on: numbers, strings, lists, tuples, dicts, tensors.

    Raises:
        CheckpointError: ``extra`` holds something else, or the disk refuses.
    """
    _refuse_objects(extra or {})
    state = {
        "learner": None if learner is None else learner.state_dict(),
        "rng": _rng_state(),
        "extra": dict(extra or {}),
    }
    target = step_path(folder, step)
    temporary = folder / f"{_TEMPORARY}{target.name}"
    try:
        # A power cut must not take the lines of a step and leave its checkpoint.
        for name in ("metrics.jsonl", "events.jsonl", "rollouts", "media", ""):
            if (folder.parent / name).exists():
                _flush(folder.parent / name)
        before = max((path.stat().st_mtime for path in _all(folder)), default=0.0)
        for picture in (folder.parent / "media").glob("*.png"):
            if picture.stat().st_mtime >= before:
                _flush(picture)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)
        _end_replacing(folder)
        temporary.mkdir()
        _copy_tokenizer(_tokenizer_folder(source, folder), temporary)
        model.save(temporary)
        torch.save(state, temporary / _TRAINER)
        _write_manifest(temporary, step)
        _put_in_place(temporary, target)
    # A full disk is an OSError, or what torch and safetensors make of it.
    except (OSError, RuntimeError, SafetensorError) as error:
        # A half checkpoint would only keep a full disk full.
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot save {target}: {error}") from error
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Return what ``path`` holds, after checking every file against the manifest.

    Raises:
        CheckpointError: It is missing, cut, or changed since it was written.
    """
    problem = find_problem(path, content=True)
    if problem:
        raise CheckpointError(f"{path} is not a whole checkpoint: {problem}")
    try:
        state = torch.load(path / _TRAINER, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path / _TRAINER} cannot be read: {error}") from error
    step = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["step"]
    return Checkpoint(path, step, state["learner"], state["rng"], state["extra"])


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the whole checkpoint of the highest step (sizes are checked), or None."""
    whole = [path for path in _all(folder) if not find_problem(path)]
    return whole[-1] if whole else None


def resume_from(path: Path, warn: Callable[[str], None] = _log.warning) -> Checkpoint:
    """Return the checkpoint that ``path`` means: itself, or the newest whole one of a run folder.

    Args:
        path: A ``step_...`` folder or a run folder.
        warn: Receives a line for every checkpoint of the run that is newer and not whole.

    Raises:
        CheckpointError: There is none.
    """
    one = (path / MANIFEST).exists() or _NAME.fullmatch(path.name)
    _end_replacing(path.parent if one else path / "checkpoints")
    if one:
        return load_checkpoint(path)
    problems: list[str] = []
    for candidate in reversed(_all(path / "checkpoints")):
        try:
            found = load_checkpoint(candidate)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"{problem}; going on from {found.path} instead")
        return found
    raise CheckpointError("; ".join([f"{path} holds no whole checkpoint to go on from", *problems]))


def has_checkpoints(run: Path) -> bool:
    """Whether a run folder holds any checkpoint, whole or not."""
    return bool(_all(run / "checkpoints"))


def find_problem(path: Path, *, content: bool = False) -> str:
    """Return why ``path`` is not a whole checkpoint, or "" if it is one.

    Args:
        path: A ``step_...`` folder.
        content: Compare SHA-256 sums too, not only names and sizes.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        for name, want in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != want["size"]:
                return f"{name} has {file.stat().st_size} bytes, wants {want['size']}"
            if content and _sha256(file) != want["sha256"]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return "" if _TRAINER in files else f"{MANIFEST} does not name {_TRAINER}"


def prune(folder: Path, keep: int, protect: Iterable[int] = ()) -> None:
    """Remove all but the ``keep`` latest whole checkpoints and those of the protected steps.

    What a removal that was killed left is removed too; a damaged checkpoint stays to be looked at,
    until a resumed run makes its step again (``drop_after``).
    """
    safe = {step_path(folder, step) for step in protect}
    for path in _all(folder):
        # No checkpoint comes into place without its manifest, and removing takes it first.
        if not (path / MANIFEST).exists():
            _remove(path)
    whole = [path for path in _all(folder) if not find_problem(path)]
    for path in whole[: max(0, len(whole) - keep)]:
        if path not in safe:
            _remove(path)


def arrange(run: Path, step: int, config: TrainConfig, best: int | None) -> None:
    """Point to the last and the best checkpoint of a run, and remove what need not be kept.

    Args:
        run: The run folder.
        step: Of the last checkpoint.
        config: Says what is kept.
        best: Step of the best evaluation; its checkpoint, if it is still there, is ``run/best``.
    """
    folder, every = run / "checkpoints", config.keep_every
    point_to(run / "final", step_path(folder, step))
    if best is not None and not find_problem(step_path(folder, best)):
        point_to(run / "best", step_path(folder, best))
    else:
        (run / "best").unlink(missing_ok=True)
    forever = range(every, step + 1, every) if every else ()
    prune(folder, config.keep_checkpoints, [*forever, *([best] if best else [])])


def drop_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: a run that goes on from ``step`` will make its own."""
    for path in _all(folder):
        if int(path.name.rpartition("_")[2]) > step:
            _remove(path)


def point_to(link: Path, target: Path) -> Path:
    """Make ``link`` a relative symbolic link to ``target``, replacing it at once; return it."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
    return link


def seed_rng(seed: int) -> None:
    """Seed the generators of ``random``, numpy and torch: for graders and networks that use them.

    Episodes and tasks have seeds of their own.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set the generators of ``random``, numpy and torch as they were when saving."""
    kind, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _rng_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return {
        "python": random.getstate(),
        # weights_only reading admits tensors, not arrays; int64 holds every uint32.
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _refuse_objects(extra: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(extra), buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"a checkpoint holds tensors and plain values only: {error}"
        ) from error


def _tokenizer_folder(source: str, checkpoints: Path) -> Path:
    """Return a folder that holds the tokenizer files of ``source``."""
    if Path(source).is_dir():
        return Path(source)
    # A run may outlive the folder it started from; its own checkpoints hold the same files.
    latest = latest_checkpoint(checkpoints)
    if latest is not None:
        return latest
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=_TOKENIZER_PATTERNS))
    except ValueError as error:
        raise CheckpointError(f"no tokenizer files at {source!r}: {error}") from error


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copy everything but weights and network config: tokenizer, chat template, preprocessor."""
    for file in sorted(source.iterdir()):
        if file.is_file() and not _NOT_TOKENIZER.fullmatch(file.name):
            shutil.copyfile(file, target / file.name)


def _write_manifest(folder: Path, step: int) -> None:
    """Flush every file to the disk, then write their sizes and sums."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _flush(file)
            name = file.relative_to(folder).as_posix()
            files[name] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
    _flush(manifest)
    _flush(folder)


def _put_in_place(temporary: Path, target: Path) -> None:
    if target.exists():
        # A folder cannot be renamed onto a full one, and this may be the only one there is.
        target.rename(target.with_name(f"{_REPLACED}{target.name}"))
    temporary.rename(target)
    _flush(target.parent)
    _end_replacing(target.parent)


def _end_replacing(folder: Path) -> None:
    """Remove checkpoints that were replaced; one whose successor never came goes back."""
    for old in folder.glob(f"{_REPLACED}*"):
        place = old.with_name(old.name.removeprefix(_REPLACED))
        if place.exists():
            _remove(old)
        else:
            old.rename(place)


def _remove(path: Path) -> None:
    # The manifest first: a checkpoint half removed must not pass for a whole one.
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def _all(folder: Path) -> list[Path]:
    """Return the checkpoint folders, by step; one that is being replaced until it is."""
    found: dict[int, Path] = {}
    # The new one of a step comes last, and counts.
    for path in (*folder.glob(f"{_REPLACED}*"), *folder.glob("step_*")):
        if match := _NAME.fullmatch(path.name.removeprefix(_REPLACED)):
            found[int(match[1])] = path
    return [path for _, path in sorted(found.items())]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

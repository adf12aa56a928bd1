"""The run folder: everything a run leaves behind, and everything that is read back from one.

    run.json                      schema, verb, resolved config, versions, command line
    metrics.jsonl                 one line per step, flushed at once
    events.jsonl                  warnings and remarks, one line each
    rollouts/step_000001.jsonl    one line per trajectory, kept or not (see ``runs_codec``)
    media/<sha256>.png            images by content, each once
    media/videos.json             where the videos lie; they are not copied
    checkpoints/                  written by ``train``

In: metrics and ``SavedRollout`` records. Out: files, and the same records. A process killed at any
point leaves a readable folder: files are replaced as a whole or grow by whole lines, and a line
that was cut is reported and skipped. Holds no secrets and nothing from the environment.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

from pyvision_rl.config import SCHEMA, Config
from pyvision_rl.errors import RunError
from pyvision_rl.media import saved_file, write_png
from pyvision_rl.runs_codec import (
    RunInfo,
    SavedRollout,
    decode_info,
    encode,
    encode_info,
    media_of,
    number,
)
from pyvision_rl.runs_files import append, line_of, read_lines, replace_file, writing
from pyvision_rl.types import Batch, Group, Media, Task, Trajectory

Graded: TypeAlias = Group | SavedRollout | tuple[Task, Trajectory, float | None, str | None]
"""A group, a record, or (task, trajectory, advantage, reason it was left out)."""

CARRIED = "carried"
"""Reason of a trajectory that was left to the next step; it is written again with that one."""

_PACKAGES = ("pyvision-rl", "torch", "transformers", "numpy", "pillow")


class RunWriter:
    """Writes one run folder; one writer per folder at a time."""

    def __init__(
        self,
        path: Path,
        config: Config,
        verb: str,
        resume_step: int | None = None,
        *,
        command: str | None = None,
    ) -> None:
        """Create the folder, or with ``resume_step`` go on in it after that step.

        Args:
            path: The run folder; must not exist or be empty, unless resumed.
            config: The resolved config; its ``run`` section says what is kept.
            verb: What the run does: rl, sft, rollout, eval.
            resume_step: Everything written for later steps is removed.
            command: How to say it on a command line; None takes this process's own.

        Raises:
            RunError: The folder holds other things, another process writes there, or it cannot be
                resumed.
        """
        self.path = Path(path)
        self._config = config
        command = _command() if command is None else command
        created = datetime.now(UTC).isoformat(timespec="seconds")
        # Who only reads needs none of it.
        from pyvision_rl.runs_opening import OnlyWriter, cut_after, refuse_foreign

        if resume_step is None:
            refuse_foreign(self.path)
            info = RunInfo(verb, {}, created=created, command=command)
        else:
            info = read_info(self.path)
            if info.verb != verb:
                raise RunError(f"{self.path} is a run of {info.verb!r}; {verb} cannot go on in it")
            again = {"step": resume_step, "created": created, "command": command}
            info = replace(info, resumed=(*info.resumed, again))
        info = replace(info, config=config.model_dump(mode="json"), versions=_versions())
        for folder in ("", "rollouts", "media", "checkpoints"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        self._lock = OnlyWriter(self.path)
        if resume_step is not None:
            cut_after(self.path, resume_step)
        replace_file(self.path / "run.json", [json.dumps(encode_info(info, SCHEMA), indent=1)])
        self._metrics: BinaryIO = (self.path / "metrics.jsonl").open("ab", buffering=0)
        self._events: BinaryIO = (self.path / "events.jsonl").open("ab", buffering=0)

    def metrics(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Append one line of numbers; it is in the file when this returns.

        Raises:
            RunError: The disk refuses; the file is as it was before.
        """
        line: dict[str, float | str] = {"step": step, "time": round(time.time(), 3)}
        line.update((k, v if isinstance(v, str) else number(v)) for k, v in values.items())
        append(self._metrics, line_of(line))

    def event(self, name: str, text: str, step: int | None = None) -> None:
        """Append a warning or remark; one that belongs to a step goes when the step is undone."""
        line = {"time": round(time.time(), 3), "name": name, "text": text}
        append(self._events, line_of(line if step is None else {"step": step} | line))

    def rollouts(
        self,
        step: int,
        graded: Sequence[Graded],
        batch: Batch | None = None,
        *,
        write_media: bool | None = None,
    ) -> Path | None:
        """Write one step's trajectories, replacing any written for it before.

        Args:
            step: Names the file.
            graded: What was generated, kept or not.
            batch: What selection made of the groups in ``graded``; None: all were kept.
            write_media: Whether to write the images; None follows ``config.run.media_every``.

        Returns:
            The file, or None when ``config.run.rollouts`` is "none".

        Raises:
            RunError: The disk refuses.
        """
        keep = self._config.run.rollouts
        if keep == "none":
            return None
        every = self._config.run.media_every
        if write_media is None:
            write_media = every > 0 and (step <= 1 or step % every == 0)
        saved = _records(graded) if batch is None else _selected(graded, batch)
        saved = [replace(s, step=step) for s in saved if keep == "all" or s.kept]
        videos = {m.sha256: m for s in saved for m in s.task.input.media if m.kind == "video"}
        if videos:
            from pyvision_rl.runs_videos import note_videos

            note_videos(self.path / "media", videos.values())
        if write_media:
            # Images first: a rollouts file that is there names only images that are there.
            images = {m.sha256: m for s in saved for m in media_of(s)}
            folder = self.path / "media"
            with writing(folder):
                for media in images.values():
                    if media.kind == "image" and media.source is not None:
                        write_png(media, folder)
        file = self.path / "rollouts" / f"step_{step:06d}.jsonl"
        tokens = self._config.run.logprobs
        replace_file(file, (json.dumps(encode(s, tokens=tokens)) for s in saved))
        return file

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._metrics.close()
        self._events.close()
        self._lock.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()


class RunReader:
    """Reads a run folder, also one that is still being written."""

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            RunError: It is no run folder, or was written by a newer version.
        """
        self.path = Path(path)
        self.info = read_info(self.path)
        self.problems: list[str] = []
        """What had to be skipped so far, each once: lines cut by a killed process, or run again."""

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``: ``step``, ``time`` and the values."""
        lines = self._lines(self.path / "metrics.jsonl")
        return [{name: _number(value) for name, value in line.items()} for line in lines]

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of ``events.jsonl``: ``time``, ``name`` and ``text``."""
        return list(self._lines(self.path / "events.jsonl"))

    def steps(self) -> tuple[int, ...]:
        """Return the steps whose trajectories were written, ascending."""
        return tuple(sorted(step_files(self.path)))

    def trajectories(self, step: int | None = None) -> Iterator[SavedRollout]:
        """Yield the trajectories of one step, or of all in order; of a sample run again the last.

        Raises:
            RunError: That step was not written, a line cannot be understood, or the file was
                replaced meanwhile.
        """
        # Nobody who only writes runs needs it.
        from pyvision_rl.runs_order import counted

        steps = sorted(files := step_files(self.path))
        if step is not None and step not in files:
            have = f"{steps[0]} to {steps[-1]}" if steps else "none"
            raise RunError(f"{self.path}: no rollouts of step {step}; there are: {have}")
        for each in steps if step is None else (step,):
            again, records = counted(files[each], self.problems)
            problem = f"{files[each].name}: {again} lines are of samples that were run again"
            self.problems.extend([problem] if again and problem not in self.problems else [])
            yield from (saved for _, saved in records)

    def size(self) -> dict[str, int]:
        """Return bytes by part of the folder (a folder's or file's name), and "total"."""
        sizes = {
            entry.name: sum(f.stat().st_size for f in (entry, *entry.rglob("*")) if f.is_file())
            for entry in sorted(self.path.iterdir())
        }
        return {**sizes, "total": sum(sizes.values())}

    def _lines(self, file: Path) -> Iterator[dict[str, Any]]:
        return read_lines(file, self.problems) if file.exists() else iter(())


def read_rollouts(
    file: Path, media: Path | None = None, problems: list[str] | None = None
) -> Iterator[SavedRollout]:
    """Yield the records of one rollouts file, which need not lie in a run folder.

    Args:
        file: JSON lines as ``RunWriter.rollouts`` writes them.
        media: Folder of the images; None takes ``media`` beside the file's folder. An image that
            is not there has ``source=None``, as a video that ``videos.json`` there does not name.
        problems: A line that was cut is named here and skipped.

    Raises:
        RunError: The file cannot be read, or a line of it cannot be understood.
    """
    # Nobody who only writes runs needs it.
    from pyvision_rl.runs_decode import decode

    folder = file.absolute().parent.parent / "media" if media is None else media
    found: dict[str, Media] = {}
    known: dict[str, Path] = {}

    def find(bare: Media) -> Media:
        if bare.kind == "video":
            from pyvision_rl.runs_videos import noted_videos

            if not known:
                known.update(noted_videos(folder))
            return replace(bare, source=known.get(bare.sha256))
        if bare.sha256 not in found:
            found[bare.sha256] = replace(bare, source=saved_file(bare.sha256, folder))
        return found[bare.sha256]

    for index, line in enumerate(read_lines(file, [] if problems is None else problems), 1):
        try:
            yield decode(line, find)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file}, line {index}: not a trajectory ({error!r})") from error


def step_files(path: Path) -> dict[int, Path]:
    """Return the rollouts files of a run folder by step; a file of another name is none."""
    files = (path / "rollouts").glob("step_*.jsonl")
    return {int(n): f for f in files if (n := f.stem.removeprefix("step_")).isdecimal()}


def read_info(path: Path) -> RunInfo:
    """Return what a folder's ``run.json`` says.

    Raises:
        RunError: The folder is no run folder, or its schema is newer than ours.
    """
    file = path / "run.json"
    try:
        values = json.loads(file.read_bytes())
        schema = int(values["schema"])
        if schema > SCHEMA:
            raise RunError(
                f"{file} has schema {schema}; this version reads schemas up to {SCHEMA}: "
                "read it with the version that wrote it, named under 'versions'"
            )
        return decode_info(values)
    except OSError as error:
        raise RunError(f"{path} is no run folder: cannot read {file.name} ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} is not a run.json: {error!r}") from error


def _records(graded: Sequence[Graded]) -> list[SavedRollout]:
    saved: list[SavedRollout] = []
    for item in graded:
        if isinstance(item, Group):
            advantages = item.advantages or (None,) * len(item.trajectories)
            pairs = zip(item.trajectories, advantages, strict=True)
            saved += [SavedRollout(item.task, t, advantage) for t, advantage in pairs]
        else:
            saved.append(item if isinstance(item, SavedRollout) else SavedRollout(*item))
    return saved


def _selected(graded: Sequence[Graded], batch: Batch) -> list[SavedRollout]:
    """Return every trajectory of a batch, used or rejected, in the order of the groups."""
    # By identity: one task may have been drawn twice in a step.
    fates: dict[int, tuple[float | None, str | None]] = {}
    fates |= {id(s.trajectory): (s.advantage, None) for s in batch.samples}
    fates |= {id(r.trajectory): (r.advantage, r.reason) for r in batch.rejected}
    for candidate in batch.carried:
        fates |= {id(s.trajectory): (s.advantage, CARRIED) for s in _records([candidate.group])}
    saved = ((s.task, s.trajectory) for s in _records(graded))
    return [SavedRollout(task, t, *fates[id(t)]) for task, t in saved]


def _command() -> str:
    """Return this process's command line, without the path of the program."""
    program = Path(sys.argv[0])
    name = "pvrl" if program.match("pyvision_rl/cli/*.py") else program.name
    return shlex.join([name, *sys.argv[1:]])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value

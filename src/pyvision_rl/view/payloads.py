"""Trajectories as the page wants them: the content of a chunk.

In: the records of whole groups, and what tells whether media have files. Out: JSON values, in the
form that docs/viewer.md lays down. Text stays as it is: the page makes it safe, not we. Reads no
files but through ``Shelf``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pyvision_rl.errors import RunError
from pyvision_rl.media import saved_file
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_videos import noted_videos
from pyvision_rl.types import (
    Action,
    Execution,
    GiveAnswer,
    Malformed,
    Media,
    Message,
    Reward,
    RunCode,
    Task,
    Text,
    Turn,
)
from pyvision_rl.view.crops import Names, crop_of, frames_of
from pyvision_rl.view.scripts import Json


@dataclass(slots=True)
class Shelf:
    """The media of a run: which there are."""

    folder: Path
    problems: list[str] = field(default_factory=list)
    pinned: frozenset[str] | None = None
    """The images that count as there; None looks into the folder."""

    def has(self, sha256: str) -> bool:
        """Return whether the file of an image is there."""
        if self.pinned is not None:
            return sha256 in self.pinned
        return saved_file(sha256, self.folder) is not None

    def videos(self) -> Mapping[str, Path]:
        """Return where the videos lie; one that moved is not told apart."""
        try:
            found = noted_videos(self.folder)
        except RunError as error:
            self.problems = [str(error)]
            return {}
        self.problems = []
        return found


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the payloads of one run."""

    shelf: Shelf
    videos: Mapping[str, Path]

    def chunk(
        self,
        step: int,
        saved: Iterable[tuple[int, SavedRollout]],
        stds: Sequence[float | None],
        ranks: Sequence[int | None],
    ) -> Json:
        """Return the content of a chunk.

        Args:
            step: Of all of it.
            saved: Group number and record, members of a group one after another.
            stds: By group number, of the whole step.
            ranks: Likewise.
        """
        groups = []
        for number, members in groupby(saved, key=lambda pair: pair[0]):
            records = [record for _, record in members]
            group = {
                "group": number,
                "task": self._task(records[0].task),
                "std": stds[number],
                "std_rank": ranks[number],
                "trajectories": [self.trajectory(record) for record in records],
            }
            groups.append(group)
        return {"step": step, "groups": groups}

    def trajectory(self, saved: SavedRollout) -> Json:
        """Return one trajectory."""
        t = saved.trajectory
        names = Names(saved.task.input, t)
        return {
            "rollout": t.rollout,
            "end": t.end.value,
            "answer": t.answer,
            "error": t.error,
            "reward": None if t.reward is None else _reward(t.reward),
            "advantage": saved.advantage,
            "kept": saved.kept,
            "reason": saved.reason,
            "weights_step": t.turns[0].policy_version if t.turns else None,
            "prompted": None if t.prompted is None else asdict(t.prompted),
            "prompt_frames": [names.frames(frames) for frames in t.prompt_frames],
            "prompt": [self._message(m) for m in t.prompt],
            "turns": [self._turn(turn, names) for turn in t.turns],
        }

    def media(self, media: Media) -> Json:
        """Return what is known of an image or a video."""
        facts, video = media.video, None
        if facts is not None:
            file = self.videos.get(media.sha256)
            video = {
                "frames": facts.num_frames,
                "fps": facts.fps,
                "seconds": facts.duration_s,
                "file": None if file is None else str(file),
            }
        return {
            "sha": media.sha256,
            "kind": media.kind,
            "width": media.width,
            "height": media.height,
            "here": media.kind == "image" and self.shelf.has(media.sha256),
            "video": video,
        }

    def _task(self, task: Task) -> Json:
        return {
            "id": task.id,
            "question": task.input.question,
            "category": task.input.category,
            "source": task.input.data_source,
            "gold": task.gold.answer,
            "answer_type": task.gold.answer_type,
            "facts": dict(task.gold.facts),
            "media": [self.media(m) for m in task.input.media],
        }

    def _message(self, message: Message) -> Json:
        parts = [
            {"text": p.text} if isinstance(p, Text) else {"image": self.media(p)}
            for p in message.parts
        ]
        return {"role": message.role, "parts": parts}

    def _turn(self, turn: Turn, names: Names) -> Json:
        read = turn.observation
        return {
            "text": turn.text,
            "action": _action(turn.action),
            "tokens": turn.num_tokens,
            "sample_s": turn.sample_s,
            "stop": turn.stop.value,
            "weights_step": turn.policy_version,
            "observed": asdict(turn.observed),
            "execution": None if turn.execution is None else self._ran(turn.execution, names),
            "observation": None if read is None else [self._message(read.message)],
        }

    def _ran(self, execution: Execution, names: Names) -> Json:
        images = []
        for media, (name, source, bound) in zip(
            execution.images, names.show(execution), strict=True
        ):
            part = crop_of(source, bound)
            crop = None if part is None else {**part[1], "media": self.media(part[0].media)}
            more: dict[str, Any] = {"name": name, "crop": crop, "frames": frames_of(source, bound)}
            images.append(self.media(media) | more)
        return {
            "status": execution.status.value,
            "output": execution.output,
            "error": execution.error,
            "duration_s": execution.duration_s,
            "state_lost": execution.state_lost,
            "images": images,
            "parts": list(execution.parts),
            "fetched": [names.frames(frames) for frames in execution.fetched],
        }


def _reward(reward: Reward) -> Json:
    return {
        "total": reward.total,
        "parts": dict(reward.parts),
        "correct": reward.correct,
        "why": reward.why,
        "rung": reward.rung,
    }


def _action(action: Action) -> Json:
    match action:
        case RunCode(code):
            return {"kind": "code", "code": code}
        case GiveAnswer(answer):
            return {"kind": "answer", "answer": answer}
        case Malformed(why):
            return {"kind": "malformed", "why": why}

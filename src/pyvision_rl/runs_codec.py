"""Records as JSON: a line of ``rollouts/step_*.jsonl``, and ``run.json``.

In: a ``SavedRollout`` (task, trajectory, and what selection made of it) or a ``RunInfo``. Out: a
JSON object, from which ``runs_decode`` makes an equal record. Pixels are not in it: an image is
named by its content hash and its file lies in the run's ``media/`` folder. Does not touch files:
``runs`` does.

Numbers that are not finite are written as "nan", "inf" and "-inf", so that every line is JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from pyvision_rl.types import (
    Action,
    Execution,
    GiveAnswer,
    Malformed,
    Media,
    Message,
    Part,
    Reward,
    RunCode,
    Segment,
    Source,
    Task,
    Text,
    TokenCount,
    Trajectory,
    Turn,
    VideoFrames,
)

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SavedRollout:
    """One graded trajectory as a run keeps it, used in an update or not."""

    task: Task
    trajectory: Trajectory
    advantage: float | None = None
    """None when it was never computed, which is not a zero."""
    reason: str | None = None
    """The filter that left it out; None when it was kept."""
    step: int = 0

    @property
    def kept(self) -> bool:
        """True when no filter left it out."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What ``run.json`` holds."""

    verb: str
    config: Mapping[str, Any]
    """The resolved config as JSON values; ``config_file.load_config`` reads it from the file."""
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    """ISO 8601, UTC."""
    command: str = ""
    resumed: tuple[Mapping[str, Any], ...] = ()
    """One entry per resume: step, created, command."""


def encode_info(info: RunInfo, schema: int) -> Json:
    """Return the record as JSON values, with the version of the folder's layout."""
    values = {name: getattr(info, name) for name in _INFO}
    return {"schema": schema, "verb": info.verb, **values, "config": info.config}


def decode_info(values: Json) -> RunInfo:
    """Return the record that ``encode_info`` was given; fields that are missing are empty.

    Raises:
        KeyError, TypeError: The values were not written by ``encode_info``.
    """
    known = {name: values[name] for name in _INFO if name in values}
    known["resumed"] = tuple(known.get("resumed", ()))
    return RunInfo(values["verb"], values["config"], **known)


_INFO = ("created", "command", "versions", "resumed")


def media_of(saved: SavedRollout) -> Iterator[Media]:
    """Yield every image or video the record names, with repetitions."""
    yield from saved.task.input.media
    yield from saved.trajectory.media
    for message in saved.trajectory.prompt:
        yield from message.media
    for turn in saved.trajectory.turns:
        if turn.execution is not None:
            yield from turn.execution.images
        if turn.observation is not None:
            yield from turn.observation.message.media


def encode(saved: SavedRollout, *, tokens: bool = True) -> Json:
    """Return the record as JSON values.

    Args:
        saved: The record.
        tokens: False leaves out the segments: no token ids, no log-probabilities. Such a
            trajectory can be read and graded again, but not trained on.
    """
    task, trajectory = saved.task, saved.trajectory
    line: Json = {
        "step": saved.step,
        "task": {
            "id": task.id,
            "question": task.input.question,
            "answer": task.gold.answer,
            "answer_type": task.gold.answer_type,
            "category": task.input.category,
            "data_source": task.input.data_source,
            "media": [_media(m) for m in task.input.media],
        },
        "rollout": trajectory.rollout,
        "kept": saved.kept,
        "reason": saved.reason,
        "reward": None if trajectory.reward is None else _reward(trajectory.reward),
        "advantage": None if saved.advantage is None else number(saved.advantage),
        "end": trajectory.end.value,
        "answer": trajectory.answer,
        "error": trajectory.error,
        "prompt": [_message(m) for m in trajectory.prompt],
        "turns": [_turn(t) for t in trajectory.turns],
    }
    if task.gold.facts:
        line["task"]["facts"] = dict(task.gold.facts)
    if trajectory.prompted is not None:
        line["prompted"] = asdict(trajectory.prompted)
    if trajectory.prompt_frames:
        line["prompt_frames"] = [_frames(f) for f in trajectory.prompt_frames]
    if tokens:
        line["segments"] = [_segment(s) for s in trajectory.segments]
    return line


def number(value: float) -> float | str:
    """Return a finite number as it is, another one as the word that ``float`` reads back."""
    return value if math.isfinite(value) else str(float(value))


def _media(media: Media) -> Json:
    ref: Json = {"sha256": media.sha256, "width": media.width, "height": media.height}
    return ref if media.video is None else {"kind": media.kind, **ref, **asdict(media.video)}


def _part(part: Part) -> Json:
    return {"text": part.text} if isinstance(part, Text) else {"media": _media(part)}


def _message(message: Message) -> Json:
    return {"role": message.role, "parts": [_part(p) for p in message.parts]}


def _reward(reward: Reward) -> Json:
    parts = {name: number(value) for name, value in reward.parts.items()}
    line: Json = {"total": number(reward.total), "parts": parts}
    line |= {"correct": reward.correct, "why": reward.why}
    return line | {"rung": reward.rung} if reward.rung else line


def _segment(segment: Segment) -> Json:
    line: Json = {"sampled": segment.sampled, "token_ids": list(segment.token_ids)}
    if segment.sampled:
        told = segment.logprobs
        line["logprobs"] = None if told is None else [number(value) for value in told]
    if segment.media:
        line["media"] = [_media(m) for m in segment.media]
    return line


def _action(action: Action) -> Json:
    match action:
        case RunCode(code):
            return {"kind": "code", "code": code}
        case GiveAnswer(answer):
            return {"kind": "answer", "answer": answer}
        case Malformed(why):
            return {"kind": "malformed", "why": why}


def _source(source: Source | None) -> Json | None:
    if source is None:
        return None
    if isinstance(source, VideoFrames):
        return _frames(source)
    return {"name": source.name, "box": list(source.box), "verified": source.verified}


def _frames(frames: VideoFrames) -> Json:
    line: Json = {"name": frames.name, "frames": list(frames.frames)}
    if frames.num_left_out:
        line["num_left_out"] = frames.num_left_out
    return line


def _execution(execution: Execution) -> Json:
    line: Json = {
        "status": execution.status.value,
        "output": execution.output,
        "error": execution.error,
        "images": [_media(m) for m in execution.images],
        "duration_s": number(execution.duration_s),
        "state_lost": execution.state_lost,
    }
    if execution.parts:
        line["parts"] = list(execution.parts)
    if execution.sources:
        line["sources"] = [_source(source) for source in execution.sources]
    if execution.fetched:
        line["fetched"] = [_frames(frames) for frames in execution.fetched]
    return line


def _turn(turn: Turn) -> Json:
    line: Json = {
        "text": turn.text,
        "stop": turn.stop.value,
        "action": _action(turn.action),
        "execution": None if turn.execution is None else _execution(turn.execution),
        "observation": None if turn.observation is None else _observation(turn),
        "num_tokens": turn.num_tokens,
        "sample_s": number(turn.sample_s),
        "policy_version": turn.policy_version,
    }
    if turn.observed != TokenCount():
        line["observed"] = asdict(turn.observed)
    return line


def _observation(turn: Turn) -> Json:
    """Return the observation; its execution is nearly always the turn's own, kept once."""
    assert turn.observation is not None
    execution = turn.observation.execution
    if execution == turn.execution:
        return {"message": _message(turn.observation.message)}
    other = None if execution is None else _execution(execution)
    return {"message": _message(turn.observation.message), "execution": other}

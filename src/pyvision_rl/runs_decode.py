"""Lines of ``rollouts/step_*.jsonl`` as records again: what ``runs_codec`` wrote, read back.

In: a JSON object, perhaps of an older version. Out: a record equal to the one that was written.
Does not touch files: whoever reads says where the pixels are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pyvision_rl.runs_codec import Json, SavedRollout
from pyvision_rl.types import (
    Action,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    ImageSource,
    Malformed,
    Media,
    Message,
    Observation,
    Reward,
    RunCode,
    Segment,
    Source,
    StopReason,
    Task,
    TaskInput,
    Text,
    TokenCount,
    Trajectory,
    Turn,
    VideoFacts,
    VideoFrames,
)

FindMedia: TypeAlias = Callable[[Media], Media]
"""From a media record without content to one that knows where its content lies."""


def decode(line: Json, find: FindMedia = lambda media: media) -> SavedRollout:
    """Return the record that ``encode`` was given (``segments`` empty if they were left out).

    Args:
        line: What ``encode`` returned, perhaps after a trip through a file.
        find: Adds the content to each media record.

    Raises:
        KeyError, TypeError, ValueError: The line was not written by ``encode``.
    """
    task = line["task"]
    trajectory = Trajectory(
        task_id=task["id"],
        rollout=line["rollout"],
        segments=tuple(_read_segment(s, find) for s in line.get("segments", ())),
        prompt=tuple(_read_message(m, find) for m in line["prompt"]),
        turns=tuple(_read_turn(t, find) for t in line["turns"]),
        end=EndReason(line["end"]),
        answer=line["answer"],
        reward=None if line["reward"] is None else _read_reward(line["reward"]),
        error=line["error"],
        prompted=TokenCount(**line["prompted"]) if "prompted" in line else None,
        prompt_frames=tuple(_read_frames(f) for f in line.get("prompt_frames", ())),
    )
    public = TaskInput(
        id=task["id"],
        question=task["question"],
        media=tuple(_read_media(m, find) for m in task["media"]),
        category=task["category"],
        data_source=task["data_source"],
    )
    facts = task.get("facts", {}).items()
    facts = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts}
    return SavedRollout(
        task=Task(public, Gold(task["answer"], task["answer_type"], facts)),
        trajectory=trajectory,
        advantage=None if line["advantage"] is None else float(line["advantage"]),
        reason=line["reason"],
        step=line["step"],
    )


def _read_media(ref: Json, find: FindMedia) -> Media:
    facts = None
    if "num_frames" in ref:
        facts = VideoFacts(ref["num_frames"], ref["fps"], ref["duration_s"])
    size = ref["width"], ref["height"]
    return find(Media(ref.get("kind", "image"), ref["sha256"], *size, video=facts))


def _read_message(line: Json, find: FindMedia) -> Message:
    parts = tuple(
        Text(p["text"]) if "text" in p else _read_media(p["media"], find) for p in line["parts"]
    )
    return Message(line["role"], parts)


def _read_reward(line: Json) -> Reward:
    parts: Mapping[str, float] = {name: float(value) for name, value in line["parts"].items()}
    return Reward(parts, line["correct"], line["why"], line.get("rung", ""))


def _read_segment(line: Json, find: FindMedia) -> Segment:
    told = line.get("logprobs", ())
    return Segment(
        token_ids=tuple(line["token_ids"]),
        sampled=line["sampled"],
        logprobs=None if told is None else tuple(float(value) for value in told),
        media=tuple(_read_media(m, find) for m in line.get("media", ())),
    )


def _read_action(line: Json) -> Action:
    match line["kind"]:
        case "code":
            return RunCode(line["code"])
        case "answer":
            return GiveAnswer(line["answer"])
        case "malformed":
            return Malformed(line["why"])
        case other:
            raise ValueError(f"action kind {other!r}; known: code, answer, malformed")


def _read_source(line: Json | None) -> Source | None:
    if line is None:
        return None
    if "frames" in line:
        return _read_frames(line)
    left, top, right, bottom = line["box"]
    return ImageSource(line["name"], (left, top, right, bottom), line["verified"])


def _read_frames(line: Json) -> VideoFrames:
    return VideoFrames(line["name"], tuple(line["frames"]), line.get("num_left_out", 0))


def _read_execution(line: Json, find: FindMedia) -> Execution:
    return Execution(
        status=ExecStatus(line["status"]),
        output=line["output"],
        error=line["error"],
        images=tuple(_read_media(m, find) for m in line["images"]),
        duration_s=float(line["duration_s"]),
        state_lost=line["state_lost"],
        parts=tuple(line.get("parts", ())),
        sources=tuple(_read_source(source) for source in line.get("sources", ())),
        fetched=tuple(_read_frames(frames) for frames in line.get("fetched", ())),
    )


def _read_turn(line: Json, find: FindMedia) -> Turn:
    execution = None if line["execution"] is None else _read_execution(line["execution"], find)
    return Turn(
        text=line["text"],
        stop=StopReason(line["stop"]),
        action=_read_action(line["action"]),
        num_tokens=line["num_tokens"],
        policy_version=line["policy_version"],
        observation=_read_observation(line["observation"], execution, find),
        execution=execution,
        sample_s=float(line["sample_s"]),
        observed=TokenCount(**line.get("observed", {})),
    )


def _read_observation(
    line: Json | None, execution: Execution | None, find: FindMedia
) -> Observation | None:
    if line is None:
        return None
    if "execution" in line:
        other = line["execution"]
        execution = None if other is None else _read_execution(other, find)
    return Observation(_read_message(line["message"], find), execution)

"""The sections that say how episodes are made and graded."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pyvision_rl.config.base import Section
from pyvision_rl.config.endpoints import JudgeConfig

MAX_FRAMES = 32
"""Default of ``prompts.max_frames``."""


class TasksConfig(Section):
    """A task set: a registered name, or ``package.module:Name``, and its own options."""

    name: str = "jsonl"
    """jsonl, parquet, published (docs/data.md), suite (docs/suites.md), mixture, a made task set of
    the demos, or ``package.module:Name``."""
    path: str = ""
    """File of the task set, for those that read one (jsonl, parquet, published)."""
    limit: int | None = Field(None, gt=0)
    """Use only the first ``limit`` tasks."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Checked by the task set's own ``Options`` class."""


class PromptsConfig(Section):
    """The words around a task. See ``prompts`` for the placeholders."""

    style: Literal["plain", "pyvision"] = "plain"
    """plain: ours. pyvision: the tags, labels and line breaks that the released PyVision-RL models
    know (docs/data.md)."""
    template: str = ""
    """File of the question template, or a built-in name (question, minimal, pyvision); empty is
    question, or pyvision with that style."""
    observation: str = ""
    """File of the observation template, or a built-in name; empty is observation. Style pyvision
    takes none."""
    system: str | None = None
    """System message; None leaves what the model's chat template inserts by itself."""
    context: Literal["on_demand", "runtime", "initial_frames", "frames"] = "on_demand"
    """What the model sees from the start (docs/videos.md). on_demand: images, which its code has
    too; videos only by code. runtime: nothing, images too only by code. initial_frames: images, and
    frames of each video, which code has whole. frames: images and frames, and no video in code."""
    num_frames: int | None = Field(None, gt=0)
    """Frames of each video in the context, evenly spread; all where it has fewer."""
    frames_fps: float | None = Field(None, gt=0)
    """Instead of ``num_frames``: so many a second of video, evenly spread, one at least."""
    max_frames: int = Field(MAX_FRAMES, gt=0)
    """Of each video, with ``frames_fps``; below ``rollout.max_images`` by what code is to show."""
    frame_pixels: int | None = Field(None, gt=0)
    """Most pixels of a frame in the context, by scaling it; None leaves its size."""
    frame_labels: bool = True
    """Whether each frame stands between tags of its name, after its number and time. False: frames
    stand bare, one after the other, as most models are given a video."""

    @model_validator(mode="after")
    def _check_frames(self) -> PromptsConfig:
        if self.observation and self.style == "pyvision":
            raise ValueError("style pyvision lays out observations itself: leave observation empty")
        given = [n for n in ("num_frames", "frames_fps", "frame_pixels") if getattr(self, n)]
        given += [] if self.frame_labels else ["frame_labels"]
        # Its default is in every resolved config.
        given += [] if self.max_frames == MAX_FRAMES else ["max_frames"]
        if self.context not in ("initial_frames", "frames"):
            if given:
                raise ValueError(f"{given[0]} is for context initial_frames and frames only")
        elif (self.num_frames is None) == (self.frames_fps is None):
            raise ValueError(f"context {self.context} wants one of num_frames and frames_fps")
        if self.frames_fps is None and "max_frames" in given:
            raise ValueError("max_frames is for frames_fps only; num_frames is a limit itself")
        return self


class PolicyConfig(Section):
    """Who writes the turns, and how they are sampled."""

    name: str = "local"
    """local, vllm, openai_chat, scripted, or ``package.module:Name``."""
    model: str = ""
    """Hugging Face directory or name."""
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int = Field(1024, gt=0)
    """Per turn."""
    max_batch: int = Field(256, gt=0)
    """Episodes decoded together."""
    min_pixels: int | None = Field(None, gt=0)
    """Images are scaled into [min_pixels, max_pixels]; None takes the model's own limits."""
    max_pixels: int | None = Field(None, gt=0)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    threads: int | None = Field(None, gt=0)
    """CPU threads of torch; None leaves torch's choice. Bit-identity holds for equal values."""
    options: dict[str, Any] = Field(default_factory=dict)
    """For vllm (docs/vllm.md), openai_chat (docs/grading.md) or a policy of your own; local and
    scripted take none."""

    @field_validator("options")
    @classmethod
    def _refuse_unread(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if options and info.data.get("name") in ("local", "scripted"):
            raise ValueError(f"policy.name = {info.data['name']!r} takes no options")
        return options


class SandboxConfig(Section):
    """Where model code runs, and what it may use."""

    name: str = "zygote"
    """zygote, scripted, or ``package.module:Name``."""
    level: Literal["best", "full", "ns", "ll", "unsafe"] = "best"
    """What isolates model code (docs/sandbox.md); best is the highest level that works here."""
    allow_unsafe: bool = False
    """Whether model code may run without isolation where no level works."""
    cpu_s: float = Field(20.0, gt=0)
    """Computing time per code block; then it is interrupted."""
    wall_s: float = Field(60.0, gt=0)
    """Time per code block, a backstop for code that waits; then it is interrupted."""
    grace_s: float = Field(1.0, gt=0)
    """After the interrupt; then it is killed and its variables are lost."""
    memory_mb: int = Field(2048, gt=0)
    """Address space beyond what a session starts with."""
    scratch_mb: int = Field(64, gt=0)
    """Files of one session."""
    max_output_chars: int = Field(8000, gt=0)
    max_images: int = Field(8, gt=0)
    """Per code block."""
    max_pixels: int = Field(4_000_000, gt=0)
    """Per shown image."""
    max_aspect: int = Field(200, gt=0)
    """Longer side of a shown image / shorter side."""
    max_running: int = Field(2, gt=0)
    """Code blocks that run at the same time."""
    figure: dict[str, Any] = Field(default_factory=dict)
    """matplotlib rcParams that every session starts with, e.g. ``"figure.dpi" = 50``."""
    options: dict[str, Any] = Field(default_factory=dict)


class RolloutConfig(Section):
    """One episode and how groups of them are scheduled."""

    group_size: int = Field(8, gt=0)
    """G, rollouts per task."""
    max_tool_calls: int = Field(4, ge=0)
    """Turns before the answer turn (paper: turn budget 4). A malformed turn uses one up too."""
    max_context_tokens: int = Field(32768, gt=0)
    """Of the whole episode, images expanded."""
    max_images: int = Field(32, gt=0)
    """In the context of one episode."""
    max_live_episodes: int = Field(256, gt=0)
    """Episodes under way at the same time, in whole groups: bounds sandbox sessions and caches."""
    schedule: Literal["lockstep", "async"] = "lockstep"
    """lockstep: batches in (task, rollout, turn) order, a run depends on its seeds only."""
    end_on_code_error: bool = False
    """True reproduces the reference: the model never sees its own traceback."""
    end_on_malformed: bool = False
    """True ends the episode at a turn that is neither code nor an answer."""
    max_failed_share: float = Field(0.1, ge=0, le=1)
    """A step or probe in which more episodes than this fail by our own fault stops the run."""


class RewardsConfig(Section):
    """R = accuracy + tool_use_per_call * calls, the second term only when correct (paper eq. 1)."""

    name: str = "match"
    """The accuracy grader: match, relative_accuracy, judge, ladder (each of these in turn, and
    math-verify), route (one per data source, docs/grading.md), suite (docs/suites.md), or
    ``package.module:Name``."""
    tool_use_per_call: float = Field(0.1, ge=0)
    paid_calls: Literal["ok", "executed", "showed_image", "distinct"] = "ok"
    """Which calls are paid: those that ran without an error; all that were executed; those that
    ran and showed a picture; those that ran and repeat no earlier one but for layout."""
    max_paid_calls: int | None = Field(None, gt=0)
    """Calls beyond it are not paid; None pays them all."""
    paid_when: Literal["correct", "always", "threshold"] = "correct"
    """threshold: when the accuracy score is at least ``paid_threshold``."""
    paid_threshold: float = Field(0.5, ge=0, le=1)
    terms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """More terms of the reward, by the name they have in the metrics, each with its options:
    format, curiosity, or a name of yours with the option ``name = "package.module:Name"``."""
    max_ungraded_share: float = Field(0.5, ge=0, le=1)
    """An RL or synthesize step, or a probe, in which more episodes than this could not be graded
    (a judge that is gone, or whose ``max_calls`` are used up) stops the run."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Checked by the grader."""
    judge: JudgeConfig = JudgeConfig()

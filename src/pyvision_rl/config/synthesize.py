"""The section that says which rollouts become examples for SFT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pyvision_rl.config.base import Section


class SynthesizeConfig(Section):
    """What ``pvrl synthesize`` makes of ``[tasks]`` and keeps; right answers only."""

    samples: int = Field(4, gt=0)
    """Rollouts per task."""
    tasks_per_step: int = Field(32, gt=0)
    """Tasks between two writes: what a resumed run may have to make again."""
    max_per_task: int = Field(1, gt=0)
    """Kept of one task, the first ones."""
    min_tool_calls: int = Field(1, ge=0)
    """Calls that ran without an error."""
    max_tool_calls: int | None = Field(None, ge=0)
    """None takes any number."""
    max_malformed: int = Field(0, ge=0)
    """Turns that are neither code nor an answer."""
    code_errors: Literal["recovered", "none", "any"] = "recovered"
    """recovered: after an error, a later call must have run without one."""
    max_images: int | None = Field(None, ge=0)
    """In the context; None takes what ``rollout.max_images`` allows."""
    max_tokens: int | None = Field(None, gt=0)
    """Of the whole episode, images expanded, as ``policy.model`` counts."""

"""Frozen configuration classes: one TOML file is one run.

In: a TOML file (written by people) or a ``run.json`` (written by a run), and ``--set a.b=c``
overrides. Out: a checked ``Config``. No inheritance, no interpolation, no environment variables.
Unknown keys are errors that name the nearest known key. Relative paths in a file are relative to
the working directory, so that a resolved ``run.json`` means the same thing. Units end the names.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pyvision_rl.config.base import SCHEMA, Section
from pyvision_rl.config.endpoints import ChatConfig, EndpointConfig, JudgeConfig
from pyvision_rl.config.episodes import (
    PolicyConfig,
    PromptsConfig,
    RewardsConfig,
    RolloutConfig,
    SandboxConfig,
    TasksConfig,
)
from pyvision_rl.config.learning import (
    EvalConfig,
    ProbeConfig,
    SelectionConfig,
    SftConfig,
    SftDataConfig,
    SftStageConfig,
    TokenWeight,
    TrainConfig,
)
from pyvision_rl.config.new_model import NewModelConfig, VisionConfig
from pyvision_rl.config.synthesize import SynthesizeConfig
from pyvision_rl.config.watch import WatchConfig

__all__ = [
    "SCHEMA",
    "ChatConfig",
    "Config",
    "EndpointConfig",
    "EvalConfig",
    "JudgeConfig",
    "NewModelConfig",
    "PolicyConfig",
    "ProbeConfig",
    "PromptsConfig",
    "RewardsConfig",
    "RolloutConfig",
    "RunConfig",
    "SandboxConfig",
    "Section",
    "SelectionConfig",
    "SftConfig",
    "SftDataConfig",
    "SftStageConfig",
    "SynthesizeConfig",
    "TasksConfig",
    "TokenWeight",
    "TrainConfig",
    "VisionConfig",
    "WatchConfig",
]


class RunConfig(Section):
    """What a run folder keeps. Metrics and the resolved config are always kept."""

    rollouts: Literal["all", "kept", "none"] = "all"
    """Trajectories written per step: all of them, those trained on, or none."""
    media_every: int = Field(1, ge=0)
    """Write the images of every k-th step (the first step always); 0 writes none."""
    logprobs: bool = True
    """Write token ids and log-probabilities with each trajectory."""
    trackers: tuple[str, ...] = ()
    """Where RL also sends its metrics: tensorboard, trackio, wandb, or ``package.module:Name``."""
    project: str = "pyvision-rl"
    """The trackers' name for what belongs together."""
    run_name: str = ""
    """The trackers' name for the run; empty takes the run folder's."""


class Config(Section):
    """A whole run. Sections that a verb does not use may be left out."""

    seed: int = Field(0, ge=0)
    tasks: TasksConfig | None = None
    prompts: PromptsConfig = PromptsConfig()
    policy: PolicyConfig = PolicyConfig()
    sandbox: SandboxConfig = SandboxConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: RewardsConfig = RewardsConfig()
    selection: SelectionConfig = SelectionConfig()
    train: TrainConfig = TrainConfig()
    sft: SftConfig = SftConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    probe: ProbeConfig = ProbeConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()
    watch: WatchConfig = WatchConfig()
    new_model: NewModelConfig = NewModelConfig()

"""Frozen configuration classes: one TOML file is one run.

In: a TOML file (written by people) or a ``run.json`` (written by a run), and ``--set a.b=c``
overrides. Out: a checked ``Config``. No inheritance, no interpolation, no environment variables.
Unknown keys are errors that name the nearest known key. Relative paths in a file are relative to
the working directory, so that a resolved ``run.json`` means the same thing. Units end the names.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

SCHEMA = 1
"""Version of a run folder's layout, ``run.json`` included; readers refuse newer ones."""


class Section(BaseModel):
    """Base of every section: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TasksConfig(Section):
    """A task set: a registered name, or ``package.module:Name``, and its own options."""

    name: str = "jsonl"
    path: str = ""
    """File of the task set, for those that read one (jsonl, parquet)."""
    limit: int | None = Field(None, gt=0)
    """Use only the first ``limit`` tasks."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Checked by the task set's own ``Options`` class."""


class PromptsConfig(Section):
    """The words around a task. See ``prompts`` for the placeholders."""

    template: str = ""
    """File of the question template, or a built-in name (question, minimal); empty is question."""
    observation: str = ""
    """File of the observation template, or a built-in name; empty is observation."""
    system: str | None = None
    """System message; None leaves what the model's chat template inserts by itself."""


class PolicyConfig(Section):
    """Who writes the turns, and how they are sampled."""

    name: str = "local"
    """local, scripted, or ``package.module:Name``."""
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
    """For a policy of your own; local and scripted take none."""

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
    """The accuracy grader: match, or ``package.module:Name``."""
    tool_use_per_call: float = Field(0.1, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)


class SelectionConfig(Section):
    """Oversample, filter, rank (paper section 3.3)."""

    groups_per_step: int = Field(16, gt=0)
    """Groups that one update uses."""
    oversample: float = Field(2.0, ge=1)
    """Groups generated per round = groups_per_step * oversample."""
    filters: tuple[str, ...] = ("infra", "ungraded", "over_length", "zero_std")
    rank_by: Literal["reward_std", "none"] = "reward_std"
    max_rounds: int = Field(1, gt=0)
    """Generation rounds before an update goes on with fewer groups."""
    on_short: Literal["train", "error"] = "train"
    """What to do when ``max_rounds`` did not fill the batch; a short batch is counted."""
    normalize_std: bool = False
    """Divide advantages by the group's std (standard GRPO; the paper removes it)."""


class TrainConfig(Section):
    """The optimizer and the objective, shared by SFT and RL."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon on hidden matrices, AdamW on the rest."""
    learning_rate: float = Field(1e-6, gt=0)
    muon_learning_rate: float = Field(0.004, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Where cosine ends, as a share of the peak."""
    grad_clip: float = Field(1.0, gt=0)
    steps: int = Field(100, gt=0)
    """RL steps (SFT counts its steps in its stages)."""
    micro_batch_tokens: int = Field(16384, gt=0)
    """Padded tokens of one forward pass; micro-batches only bound memory, never the loss."""
    clip_low: float = Field(0.2, gt=0)
    """Clips pi/pi_old to [1 - clip_low, 1 + clip_high]. RL makes one update per batch, so both act
    only where the sampler's log-probabilities differ from the learner's (``mixed_precision``)."""
    clip_high: float = Field(0.2, gt=0)
    loss_norm: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    """token_mean is over the whole batch; constant is Dr. GRPO's."""
    constant_tokens: float = Field(1024, gt=0)
    """The divisor per trajectory when ``loss_norm = "constant"``."""
    freeze_vision: bool = False
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Of the learner's passes; the sampler keeps to ``policy.dtype``, so ratios start off 1."""
    save_every: int = Field(10, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    eval_every: int = Field(0, ge=0)
    """Steps between held-out evaluations in RL; 0 evaluates only on request."""


class TokenWeight(Section):
    """Loss weight of the tokens whose decoded text matches a whole pattern."""

    pattern: str
    weight: float = Field(gt=0)


class SftDataConfig(Section):
    """One source of SFT examples."""

    kind: Literal["pairs", "scripts", "trajectories"]
    """pairs: prompt and target from the task set. scripts: the task set's scripted turns,
    executed in the sandbox. trajectories: a run folder (or a rollouts JSONL)."""
    tasks: TasksConfig | None = None
    count: int | None = Field(None, gt=0)
    """Examples to draw; None takes all."""
    path: str = ""
    weight: float = Field(1.0, gt=0)
    """Share of a batch drawn from this source, relative to the stage's other sources."""


class SftStageConfig(Section):
    """A stretch of SFT with its own data and learning-rate curve."""

    name: str
    steps: int = Field(gt=0)
    batch_size: int = Field(32, gt=0)
    learning_rate: float | None = Field(None, gt=0)
    """None takes train.learning_rate."""
    muon_learning_rate: float | None = Field(None, gt=0)
    data: tuple[SftDataConfig, ...]
    token_weights: tuple[TokenWeight, ...] = ()
    stop_when: Literal["", "probe"] = ""
    """probe: measure every ``probe_every`` steps, stop at the first step inside the window
    of ``[probe]``, otherwise keep the checkpoint that came nearest to it."""
    min_steps: int = Field(0, ge=0)
    """No stop before this step of the stage; at most ``steps``."""
    probe_every: int = Field(25, gt=0)


class SftConfig(Section):
    """Supervised fine-tuning: stages in order, one optimizer each."""

    stages: tuple[SftStageConfig, ...] = ()


class ProbeConfig(Section):
    """Forced first action: what is the tool worth to this model on these tasks?"""

    tasks: TasksConfig | None = None
    """None uses ``[tasks]``."""
    num_tasks: int = Field(96, gt=0)
    rollouts: int = Field(4, gt=0)
    tool_start: str = "<code>"
    """Text that forces the first turn to be code."""
    direct_start: str = "<answer>"
    tool_share: tuple[float, float] = (0.0, 1.0)
    """Window of the free share of episodes that use the tool; used by ``stop_when``."""
    gain: tuple[float, float] = (-1.0, 1.0)
    """Window of E[R_acc | tool] - E[R_acc | direct]."""
    gain_with_bonus: tuple[float, float] = (-1.0, 2.0)
    """The same difference with the tool reward of ``[rewards]`` added."""
    category_weights: dict[str, float] = Field(default_factory=dict)
    """Category -> weight in the expectation; empty weighs tasks equally. Lets a probe draw
    rare categories often and still speak for the training mix."""


class EvalConfig(Section):
    """Held-out evaluation."""

    tasks: TasksConfig | None = None
    """None uses ``[tasks]``."""
    num_tasks: int | None = Field(None, gt=0)
    samples: int = Field(1, gt=0)
    """Rollouts per task."""
    temperature: float | None = Field(None, ge=0)
    """None takes policy.temperature."""
    forced_start: str = ""
    """Text every first turn must begin with."""


class RunConfig(Section):
    """What a run folder keeps. Metrics and the resolved config are always kept."""

    rollouts: Literal["all", "kept", "none"] = "all"
    """Trajectories written per step: all of them, those trained on, or none."""
    media_every: int = Field(1, ge=0)
    """Write the images of every k-th step (the first step always); 0 writes none."""
    logprobs: bool = True
    """Write token ids and log-probabilities with each trajectory."""


class VisionConfig(Section):
    """Vision tower of a new model."""

    hidden_size: int = Field(64, gt=0)
    """A multiple of 4 * num_heads."""
    depth: int = Field(2, gt=0)
    num_heads: int = Field(2, gt=0)
    intermediate_size: int = Field(128, gt=0)
    patch_size: int = Field(14, gt=0)
    min_pixels: int = Field(784, gt=0)
    max_pixels: int = Field(12544, gt=0)


class NewModelConfig(Section):
    """Architecture and tokenizer of ``pvrl new-model``."""

    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    hidden_size: int = Field(128, gt=0)
    """A multiple of 2 * num_heads, and at least 8 * num_heads."""
    num_layers: int = Field(3, gt=0)
    num_heads: int = Field(4, gt=0)
    num_kv_heads: int = Field(2, gt=0)
    """Divides num_heads."""
    intermediate_size: int = Field(256, gt=0)
    max_position_embeddings: int = Field(4096, gt=0)
    initializer_range: float = Field(0.08, gt=0)
    """About 1/sqrt(hidden_size): at a width of 128, 0.02 learns nothing visual."""
    vision: VisionConfig = VisionConfig()
    vocab_size: int = Field(640, gt=0)
    """At most; special tokens and the byte alphabet included."""
    pre_tokenizer: str = r"\d+|[^\d]+"
    """Pattern that splits text before BPE merges."""
    special_tokens: tuple[str, ...] = ("<code>", "</code>", "<answer>", "</answer>")
    """Extra whole tokens, beside the chat and vision tokens of the family."""
    corpus_tasks: tuple[TasksConfig, ...] = ()
    """The tokenizer is trained on the rendered prompts, scripts and pairs of these task sets ..."""
    corpus_files: tuple[str, ...] = ()
    """... and on these text files."""
    corpus_count: int = Field(200, gt=0)
    """Tasks drawn from each task set."""


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
    probe: ProbeConfig = ProbeConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()
    new_model: NewModelConfig = NewModelConfig()

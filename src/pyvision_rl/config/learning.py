"""The sections that say what is learnt from episodes, and what is measured beside it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pyvision_rl.config.base import Section
from pyvision_rl.config.episodes import TasksConfig


class SelectionConfig(Section):
    """Credit, oversample, filter, rank (paper section 3.3; see docs/selection.md)."""

    advantage: Literal["mean", "mean_std", "leave_one_out", "binary_baseline"] = "mean"
    """A reward minus the group's mean (paper eq. 2); that divided by the group's std (GRPO);
    minus the mean of the others (RLOO); minus the group's share of rewards that are not 0."""
    recompute_advantages: bool = False
    """Take them again over what the trajectory filters left of a group, not over the whole one."""
    groups_per_step: int = Field(16, gt=0)
    """Groups that one update uses."""
    oversample: float = Field(2.0, ge=1)
    """Groups generated per round = groups_per_step * oversample."""
    max_per_round: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    """Tasks of one kind in a round, e.g. ``"media:video" = 16``; also media:image, category:NAME
    and data_source:NAME. Others take their place; they themselves come in a later round."""
    filters: tuple[str, ...] = ("infra", "ungraded", "over_length", "zero_std")
    """Of trajectories: infra, ungraded, over_length, no_tool_image, end_reason, malformed,
    correct_negative_advantage. Of whole groups: zero_std."""
    filter_order: Literal["trajectory_first", "group_first"] = "trajectory_first"
    """group_first judges the graded group before the other trajectory filters thin it out."""
    reserve_ends: tuple[str, ...] = ("answered", "turn_limit", "code_error")
    """The end reasons that the filter ``end_reason`` keeps."""
    max_malformed_share: float = Field(0.5, ge=0, le=1)
    """The filter ``malformed`` drops an episode of whose turns more than this were malformed."""
    min_survivors: int = Field(2, gt=0)
    """A group of which the filters leave fewer is dropped."""
    rank_by: Literal["reward_std", "accuracy_std", "none"] = "reward_std"
    """What spreads most is used first; none uses what was generated first."""
    rank_unit: Literal["group", "trajectory"] = "group"
    """trajectory cuts between trajectories and may split a group, as the reference does."""
    carry_over: bool = False
    """Offer good groups that were ranked out again in the next steps. With
    ``train.old_logprobs = "learner"`` needs ``train.tis_cap``."""
    max_staleness: int = Field(1, gt=0)
    """Steps after which a carried group is dropped."""
    max_rounds: int = Field(1, gt=0)
    """Generation rounds before an update goes on with fewer groups."""
    on_short: Literal["train", "error"] = "train"
    """What to do when ``max_rounds`` did not fill the batch; a short batch is counted."""
    max_empty_steps: int | None = Field(None, gt=0)
    """Steps in a row without a usable group before the run stops with an error; None goes on."""


class TrainConfig(Section):
    """The optimizer and the objective, shared by SFT and RL."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon on hidden matrices, AdamW on the rest."""
    learning_rate: float = Field(1e-6, gt=0)
    muon_learning_rate: float = Field(0.004, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's, each at least 0 and below 1."""
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Where cosine ends, as a share of the peak."""
    grad_clip: float = Field(1.0, gt=0)
    steps: int = Field(100, gt=0)
    """RL steps (SFT counts its steps in its stages)."""
    micro_batch_tokens: int = Field(16384, gt=0)
    """Padded tokens of one forward pass; micro-batches only bound memory, never the loss (but see
    ``loss_norm``)."""
    micro_batch_rows: int = Field(0, ge=0)
    """Most trajectories, or examples of SFT, of one forward pass; 0 bounds only their tokens."""
    minibatches: int = Field(1, gt=0)
    """Parts of a batch, whole groups each, that get an optimizer step of their own; which groups
    share one is drawn by seed and step. Learning rates follow RL steps, not optimizer steps."""
    epochs: int = Field(1, gt=0)
    """Times that one RL step goes through its batch."""
    old_logprobs: Literal["sampler", "learner"] = "sampler"
    """Denominator of the ratio pi/pi_old. sampler: as recorded at sampling, so that the ratio also
    corrects what the learner computes differently. learner: computed again before the first
    optimizer step of each RL step, as the reference does."""
    tis_cap: float = Field(0.0, ge=0)
    """Truncated importance sampling: every token's clipped loss is weighed by
    min(pi_learner/pi_sampler, tis_cap), both before the first optimizer step; 0 weighs all alike.
    Needs ``old_logprobs = "learner"``: with the sampler's that ratio is in pi/pi_old already."""
    clip_low: float = Field(0.2, gt=0)
    """Clips pi/pi_old to [1 - clip_low, 1 + clip_high]. With one optimizer step per batch both act
    only where the sampler's log-probabilities differ from the learner's (``mixed_precision``)."""
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float = Field(0.0, ge=0)
    """With a negative advantage A no token's loss is above -dual_clip * A; above 1, or 0 for no
    bound (reference: 3)."""
    loss_norm: Literal["token_mean", "sequence_mean", "constant", "micro_batch_mean"] = "token_mean"
    """token_mean is over all that an optimizer step uses; constant is Dr. GRPO's. micro_batch_mean
    (the reference) averages within micro-batches first: the only one whose loss depends on how
    they are cut (``micro_batch_rows``, ``micro_batch_tokens``; they are cut by length)."""
    constant_tokens: float = Field(1024, gt=0)
    """The divisor per trajectory when ``loss_norm = "constant"``."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the divergence from a frozen reference policy, in every token's loss (GRPO's
    estimator); 0 loads no reference."""
    kl_reference: str = "start"
    """The reference policy: start (the weights before the first step), or a directory or name."""
    freeze_vision: bool = False
    """Keep the vision tower as it is, mergers included."""
    lora_rank: int = Field(0, ge=0)
    """Train adapters of this rank beside the language model's linear maps, and nothing else
    (LoRA, arXiv 2106.09685; needs the extra ``lora``); 0 trains the network itself."""
    lora_alpha: int = Field(32, gt=0)
    """What an adapter adds is scaled by lora_alpha / lora_rank."""
    lora_targets: Literal["all", "attention", "mlp"] = "all"
    """The linear maps that get an adapter, in every layer of the language model."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer for the backward pass, and compute the rest again."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Of the learner's passes; the sampler keeps to ``policy.dtype``, so ratios start off 1. fp16
    needs a GPU, and float32 for what is trained: the network (``policy.dtype``) or adapters."""
    master_weights: bool = False
    """With a 16-bit ``policy.dtype``: the optimizer moves a float32 copy of what is trained, and
    the network gets it rounded. Without it updates below a weight's precision are lost."""
    overlap: bool = False
    """Sample step n + 1 while step n's update runs, with weights that are one update old
    (docs/vllm.md); for ``policy.name = "vllm"``. Nothing older is ever trained on for it."""
    parallel: Literal["none", "ddp", "fsdp2"] = "none"
    """How the processes that a launcher started share an update (docs/training.md). ddp: each holds
    the whole network, gradients and optimizer. fsdp2: each holds a piece of them, and process 0 a
    whole network besides, which samples and is saved. none: there is one process."""
    parallel_timeout_s: float = Field(600.0, gt=0)
    """How long processes wait for one another inside an update before the run ends."""
    num_processes: int = Field(0, ge=0)
    """What ``--dry-run`` counts with; 0 takes as many as the launcher starts, any other number
    must be that."""
    memory_check: Literal["refuse", "warn", "off"] = "refuse"
    """Before a run: what to do if weights, gradients and optimizer alone are more than the memory
    of the device (docs/models.md)."""
    save_every: int = Field(10, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    """The latest so many are kept."""
    keep_every: int = Field(0, ge=0)
    """RL also saves every k-th step, and keeps it for good; 0 does neither."""
    eval_every: int = Field(0, ge=0)
    """Steps between held-out evaluations in RL; 0 evaluates only on request. The best checkpoint
    is kept too, as ``best``."""
    eval_at_start: bool = False
    """Evaluate before the first step of RL too, as step 0."""
    best_metric: str = Field("eval_accuracy", pattern="^eval_(accuracy|tool_calls)(_.+)?$")
    """The number of an evaluation that is compared, of all tasks or of a category
    (eval_accuracy_NAME); more is better. An evaluation of which less than nine tenths could be run
    and graded is noted and decides nothing."""
    stop_at: float | None = None
    """RL ends with the evaluation whose ``best_metric`` reaches this."""
    patience: int = Field(0, ge=0)
    """RL ends after so many evaluations in a row without a better ``best_metric``; 0 goes on."""

    @model_validator(mode="after")
    def _needs_evaluations(self) -> Self:
        if (self.stop_at is not None or self.patience) and not self.eval_every:
            raise ValueError("stop_at and patience judge evaluations: set eval_every")
        return self

    @model_validator(mode="after")
    def _objective_makes_sense(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: each at least 0 and below 1")
        if 0 < self.dual_clip <= 1:
            raise ValueError(f"dual_clip = {self.dual_clip}: above 1, or 0 for no bound")
        if self.tis_cap and self.old_logprobs != "learner":
            raise ValueError(
                f'tis_cap = {self.tis_cap} needs old_logprobs = "learner": with "sampler" the '
                "ratio that is clipped has the sampler's probabilities in it already"
            )
        return self


class TokenWeight(Section):
    """Loss weight of the tokens whose decoded text matches a whole pattern."""

    pattern: str
    weight: float = Field(gt=0)


class SftDataConfig(Section):
    """One source of SFT examples."""

    kind: Literal["pairs", "scripts", "trajectories", "conversations"]
    """pairs: prompt and target from the task set. scripts: the task set's scripted turns,
    executed in the sandbox. trajectories: a run folder (or a rollouts JSONL). conversations: a
    JSON or JSONL file of whole conversations (docs/cold-start.md)."""
    tasks: TasksConfig | None = None
    count: int | None = Field(None, gt=0)
    """Examples to draw; None takes all."""
    path: str = ""
    max_tokens: int | None = Field(None, gt=0)
    """Longer examples, images expanded, are left out and counted; None takes any length."""
    max_wrong: float = Field(0.0, ge=0, le=1)
    """Share of scripts that may answer wrongly, as an unreliable teacher does; more is an error."""
    image_root: str = ""
    """Folder that the image paths of conversations are relative to; empty is that of ``path``."""
    tokens: Literal["recorded", "rendered"] = "recorded"
    """Of trajectories. recorded: the ids that were sampled, which wants the same tokenizer.
    rendered: messages and turns are tokenized anew for ``policy.model``, whoever wrote them."""
    weight: float = Field(1.0, gt=0)
    """Share of a batch drawn from this source, relative to the stage's other sources. Epochs see
    every example alike and take no weights."""


class SftStageConfig(Section):
    """A stretch of SFT with its own data and learning-rate curve."""

    name: str
    steps: int | None = Field(None, gt=0)
    """Give either ``steps`` or ``epochs``."""
    epochs: int | None = Field(None, gt=0)
    """Passes over all sources: each sees every example once, in an order of its own. The last
    batch of a pass holds what is left."""
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
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """The stage's result is the mean of the weights after each of its steps, those of k steps
    before the end weighed by ``ema_decay ** k``; 0 keeps the last weights. What is probed, measured
    and saved under way is that mean too."""
    eval_share: float = Field(0.0, ge=0, lt=1)
    """Share of each source that is held out; examples of one prompt stay together."""
    eval_data: tuple[SftDataConfig, ...] = ()
    """Sources that are held out whole."""
    eval_every: int = Field(0, ge=0)
    """Steps between measures of the held-out NLL; 0 measures at the stage's last step only. With
    ``stop_when = "probe"`` every step that may be kept is measured besides."""
    keep_best: bool = False
    """Keep the measured weights with the lowest held-out NLL instead of the last ones."""


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
    category_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
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
    ids: tuple[str, ...] = ()
    """Only the tasks of these ids, with the random numbers they have among all; empty takes all.
    ``num_tasks`` then cuts them."""
    tools: bool = True
    """False: no code, the first turn has to answer; the scorer is the same."""
    direct_template: str = ""
    """Question template with ``tools = false``: a file, or direct (the answer only), or reason
    (thinking first); empty is direct."""

"""What becomes of every key of a config in verl: docs/verl.md as data.

A key, or the section it is in, is either verl's under another name (``VERL``), read by our code
inside verl from the exported ``run.json`` (``OURS``), or has no counterpart and changes nothing
that is learnt (``IDLE``). Some values of keys cannot be had there and would change what is learnt:
``refusals`` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyvision_rl.config import Config

VERL: dict[str, str] = {
    "seed": "data.seed, rollout.seed, actor.data_loader_seed, actor.fsdp_config.seed",
    "policy.model": "model.path",
    "policy.temperature": "rollout.temperature",
    "policy.top_p": "rollout.top_p",
    "policy.top_k": "rollout.top_k; 0 is -1 there",
    "policy.max_batch": "rollout.max_num_seqs",
    "policy.dtype": "rollout.dtype, actor.fsdp_config.model_dtype and .mixed_precision",
    "rollout.group_size": "rollout.n",
    "rollout.max_context_tokens": "rollout.max_model_len, data.max_prompt_length plus "
    "data.max_response_length",
    "rollout.max_images": "rollout.limit_images",
    "selection.advantage": "algorithm.adv_estimator, algorithm.norm_adv_by_std_in_grpo",
    "selection.groups_per_step": "data.train_batch_size",
    "train.learning_rate": "actor.optim.lr",
    "train.betas": "actor.optim.betas",
    "train.weight_decay": "actor.optim.weight_decay",
    "train.warmup_steps": "actor.optim.lr_warmup_steps",
    "train.schedule": "actor.optim.lr_scheduler_type",
    "train.min_lr_ratio": "actor.optim.min_lr_ratio",
    "train.grad_clip": "actor.optim.clip_grad, actor.grad_clip",
    "train.steps": "trainer.total_training_steps",
    "train.micro_batch_tokens": "actor.ppo_max_token_len_per_gpu, raised to hold one whole episode",
    "train.micro_batch_rows": "actor.ppo_micro_batch_size_per_gpu; 0 is actor.use_dynamic_bsz",
    "train.minibatches": "actor.ppo_mini_batch_size",
    "train.epochs": "actor.ppo_epochs",
    "train.old_logprobs": "algorithm.rollout_correction.bypass_mode; sampler is true",
    "train.tis_cap": "algorithm.rollout_correction.rollout_is and .rollout_is_threshold",
    "train.clip_low": "actor.clip_ratio_low",
    "train.clip_high": "actor.clip_ratio_high",
    "train.dual_clip": "actor.clip_ratio_c; 0 is 1e9 there",
    "train.loss_norm": "actor.loss_agg_mode",
    "train.constant_tokens": "actor.loss_scale_factor",
    "train.kl_coefficient": "actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type",
    "train.lora_rank": "model.lora_rank",
    "train.lora_alpha": "model.lora_alpha",
    "train.lora_targets": "model.target_modules, model.exclude_modules",
    "train.gradient_checkpointing": "model.enable_gradient_checkpointing",
    "train.mixed_precision": "actor.fsdp_config.mixed_precision",
    "train.master_weights": "actor.fsdp_config.model_dtype",
    "train.save_every": "trainer.save_freq",
    "train.keep_checkpoints": "trainer.max_actor_ckpt_to_keep",
    "train.eval_every": "trainer.test_freq",
    "train.eval_at_start": "trainer.val_before_train",
    "eval.samples": "rollout.val_kwargs.n",
    "eval.temperature": "rollout.val_kwargs.temperature",
    "run.trackers": "trainer.logger, beside console",
    "run.project": "trainer.project_name",
    "run.run_name": "trainer.experiment_name",
}
"""Key -> verl's keys; ``actor``, ``rollout`` and ``model`` are under ``actor_rollout_ref``."""

OURS: dict[str, str] = {
    "tasks": "read once, at the export: train.parquet holds the tasks",
    "prompts": "agent loop",
    "policy.max_new_tokens": "agent loop",
    "policy.min_pixels": "agent loop: images are scaled before verl's processor sees them",
    "policy.max_pixels": "agent loop, likewise",
    "sandbox": "agent loop; max_running is per rollout worker",
    "rollout.max_tool_calls": "agent loop",
    "rollout.end_on_code_error": "agent loop",
    "rollout.end_on_malformed": "agent loop",
    "rollout.max_failed_share": "sampler",
    "rewards": "agent loop; a judge's max_calls is per rollout worker",
    "rewards.max_ungraded_share": "sampler",
    "selection.oversample": "sampler",
    "selection.filters": "agent loop (trajectories) and sampler (groups)",
    "selection.filter_order": "sampler",
    "selection.reserve_ends": "agent loop",
    "selection.max_malformed_share": "agent loop",
    "selection.recompute_advantages": "sampler: filtered members leave the batch",
    "selection.min_survivors": "sampler",
    "selection.rank_by": "sampler",
    "selection.max_rounds": "sampler",
    "selection.on_short": "sampler",
    "selection.max_empty_steps": "sampler: max_rounds times it without a usable group stop the run",
    "eval.tasks": "read once, at the export: val.parquet holds the tasks",
    "eval.num_tasks": "at the export",
    "eval.ids": "at the export",
    "run.rollouts": "agent loop and sampler",
    "run.media_every": "agent loop",
    "run.logprobs": "agent loop",
}
"""Key or section -> which code of ours reads it, in verl or at the export."""

IDLE: dict[str, str] = {
    "policy.device": "verl's workers take the GPUs that Ray gives them",
    "policy.threads": "likewise",
    "policy.name": "turns are written by verl's own vLLM servers",
    "policy.options": "likewise",
    "rollout.schedule": "episodes go at their own pace; no claim of equal bits",
    "rollout.max_live_episodes": "all of a round are under way; policy.max_batch bounds decoding",
    "train.memory_check": "what fits is verl's to say",
    "train.overlap": "verl's synchronous trainer samples between updates",
    "train.parallel": "verl's own FSDP engine shares the update over its GPUs",
    "train.parallel_timeout_s": "likewise",
    "train.num_processes": "likewise: trainer.n_gpus_per_node is the count there",
    "train.muon_learning_rate": "only for Muon, which is refused",
    "train.keep_every": "verl keeps the latest checkpoints only",
    "train.best_metric": "verl keeps no best checkpoint",
    "selection.max_staleness": "only with carry_over, which is refused",
    "watch": "alarms are not raised; metrics.jsonl has part of their numbers",
    "eval.direct_template": "only with tools = false, which is refused",
}
"""Key or section -> why it does nothing; it changes nothing that is learnt."""

MUST_BE_DEFAULT: dict[str, str] = {
    "rewards.terms": "a term sees a whole group, and verl grades episodes one by one",
    "selection.max_per_round": "verl draws the prompts of a round",
    "selection.rank_unit": "verl takes a group's baseline from the members that are used",
    "selection.carry_over": "a synchronous trainer keeps nothing for the next step",
    "train.kl_reference": "verl's reference policy is the model that training starts from",
    "train.freeze_vision": "verl 0.9.1's FSDP engine does not read its freeze_vision_tower: set it "
    "to false to train the tower too, or set train.lora_rank",
    "train.stop_at": "verl ends after a number of steps only",
    "train.patience": "verl ends after a number of steps only",
    "eval.forced_start": "verl's server cannot force the beginning of a turn",
    "eval.tools": "verl validates with the episodes that it trains on",
}
"""Key -> why another value than the default is refused."""

OTHER_VERBS = ("sft", "synthesize", "probe", "new_model")
"""Sections that RL does not read."""


def refusals(config: Config) -> dict[str, str]:
    """Return key -> reason of every value that verl cannot give and that changes what is learnt."""
    values = dict(leaves(config))
    plain = dict(leaves(Config()))
    found = {key: why for key, why in MUST_BE_DEFAULT.items() if values[key] != plain[key]}
    if config.train.lora_rank:
        # Adapters stand beside the language model only: nothing of the tower is trained.
        found.pop("train.freeze_vision", None)
    found |= {key: why for key, value, why in _VALUES if values[key] == value}
    return found | {key: why for key, test, why in _TESTS if test(config)}


_VALUES: tuple[tuple[str, Any, str], ...] = (
    ("selection.advantage", "binary_baseline", "verl has no such estimator"),
    ("train.optimizer", "muon", "verl's FSDP engine takes one optimizer for all weights"),
    ("train.loss_norm", "micro_batch_mean", "verl's means are over a minibatch"),
    ("policy.name", "openai_chat", "its log-probabilities are not told"),
    ("policy.name", "scripted", "a script does not learn"),
)


def _splits_unevenly(config: Config) -> bool:
    return config.selection.groups_per_step % config.train.minibatches != 0


def _cuts_what_it_samples(config: Config) -> bool:
    cut = config.policy.top_p < 1 or config.policy.top_k > 0
    return cut and (config.train.old_logprobs == "sampler" or config.train.tis_cap > 0)


def _divides_unevenly(config: Config) -> bool:
    return config.train.loss_norm == "constant" and config.train.constant_tokens % 1 != 0


def _leaves_members_alone(config: Config) -> bool:
    return config.selection.min_survivors < 2


def _judges_advantages(config: Config) -> bool:
    return "correct_negative_advantage" in config.selection.filters


_TESTS: tuple[tuple[str, Callable[[Config], bool], str], ...] = (
    (
        "train.minibatches",
        _splits_unevenly,
        "it must divide selection.groups_per_step: verl's minibatches are of one size",
    ),
    (
        "policy.top_p",
        _cuts_what_it_samples,
        "with top_p or top_k verl's server tells the probabilities of the cut distribution, which "
        'the learner cannot compute again: set train.old_logprobs = "learner" and tis_cap = 0',
    ),
    (
        "train.constant_tokens",
        _divides_unevenly,
        "verl's divisor is a whole number",
    ),
    (
        "selection.min_survivors",
        _leaves_members_alone,
        "verl's estimators give the only member of a group its whole reward as advantage: set it "
        "to 2 or more",
    ),
    (
        "selection.filters",
        _judges_advantages,
        "correct_negative_advantage goes by advantages, which verl computes after selection",
    ),
)


def fate_of(key: str) -> tuple[str, str] | None:
    """Return (table, words) of a key: its own entry, or its section's; None if it has neither."""
    tables: tuple[tuple[str, Mapping[str, str]], ...] = (
        ("refused unless default", MUST_BE_DEFAULT),
        ("verl", VERL),
        ("ours", OURS),
        ("idle", IDLE),
    )
    own = next(((name, table[key]) for name, table in tables if key in table), None)
    if own is not None:
        return own
    if any(value_key == key for value_key, _, _ in (*_VALUES, *_TESTS)):
        return "refused for some values", next(w for k, _, w in (*_VALUES, *_TESTS) if k == key)
    section = key.rpartition(".")[0]
    return fate_of(section) if section else None


def leaves(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every key that RL reads."""
    for name, section in config:
        if name in OTHER_VERBS:
            continue
        if section is None or not hasattr(section, "model_fields_set"):
            yield name, section
            continue
        for key, value in section:
            yield f"{name}.{key}", value


def idle_keys(config: Config) -> dict[str, str]:
    """Return key -> reason of every key that is set to another value than the default, in vain."""
    plain = dict(leaves(Config()))
    found = {}
    for key, value in leaves(config):
        table, words = fate_of(key) or ("", "")
        if table == "idle" and value != plain.get(key):
            found[key] = words
    return found

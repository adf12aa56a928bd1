"""From our config to verl's, key by key.

In: a checked ``Config``, the exported folder, and the machines. Out: verl's keys with their values,
to lie over its own defaults. What cannot be had there was refused before (see ``keys``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyvision_rl.config import Config
from pyvision_rl.sizes.parameters import LORA_MAPS

VERSION = "0.9.1"
"""The version of verl whose keys these are."""
AGENT = "pyvision"
"""What verl calls our agent loop."""

_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_NO_BOUND = 1e9
_LOSS = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "constant": "seq-mean-token-sum-norm",
}
_ESTIMATOR = {"mean": "grpo", "mean_std": "grpo", "leave_one_out": "rloo"}


@dataclass(frozen=True, slots=True)
class Machines:
    """What verl runs on."""

    gpus: int = 8
    """Per node."""
    nodes: int = 1
    tensor_parallel: int = 1
    """GPUs that hold one copy of the sampling model."""
    workers: int = 8
    """Processes that play episodes, each with a sandbox."""


def verl_config(config: Config, folder: Path, machines: Machines, num_tasks: int) -> dict[str, Any]:
    """Return verl's config, nested, without what stays at its defaults.

    Args:
        config: Nothing in it is refused.
        folder: The exported folder, absolute.
        machines: What it will run on.
        num_tasks: Rows of the training data.
    """
    flat: dict[str, Any] = {}
    flat |= {f"data.{k}": v for k, v in _data(config, folder).items()}
    flat |= {f"algorithm.{k}": v for k, v in _algorithm(config).items()}
    parts = {
        "model": _model(config),
        "actor": {**_actor(config), **_optim(config), **_precision(config)},
        "rollout": _rollout(config, folder, machines),
    }
    if rows := config.train.micro_batch_rows:
        parts["ref"] = {"log_prob_micro_batch_size_per_gpu": rows}
    for name, values in parts.items():
        flat |= {f"actor_rollout_ref.{name}.{k}": v for k, v in values.items()}
    flat |= {f"trainer.{k}": v for k, v in _trainer(config, folder, machines, num_tasks).items()}
    return _nested(flat)


def _data(config: Config, folder: Path) -> dict[str, Any]:
    room = config.rollout.max_context_tokens
    return {
        "train_files": str(folder / "train.parquet"),
        "val_files": str(folder / "val.parquet"),
        "train_batch_size": config.selection.groups_per_step,
        # The sampler asks for rounds of any size.
        "gen_batch_size": 1,
        # Only their sum bounds an episode of ours.
        "max_prompt_length": room // 2,
        "max_response_length": room - room // 2,
        "filter_overlong_prompts": False,
        "return_raw_chat": True,
        "shuffle": True,
        "seed": config.seed,
    }


def _algorithm(config: Config) -> dict[str, Any]:
    train = config.train
    return {
        "adv_estimator": _ESTIMATOR[config.selection.advantage],
        "norm_adv_by_std_in_grpo": config.selection.advantage == "mean_std",
        "use_kl_in_reward": False,
        "filter_groups.enable": False,
        "rollout_correction.bypass_mode": train.old_logprobs == "sampler",
        "rollout_correction.rollout_is": "token" if train.tis_cap else None,
        "rollout_correction.rollout_is_threshold": train.tis_cap or 2.0,
    }


def _model(config: Config) -> dict[str, Any]:
    train = config.train
    values: dict[str, Any] = {
        "path": config.policy.model,
        "enable_gradient_checkpointing": train.gradient_checkpointing,
        "use_remove_padding": True,
    }
    if train.lora_rank:
        values |= {
            "lora_rank": train.lora_rank,
            "lora_alpha": train.lora_alpha,
            "target_modules": list(LORA_MAPS[train.lora_targets]),
            # Its maps are named as the language model's are.
            "exclude_modules": ".*visual.*",
        }
    return values


def _actor(config: Config) -> dict[str, Any]:
    train = config.train
    rows = train.micro_batch_rows
    values: dict[str, Any] = {
        "strategy": "fsdp2",
        "ppo_mini_batch_size": config.selection.groups_per_step // train.minibatches,
        "ppo_epochs": train.epochs,
        "use_dynamic_bsz": not rows,
        # Below the longest episode verl would refuse it.
        "ppo_max_token_len_per_gpu": max(
            train.micro_batch_tokens, config.rollout.max_context_tokens
        ),
        "clip_ratio": train.clip_low,
        "clip_ratio_low": train.clip_low,
        "clip_ratio_high": train.clip_high,
        "clip_ratio_c": train.dual_clip or _NO_BOUND,
        "loss_agg_mode": _LOSS[train.loss_norm],
        "loss_scale_factor": int(train.constant_tokens) if train.loss_norm == "constant" else None,
        "entropy_coeff": 0,
        "use_kl_loss": train.kl_coefficient > 0,
        "kl_loss_coef": train.kl_coefficient,
        "kl_loss_type": "low_var_kl",
        "data_loader_seed": config.seed,
    }
    return values | ({"ppo_micro_batch_size_per_gpu": rows} if rows else {})


def _optim(config: Config) -> dict[str, Any]:
    train = config.train
    return {
        "grad_clip": train.grad_clip,
        "optim.optimizer": "AdamW",
        "optim.lr": train.learning_rate,
        "optim.betas": list(train.betas),
        "optim.weight_decay": train.weight_decay,
        "optim.lr_warmup_steps": train.warmup_steps,
        "optim.lr_scheduler_type": train.schedule,
        "optim.min_lr_ratio": train.min_lr_ratio,
        "optim.clip_grad": train.grad_clip,
    }


def _precision(config: Config) -> dict[str, Any]:
    kept = "fp32" if config.train.master_weights else _SHORT[config.policy.dtype]
    mixed = config.train.mixed_precision
    passes = _SHORT[config.policy.dtype] if mixed == "no" else mixed
    return {
        "fsdp_config.seed": config.seed,
        "fsdp_config.model_dtype": kept,
        "fsdp_config.mixed_precision": {
            "param_dtype": passes,
            "reduce_dtype": "fp32",
            "buffer_dtype": "fp32",
        },
    }


def _rollout(config: Config, folder: Path, machines: Machines) -> dict[str, Any]:
    policy, rows = config.policy, config.train.micro_batch_rows
    greedy = config.eval.temperature
    temperature = policy.temperature if greedy is None else greedy
    values: dict[str, Any] = {
        "name": "vllm",
        "n": config.rollout.group_size,
        "temperature": policy.temperature,
        "top_p": policy.top_p,
        "top_k": policy.top_k or -1,
        "seed": config.seed,
        "dtype": policy.dtype,
        "max_model_len": config.rollout.max_context_tokens,
        "max_num_seqs": policy.max_batch,
        "limit_images": config.rollout.max_images,
        "tensor_model_parallel_size": machines.tensor_parallel,
        "calculate_log_probs": True,
        "multi_turn.enable": True,
        "agent.num_workers": machines.workers,
        "agent.default_agent_loop": AGENT,
        "agent.agent_loop_config_path": str(folder / "agent_loop.yaml"),
        "val_kwargs.n": config.eval.samples,
        "val_kwargs.temperature": temperature,
        "val_kwargs.do_sample": temperature > 0,
        "val_kwargs.top_p": policy.top_p if temperature else 1.0,
        "val_kwargs.top_k": (policy.top_k or -1) if temperature else -1,
    }
    if config.train.lora_rank:
        # Adapters are sent to a server that has loaded the weights under them itself.
        values |= {"load_format": "safetensors", "layered_summon": True}
    return values | ({"log_prob_micro_batch_size_per_gpu": rows} if rows else {})


def _trainer(config: Config, folder: Path, machines: Machines, num_tasks: int) -> dict[str, Any]:
    train = config.train
    a_pass = max(1, num_tasks // config.selection.groups_per_step)
    return {
        "total_training_steps": train.steps,
        # The steps are what ends a run.
        "total_epochs": -(-train.steps // a_pass) + 1,
        "project_name": config.run.project,
        "experiment_name": config.run.run_name or folder.name,
        "logger": ["console", *config.run.trackers],
        "n_gpus_per_node": machines.gpus,
        "nnodes": machines.nodes,
        "save_freq": train.save_every,
        "max_actor_ckpt_to_keep": train.keep_checkpoints,
        "default_local_dir": str(folder / "checkpoints"),
        "test_freq": train.eval_every or -1,
        "val_before_train": train.eval_at_start,
        "resume_mode": "auto",
        "use_v1": True,
        "v1.trainer_mode": "sync",
        "v1.sampler.custom_sampler.path": "pkg://pyvision_rl.integrations.verl.sampler",
        "v1.sampler.custom_sampler.name": "PyVisionSampler",
        "v1.sampler.sampler_kwargs": {"folder": str(folder)},
    }


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in flat.items():
        *path, last = dotted.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree

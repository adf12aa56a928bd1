"""What ``train.parallel``, ``train.overlap`` and fp16 cannot be combined with.

In: a config that has one of them. Out: a ``ConfigError`` that names the key. Needs no torch and
starts no process.
"""

from __future__ import annotations

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError


def check_parallel(config: Config) -> None:
    """Raise ConfigError for what the learner does on one process only."""
    train = config.train
    key = f'train.parallel = "{train.parallel}"'
    if (device := config.policy.device) not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f'{key} gives each process a device of its own: policy.device = "{device}" wants to be '
            '"auto", "cuda" or "cpu"'
        )
    if train.parallel == "fsdp2" and train.optimizer == "muon":
        raise ConfigError(
            f'{key} leaves no process with a whole matrix, which train.optimizer = "muon" needs: '
            'wants "adamw", or train.parallel = "ddp"'
        )
    if train.mixed_precision == "fp16":
        raise ConfigError(f'{key} has no loss scale: train.mixed_precision wants "no" or "bf16"')
    if config.policy.name == "vllm":
        raise ConfigError(
            f'{key} trains what process 0 samples with: policy.name = "vllm" wants one process'
        )
    if train.kl_coefficient:
        raise ConfigError(
            f"{key} has no reference policy yet: train.kl_coefficient = {train.kl_coefficient} "
            "wants one process"
        )


def check_fp16(config: Config) -> None:
    """Raise ConfigError for what numbers of 16 bits with few exponents cannot train.

    The loss has to be scaled, or gradients are rounded to nothing; what is scaled has to have
    gradients of float32; and moments of float16 would be nothing themselves.
    """
    scaled, adapters = config.train.mixed_precision == "fp16", config.train.lora_rank > 0
    if scaled and config.policy.dtype != "float32" and not adapters:
        raise ConfigError(
            'train.mixed_precision = "fp16" scales the loss, which wants gradients of float32: '
            f'policy.dtype = "{config.policy.dtype}" wants to be "float32", or train.lora_rank to '
            "be above 0, whose adapters are"
        )
    if config.policy.dtype == "float16" and not scaled:
        raise ConfigError(
            'policy.dtype = "float16" rounds gradients to nothing: "bfloat16" with '
            'train.master_weights trains, or "float32" with train.mixed_precision, or adapters '
            '(train.lora_rank) with train.mixed_precision = "fp16"'
        )


def check_overlap(config: Config) -> None:
    """Raise ConfigError where sampling beside an update cannot be, or would train uncorrected."""
    train = config.train
    if config.policy.name != "vllm":
        raise ConfigError(
            "train.overlap samples with the weights before an update while it changes them: "
            f'policy.name wants "vllm", got {config.policy.name!r}, whose network is the learner\'s'
        )
    if train.old_logprobs == "learner" and not train.tis_cap:
        raise ConfigError(
            'train.overlap with train.old_logprobs = "learner" wants train.tis_cap above 0: older '
            "weights sampled the batch, and nothing else would correct for that"
        )

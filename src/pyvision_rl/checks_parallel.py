"""What ``train.parallel`` cannot be combined with.

In: a config that has it. Out: a ``ConfigError`` that names the key. Needs no torch and starts no
process.
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

"""What must hold before RL starts or goes on, beyond what each section of a config checks.

In: a config, or a run folder. Out: an error before work starts, or a line for ``pvrl check
config``. Loads no model and reads no task.
"""

from __future__ import annotations

import re
from pathlib import Path

from pyvision_rl.checks.parallel import check_fp16, check_overlap, check_parallel
from pyvision_rl.config import Config
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.runs import RunReader
from pyvision_rl.tracking.base import check_trackers

_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
"""A model's name, such as Qwen/Qwen2.5-VL-7B-Instruct; it is looked up when the run starts."""


def check_rl(config: Config) -> None:
    """Raise ConfigError for a greedy policy, and for what ``check_training`` finds."""
    if config.policy.temperature == 0:
        raise ConfigError("policy.temperature = 0: greedy samples have no policy gradient")
    if config.policy.name == "vllm":
        from pyvision_rl.policy.vllm_options import check_rl_options

        check_rl_options(config)
    check_training(config)
    check_trackers(config.run.trackers)


def check_training(config: Config) -> None:
    """Raise ConfigError for what could never train, or would train uncorrected."""
    least, size = config.selection.min_survivors, config.rollout.group_size
    if least > size:
        raise ConfigError(
            f"selection.min_survivors = {least} is above rollout.group_size = {size}: no group "
            "would ever be trained on"
        )
    if config.train.parallel != "none":
        check_parallel(config)
    train = config.train
    check_fp16(config)
    if train.overlap:
        check_overlap(config)
    if config.selection.carry_over and train.old_logprobs == "learner" and not train.tis_cap:
        raise ConfigError(
            'selection.carry_over with train.old_logprobs = "learner" wants train.tis_cap above 0: '
            "older weights sampled what is carried, and nothing else would correct for that"
        )
    if absent := _absent_reference(config):
        raise ConfigError(f"train.kl_reference: {absent}")


def check_lines(run: Path, step: int) -> None:
    """Raise CheckpointError if a step up to that of a checkpoint has no line in ``metrics.jsonl``.

    Alarms, patience and the best evaluation are read from these lines.
    """
    noted = {line["step"] for line in RunReader(run).metrics()} if step else set()
    if lost := set(range(1, step + 1)) - noted:
        raise CheckpointError(
            f"{run / 'metrics.jsonl'} has lost step {min(lost)}; remove the checkpoints from that "
            f"step to step {step} to go on from the one before"
        )


def training_detail(config: Config) -> str:
    """Return what RL would do, or a note on what it still lacks.

    Raises:
        ConfigError: See ``check_training``.
    """
    if config.rollout.group_size == 1:
        return "note: rollout.group_size = 1: nothing for RL, which compares within groups"
    if absent := _absent_reference(config):
        return f"note: train.kl_reference: {absent}"
    if config.policy.dtype == "float16" and config.train.mixed_precision != "fp16":
        return 'note: policy.dtype = "float16": for sampling, and not for training'
    check_training(config)
    return f"{config.train.optimizer}, {config.train.steps} RL steps"


def absent_model(model: str) -> str:
    """Return why nothing can be loaded from a path; "" if it can, or if it is a name."""
    path = Path(model)
    if (_NAME.fullmatch(model) and not path.exists()) or (path / "config.json").is_file():
        return ""
    return f"{path} is no model directory yet (no config.json)"


def _absent_reference(config: Config) -> str:
    """Return why the KL term's reference is not there; "" if it is, or if none is wanted."""
    named = config.train.kl_reference
    return absent_model(named) if config.train.kl_coefficient and named != "start" else ""

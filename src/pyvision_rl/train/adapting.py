"""Adapters for a run that trains them: new ones, or those of a checkpoint.

In: the network of a run, its config, the checkpoint it goes on from. Out: the same network, ready
to be trained by a ``Learner``. The network itself is always that of ``policy.model``: what a
checkpoint holds is merged and rounded, and would not go on with the same bits.
"""

from __future__ import annotations

from typing import Any

from pyvision_rl.config import Config, TrainConfig
from pyvision_rl.models.adapters import add_adapters, load_adapters
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.rollout import derive_seed
from pyvision_rl.sizes.parameters import LORA_MAPS
from pyvision_rl.train.checkpoints import Checkpoint


def adapt(model: VisionLanguageModel, config: Config, start: Checkpoint | None) -> None:
    """Put the adapters of ``[train]`` into ``model``.

    Raises:
        ConfigError: peft is not installed.
        CheckpointError: Those of ``start`` do not fit.
    """
    put_adapters(model.module, config.train, derive_seed(config.seed, "adapters") % 2**63)
    if start is not None and (folder := start.adapters()) is not None:
        load_adapters(model.module, folder)


def put_adapters(module: Any, train: TrainConfig, seed: int) -> None:
    """Put new adapters of the size that ``train`` says into a transformers network.

    Raises:
        ConfigError: peft is not installed.
    """
    add_adapters(
        module,
        rank=train.lora_rank,
        alpha=train.lora_alpha,
        targets=LORA_MAPS[train.lora_targets],
        seed=seed,
    )

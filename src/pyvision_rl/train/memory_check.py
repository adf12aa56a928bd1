"""Whether a run can fit its device, before anything is loaded.

In: a verb and its config. Out: nothing, a warning, or a ``ConfigError``. Only what is certain is
compared: a run that could work is never refused.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from pyvision_rl.config import Config
from pyvision_rl.sizes.machine import memory_limit
from pyvision_rl.sizes.needed import has_network
from pyvision_rl.sizes.plan import require_fit

_log = logging.getLogger(__name__)


def require_memory(verb: str, config: Config) -> None:
    """Raise ConfigError, or warn, as ``train.memory_check`` says, if a run cannot fit.

    A model whose sizes are not known is left to fail or not when it is loaded.
    """
    if config.train.memory_check == "off" or not has_network(verb, config):
        return
    size, name = _device(config.policy.device)
    if size is None:
        return
    if dist.is_available() and dist.is_initialized():
        train = config.train.model_copy(update={"num_processes": dist.get_world_size()})
        config = config.model_copy(update={"train": train})
    if remark := require_fit(verb, config, size, name):
        _log.warning("%s", remark)


def _device(name: str) -> tuple[int | None, str]:
    """Return the bytes of the device that ``policy.device`` means, and what it is called."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda"):
        return (memory_limit(), "this machine") if name == "cpu" else (None, name)
    if not torch.cuda.is_available():
        return None, name  # loading the model will say so
    properties = torch.cuda.get_device_properties(torch.device(name))
    return properties.total_memory, f"{name} ({properties.name})"

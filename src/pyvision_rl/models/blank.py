"""A network whose weights somebody else has.

In: the config of a loaded network. Out: the same network on the CPU, with room for weights and
buffers and no values in them. Reads no files.
"""

from __future__ import annotations

from typing import Any

import torch

from pyvision_rl.models.vision_speed import speed_up


def blank_network(config: Any, dtype: torch.dtype) -> Any:
    """Return transformers' module of a ``module.config``, as ``load_network`` would without values.

    Args:
        config: Of a supported family.
        dtype: Of the weights.
    """
    from transformers import AutoModelForImageTextToText

    auto: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        module = auto.from_config(config, dtype=dtype, attn_implementation="sdpa")
    module.to_empty(device="cpu")
    # What was one tensor has become two.
    module.tie_weights()
    speed_up(module.model.visual)
    return module

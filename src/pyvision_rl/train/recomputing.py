"""Gradient checkpointing: layers are computed again on the way back instead of being kept.

In: a network. Out: the same one, whose layers do so while it trains. Nothing else is changed.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import AutocastKwargs


def recompute_layers(module: Any) -> None:
    """Switch it on for every layer."""
    # Renamed within transformers 5; the old name warns from then on.
    kwargs = {"use_reentrant": False}
    if hasattr(module, "activation_checkpointing_enable"):
        module.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)


def without_cast_cache() -> AutocastKwargs:
    """Return what has autocast keep no 16-bit copy of a weight once its layer is done.

    By itself it keeps those of all layers until the pass ends: as much as the weights in 16 bits.
    A layer uses each weight once, so that there is nothing to be gained from keeping it.
    """
    return AutocastKwargs(cache_enabled=False)

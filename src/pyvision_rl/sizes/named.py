"""The sizes of published models, for a machine that cannot reach them.

In: a model's name, such as ``Qwen/Qwen2.5-VL-7B-Instruct``. Out: its ``Architecture``. The numbers
are those of the models' own ``config.json``; the parameters that follow from them are held against
the published totals by a test. Mixture-of-experts models are not here: no part of this package
loads them.
"""

from __future__ import annotations

import re
from typing import Any

from pyvision_rl.sizes.architecture import Architecture, read_architecture

_NAME = re.compile(r"(?:.*/)?Qwen(2\.5|3)-VL-(\d+)B(?:-Instruct|-Thinking)?")
_QWEN_2_5_TOWER = {"depth": 32, "hidden_size": 1280, "num_heads": 16}
_SMALL_TOWER = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": (5, 11, 17),
}


def _sizes(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int
) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }


_NAMED: dict[tuple[str, int], tuple[dict[str, int], dict[str, Any], bool]] = {
    ("2.5", 3): (_sizes(2048, 11008, 36, 16, 2, 151936), {"intermediate_size": 3420}, True),
    ("2.5", 7): (_sizes(3584, 18944, 28, 28, 4, 152064), {"intermediate_size": 3420}, False),
    ("2.5", 32): (_sizes(5120, 27648, 64, 40, 8, 152064), {"intermediate_size": 3456}, False),
    ("2.5", 72): (_sizes(8192, 29568, 80, 64, 8, 152064), {"intermediate_size": 3456}, False),
    ("3", 2): (_sizes(2048, 6144, 28, 16, 8, 151936), _SMALL_TOWER, True),
    ("3", 4): (_sizes(2560, 9728, 36, 32, 8, 151936), _SMALL_TOWER, True),
    ("3", 8): (_sizes(4096, 12288, 36, 32, 8, 151936), {}, False),
    ("3", 32): (_sizes(5120, 25600, 64, 64, 8, 151936), {}, False),
}
"""(generation, billions) -> language model, what its tower has of its own, tied embeddings."""

NAMES = tuple(f"Qwen{generation}-VL-{billions}B" for generation, billions in _NAMED)
"""The models that are known, without ``-Instruct`` or ``-Thinking``."""


def named_config(name: str) -> dict[str, Any] | None:
    """Return what matters of the ``config.json`` of a known model; None for others.

    Args:
        name: With or without the owner, ``-Instruct`` or ``-Thinking``.
    """
    match = _NAME.fullmatch(name)
    found = _NAMED.get((match[1], int(match[2]))) if match else None
    if match is None or found is None:
        return None
    text, tower, tied = found
    old = match[1] == "2.5"
    return {
        "model_type": "qwen2_5_vl" if old else "qwen3_vl",
        "text_config": dict(text),
        "vision_config": (_QWEN_2_5_TOWER if old else {})
        | tower
        | {"out_hidden_size": text["hidden_size"]},
        "tie_word_embeddings": tied,
    }


def named(name: str) -> Architecture | None:
    """Return the sizes of a known model; None for others."""
    config = named_config(name)
    if config is None:
        return None
    old = config["model_type"] == "qwen2_5_vl"  # whose limits are the defaults
    limits = None if old else {"min_pixels": 65_536, "max_pixels": 16_777_216}
    return read_architecture(config, limits)

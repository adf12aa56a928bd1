"""Loading a model from a Hugging Face directory or name, with clear refusals.

In: a path or name. Out: a ``VisionLanguageModel``. Knows where each family keeps its pixel limits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pyvision_rl.errors import ConfigError
from pyvision_rl.images import VisionSpec
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.vision_speed import speed_up

FAMILIES = ("qwen2_5_vl", "qwen3_vl")


def load_model(
    path: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VisionLanguageModel:
    """Return the model at ``path`` (Hugging Face directory or name) in evaluation mode.

    Raises:
        ConfigError: Nothing is there, or it is not of a supported vision-language family.
    """
    from transformers import AutoConfig

    if not path:
        raise ConfigError("policy.model is empty: give a Hugging Face directory or name")
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.model = {path!r} cannot be loaded: {error}") from error
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"policy.model = {path!r} is a {config.model_type!r} model; "
            f"supported families: {', '.join(FAMILIES)}"
        )
    module = load_network(path, getattr(torch, dtype))
    spec = vision_spec(path, config, min_pixels=min_pixels, max_pixels=max_pixels)
    module.to(_device(device)).eval()
    return VisionLanguageModel(module, spec, _num_tokens(path, config.image_token_id))


def load_network(path: str, dtype: torch.dtype) -> Any:
    """Return transformers' module at ``path``, with the vision tower's larger operations.

    Policy and reference both come from here: equal weights then give equal bits.

    Raises:
        OSError, ValueError: There is no such model.
    """
    from transformers import AutoModelForImageTextToText

    module: Any = AutoModelForImageTextToText.from_pretrained(
        path, dtype=dtype, attn_implementation="sdpa"
    )
    # Another family is refused by the caller, who can name what was wanted.
    if module.config.model_type in FAMILIES:
        speed_up(module.model.visual)
    return module


def _num_tokens(path: str, image_token_id: int) -> int | None:
    """Entries of the model's tokenizer; None without one."""
    from transformers import AutoTokenizer

    try:
        count = len(AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError):
        return None
    # Where its files are missing, transformers makes up an empty one: it ends before that id.
    return count if count > image_token_id else None


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def vision_spec(
    path: str, config: Any = None, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> VisionSpec:
    """Return the pixel rule of the model at ``path``: its preprocessor file, then overrides.

    Raises:
        ConfigError: The model or its preprocessor file is missing, or the limits contradict.
    """
    from transformers import AutoConfig
    from transformers.utils.hub import cached_file

    config = config or AutoConfig.from_pretrained(path)
    try:
        found = cached_file(path, "preprocessor_config.json")
    except OSError as error:
        raise ConfigError(f"{path!r} has no preprocessor_config.json: {error}") from error
    raw = json.loads(Path(str(found)).read_text(encoding="utf-8"))
    size = raw.get("size") or {}
    low = min_pixels or raw.get("min_pixels") or size.get("shortest_edge") or 3136
    high = max_pixels or raw.get("max_pixels") or size.get("longest_edge") or 12845056
    if low > high:
        raise ConfigError(f"policy.min_pixels = {low} is above policy.max_pixels = {high}")
    vision = config.vision_config
    return VisionSpec(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        min_pixels=low,
        max_pixels=high,
        mean=tuple(raw["image_mean"]),
        std=tuple(raw["image_std"]),
    )


def set_threads(count: int | None) -> None:
    """Set torch's CPU threads; None leaves torch's own choice."""
    if count is not None:
        torch.set_num_threads(count)

"""Loading a model from a Hugging Face directory or name, with clear refusals.

In: a path or name. Out: a ``VisionLanguageModel``. Knows where each family keeps its pixel limits.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

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
        ConfigError: Nothing is there, it is not of a supported vision-language family, its files
            cannot be read, or there is no such device.
    """
    from transformers import AutoConfig

    if not path:
        raise ConfigError("policy.model is empty: give a Hugging Face directory or name")
    place = _device(device)
    try:
        config = AutoConfig.from_pretrained(path)
        if (family := config.model_type) not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(f"it is a {family!r} model; supported families: {known}")
        module = load_network(path, getattr(torch, dtype)).to(place).eval()
    except torch.OutOfMemoryError as error:
        full = f"policy.device = {device!r} is too small or too full for {path!r} in {dtype}"
        raise ConfigError(f"{full}: {error}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        from pyvision_rl.absent import no_model

        raise ConfigError(f"policy.model = {path!r} {no_model(path, error)}") from error
    spec = vision_spec(path, config, min_pixels=min_pixels, max_pixels=max_pixels)
    return VisionLanguageModel(module, spec, _num_tokens(path, config.image_token_id))


def load_network(path: str, dtype: torch.dtype) -> Any:
    """Return transformers' module at ``path``, with the vision tower's larger operations.

    Policy and reference both come from here: equal weights then give equal bits.

    Raises:
        OSError, ValueError: There is no such model, or tensors of it are missing.
        RuntimeError, SafetensorError: Its weights are damaged.
    """
    from transformers import AutoModelForImageTextToText

    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        path, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
    )
    module, told = loaded
    # transformers makes up what is missing, and warns.
    if lost := sorted(told["missing_keys"]):
        raise ValueError(f"its weights lack {len(lost)} tensors, the first is {lost[0]}")
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
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    # torch without CUDA asserts.
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"policy.device = {name!r}: {error}") from error


def vision_spec(
    path: str, config: Any = None, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> VisionSpec:
    """Return the pixel rule of the model at ``path``: its processor's file, then overrides.

    Raises:
        ConfigError: The model or its processor's file is missing, or the limits contradict.
    """
    from transformers import AutoConfig, ImageProcessingMixin

    config = config or AutoConfig.from_pretrained(path)
    try:
        # In processor_config.json or preprocessor_config.json: transformers knows which.
        raw, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.model = {path!r} has no image processor: {error}") from error
    size = raw.get("size") or {}
    low: Any = min_pixels or raw.get("min_pixels") or size.get("shortest_edge")
    high: Any = max_pixels or raw.get("max_pixels") or size.get("longest_edge")
    needed = {"image_mean": raw.get("image_mean"), "image_std": raw.get("image_std")}
    needed |= {"size.shortest_edge": low, "size.longest_edge": high}
    if lost := [name for name, value in needed.items() if not value]:
        raise ConfigError(
            f"policy.model = {path!r}: the file of its image processor does not say "
            f"{', '.join(lost)}; policy.min_pixels and policy.max_pixels may say the sizes"
        )
    if low > high:
        keys = f"policy.min_pixels = {min_pixels}, policy.max_pixels = {max_pixels}"
        raise ConfigError(f"{keys}: {low} is above {high} (None is what {path!r} itself says)")
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

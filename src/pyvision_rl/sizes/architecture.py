"""The numbers that a network's size follows from, without the network.

In: a model directory's ``config.json``, or the name of a known model. Out: an ``Architecture``.
Reads no weights, needs no torch and asks no network. Keys that a file leaves out are the family's
own defaults, as transformers fills them in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyvision_rl.errors import ConfigError
from pyvision_rl.images import VisionSpec

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "qwen2_5_vl": {
        "text": {
            "vocab_size": 152064,
            "hidden_size": 8192,
            "intermediate_size": 29568,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
        "vision": {
            "depth": 32,
            "hidden_size": 3584,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
        },
    },
    "qwen3_vl": {
        "text": {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
        },
        "vision": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": (8, 16, 24),
        },
    },
}
FAMILIES = tuple(DEFAULTS)
_EVERY_TOWER = {"in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2}


@dataclass(frozen=True, slots=True)
class TextSizes:
    """The language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """Whether the output head is the embedding."""

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class VisionSizes:
    """The vision tower."""

    hidden: int
    intermediate: int
    layers: int
    out: int
    """Width of what it hands to the language model."""
    patch: int
    merge: int
    frames: int
    """Of one patch."""
    channels: int
    positions: int = 0
    """Entries of its position table; Qwen2.5-VL has none."""
    deep: int = 0
    """Layers whose features go to the language model beside the last one's (DeepStack)."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network."""

    family: str
    text: TextSizes
    vision: VisionSizes
    spec: VisionSpec
    """How it wants its images; pixel limits of its processor's file where there is one."""


def read_architecture(config: dict[str, Any], preprocessor: dict[str, Any] | None) -> Architecture:
    """Return the sizes in the parsed ``config.json`` of a model and in its ``read_preprocessor``.

    Raises:
        ConfigError: It is of another family, or a number is none.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"a {family!r} model cannot be sized; supported families: {', '.join(FAMILIES)}"
        )
    # Older files of Qwen2.5-VL hold the language model's numbers at the top.
    raw_text = config.get("text_config") or config
    text = DEFAULTS[family]["text"] | {k: v for k, v in raw_text.items() if v is not None}
    vision = _EVERY_TOWER | DEFAULTS[family]["vision"] | (config.get("vision_config") or {})
    vision["in_channels"] = vision.get("in_chans", vision["in_channels"])
    tied = config.get("tie_word_embeddings", raw_text.get("tie_word_embeddings", False))
    try:
        return Architecture(
            family, _text(text, bool(tied)), _vision(family, vision), _spec(vision, preprocessor)
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"config.json of a {family} model holds no sizes: {error}") from error


def _text(text: dict[str, Any], tied: bool) -> TextSizes:
    heads = int(text["num_attention_heads"])
    return TextSizes(
        hidden=int(text["hidden_size"]),
        intermediate=int(text["intermediate_size"]),
        layers=int(text["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(text["num_key_value_heads"]),
        head_dim=int(text.get("head_dim") or text["hidden_size"] // heads),
        vocab=int(text["vocab_size"]),
        tied=tied,
    )


def _vision(family: str, vision: dict[str, Any]) -> VisionSizes:
    deep = family == "qwen3_vl"
    return VisionSizes(
        hidden=int(vision["hidden_size"]),
        intermediate=int(vision["intermediate_size"]),
        layers=int(vision["depth"]),
        out=int(vision["out_hidden_size"]),
        patch=int(vision["patch_size"]),
        merge=int(vision["spatial_merge_size"]),
        frames=int(vision["temporal_patch_size"]),
        channels=int(vision["in_channels"]),
        positions=int(vision["num_position_embeddings"]) if deep else 0,
        deep=len(vision["deepstack_visual_indexes"]) if deep else 0,
    )


def _spec(vision: dict[str, Any], preprocessor: dict[str, Any] | None) -> VisionSpec:
    raw = preprocessor or {}
    size = raw.get("size") or {}
    standard = VisionSpec()
    return VisionSpec(
        patch_size=int(vision["patch_size"]),
        merge_size=int(vision["spatial_merge_size"]),
        temporal_patch_size=int(vision["temporal_patch_size"]),
        min_pixels=raw.get("min_pixels") or size.get("shortest_edge") or standard.min_pixels,
        max_pixels=raw.get("max_pixels") or size.get("longest_edge") or standard.max_pixels,
    )


def read_folder(folder: Path) -> Architecture:
    """Return the sizes of the model in a folder.

    Raises:
        ConfigError: Its files cannot be read, or are of another family.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / 'config.json'} is no JSON object")
    return read_architecture(config, read_preprocessor(folder))


def read_preprocessor(folder: Path) -> dict[str, Any] | None:
    """Return what the files of a model say of its images; None if none does.

    As transformers looks for it: its version 5 writes a section of ``processor_config.json``.

    Raises:
        ConfigError: A file cannot be read.
    """
    sections = {"processor_config.json": "image_processor", "preprocessor_config.json": None}
    for name, section in sections.items():
        file = folder / name
        try:
            raw = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            found: dict[str, Any] | None = raw.get(section) if section else raw
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from error
        if found:
            return found
    return None

"""How many parameters a network has, by part, and how many of them a run trains.

In: an ``Architecture`` and ``TrainConfig``. Out: exact counts. Closed formulas, equal to what
transformers builds (a test compares them).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvision_rl.config import TrainConfig
from pyvision_rl.sizes.architecture import Architecture, TextSizes, VisionSizes

LORA_MAPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""``train.lora_targets`` -> linear maps of a layer of the language model."""
LORA_MAPS["all"] = (*LORA_MAPS["attention"], *LORA_MAPS["mlp"])


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of a network by part."""

    vision: int
    """The tower, its mergers included."""
    text: int
    """The language model's layers and last norm."""
    embeddings: int
    """Token embeddings, and the output head where it is not the same."""
    adapters: int = 0
    """LoRA's, beside the network."""

    @property
    def total(self) -> int:
        """Of the network, without adapters."""
        return self.vision + self.text + self.embeddings


@dataclass(frozen=True, slots=True)
class Trained:
    """What moves in a run."""

    total: int
    matrices: int
    """Those that Muon takes where ``train.optimizer = "muon"``."""


def count(architecture: Architecture, train: TrainConfig) -> Parameters:
    """Return the parameters of a network, with the adapters that ``train`` adds to it."""
    text = architecture.text
    return Parameters(
        vision=_vision(architecture),
        text=text.layers * text_layer(architecture) + text.hidden,
        embeddings=text.vocab * text.hidden * (1 if text.tied else 2),
        adapters=adapters(text, train),
    )


def trained(architecture: Architecture, train: TrainConfig) -> Trained:
    """Return what a run with ``train`` moves."""
    if train.lora_rank:
        moved = adapters(architecture.text, train)
        return Trained(moved, moved)
    whole = count(architecture, train)
    matrices = architecture.text.layers * sum(linear_sizes(architecture.text).values())
    if train.freeze_vision:
        return Trained(whole.total - whole.vision, matrices)
    return Trained(whole.total, matrices + _vision_matrices(architecture.vision))


def linear_sizes(text: TextSizes) -> dict[str, int]:
    """Return the weights of each linear map in one layer of the language model."""
    return {name: rows * columns for name, (rows, columns) in _shapes(text).items()}


def adapters(text: TextSizes, train: TrainConfig) -> int:
    """Return the parameters of the LoRA adapters: rank * (in + out) for each map they stand at."""
    shapes = _shapes(text)
    widths = sum(sum(shapes[name]) for name in LORA_MAPS[train.lora_targets])
    return text.layers * train.lora_rank * widths


def text_layer(architecture: Architecture) -> int:
    """Return the parameters of one layer of the language model."""
    text = architecture.text
    norms = 2 * text.hidden
    norms_of_heads, biases = 2 * text.head_dim, text.query + 2 * text.key
    extra = norms_of_heads if architecture.family == "qwen3_vl" else biases
    return sum(linear_sizes(text).values()) + norms + extra


def _shapes(text: TextSizes) -> dict[str, tuple[int, int]]:
    return {
        "q_proj": (text.hidden, text.query),
        "k_proj": (text.hidden, text.key),
        "v_proj": (text.hidden, text.key),
        "o_proj": (text.query, text.hidden),
        "gate_proj": (text.hidden, text.intermediate),
        "up_proj": (text.hidden, text.intermediate),
        "down_proj": (text.intermediate, text.hidden),
    }


def _vision(architecture: Architecture) -> int:
    vision = architecture.vision
    H, wide = vision.hidden, vision.hidden * vision.merge**2
    patch = vision.channels * vision.frames * vision.patch**2 * H
    attention = H * 3 * H + 3 * H + H * H + H
    merger = wide * wide + wide + wide * vision.out + vision.out
    if architecture.family == "qwen2_5_vl":
        mlp = 3 * H * vision.intermediate + 2 * vision.intermediate + H
        return patch + vision.layers * (attention + mlp + 2 * H) + merger + H
    mlp = 2 * H * vision.intermediate + vision.intermediate + H
    blocks = vision.layers * (attention + mlp + 4 * H)
    # A deep merger norms what it has merged already.
    mergers = merger + 2 * H + vision.deep * (merger + 2 * wide)
    return patch + H + vision.positions * H + blocks + mergers


def _vision_matrices(vision: VisionSizes) -> int:
    H, wide = vision.hidden, vision.hidden * vision.merge**2
    maps = 2 if vision.positions else 3
    blocks = vision.layers * (4 * H * H + maps * H * vision.intermediate)
    return blocks + (1 + vision.deep) * (wide * wide + wide * vision.out)

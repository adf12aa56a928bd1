"""The section that says what ``pvrl new-model`` makes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pyvision_rl.config.base import Section
from pyvision_rl.config.episodes import TasksConfig


class VisionConfig(Section):
    """Vision tower of a new model."""

    hidden_size: int = Field(64, gt=0)
    """A multiple of 4 * num_heads."""
    depth: int = Field(2, gt=0)
    num_heads: int = Field(2, gt=0)
    intermediate_size: int = Field(128, gt=0)
    patch_size: int = Field(14, gt=0)
    min_pixels: int = Field(784, gt=0)
    max_pixels: int = Field(12544, gt=0)


class NewModelConfig(Section):
    """Architecture and tokenizer of ``pvrl new-model``."""

    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    hidden_size: int = Field(128, gt=0)
    """A multiple of 2 * num_heads, and at least 8 * num_heads."""
    num_layers: int = Field(3, gt=0)
    num_heads: int = Field(4, gt=0)
    num_kv_heads: int = Field(2, gt=0)
    """Divides num_heads."""
    intermediate_size: int = Field(256, gt=0)
    max_position_embeddings: int = Field(4096, gt=0)
    initializer_range: float = Field(0.08, gt=0)
    """About 1/sqrt(hidden_size): at a width of 128, 0.02 learns nothing visual."""
    vision: VisionConfig = VisionConfig()
    vocab_size: int = Field(640, gt=0)
    """At most; special tokens and the byte alphabet included."""
    pre_tokenizer: str = r"\d+|[^\d]+"
    """Pattern that splits text before BPE merges."""
    special_tokens: tuple[str, ...] = ("<code>", "</code>", "<answer>", "</answer>")
    """Extra whole tokens, beside the chat and vision tokens of the family."""
    corpus_tasks: tuple[TasksConfig, ...] = ()
    """The tokenizer is trained on the rendered prompts, scripts and pairs of these task sets ..."""
    corpus_files: tuple[str, ...] = ()
    """... and on these text files."""
    corpus_count: int = Field(200, gt=0)
    """Tasks drawn from each task set."""

"""Small random vision-language models of both families, made in code, with their tokenizer.

For tests that need a network but no skill. Weights are random with a fixed seed; the tokenizer is
a ChatML byte-level BPE trained on a few sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyvision_rl.config import NewModelConfig, VisionConfig
from pyvision_rl.media import image_media
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.create import create_model
from pyvision_rl.models.load import load_model
from pyvision_rl.types import Media, Segment

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
ROUNDING = 2e-5
"""How far apart float32 log-probabilities of one text may lie that went through batches of other
shapes: 1.1e-5 measured with AVX2, 1.2e-5 with AVX-512."""
_TEXTS = (
    "<|im_start|>user\nWhich digit is in the top left corner of the picture?<|im_end|>\n",
    "<code>\n```python\nplt.imshow(image_clue_0.crop((0, 0, 64, 64)))\nplt.show()\n```\n</code>",
    "<answer>\n\\boxed{7}\n</answer><|im_end|>\n",
    "<interpreter>\nText Result:\n12 34 56\nImage Result:\n</interpreter>",
)


def make_tiny(
    folder: Path, family: str = "qwen2_5_vl", *, seed: int = 0, **sizes: Any
) -> tuple[VisionLanguageModel, Any]:
    """Return a random model of about 0.1 M parameters, and its tokenizer.

    Args:
        folder: Receives the Hugging Face directory.
        family: One of ``FAMILIES``.
        seed: Of the weights.
        sizes: Overrides of ``NewModelConfig``.
    """
    config = NewModelConfig.model_validate(
        {
            "family": family,
            "hidden_size": 64,
            "num_layers": 2,
            "intermediate_size": 96,
            "initializer_range": 0.2,
            "vocab_size": 380,
            "vision": VisionConfig(hidden_size=32, depth=2, intermediate_size=64),
            **sizes,
        }
    )
    create_model(config, _TEXTS, folder, seed)
    from transformers import AutoTokenizer

    return load_model(str(folder), device="cpu"), AutoTokenizer.from_pretrained(folder)


def decoder(tokenizer: Any) -> Any:
    """Return ``decode`` as renderers give it: special tokens shown, text untouched."""

    def decode(token_ids: Any) -> str:
        return str(
            tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    return decode


def noise(seed: int, width: int = 56, height: int = 56) -> Media:
    """Return a picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image_media(Image.fromarray(pixels))


def given(tokenizer: Any, text: str, *media: Media) -> Segment:
    """Return given tokens; every ``[image]`` in the text becomes one placeholder."""
    text = text.replace("[image]", "<|vision_start|><|image_pad|><|vision_end|>")
    return Segment(tuple(tokenizer.encode(text)), sampled=False, media=media)

"""Making a small model from nothing: an ordinary Hugging Face directory.

In: ``[new_model]`` and the texts its tokenizer is trained on. Out: weights, config, tokenizer with
chat template and preprocessor file that ``transformers`` loads. Trains nothing but the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pyvision_rl.config import NewModelConfig

CHAT_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MEAN_STD = {
    "qwen2_5_vl": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "qwen3_vl": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def create_model(config: NewModelConfig, texts: Iterable[str], out: Path, seed: int) -> int:
    """Write a randomly initialised model to ``out`` and return its number of parameters."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(config, texts)
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    module = _build(config, tokenizer)
    module.save_pretrained(out, safe_serialization=True)
    mean, std = _MEAN_STD[config.family]
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": config.vision.patch_size,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {
            "shortest_edge": config.vision.min_pixels,
            "longest_edge": config.vision.max_pixels,
        },
        "image_mean": mean,
        "image_std": std,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    return sum(p.numel() for p in module.parameters())


def train_tokenizer(config: NewModelConfig, texts: Iterable[str]) -> Any:
    """Return a byte-level BPE tokenizer with ChatML, vision and ``config.special_tokens``."""
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(config.pre_tokenizer), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [*CHAT_TOKENS, *config.special_tokens]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    make: Any = transformers.PreTrainedTokenizerFast
    tokenizer = make(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special[3:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _build(config: NewModelConfig, tokenizer: Any) -> Any:
    import transformers

    text, vision = _text_config(config, tokenizer), _vision_config(config)
    kind = "Qwen2_5_VL" if config.family == "qwen2_5_vl" else "Qwen3VL"
    token = tokenizer.convert_tokens_to_ids
    network_config = getattr(transformers, f"{kind}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        initializer_range=config.initializer_range,
    )
    network_config._attn_implementation = "sdpa"
    return getattr(transformers, f"{kind}ForConditionalGeneration")(network_config)


def _text_config(config: NewModelConfig, tokenizer: Any) -> dict[str, Any]:
    token = tokenizer.convert_tokens_to_ids
    head = config.hidden_size // config.num_heads
    # Three rotary sections (time, height, width) must fill half a head; space gets more than time.
    space = (head // 2) * 3 // 8
    text: dict[str, Any] = {
        # Rounded up: matrix kernels like multiples of 64.
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": head,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head // 2 - 2 * space, space, space],
        },
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "tie_word_embeddings": True,
    }
    if config.family == "qwen2_5_vl":
        text.pop("head_dim")
    else:
        text["rope_parameters"] |= {"mrope_interleaved": True}
    return text


def _vision_config(config: NewModelConfig) -> dict[str, Any]:
    vision: dict[str, Any] = {
        "depth": config.vision.depth,
        "hidden_size": config.vision.hidden_size,
        "intermediate_size": config.vision.intermediate_size,
        "num_heads": config.vision.num_heads,
        "out_hidden_size": config.hidden_size,
        "patch_size": config.vision.patch_size,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": config.initializer_range,
    }
    if config.family == "qwen2_5_vl":
        # Full attention everywhere: windows of 112 px would hide most of a tiny image.
        return vision | {
            "window_size": 112,
            "fullatt_block_indexes": list(range(config.vision.depth)),
        }
    return vision | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}

"""The vocabulary of Qwen2.5-VL and Qwen3-VL, from packages that ship its parts.

In: ``dashscope`` (the byte pairs in order of rank) and ``trl`` (the chat templates). Out: a
transformers tokenizer like the released ones; nothing is downloaded from a model's page.
"""

from __future__ import annotations

import base64
from importlib.resources import files
from itertools import pairwise
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.chat_tokenizers import FINE

TEMPLATES = {"qwen2_5_vl": "qwen2_5_vl.jinja", "qwen3_vl": "qwen3_vl.jinja"}
FIRST_SPECIAL = 151_643
_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_ADDED = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
_ADDED_3 = ("<tool_response>", "</tool_response>", "<think>", "</think>")


def ranks() -> dict[bytes, int]:
    """Return every byte string of the vocabulary and its rank, which is its id."""
    text = (files("dashscope") / "resources" / "qwen.tiktoken").read_bytes()
    pairs = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def qwen_tokenizer(family: str) -> Any:
    """Return the tokenizer of ``family``, with its chat template."""
    known = ranks()
    character = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(character[byte] for byte in token)

    merges = [
        (spelled(left), spelled(right))
        for left, right in (
            _halves(t, known) for t in sorted(known, key=known.__getitem__) if t[1:]
        )
    ]
    bpe = Tokenizer(models.BPE({spelled(t): rank for t, rank in known.items()}, merges))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(FINE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    later = (*_ADDED, *(_ADDED_3 if family == "qwen3_vl" else ()))
    bpe.add_special_tokens([AddedToken(name, normalized=False) for name in _SPECIAL])
    bpe.add_tokens([AddedToken(name, normalized=False) for name in later])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        name_or_path=family,
    )
    template = files("trl") / "chat_templates" / TEMPLATES[family]
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def _halves(token: bytes, known: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the last two pieces that are merged into a token of the vocabulary."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    most = known[token]
    while len(pieces) > 2:
        joined = [known.get(a + b, most) for a, b in pairwise(pieces)]
        at = min(range(len(joined)), key=joined.__getitem__)
        if joined[at] >= most:
            raise ValueError(f"{token!r} cannot be merged from tokens of lower rank")
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    left, right = pieces
    return left, right

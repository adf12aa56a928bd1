"""The memory that a training step really takes on a CPU, and examples to take it with."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from pyvision_rl.images import VisionSpec
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.vision_speed import speed_up
from pyvision_rl.sizes.architecture import Architecture, read_architecture
from pyvision_rl.train.batching import Example
from pyvision_rl.train.learner import Learner, SftStats
from pyvision_rl.types import Batch, Segment, UpdateStats
from tests.tiny_models import noise

# The language model of SmolLM2-135M, with a small tower.
_TEXT_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
}
_VISION_135M: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_heads": 4,
    "out_hidden_size": 576,
    "fullatt_block_indexes": [0, 1, 2, 3],
}


def network_135m(
    max_pixels: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[VisionLanguageModel, Architecture]:
    """Return a random network of 135 million parameters, and its sizes."""
    model, architecture = _network(_TEXT_135M, _VISION_135M, VisionSpec(max_pixels=max_pixels))
    model.module.to(device, dtype)
    return model, architecture


def _network(
    text: dict[str, Any], vision: dict[str, Any], pixels: VisionSpec
) -> tuple[VisionLanguageModel, Architecture]:
    import transformers

    sizes: dict[str, Any] = {
        "text_config": copy.deepcopy(text),
        "vision_config": copy.deepcopy(vision),
        "tie_word_embeddings": True,
        "image_token_id": 5,
        "video_token_id": 6,
    }
    built: Any = transformers.Qwen2_5_VLConfig(**sizes)
    built._attn_implementation = "sdpa"
    torch.manual_seed(0)
    module: Any = transformers.Qwen2_5_VLForConditionalGeneration(built)
    speed_up(module.eval().model.visual)
    model = VisionLanguageModel(module, pixels)
    return model, read_architecture({"model_type": "qwen2_5_vl", **sizes}, None)


def examples(
    model: VisionLanguageModel, *, rows: int, text: int, side: int, written: int
) -> list[Example]:
    """Return rows of a picture of their own, ``text`` given and ``written`` sampled tokens."""
    made = []
    for row in range(rows):
        ids = (20, 21, model.image_token_id, 22)
        prompt = Segment(ids, False, media=(noise(row, side, side),))
        question = Segment(tuple(20 + i % 30 for i in range(text)), False)
        answer = Segment(tuple(30 + i % 20 for i in range(written)), True, (-1.0,) * written)
        made.append(Example((prompt, question, answer)))
    return made


def deep_network() -> tuple[VisionLanguageModel, Architecture]:
    """Return a network of 12 million parameters, nearly all of them in 12 layers, and its sizes."""
    text = {"vocab_size": 640, "hidden_size": 256, "intermediate_size": 1024}
    text |= {"num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 256}
    vision |= {"num_heads": 2, "fullatt_block_indexes": [0]}
    return _network(_TEXT_135M | text, vision, VisionSpec(max_pixels=12544))


def measured_peak(learner: Learner, batch: list[Example]) -> int:
    """Return the most bytes of tensors during the second step on ``batch``.

    torch's profiler tells every allocation. Weights and moments are there before; so are the
    pixels of pictures, which numpy owns.
    """
    learner.sft_step(batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        learner.sft_step(batch)
    results = found.profiler.kineto_results  # type: ignore[union-attr]
    events = sorted(
        (e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    assert events
    held = np.cumsum([event.nbytes() for event in events])
    states = [s for o in learner.optimizers.optimizers for s in o.state.values()]
    before = sum(v.nbytes for state in states for v in state.values())
    before += sum(p.nbytes for p in learner.model.module.parameters())
    pixels = sum(values.nbytes for values in learner.model._patches.values())
    return int(held.max()) + before + pixels // 2  # two micro-batches, one at a time


class Copying(Learner):
    """Goes on from a copy of a state, and notes at each step whether anybody still has the state.

    torch's own optimizers keep its tensors where they can.
    """

    def __init__(self, *args: Any, held: list[bool], **options: Any) -> None:
        super().__init__(*args, **options)
        self._held = held
        self._state: list[weakref.ref[torch.Tensor]] = []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = [weakref.ref(tensor) for tensor in tensors(state)]
        assert self._state
        super().load_state_dict(copy.deepcopy(state))

    def update(self, batch: Batch, temperature: float) -> UpdateStats:
        self._note()
        return super().update(batch, temperature)

    def sft_step(self, examples: Sequence[Example]) -> SftStats:
        self._note()
        return super().sft_step(examples)

    def _note(self) -> None:
        gc.collect()
        self._held.append(any(found() is not None for found in self._state))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors(each)

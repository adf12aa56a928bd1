"""The estimate of memory holds on a network of a real size, too large for the quick tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyvision_rl.config import Config
from pyvision_rl.images import VisionSpec
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.vision_speed import speed_up
from pyvision_rl.sizes import memory
from pyvision_rl.sizes.architecture import read_architecture
from pyvision_rl.sizes.parameters import count
from pyvision_rl.train.batching import pack
from pyvision_rl.train.learner import Learner
from tests.measured import TEXT_135M, VISION_135M, examples, measured_peak


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step_of_135_million_parameters(checkpointing: bool) -> None:
    """Slow: two steps of a network of a real width on a CPU, about 4 GB."""
    import transformers

    sizes: dict[str, Any] = {
        "text_config": TEXT_135M,
        "vision_config": VISION_135M,
        "tie_word_embeddings": True,
        "image_token_id": 5,
        "video_token_id": 6,
    }
    built: Any = transformers.Qwen2_5_VLConfig(**sizes)
    built._attn_implementation = "sdpa"
    torch.manual_seed(0)
    module: Any = transformers.Qwen2_5_VLForConditionalGeneration(built).eval()
    speed_up(module.model.visual)
    model = VisionLanguageModel(module, VisionSpec(max_pixels=12544))
    architecture = read_architecture({"model_type": "qwen2_5_vl", **sizes}, None)
    parameters = sum(p.numel() for p in module.parameters())
    keys = {"gradient_checkpointing": checkpointing, "micro_batch_tokens": 512}
    config = Config.model_validate({"train": keys})
    assert count(architecture, config.train).total == parameters > 135e6
    batch = examples(model, rows=4, text=120, side=112, written=100)
    micro = pack(batch, model, 512)
    assert [len(m.rows) for m in micro] == [2, 2]
    B, T = micro[0].token_ids_BT.shape
    one = memory.Pass(tokens=B * T, targets=micro[0].num_targets, patches=2 * 64)
    want = memory.fixed(architecture, config, "sft").total
    want += memory.activations(architecture, config, one) + memory.logits(architecture, one)
    got = measured_peak(Learner(model, config.train), batch)
    assert abs(want - got) / got < 0.2, (want, got)

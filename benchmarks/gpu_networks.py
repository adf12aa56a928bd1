"""Networks of published sizes on one GPU: what a step takes, and what ``--dry-run`` says it takes.

In: a case. Out: seconds, tokens a second and GiB, measured and planned. Weights are random, so that
no file is needed: neither time nor memory depends on what they are.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.images import VisionSpec, grid
from pyvision_rl.media import image_media
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.vision_speed import speed_up
from pyvision_rl.policy.local import LocalPolicy
from pyvision_rl.sizes import memory
from pyvision_rl.sizes.architecture import Architecture, read_architecture
from pyvision_rl.sizes.named import named_config
from pyvision_rl.train.batching import Example, pack
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import Media, SampleLimits, SampleRequest, Segment

GIB = 2**30
_HALF: dict[str, Any] = {"dtype": "bfloat16"}
_TRAIN: dict[str, Any] = {"freeze_vision": True, "gradient_checkpointing": True}
_LORA = _TRAIN | {"lora_rank": 64, "lora_alpha": 64}


@dataclass(frozen=True, slots=True)
class Case:
    """A network, how it is trained, and what it is given."""

    name: str
    model: str
    """A published name."""
    train: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=lambda: dict(_HALF))
    rows: int = 4
    """Examples of a step; two of them make a micro-batch."""
    side: int = 1008
    """Pixels: a picture of 36 x 36 visual tokens in each row."""
    text: int = 1900
    written: int = 800
    steps: int = 4
    sampled_rows: int = 16
    new_tokens: int = 64


CASES = (
    Case(
        "7B without its tower",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        _TRAIN | {"master_weights": True},
    ),
    Case("3B, adapters", "Qwen/Qwen2.5-VL-3B-Instruct", _LORA),
    Case("7B, adapters", "Qwen/Qwen2.5-VL-7B-Instruct", _LORA),
    Case("Qwen3-VL 8B, adapters", "Qwen/Qwen3-VL-8B-Instruct", _LORA),
)
_SMALL = {
    "vocab_size": 800,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
}
TINY_CASES = (
    Case(
        "tiny",
        "",
        _LORA | {"lora_rank": 4},
        rows=2,
        side=112,
        text=20,
        written=9,
        sampled_rows=2,
        new_tokens=4,
    ),
)


def measure(case: Case, device: str) -> dict[str, Any]:
    """Return the numbers of a case, or why there are none."""
    try:
        return _measure(case, device)
    # One case that does not fit must not cost the others.
    except Exception as error:  # noqa: BLE001
        return {"failed": [f"{type(error).__name__}: {error}"[:600]]}
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _measure(case: Case, device: str) -> dict[str, Any]:
    began = time.perf_counter()
    model, architecture = _network(case, device)
    print(f"{case.name}: built after {time.perf_counter() - began:.1f} s", flush=True)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "built_s": round(time.perf_counter() - began, 1),
    }
    tokens = 2 * (case.side // 28) ** 2 + 2 * (case.text + case.written + 3)
    config = Config.model_validate(
        {"policy": case.policy, "train": case.train | {"micro_batch_tokens": tokens}}
    )
    found["sampling"] = _sampled(model, case, device)
    if config.train.lora_rank:
        from pyvision_rl.models.adapters import add_adapters
        from pyvision_rl.sizes.parameters import LORA_MAPS

        train = config.train
        targets = LORA_MAPS[train.lora_targets]
        add_adapters(
            model.module, rank=train.lora_rank, alpha=train.lora_alpha, targets=targets, seed=0
        )
    found["training"] = _trained(model, architecture, config, case, device)
    return found


def _network(case: Case, device: str) -> tuple[VisionLanguageModel, Architecture]:
    import transformers
    from transformers.initialization import no_init_weights

    sizes = named_config(case.model) if case.model else None
    sizes = sizes or {
        "model_type": "qwen2_5_vl",
        "text_config": _SMALL,
        "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64},
        "image_token_id": 5,
        "video_token_id": 6,
    }
    kind = "Qwen2_5_VL" if sizes["model_type"] == "qwen2_5_vl" else "Qwen3VL"
    built = getattr(transformers, f"{kind}Config")(
        **{k: v for k, v in sizes.items() if k != "model_type"}
    )
    built._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, case.policy["dtype"]))
    try:
        with torch.device(device), no_init_weights():
            module = getattr(transformers, f"{kind}ForConditionalGeneration")(built)
    finally:
        torch.set_default_dtype(before)
    module.tie_weights()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02)
            else:
                parameter.fill_(1.0)
    speed_up(module.model.visual)
    patch = 16 if kind == "Qwen3VL" else 14
    spec = VisionSpec(patch_size=patch, max_pixels=2_000_000)
    return VisionLanguageModel(module.eval(), spec), read_architecture(sizes, None)


def _trained(
    model: VisionLanguageModel,
    architecture: Architecture,
    config: Config,
    case: Case,
    device: str,
) -> dict[str, Any]:
    batch = [_example(model, case, row) for row in range(case.rows)]
    micro = pack(batch, model, config.train.micro_batch_tokens)
    per_pass = max(len(m.rows) for m in micro)
    patches = per_pass * int(np.prod(grid(batch[0].segments[0].media[0], model.vision)))
    shape = micro[0].token_ids_BT.shape
    one = memory.Pass(shape[0] * shape[1], micro[0].num_targets, patches)
    del micro
    fixed = memory.fixed(architecture, config, "sft")
    passing = memory.activations(architecture, config, one) + memory.logits(architecture, one)
    passing += memory.weight_copies(architecture, config)
    planned = fixed.total + max(passing, memory.stepping(architecture, config))
    learner = Learner(model, config.train)
    times, tokens = [], 0
    for _ in range(case.steps):
        _fresh_peak(device)
        began = time.perf_counter()
        learner.sft_step(batch)
        _wait(device)
        times.append(time.perf_counter() - began)
        print(f"{case.name}: a step of {times[-1]:.2f} s", flush=True)
        tokens = sum(len(model.expand(e.segments).token_ids) for e in batch)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    best = sorted(times[1:])[len(times[1:]) // 2]
    return {
        "tokens": tokens,
        "passes": -(-case.rows // per_pass),
        "step_s": [round(t, 3) for t in times],
        "tokens_per_s": round(tokens / best),
        "peak_gib": round(peak / GIB, 2),
        "planned_gib": round(planned / GIB, 2),
        "held_gib": round(held / GIB, 2),
        "planned_certain_gib": round((fixed.total - fixed.gradients) / GIB, 2),
        "planned_over_measured": round(planned / peak, 3) if peak else None,
    }


def _sampled(model: VisionLanguageModel, case: Case, device: str) -> dict[str, Any]:
    """Sample for some episodes at once, each with a picture of its own."""
    policy = LocalPolicy(model, decode=lambda ids: "", end_of_turn=-1, max_batch=case.sampled_rows)
    limits = SampleLimits(case.new_tokens, temperature=1.0)

    async def together() -> int:
        requests = [
            SampleRequest(
                f"e{row}",
                "t",
                row,
                _example(model, case, row).segments[:2],
                (),
                limits,
                row,
                (row,),
            )
            for row in range(case.sampled_rows)
        ]
        done = await asyncio.gather(*(policy.sample(r) for r in requests))
        await policy.close()
        return sum(len(c.token_ids) for c in done)

    _fresh_peak(device)
    began = time.perf_counter()
    count = asyncio.run(together())
    took = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {
        "rows": case.sampled_rows,
        "tokens": count,
        "seconds": round(took, 2),
        "tokens_per_s": round(count / took, 1),
        "peak_gib": round(peak / GIB, 2),
    }


def _example(model: VisionLanguageModel, case: Case, row: int) -> Example:
    ids = (20, 21, model.image_token_id, 22)
    prompt = Segment(ids, False, media=(_noise(row, case.side),))
    question = Segment(tuple(20 + i % 300 for i in range(case.text)), False)
    answer = Segment(tuple(30 + i % 200 for i in range(case.written)), True, (-1.0,) * case.written)
    return Example((prompt, question, answer))


def _noise(seed: int, side: int) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return image_media(Image.fromarray(pixels))


def _fresh_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

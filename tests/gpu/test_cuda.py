"""On a CUDA device: what holds on a CPU holds there, and memory is what the plan says.

python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from pyvision_rl.config import Config, TrainConfig
from pyvision_rl.errors import PolicyError, TrainError
from pyvision_rl.models.adapters import add_adapters
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.load import load_model
from pyvision_rl.policy.local import LocalPolicy
from pyvision_rl.sizes import memory
from pyvision_rl.sizes.parameters import LORA_MAPS
from pyvision_rl.train.batching import pack
from pyvision_rl.train.device_memory import forget_peak, peak_gib
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import (
    Completion,
    EndReason,
    SampleLimits,
    SampleRequest,
    Segment,
    Trajectory,
)
from tests.measured import examples, network_135m
from tests.sampled import batch_of, clone
from tests.tiny_models import FAMILIES, decoder, given, make_tiny, noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: needs a CUDA device"),
]
CLOSE = 1e-4
"""Between log-probabilities of float32 networks on one device, or on two (nats)."""


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    another_device()
    yield
    another_device()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    model, tokenizer = make_tiny(folder, request.param)
    return model, tokenizer, folder


def another_device() -> None:
    """Let the next learner choose device and precision: accelerate has one of each per process."""
    AcceleratorState._reset_state(reset_partial_state=True)


def play(
    model: VisionLanguageModel, tokenizer: Any, temperature: float, turns: int = 2
) -> list[tuple[list[Segment], list[Completion]]]:
    """Sample four episodes of two turns together, each turn after a picture."""
    end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    policy = LocalPolicy(model, decode=decoder(tokenizer), end_of_turn=end, max_batch=8)
    limits = SampleLimits(12, temperature=temperature)

    async def one(row: int) -> tuple[list[Segment], list[Completion]]:
        segments: list[Segment] = []
        done: list[Completion] = []
        for turn in range(turns):
            text = f"[image]picture {row} of turn {turn}" + " and more" * row
            segments.append(given(tokenizer, text, noise(10 * row + turn, 56 + 28 * row, 56)))
            request = SampleRequest(
                f"e{row}", "t", row, tuple(segments), (), limits, row * 7 + turn, (row,)
            )
            done.append(await policy.sample(request))
            segments.append(Segment(done[-1].token_ids, True, done[-1].logprobs))
        return segments, done

    async def together() -> list[tuple[list[Segment], list[Completion]]]:
        played = await asyncio.gather(*(one(row) for row in range(4)))
        await policy.close()
        return list(played)

    return asyncio.run(together())


def differences(model: VisionLanguageModel, tokenizer: Any) -> np.ndarray:
    """Return learner's minus sampler's log-probability of every sampled token."""
    played = play(model, tokenizer, 1.0)
    episodes = [
        Trajectory("t", row, tuple(segments), (), (), EndReason.ANSWERED)
        for row, (segments, _) in enumerate(played)
    ]
    learned = Learner(model, TrainConfig()).logprobs(episodes)
    wrote = [[p for c in done for p in c.logprobs] for _, done in played]
    return np.concatenate([np.array(a) - np.array(b) for a, b in zip(learned, wrote, strict=True)])


def test_sampler_and_learner_agree_in_float32(tiny, record_property) -> None:
    _, tokenizer, folder = tiny
    found = np.abs(differences(load_model(str(folder), device="cuda"), tokenizer))
    record_property("summary", f"float32 on a GPU: sampler and learner {found.max():.1e} apart")
    assert found.max() < CLOSE


def test_sampler_and_learner_agree_in_bfloat16_on_the_average(tiny, record_property) -> None:
    _, tokenizer, folder = tiny
    model = load_model(str(folder), device="cuda", dtype="bfloat16")
    found = np.abs(differences(model, tokenizer))
    record_property(
        "summary",
        f"bfloat16 on a GPU: sampler and learner {found.mean():.1e} apart on the average, "
        f"{found.max():.1e} at most",
    )
    assert found.mean() < 0.05


def test_a_gpu_samples_the_tokens_of_a_cpu(tiny) -> None:
    model, tokenizer, folder = tiny
    here = play(load_model(str(folder), device="cuda"), tokenizer, 0.0)
    there = play(model, tokenizer, 0.0)
    for (_, on_gpu), (_, on_cpu) in zip(here, there, strict=True):
        for one, other in zip(on_gpu, on_cpu, strict=True):
            assert one.token_ids == other.token_ids
            assert np.abs(np.subtract(one.logprobs, other.logprobs)).max() < CLOSE


@pytest.mark.parametrize("verb", ["rl", "sft"])
def test_a_step_is_that_of_a_cpu(tiny, verb: str) -> None:
    model, _, _ = tiny
    batch, texts = batch_of(model), examples(model, rows=3, text=9, side=56, written=7)
    stats, weights = [], []
    for device in ("cpu", "cuda"):
        another_device()
        own = clone(model)
        own.module.to(device)
        learner = Learner(own, TrainConfig(learning_rate=1e-3, grad_clip=0.5))
        done = learner.update(batch, 1.0) if verb == "rl" else learner.sft_step(texts)
        stats.append(done)
        weights.append({k: v.cpu() for k, v in own.module.state_dict().items()})
    one, other = stats
    assert getattr(one, "loss") == pytest.approx(getattr(other, "loss"), abs=1e-5)  # noqa: B009
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)
    # AdamW's first step is learning rate times sign: where a gradient is about zero, the sign may
    # differ.
    far = torch.cat([(weights[0][k] - weights[1][k]).abs().flatten() for k in weights[0]])
    assert float((far > 1e-4).float().mean()) < 0.05


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_same_steps_twice_give_the_same_weights(
    tiny, deterministic: bool, record_property
) -> None:
    model, _, _ = tiny
    batch = batch_of(model)
    another_device()
    made = []
    torch.use_deterministic_algorithms(deterministic)
    try:
        for _ in range(2):
            own = clone(model)
            own.module.to("cuda")
            learner = Learner(own, TrainConfig(learning_rate=1e-3))
            for _ in range(3):
                learner.update(batch, 1.0)
            made.append({k: v.cpu() for k, v in own.module.state_dict().items()})
    finally:
        torch.use_deterministic_algorithms(False)
    far = {k: float((made[0][k] - made[1][k]).abs().max()) for k in made[0]}
    other = [k for k, distance in far.items() if distance]
    record_property(
        "summary",
        f"{model.family}, deterministic algorithms {deterministic}: {len(other)} of {len(far)} "
        f"tensors differ, by {max(far.values()):.1e} at most; {other[:3]}",
    )
    assert max(far.values()) == 0.0


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, record_property) -> None:
    sets = ["new_model.corpus_count=40", "train.save_every=1", "train.keep_checkpoints=10"]
    sets += ["policy.device=cuda", f"policy.model={tmp_path / 'model'}"]
    for index, kind in enumerate(("pairs", "scripts", "scripts")):
        key = f"sft.stages.{index}"
        sets += [f"{key}.steps=3", f"{key}.batch_size=4", f"{key}.data.0.count=16"]
        sets += [f"{key}.stop_when=''", f"{key}.min_steps=0"]
        sets += [f"{key}.data.0.max_wrong=1.0"] if kind == "scripts" else []
    pvrl("new-model", "tiny_image_sft", "--out", str(tmp_path / "model"), sets=sets)
    pvrl("sft", "tiny_image_sft", "--out", str(tmp_path / "whole"), sets=sets)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    for later in (6, 7, 8, 9):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step_{later:06}")
    pvrl("sft", "--resume", str(tmp_path / "cut"))
    lines = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "cut")
    ]
    assert [len(each) for each in lines] == [9, 9]
    assert all(line["step_gib"] > 0 for line in lines[0])
    one, other = ([line["loss"] for line in each] for each in lines)
    assert one[:5] == other[:5]
    record_property("summary", f"resumed on a GPU: losses {one[5:]} and {other[5:]}")
    assert one == other


def pvrl(*words: str, sets: Sequence[str] = ()) -> None:
    """Run the command; fail with what it said."""
    more = [word for each in sets for word in ("--set", each)]
    command = [sys.executable, "-m", "pyvision_rl.cli.main", *words, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Not float32 alone: on a GPU torch's attention then keeps the scores of all pairs of tokens
# (docs/models.md).
KEYS: tuple[dict[str, Any], ...] = (
    {"mixed_precision": "bf16"},
    {"mixed_precision": "bf16", "gradient_checkpointing": True},
    {"dtype": "bfloat16", "master_weights": True},
    {"dtype": "bfloat16", "master_weights": True, "gradient_checkpointing": True},
    {"dtype": "bfloat16", "lora_rank": 32},
    {"dtype": "bfloat16", "lora_rank": 32, "gradient_checkpointing": True},
)


@pytest.mark.parametrize("keys", KEYS, ids=lambda k: " ".join(map(str, k.values())))
def test_the_peak_of_a_step_of_135_million_parameters_is_planned_within_a_fifth(
    keys: dict[str, Any], record_property
) -> None:
    dtype = keys.get("dtype", "float32")
    train = {k: v for k, v in keys.items() if k != "dtype"} | {"micro_batch_tokens": 4096}
    config = Config.model_validate({"train": train, "policy": {"dtype": dtype}})
    model, architecture = network_135m(448 * 448, dtype=getattr(torch, dtype), device="cuda")
    if config.train.lora_rank:
        targets = LORA_MAPS[config.train.lora_targets]
        add_adapters(model.module, rank=32, alpha=32, targets=targets, seed=0)
    batch = examples(model, rows=8, text=480, side=448, written=250)
    micro = pack(batch, model, 4096)
    rows = len(micro[0].rows)
    assert len(micro) == 2
    B, T = micro[0].token_ids_BT.shape
    # A picture of 448 x 448 pixels in patches of 14 x 14 is 1,024 of them.
    one = memory.Pass(tokens=B * T, targets=micro[0].num_targets, patches=rows * 1024)
    del micro
    passing = memory.weight_copies(architecture, config)
    passing += memory.activations(architecture, config, one) + memory.logits(architecture, one)
    fixed = memory.fixed(architecture, config, "sft").total
    want = fixed + max(passing, memory.stepping(architecture, config))
    learner = Learner(model, config.train)
    learner.sft_step(batch)
    forget_peak(model.device)
    learner.sft_step(batch)
    got = peak_gib("it", model.device)["it"] * 2**30
    record_property(
        "summary",
        f"{keys or 'float32'}: planned {want / 2**30:.2f} GiB, measured {got / 2**30:.2f} "
        f"({want / got:.2f})",
    )
    assert abs(want - got) / got < 0.2, (want, got)


def test_a_full_gpu_is_an_error_and_the_next_smaller_thing_works(tmp_path: Path) -> None:
    model, tokenizer = make_tiny(tmp_path / "model")
    model.module.to("cuda")
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    learner = Learner(model, TrainConfig(micro_batch_tokens=2**22))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    try:
        with pytest.raises(TrainError, match="step 1: the GPU's memory is full"):
            learner.sft_step(examples(model, rows=64, text=3000, side=56, written=900))
        assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
        gc.collect()
        assert learner.sft_step(examples(model, rows=1, text=9, side=56, written=9)).step == 1
        end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        policy = LocalPolicy(model, decode=decoder(tokenizer), end_of_turn=end, max_batch=512)
        long = Segment(tuple(20 + i % 300 for i in range(300_000)), False)
        request = SampleRequest("e", "t", 0, (long,), (), SampleLimits(4), 0, ())

        async def ask(what: SampleRequest) -> Completion:
            return await policy.sample(what)

        with pytest.raises(PolicyError, match=r"OutOfMemoryError.*policy\.max_batch"):
            asyncio.run(ask(request))
        gc.collect()
        short = SampleRequest("f", "t", 0, (Segment((20, 21), False),), (), SampleLimits(4), 0, ())
        assert asyncio.run(ask(short)).token_ids
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

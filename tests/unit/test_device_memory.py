"""A full GPU ends a step with one error that says what to change; full while gradients are made, it
leaves the weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.models.load import load_model
from pyvision_rl.policy.decoding import as_error
from pyvision_rl.train.device_memory import peak_gib
from pyvision_rl.train.learner import Learner
from tests.measured import examples
from tests.sampled import batch_of
from tests.tiny_models import make_tiny

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nA long tail of hints"


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError(FULL)


@pytest.mark.parametrize("verb", ["rl", "sft"])
def test_a_full_gpu_is_one_error_that_names_what_takes_less(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = make_tiny(tmp_path / "model")
    learner = Learner(model, TrainConfig(micro_batch_tokens=777, lora_rank=0, minibatches=2))
    batch, texts = batch_of(model), examples(model, rows=2, text=4, side=56, written=3)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    monkeypatch.setattr(learner.accelerator, "backward", full)
    with pytest.raises(TrainError) as found:
        learner.update(batch, 1.0) if verb == "rl" else learner.sft_step(texts)
    said = str(found.value)
    assert said.startswith("step 1: the GPU's memory is full (CUDA out of memory. Tried to")
    assert "micro_batch_tokens below 777, train.gradient_checkpointing = true, train.lora" in said
    assert "tail of hints" not in said
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert learner.step == 0
    assert all(p.grad is None for p in model.module.parameters())


def test_what_is_on_already_is_not_recommended(tmp_path: Path, monkeypatch) -> None:
    model, _ = make_tiny(tmp_path / "model")
    learner = Learner(model, TrainConfig(gradient_checkpointing=True))
    monkeypatch.setattr(learner.accelerator, "backward", full)
    with pytest.raises(TrainError, match=r"16384, train.lora_rank = 64 in a new run; --dry-run"):
        learner.sft_step(examples(model, rows=1, text=4, side=56, written=3))


def test_sampling_on_a_full_gpu_names_its_keys_too() -> None:
    said = str(as_error(torch.OutOfMemoryError("CUDA out of memory")))
    assert "OutOfMemoryError: CUDA out of memory (policy.max_batch and rollout.max_live" in said
    assert "max_batch" not in str(as_error(RuntimeError("something else")))


def test_a_cpu_has_nothing_to_tell() -> None:
    assert peak_gib("update_gib", torch.device("cpu")) == {}


def test_a_gpu_that_the_model_does_not_fit_is_named(tmp_path: Path, monkeypatch) -> None:
    make_tiny(tmp_path / "model")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ConfigError, match=r"policy.device = 'cpu' is too small or too full for"):
        load_model(str(tmp_path / "model"), device="cpu")

"""Adapters are all that is trained, and what is saved is an ordinary model that acts the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pyvision_rl.config import Config, TrainConfig
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.models.adapters import ADAPTER, add_adapters, load_adapters
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.load import load_model, load_network
from pyvision_rl.sizes.architecture import read_folder
from pyvision_rl.sizes.parameters import LORA_MAPS, count
from pyvision_rl.train.checkpoints import save_checkpoint, step_path
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.rl import run_rl
from pyvision_rl.train.sft import restore_weights, run_sft
from tests.sampled import batch_of
from tests.sft_wiring import write_pairs
from tests.tiny_models import FAMILIES, make_tiny

pytest.importorskip("peft")
TRAIN = TrainConfig(lora_rank=4, lora_alpha=8, learning_rate=0.05)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    make_tiny(path, request.param)
    return path


def adapted(folder: Path, dtype: str = "float32", **changes: Any) -> VisionLanguageModel:
    model = load_model(str(folder), device="cpu", dtype=dtype)
    keys: dict[str, Any] = {"rank": 4, "alpha": 8.0, "targets": LORA_MAPS["all"], "seed": 7}
    add_adapters(model.module, **(keys | changes))
    return model


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_moves_adapters_and_nothing_else(folder: Path, dtype: str) -> None:
    model = adapted(folder, dtype)
    before = weights(model.module)
    Learner(model, TRAIN).update(batch_of(model), 1.0)
    changed = {n for n, p in weights(model.module).items() if not torch.equal(p, before[n])}
    assert changed
    assert all(".lora_" in name and ".language_model." in name for name in changed)
    assert {model.module.get_parameter(name).dtype for name in changed} == {torch.float32}


def test_muon_moves_adapters_and_goes_on_with_the_same_bits(folder: Path) -> None:
    train = TRAIN.model_copy(update={"optimizer": "muon"})
    model, again = adapted(folder), adapted(folder)
    before, batch = weights(model.module), batch_of(model)
    learner, resumed = Learner(model, train), Learner(again, train)
    stats = learner.update(batch, 1.0)
    assert stats.learning_rate == train.muon_learning_rate
    changed = {n for n, p in weights(model.module).items() if not torch.equal(p, before[n])}
    assert changed
    assert all(".lora_" in name for name in changed)
    again.module.load_state_dict(model.module.state_dict())
    resumed.load_state_dict(copy.deepcopy(learner.state_dict()))
    learner.update(batch, 1.0)
    resumed.update(batch, 1.0)
    for name, value in weights(model.module).items():
        assert torch.equal(value, again.module.get_parameter(name)), name


@pytest.mark.parametrize("maps", ["all", "attention", "mlp"])
def test_as_many_are_trained_as_the_estimate_says(folder: Path, maps: Any) -> None:
    model = adapted(folder, targets=LORA_MAPS[maps], rank=3)
    moved = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    train = TrainConfig(lora_rank=3, lora_targets=maps)
    assert moved == count(read_folder(folder), train).adapters


def test_new_adapters_change_nothing_and_depend_on_their_seed(folder: Path) -> None:
    plain, model = load_model(str(folder), device="cpu"), adapted(folder)
    batch = batch_of(plain)
    rows = [s.trajectory for s in batch.samples]
    config = TrainConfig()
    assert Learner(model, config).logprobs(rows) == Learner(plain, config).logprobs(rows)
    same, other = weights(adapted(folder).module), weights(adapted(folder, seed=8).module)
    mine = weights(model.module)
    assert all(torch.equal(mine[n], same[n]) for n in mine)
    assert any(not torch.equal(mine[n], other[n]) for n in mine)


def test_what_is_saved_is_a_plain_model_that_says_the_same(folder: Path, tmp_path: Path) -> None:
    model = adapted(folder)
    batch = batch_of(model)
    Learner(model, TRAIN).update(batch, 1.0)
    saved = save_checkpoint(tmp_path, 1, model=model, source=str(folder))
    merged = load_model(str(saved), device="cpu")
    plain = load_model(str(folder), device="cpu")
    assert weights(merged.module).keys() == weights(plain.module).keys()
    rows = [s.trajectory for s in batch.samples]
    mine, theirs, first = (
        torch.tensor([p for row in Learner(m, TrainConfig()).logprobs(rows) for p in row])
        for m in (model, merged, plain)
    )
    # Float32: the merged map rounds once where the pair of maps rounds twice.
    assert float((mine - theirs).abs().max()) < 1e-4
    assert float((mine - first).abs().max()) > 1e-2, "the test means something if it learnt"


# peft 0.21 asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_itself_reads_the_adapter_beside_it(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapted(folder)
    Learner(model, TRAIN).update(batch_of(model), 1.0)
    model.save(tmp_path)
    base = load_network(str(folder), torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / ADAPTER)).state_dict()
    found = {n: p for n, p in theirs.items() if ".lora_" in n}
    mine = {f"base_model.model.{n}": p for n, p in weights(model.module).items() if ".lora_" in n}
    assert found.keys() == mine.keys()
    assert all(torch.equal(found[n], p) for n, p in mine.items())
    config = json.loads((tmp_path / ADAPTER / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def test_adapters_come_back_to_the_bit_or_are_refused(folder: Path, tmp_path: Path) -> None:
    model = adapted(folder, "bfloat16")
    Learner(model, TRAIN).update(batch_of(model), 1.0)
    model.save(tmp_path)
    again = adapted(folder, "bfloat16", seed=9)
    restore_weights(again, tmp_path)
    mine = weights(model.module)
    assert all(torch.equal(mine[n], p) for n, p in weights(again.module).items())
    with pytest.raises(CheckpointError, match=r"train\.lora_rank"):
        load_adapters(adapted(folder, rank=2).module, tmp_path / ADAPTER)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapters(again.module, tmp_path / "nowhere")
    load_adapters(adapted(folder, "float32").module, tmp_path / ADAPTER)  # the same, more exactly
    other = adapted(folder).module
    with torch.no_grad():
        next(p for n, p in other.named_parameters() if ".lora_" not in n).mul_(1.1)
    with pytest.raises(CheckpointError, match=r"another model: policy\.model must be"):
        load_adapters(other, tmp_path / ADAPTER)
    with pytest.raises(ConfigError, match="adapters already"):
        add_adapters(again.module, rank=1, alpha=1, targets=("q_proj",), seed=0)


def rl_config(model: Path, **train: Any) -> Config:
    settings = {"learning_rate": 1e-2, "steps": 4, "save_every": 2, "lora_rank": 4}
    return Config.model_validate(
        {
            "seed": 3,
            "tasks": {"name": "tests.fakes:Colours"},
            "prompts": {"template": "minimal"},
            "policy": {"model": str(model), "max_new_tokens": 12, "threads": 1},
            "sandbox": {"name": "scripted"},
            "rollout": {"group_size": 4, "max_tool_calls": 2, "max_context_tokens": 1500},
            "rewards": {"name": "tests.fakes:ParityGrader"},
            "selection": {"groups_per_step": 2, "oversample": 1.5},
            "train": settings | train,
        }
    )


def test_a_resumed_rl_run_of_adapters_continues_bit_identically(
    folder: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_rl(rl_config(folder), whole)
    run_rl(rl_config(folder, steps=2), parts)
    run_rl(rl_config(folder), parts, resume=parts)
    for name in ("model.safetensors", f"{ADAPTER}/adapter_model.safetensors"):
        files = [step_path(out / "checkpoints", 4) / name for out in (whole, parts)]
        assert files[0].read_bytes() == files[1].read_bytes()
    second = step_path(whole / "checkpoints", 2) / "model.safetensors"
    assert second.read_bytes() != (whole / "final" / "model.safetensors").read_bytes()


def test_an_sft_run_of_adapters_goes_over_the_border_of_two_stages(
    folder: Path, tmp_path: Path
) -> None:
    data = {"kind": "pairs", "path": str(write_pairs(tmp_path))}
    stages = [{"name": n, "steps": 2, "batch_size": 2, "data": [data]} for n in ("a", "b")]
    config = rl_config(folder).model_dump() | {"sft": {"stages": stages}}
    config["train"] |= {"save_every": 1, "keep_checkpoints": 9}
    run = Config.model_validate(config)
    run_sft(run, tmp_path / "whole")
    run_sft(run, tmp_path / "again")
    border = step_path(tmp_path / "again" / "checkpoints", 2)
    run_sft(run, tmp_path / "parts", resume=border)
    files = [tmp_path / name / "final" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()

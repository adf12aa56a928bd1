"""The configs of the paper's runs hold together, and their code paths run, with a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pyvision_rl.checks.sections import check_config
from pyvision_rl.config import Config
from pyvision_rl.config_file import load_config, packaged_configs
from pyvision_rl.runs import RunReader
from pyvision_rl.sizes.plan import plan_of
from pyvision_rl.train.rl import run_rl
from pyvision_rl.train.sft import run_sft
from tests.tiny_models import make_tiny

FAMILY = {"qwen3vl_8b_image": "qwen3_vl"}
RL = ("pyvision_image_7b", "pyvision_video_7b", "pyvision_image_3b_lora_1gpu", "qwen3vl_8b_image")
SMALL = (
    "policy.max_new_tokens=12",
    "policy.max_pixels=12544",
    "policy.min_pixels=784",
    "policy.threads=1",
    "rollout.max_context_tokens=3000",
    "rollout.group_size=6",
    "selection.groups_per_step=2",
    "selection.oversample=1.0",
    "selection.max_rounds=1",
    "train.steps=2",
    "train.warmup_steps=0",
    "train.learning_rate=1e-2",
    "sandbox.name=scripted",
)
"""Sizes for a network that knows nothing; everything else is as the config says."""
UNSKILLED = (
    "rewards.name=tests.fakes:ParityGrader",
    "rewards.options={}",
    'selection.filters=["infra", "ungraded"]',
)
"""A random network never shows a picture: the filters of the paper would leave it nothing."""


def shipped(name: str, *overrides: str) -> Config:
    return load_config(packaged_configs()[name], overrides)


def test_the_paper_numbers_are_in_the_configs() -> None:
    for name in ("pyvision_image_7b", "pyvision_video_7b"):
        config = shipped(name)
        assert (config.rollout.group_size, config.rollout.max_tool_calls) == (8, 4)
        assert config.rollout.max_context_tokens == 32_000 + 20_480
        assert config.selection.groups_per_step == 16
        assert config.selection.groups_per_step * config.selection.oversample == 32
        assert (config.train.learning_rate, config.train.steps) == (1e-6, 700)
        assert (config.train.clip_low, config.train.clip_high, config.train.dual_clip) == (
            0.2,
            0.2,
            3,
        )
        assert config.rewards.tool_use_per_call == 0.1
        assert config.train.freeze_vision
        assert "no_tool_image" in config.selection.filters
    # What the published conversations of its cold start taught.
    assert shipped("pyvision_image_7b").prompts.style == "pyvision"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family in ("qwen2_5_vl", "qwen3_vl"):
        made[family] = tmp_path_factory.mktemp(family)
        make_tiny(made[family], family)
    return made


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Four tasks with a picture each, in the file format that the configs name."""
    rows = []
    for index in range(4):
        Image.new("RGB", (56, 56), (60 * index, 0, 0)).save(tmp_path / f"{index}.png")
        row = {"id": f"t{index}", "question": "Which colour?", "answer": "red"}
        rows.append(row | {"images": [f"{index}.png"], "data_source": "vstar"})
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", RL)
def test_two_rl_steps_of_a_real_config(
    name: str, models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    if "lora" in name or name == "qwen3vl_8b_image":
        pytest.importorskip("peft")
    model = models[FAMILY.get(name, "qwen2_5_vl")]
    where = (f"policy.model={model}", f"tasks.path={tasks}", "prompts.template=minimal")
    config = shipped(name, *where, *SMALL, *UNSKILLED)
    assert plan_of("rl", config, 2**30).fits == "yes"
    out = tmp_path / "run"
    result = run_rl(config, out)
    assert result.steps == 2
    lines = RunReader(out).metrics()
    assert all(line["kept"] > 0 and line["train_grad_norm"] > 0 for line in lines)
    changed = (out / "final" / "model.safetensors").read_bytes()
    assert changed != (model / "model.safetensors").read_bytes()


def test_two_sft_steps_of_the_real_config(
    models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    said = [
        {"from": "human", "value": "<image>\nWhich colour?"},
        {"from": "gpt", "value": "<answer>\n\\boxed{red}\n</answer>"},
    ]
    rows = [{"conversations": said, "images": [f"{index}.png"]} for index in range(4)]
    file = tmp_path / "said.json"
    file.write_text(json.dumps(rows))
    config = shipped(
        "pyvision_image_7b_sft",
        f"policy.model={models['qwen2_5_vl']}",
        f"sft.stages.0.data.0.path={file}",
        f"sft.stages.0.data.0.image_root={tmp_path}",
        "sft.stages.0.batch_size=2",
        *SMALL,
    )
    result = run_sft(config, tmp_path / "run")
    assert result.steps == 2
    assert result.loss is not None
    assert all(finding.ok for finding in check_config(config))

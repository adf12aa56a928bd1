"""The benchmark of a GPU says what it runs in known keys, and reads its runs' own numbers."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu import QUICK, Sizes, numbers, recipe
from benchmarks.gpu_networks import CASES, TINY_CASES, measure
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.sizes.named import named_config


def test_every_run_of_the_recipe_is_a_config(tmp_path: Path) -> None:
    for sizes in (Sizes(), QUICK):
        runs = {r.name: r for r in recipe(sizes, tmp_path, "cuda")}
        configs = {
            name: load_config(find_config(run.config), run.sets) for name, run in runs.items()
        }
        assert configs["rl-full"].train.steps == configs["rl-lora"].train.steps == sizes.steps
        assert configs["sft-full"].policy.model == str(tmp_path / "model")
        assert configs["rl-lora"].policy.model == str(tmp_path / "sft-full" / "final")
        assert configs["rl-lora"].train.lora_rank == configs["sft-lora"].train.lora_rank == 32
        assert sum(stage.steps or 0 for stage in configs["sft-lora"].sft.stages) == sizes.steps
        assert configs["rl-full"].train.master_weights


def test_times_leave_the_first_two_steps_out_and_memory_does_not(tmp_path: Path) -> None:
    lines = [
        {"step_s": 9.0, "step_gib": 5.0, "stage": "a", "loss": 3.0},
        {"step_s": 8.0, "step_gib": 1.0, "stage": "a", "loss": 2.0},
        {"step_s": 1.0, "step_gib": 2.0, "stage": "a", "loss": 1.0},
        {"step_s": 3.0, "step_gib": 2.0, "stage": "b", "loss": 0.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    found = numbers(tmp_path)
    assert found["step_s"] == {"median": 2.0, "worst": 3.0, "first": 9.0}
    assert found["step_gib"] == 5.0
    assert found["last"] == {"loss": 0.5, "stage": "b"}
    assert found["last_5"] == {"loss": 1.5}
    assert numbers(tmp_path / "nothing") == {}


def test_a_network_is_measured_and_one_that_cannot_be_costs_no_other() -> None:
    found = measure(TINY_CASES[0], "cpu")
    assert found["sampling"]["tokens"] == 8
    assert found["training"]["tokens"] == 2 * (16 + 3 + 20 + 9)
    assert measure(TINY_CASES[0], "nowhere")["failed"][0].startswith("RuntimeError")


def test_the_networks_have_published_sizes_and_known_keys() -> None:
    for case in CASES:
        assert named_config(case.model)
        Config.model_validate({"train": case.train, "policy": case.policy})

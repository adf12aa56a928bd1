"""Every key of a config has a fate in verl; nothing is dropped without a word."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from pyvision_rl.cli.main import app
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.errors import ConfigError
from pyvision_rl.integrations.verl.export import export_verl, yaml_lines
from pyvision_rl.integrations.verl.keys import (
    IDLE,
    MUST_BE_DEFAULT,
    OURS,
    VERL,
    fate_of,
    idle_keys,
    leaves,
    refusals,
)
from pyvision_rl.integrations.verl.mapping import Machines, verl_config
from pyvision_rl.runs import RunReader
from pyvision_rl.runs_decode import decode

DOCS = Path(__file__).parents[2] / "docs" / "verl.md"


def a_config(**sections: dict[str, Any]) -> Config:
    base: dict[str, Any] = {
        "tasks": {"name": "tests.fakes:Colours"},
        "policy": {"model": "Qwen/Qwen2.5-VL-7B-Instruct"},
        "selection": {"groups_per_step": 4},
    }
    merged = {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}
    return Config.model_validate(merged)


def mapped(config: Config) -> dict[str, Any]:
    """Return verl's values by dotted key."""
    flat: dict[str, Any] = {}

    def walk(node: dict[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk(verl_config(config, Path("/out"), Machines(gpus=8), 8), "")
    return flat


def test_every_key_that_rl_reads_has_a_fate() -> None:
    assert [key for key, _ in leaves(Config()) if fate_of(key) is None] == []


def test_every_fate_is_that_of_a_key_or_section() -> None:
    known = {key for key, _ in leaves(Config())}
    known |= {key.partition(".")[0] for key in known}
    assert {*VERL, *OURS, *IDLE, *MUST_BE_DEFAULT} <= known


def test_the_page_has_a_row_for_each() -> None:
    table = DOCS.read_text().partition("<!-- keys -->")[2].partition("<!-- end -->")[0]
    rows = set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE))
    assert rows == {*VERL, *OURS, *IDLE, *MUST_BE_DEFAULT, "train.optimizer"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"selection": {"advantage": "mean"}},
            {"algorithm.adv_estimator": "grpo", "algorithm.norm_adv_by_std_in_grpo": False},
        ),
        ({"selection": {"advantage": "mean_std"}}, {"algorithm.norm_adv_by_std_in_grpo": True}),
        ({"selection": {"advantage": "leave_one_out"}}, {"algorithm.adv_estimator": "rloo"}),
        (
            {"train": {"loss_norm": "constant", "constant_tokens": 40}},
            {
                "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum-norm",
                "actor_rollout_ref.actor.loss_scale_factor": 40,
            },
        ),
        ({}, {"algorithm.rollout_correction.bypass_mode": True}),
        (
            {"train": {"old_logprobs": "learner", "tis_cap": 3.0}},
            {
                "algorithm.rollout_correction.bypass_mode": False,
                "algorithm.rollout_correction.rollout_is": "token",
                "algorithm.rollout_correction.rollout_is_threshold": 3.0,
            },
        ),
        ({"train": {"dual_clip": 0.0}}, {"actor_rollout_ref.actor.clip_ratio_c": 1e9}),
        (
            {"train": {"kl_coefficient": 0.01}},
            {
                "actor_rollout_ref.actor.use_kl_loss": True,
                "actor_rollout_ref.actor.kl_loss_coef": 0.01,
            },
        ),
        (
            {"train": {"micro_batch_tokens": 100}, "rollout": {"max_context_tokens": 4097}},
            {
                # 4097 = 2048 + 2049: an episode must fit into one micro-batch.
                "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 4097,
                "data.max_prompt_length": 2048,
                "data.max_response_length": 2049,
                "actor_rollout_ref.rollout.max_model_len": 4097,
            },
        ),
        (
            {"train": {"micro_batch_rows": 2}},
            {
                "actor_rollout_ref.actor.use_dynamic_bsz": False,
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2,
                "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 2,
                "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 2,
            },
        ),
        (
            {"train": {"lora_rank": 8, "lora_targets": "mlp"}},
            {
                "actor_rollout_ref.model.lora_rank": 8,
                "actor_rollout_ref.model.target_modules": ["gate_proj", "up_proj", "down_proj"],
                "actor_rollout_ref.model.exclude_modules": ".*visual.*",
                "actor_rollout_ref.rollout.load_format": "safetensors",
            },
        ),
        (
            {"policy": {"dtype": "bfloat16"}, "train": {"master_weights": True}},
            {
                "actor_rollout_ref.rollout.dtype": "bfloat16",
                "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
                "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "bf16",
            },
        ),
        # 4 groups a step, 2 minibatches; 8 tasks are 2 steps: 5 steps are 3 passes and a spare.
        (
            {"train": {"minibatches": 2, "steps": 5}},
            {"actor_rollout_ref.actor.ppo_mini_batch_size": 2, "trainer.total_epochs": 4},
        ),
        ({"policy": {"top_k": 0}}, {"actor_rollout_ref.rollout.top_k": -1}),
        ({}, {"trainer.test_freq": -1, "data.gen_batch_size": 1, "data.train_batch_size": 4}),
    ],
)
def test_keys_become_those_of_verl(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    found = mapped(a_config(**ours))
    assert {key: found[key] for key in theirs} == theirs


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("selection.advantage", {"selection": {"advantage": "binary_baseline"}}),
        ("selection.carry_over", {"selection": {"carry_over": True}}),
        ("selection.rank_unit", {"selection": {"rank_unit": "trajectory"}}),
        ("selection.max_per_round", {"selection": {"max_per_round": {"media:video": 2}}}),
        ("selection.filters", {"selection": {"filters": ["correct_negative_advantage"]}}),
        ("train.optimizer", {"train": {"optimizer": "muon"}}),
        ("train.loss_norm", {"train": {"loss_norm": "micro_batch_mean"}}),
        ("train.constant_tokens", {"train": {"loss_norm": "constant", "constant_tokens": 1.5}}),
        ("train.freeze_vision", {"train": {"freeze_vision": True}}),
        ("train.minibatches", {"train": {"minibatches": 3}}),
        ("train.kl_reference", {"train": {"kl_reference": "other"}}),
        ("policy.top_p", {"policy": {"top_p": 0.9}}),
        ("policy.name", {"policy": {"name": "openai_chat"}}),
        ("rewards.terms", {"rewards": {"terms": {"format": {}}}}),
        ("eval.tools", {"eval": {"tools": False}}),
        ("selection.min_survivors", {"selection": {"min_survivors": 1}}),
    ],
)
def test_what_verl_cannot_do_is_refused_by_name(key: str, ours: dict[str, Any]) -> None:
    assert list(refusals(a_config(**ours))) == [key]


def test_a_plain_config_is_not_refused() -> None:
    assert refusals(a_config()) == {}
    # With adapters nothing of the vision tower is trained anyway.
    assert refusals(a_config(train={"freeze_vision": True, "lora_rank": 8})) == {}
    assert refusals(load_config(find_config("pyvision_image_3b_lora_1gpu"))) == {}


def test_keys_without_effect_are_told_only_when_set() -> None:
    assert idle_keys(a_config()) == {}
    assert list(idle_keys(a_config(train={"keep_every": 5}, watch={"window": 9}))) == [
        "train.keep_every",
        "watch.window",
    ]


def test_an_export_holds_tasks_images_config_and_command(tmp_path: Path) -> None:
    done = export_verl(a_config(eval={"num_tasks": 3}), tmp_path / "out", Machines())
    # The eval section has no tasks and nothing evaluates: verl's file has one row.
    assert (done.tasks, done.validation, done.unread) == (8, 1, 0)
    rows = pq.read_table(done.out / "train.parquet").to_pylist()
    row = rows[0]
    assert row["agent_name"] == "pyvision"
    assert row["prompt"][0]["role"] == "user"
    assert row["prompt"][0]["content"].count("<image>") == len(row["images"]) == 1
    assert Path(row["images"][0]).is_file()
    assert row["reward_model"] == {"style": "rule", "ground_truth": "red"}
    task = decode(json.loads(row["extra_info"]["task"])).task
    assert (task.id, task.gold.answer, len(task.input.media)) == ("colour-0", "red", 1)
    made = load_config(done.out).model_dump()
    assert made["rewards"]["judge"].pop("cache") == str(Path("runs/.judge-cache").absolute())
    asked = a_config(eval={"num_tasks": 3}).model_dump()
    del asked["rewards"]["judge"]["cache"]
    assert made == asked
    assert RunReader(done.out).info.verb == "rl"
    assert f"--config-dir {done.out}" in (done.out / "launch.sh").read_text()
    assert str(done.out) in (done.out / "agent_loop.yaml").read_text()


def test_files_that_the_config_names_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("{images}\n{query}")
    (tmp_path / "final").mkdir()
    config = a_config(prompts={"template": "mine.txt"}, policy={"model": "final"})
    made = load_config(export_verl(config, tmp_path / "out", Machines()).out)
    assert made.prompts.template == str(tmp_path / "mine.txt")
    assert made.policy.model == str(tmp_path / "final")
    assert str(tmp_path / "final") in (tmp_path / "out" / "pyvision.yaml").read_text()
    named = a_config(policy={"model": "Qwen/Qwen2.5-VL-7B-Instruct"})
    made = load_config(export_verl(named, tmp_path / "two", Machines()).out)
    assert made.policy.model == "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"minibatches": 4}, "1 groups of 4 is 4 episodes, which 8 GPUs cannot share"),
        ({"micro_batch_rows": 3}, "2 on each of 8 GPUs: train.micro_batch_rows = 3 must divide"),
    ],
)
def test_batches_that_the_gpus_cannot_share_are_refused(
    train: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = a_config(train=train, selection={"groups_per_step": 4}, rollout={"group_size": 4})
    with pytest.raises(ConfigError, match=words):
        export_verl(config, tmp_path / "out", Machines(gpus=8))
    assert not (tmp_path / "out").exists()


def test_a_refused_config_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.optimizer: "):
        export_verl(a_config(train={"optimizer": "muon"}), tmp_path / "out", Machines())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rewards", "match"),
    [
        # What is left of another grader's options.
        ({"name": "match", "options": {"routes": {"a": {"grader": "match"}}}}, "routes"),
        ({"name": "route", "options": {"routes": {"a": {"grader": "match"}}}}, "no route for"),
        ({"name": "nowhere"}, r"rewards\.name"),
    ],
)
def test_a_grader_that_could_not_grade_is_refused_before_anything_is_written(
    rewards: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match):
        export_verl(a_config(rewards=rewards), tmp_path / "out", Machines())
    assert not (tmp_path / "out").exists()


def with_pictures(folder: Path, ids: list[str], *, broken: int | None = None) -> Config:
    """Return a config that validates the tasks of these ids, of a file of q0, q1 and so on."""
    rows = []
    for i in range(5):
        Image.new("RGB", (56, 56), (i, 0, 0)).save(folder / f"{i}.png")
        rows.append({"id": f"q{i}", "question": "?", "answer": "a", "image": f"{i}.png"})
    if broken is not None:
        (folder / f"{broken}.png").write_bytes(b"broken")
    file = folder / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return a_config(
        tasks={"name": "jsonl", "path": str(file)}, train={"eval_every": 5}, eval={"ids": ids}
    )


@pytest.mark.parametrize("ids", [["nope"], ["q1", "nope"]])
def test_an_id_that_is_not_there_is_refused_before_anything_is_written(
    ids: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"eval\.ids: no task 'nope' among 5"):
        export_verl(with_pictures(tmp_path, ids), tmp_path / "out", Machines())
    assert not (tmp_path / "out").exists()


def test_chosen_tasks_are_validated_and_one_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    config = with_pictures(tmp_path, ["q3", "q1", "q0"], broken=3)
    done = export_verl(config, tmp_path / "out", Machines())
    rows = pq.read_table(done.out / "val.parquet").to_pylist()
    assert [row["extra_info"]["id"] for row in rows] == ["q0", "q1"]
    assert (done.tasks, done.validation) == (4, 2)
    told = [note for note in done.notes if "cannot be read" in note]
    assert [note.split(": ")[1] for note in told] == ["train 3", "val 3"]


def test_a_picture_that_nobody_asked_for_may_be_broken(tmp_path: Path) -> None:
    config = with_pictures(tmp_path, ["q0", "q1"], broken=3)
    done = export_verl(config, tmp_path / "out", Machines())
    assert (done.tasks, done.validation, done.unread) == (4, 2, 1)


def test_the_command_of_the_smoke_test_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = re.findall(
        r"^pvrl (export-verl \S*3b_lora\S* .*)$", DOCS.read_text(), re.MULTILINE
    )
    rows = [{"id": str(i), "question": f"{i} + 1?", "answer": str(i + 1)} for i in range(4)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, shlex.split(command))
    assert told.exit_code == 0, told.output
    assert (tmp_path / "OUT" / "launch.sh").exists()


def test_fewer_tasks_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="8 tasks are fewer"):
        export_verl(a_config(selection={"groups_per_step": 9}), tmp_path / "out", Machines())


def test_the_verb_says_what_to_do_next(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[tasks]\nname = "tests.fakes:Colours"\n[policy]\nmodel = "some/model"\n'
        "[selection]\ngroups_per_step = 4\n"
    )
    out = tmp_path / "out"
    told = CliRunner().invoke(
        app, ["export-verl", str(file), str(out), "--set", "train.keep_every=5", "--gpus", "2"]
    )
    assert told.exit_code == 0, told.output
    assert "note: does nothing: train.keep_every" in told.output
    assert "launch.sh" in told.output.splitlines()[-1]
    assert "n_gpus_per_node: 2" in (out / "pyvision.yaml").read_text()
    again = CliRunner().invoke(app, ["export-verl", str(file), str(out)])
    assert again.exit_code == 2


def test_small_numbers_stay_numbers_in_yaml() -> None:
    assert yaml_lines({"a": {"lr": 1e-6, "x": None}}) == ["a:", "  lr: 1e-06", "  x: null"]

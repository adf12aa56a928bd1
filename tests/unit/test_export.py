"""What is given away is a whole, ordinary model, and its card says only what its run says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyvision_rl.cli.main import app
from pyvision_rl.config import Config
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.export import card
from pyvision_rl.export.write import export_model
from pyvision_rl.models.load import load_model
from pyvision_rl.runs import RunWriter
from pyvision_rl.train.checkpoints import point_to, save_checkpoint
from tests.tiny_models import make_tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of two steps with their checkpoints, written by the package's own writers."""
    source = tmp_path / "source"
    model, _ = make_tiny(source)
    config = Config.model_validate(
        {
            "tasks": {"name": "jsonl", "path": "data/mine.jsonl"},
            "policy": {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "max_pixels": 50_000},
            "rewards": {"name": "judge", "judge": {"model": "a-judge"}, "paid_calls": "distinct"},
            "train": {"learning_rate": 3e-5, "lora_rank": 8},
        }
    )
    folder = tmp_path / "run"
    with RunWriter(folder, config, "rl", command="pvrl rl mine.toml") as writer:
        writer.metrics(1, {"eval_accuracy": 0.25, "reward": 1.0})
        writer.metrics(2, {"eval_accuracy": 0.75, "reward": 1.0})
    for step in (1, 2):
        saved = save_checkpoint(folder / "checkpoints", step, model=model, source=str(source))
    point_to(folder / "final", saved)
    point_to(folder / "best", saved.with_name("step_000001"))
    return folder


def test_an_export_loads_as_a_plain_model_and_holds_nothing_of_training(
    run: Path, tmp_path: Path
) -> None:
    done = export_model(run, tmp_path / "out")
    vision = load_model(str(done.model), device="cpu").vision
    before = load_model(str(tmp_path / "source"), device="cpu").vision
    # Pictures at the size that it was trained with.
    assert (vision.min_pixels, vision.max_pixels) == (before.min_pixels, 50_000)
    assert before.max_pixels != 50_000
    names = {file.name for file in done.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "preprocessor_config.json" in names
    assert not names & {"trainer.pt", "MANIFEST.json", "adapter"}
    assert (done.files, done.checkpoint.name) == (len(names), "step_000002")


def test_a_card_tells_data_reward_evaluation_settings_versions_and_danger(
    run: Path, tmp_path: Path
) -> None:
    export_model(run / "best", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert 'base_model: "Qwen/Qwen2.5-VL-7B-Instruct"' in card
    for said in (
        "Step 1 of `pvrl rl mine.toml`",
        "task set `jsonl` from `data/mine.jsonl`",
        "accuracy by the grader `judge`",
        "the judge is `a-judge`",
        "`distinct`",
        "| `eval_accuracy` | 0.25 |",
        "| `rollout.max_tool_calls` | 4 |",
        "| `train.learning_rate` | 3e-05 |",
        "| `train.lora_rank` | 8 |",
        "| `torch` |",
        "reach nothing you care about",
    ):
        assert said in card, said
    assert "0.75" not in card, "an evaluation of later weights says nothing about these"


@pytest.mark.parametrize(
    ("rewards", "named"),
    [
        ({"name": "ladder"}, True),
        ({"name": "ladder", "options": {"judge": "off"}}, False),
        ({"name": "match"}, False),
    ],
    ids=str,
)
def test_a_card_names_the_judge_where_one_may_have_been_asked(
    rewards: dict[str, Any], named: bool
) -> None:
    judge = {"url": "http://localhost/v1", "model": "Qwen-72B"}
    lines = card._reward({"rewards": {**rewards, "judge": judge}})
    assert any("Qwen-72B" in line for line in lines) is named
    assert any("at temperature 0" in line for line in lines) is named
    lines = card._reward({"rewards": {**rewards, "judge": judge | {"omit": ["temperature"]}}})
    assert not any("at temperature 0" in line for line in lines)


def test_evaluations_come_with_their_protocol(run: Path, tmp_path: Path) -> None:
    config = Config.model_validate(
        {"eval": {"tasks": {"path": "vstar.jsonl"}, "samples": 32, "temperature": 0.01}}
    )
    with RunWriter(tmp_path / "eval", config, "eval"):
        pass
    result = {"overall": {"accuracy": 0.887, "tasks": 191, "accuracy_se": None}}
    result |= {"headline": {"mean": 0.75}, "suite": {"name": "vstar", "protocol": "kit"}}
    (tmp_path / "eval" / "result.json").write_text(json.dumps(result))
    export_model(run, tmp_path / "out", [tmp_path / "eval"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.index("| `suite` | vstar, protocol kit |") < card.index("| `mean` | 0.75 |")
    assert card.index("| `mean` | 0.75 |") < card.index("| `accuracy` |")
    for said in ("vstar.jsonl", "| `accuracy` | 0.887 |", "| `eval.samples` | 32 |"):
        assert said in card, said
    assert "accuracy_se" not in card


def test_a_damaged_checkpoint_is_not_given_away(run: Path, tmp_path: Path) -> None:
    file = run / "checkpoints" / "step_000001" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        export_model(run / "best", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_or_would_overwrite_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run folder"):
        export_model(tmp_path / "source", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_model(run, tmp_path / "full")


def test_the_command_says_what_was_written_and_what_to_do(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(run), str(out), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["result"]["model"] == str(out)
    assert str(out) in said["next"]
    again = CliRunner().invoke(app, ["export", str(run), str(out)])
    assert again.exit_code == 2

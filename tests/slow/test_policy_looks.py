"""A trained policy really looks: without the pictures its tool shows, it can only guess."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pyvision_rl.assemble import assemble
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.evaluation.evaluate import Score, evaluate_now
from pyvision_rl.new_model import new_model
from pyvision_rl.train.rl import run_rl
from pyvision_rl.train.sft import run_sft

CHANCE = 0.1
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model from nothing: cold start and RL, about ten minutes."""
    folder = tmp_path_factory.mktemp("looks")
    start = [f"policy.model={folder / 'model'}", "policy.threads=1"]
    sft = load_config(find_config("tiny_image_sft"), start)
    new_model(sft, folder / "model")
    run_sft(sft, folder / "sft")
    rl = load_config(
        find_config("tiny_image_learn"),
        [f"policy.model={folder / 'sft' / 'final'}", "run.rollouts=none"],
    )
    return run_rl(rl, folder / "rl").model


def hard(model: Path, **sandbox: str) -> Score:
    config = load_config(find_config("tiny_image_learn"), [f"policy.model={model}"])
    changed = config.sandbox.model_copy(update=sandbox)
    config = Config.model_validate({**config.model_dump(), "sandbox": changed.model_dump()})
    with assemble(config) as assembly:
        return evaluate_now(assembly).categories["hard"]


def test_hard_tasks_are_guessed_when_every_tool_image_is_grey(trained: Path) -> None:
    seeing, blind = hard(trained), hard(trained, name="tests.fakes:GreySandbox")
    error = math.sqrt(CHANCE * (1 - CHANCE) / blind.tasks)
    assert blind.tool_calls > 0.9, "it looks as often"
    assert blind.accuracy < CHANCE + 3 * error
    assert seeing.accuracy > CHANCE + 5 * error

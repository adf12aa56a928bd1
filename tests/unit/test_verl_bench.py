"""An episode inside verl is ours, token by token, and our own failures cost the model nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.config_file import dump_config
from pyvision_rl.errors import ConfigError, RenderError
from pyvision_rl.images import grid
from pyvision_rl.integrations.verl.bench import Bench, Place, Played, bench_of
from pyvision_rl.integrations.verl.rows import row_of_task, task_line
from pyvision_rl.integrations.verl.tokens import fitted, vision_of
from pyvision_rl.media import image_media
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.types import EndReason, Task
from tests.fakes import Colours
from tests.tiny_models import make_tiny
from tests.verl_examples import LOOK, SAY, PlayedServer, Processor

PLACE = Place("uid", rollout=2, step=4, split="train")
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny(tmp_path_factory.mktemp("tiny"))[1]


@pytest.fixture
def task() -> Task:
    return Colours(Config().tasks)[0]  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, task: Task) -> Path:
    config = Config.model_validate(
        {
            "policy": {"model": "m", "max_new_tokens": 64},
            "sandbox": {"name": "tests.fakes:GreySandbox"},
            "rollout": {"max_context_tokens": 2000},
        }
    )
    (tmp_path / "run.json").write_text(dump_config(config))
    row_of_task(task, 0, "train", PromptBuilder(config.prompts), tmp_path / "media")
    return tmp_path


def play(folder: Path, tokenizer: Any, task: Task, **server: Any) -> tuple[Played, Any, Bench]:
    async def go() -> tuple[Played, Any, Bench]:
        loop = asyncio.get_running_loop()
        bench = bench_of(folder, tokenizer, Processor(), loop)
        renderer = bench.harness.renderer
        fake = PlayedServer(renderer.encode, renderer.end_of_turn, **server)
        try:
            return await bench.play(task_line(task), PLACE, fake, SAMPLING), fake, bench
        finally:
            await bench.harness.sandbox.close()

    return asyncio.run(go())


def test_an_episode_becomes_ids_mask_and_logprobs_of_one_length(
    folder: Path, tokenizer: Any, task: Task
) -> None:
    played, server, bench = play(folder, tokenizer, task, turns=[LOOK, SAY])
    row, trajectory = played.row, played.trajectory
    assert trajectory.end is EndReason.ANSWERED
    assert trajectory.reward is not None
    assert trajectory.reward.correct
    assert len(row.response_ids) == len(row.mask) == len(row.logprobs or [])
    # One picture in the prompt, one shown: as many pads as their grids have tokens.
    pads = [*row.prompt_ids, *row.response_ids].count(bench.pads.image)
    grids = [grid(m, bench.pads.vision) for m in trajectory.media]
    assert len(row.images) == len(grids) == 2
    assert pads == sum(f * r * c // 4 for f, r, c in grids)
    # Loss on what was sampled, with the server's numbers, and on nothing else.
    sampled = [s for s in trajectory.segments if s.sampled]
    assert sum(row.mask) == sum(len(s.token_ids) for s in sampled)
    told = [v for v, m in zip(row.logprobs or [], row.mask, strict=True) if m]
    assert told == [value for s in sampled for value in s.logprobs or ()]
    assert {v for v, m in zip(row.logprobs or [], row.mask, strict=True) if not m} == {0.0}
    # The second turn was asked after exactly what is trained on.
    second = server.calls[1]
    whole = [*row.prompt_ids, *row.response_ids]
    assert whole[: len(second.prompt_ids)] == second.prompt_ids
    assert [len(call.images) for call in server.calls] == [1, 2]
    assert second.sampling["stop"] == ["</code>"]
    assert second.sampling["max_tokens"] == 64
    assert played.versions == (3, 3)


def test_a_failure_of_the_server_is_not_punished(folder: Path, tokenizer: Any, task: Task) -> None:
    played, _, _ = play(folder, tokenizer, task, turns=[LOOK, SAY], fails_at=1)
    assert played.trajectory.end is EndReason.FAILED
    assert "the engine is gone" in played.trajectory.error
    assert played.trajectory.reward is None
    assert sum(played.row.mask) == 0
    assert len(played.row.response_ids) > 1


def test_a_task_without_its_picture_fails_whole(folder: Path, tokenizer: Any) -> None:
    # The folder holds the picture of the first task only.
    other = Colours(Config().tasks)[5]  # type: ignore[arg-type]
    played, server, _ = play(folder, tokenizer, other, turns=[SAY])
    assert played.trajectory.end is EndReason.FAILED
    assert "no such file" in played.trajectory.error
    assert server.calls == []
    assert played.row.prompt_ids
    assert played.row.mask == [0]


def test_a_placeholder_that_was_sampled_fails_the_episode(
    folder: Path, tokenizer: Any, task: Task
) -> None:
    played, _, _ = play(folder, tokenizer, task, turns=["<|image_pad|>"])
    assert played.trajectory.end is EndReason.FAILED
    assert "placeholder" in played.trajectory.error


def test_an_episode_over_its_length_keeps_its_reward_place_and_loses_its_gradient(
    folder: Path, tokenizer: Any, task: Task
) -> None:
    run = json.loads((folder / "run.json").read_text())
    run["config"]["rollout"]["max_context_tokens"] = 160
    (folder / "run.json").write_text(json.dumps(run))
    played, _, _ = play(folder, tokenizer, task, turns=[LOOK, SAY])
    assert played.trajectory.end is EndReason.TOKEN_LIMIT
    assert played.trajectory.reward is not None
    assert sum(played.row.mask) == 0


def test_the_episode_is_noted_for_its_step(folder: Path, tokenizer: Any, task: Task) -> None:
    play(folder, tokenizer, task, turns=[SAY])
    assert [f.name for f in (folder / "pending").iterdir()] == ["uid_2.json"]


@pytest.mark.parametrize("size", [(56, 56), (500, 333), (9, 1200), (40, 7999)])
def test_a_fitted_image_is_left_alone_by_the_same_rule(size: tuple[int, int]) -> None:
    wider, vision = vision_of(Processor(), None, 100_000)
    assert wider == vision_of(Processor(), None, None)[1]
    media = image_media(Image.new("RGB", size))
    again = image_media(fitted(media, vision, wider))
    if max(again.width, again.height) <= 200 * min(again.width, again.height):
        assert grid(again, wider) == grid(media, vision)


def test_an_image_that_the_processor_would_scale_again_is_refused() -> None:
    own, vision = vision_of(Processor(), None, 2_000_000)
    strip = image_media(Image.new("RGB", (23_900, 120)))
    with pytest.raises(RenderError, match="23900x120"):
        fitted(strip, vision, own)
    assert fitted(strip, own, own).size[0] > 20_000  # within the processor's own limits
    # Limits so close together that what fits ours is too small for the processor.
    own, vision = vision_of(Processor(low=65_536), None, 70_000)
    with pytest.raises(RenderError, match=r"policy\.max_pixels are near its limits"):
        fitted(image_media(Image.new("RGB", (1000, 500))), vision, own)


def test_limits_outside_those_of_the_processor_are_refused() -> None:
    with pytest.raises(ConfigError, match="must lie within 65536"):
        vision_of(Processor(low=65536), 3136, None)
    with pytest.raises(ConfigError, match="no Qwen-VL image processor"):
        vision_of(SimpleNamespace(), None, None)

"""Our plug-ins on verl's own classes; runs where verl is installed. No GPU, no Ray, no engine step.

The agent loop gets a played server and a tiny Qwen2.5-VL's tokenizer and processor, the sampler a
queue in memory, and the exported config goes through verl's own entry point and validation.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pyvision_rl.config import Config
from pyvision_rl.errors import TrainError
from pyvision_rl.integrations.verl.export import export_verl
from pyvision_rl.integrations.verl.mapping import Machines
from pyvision_rl.integrations.verl.rows import task_line
from pyvision_rl.integrations.verl.summary import FIELD, summarize
from pyvision_rl.runs import RunReader
from tests.fakes import Colours
from tests.peers import cpu_torchvision  # noqa: F401 - before transformers
from tests.tiny_models import make_tiny
from tests.verl_examples import LOOK, SAY, PlayedServer, a_task, a_trajectory

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def a_config(model: str, **sections: dict[str, Any]) -> Config:
    base: dict[str, Any] = {
        "tasks": {"name": "tests.fakes:Colours"},
        "policy": {"model": model, "max_new_tokens": 64},
        "sandbox": {"name": "tests.fakes:GreySandbox"},
        "rollout": {"max_context_tokens": 2000, "group_size": 4},
        "selection": {"groups_per_step": 2, "oversample": 2.0},
    }
    merged = {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}
    return Config.model_validate(merged)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A tiny model's folder, its tokenizer, and a processor as verl would have loaded it."""
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    folder = tmp_path_factory.mktemp("tiny")
    _, tokenizer = make_tiny(folder)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    return folder, tokenizer, processor


def play(tiny: tuple[Path, Any, Any], out: Path, **server: Any) -> tuple[Any, Any]:
    """Return verl's output of one episode, and the multi-modal inputs that verl makes of it."""
    import torch
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, DictConfigWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from pyvision_rl.integrations.verl.agent_loop import PyVisionAgentLoop
    from pyvision_rl.integrations.verl.bench import bench_of

    folder, tokenizer, processor = tiny
    config = a_config(str(folder))
    export_verl(config, out, Machines(gpus=1))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    fake = PlayedServer(encode, end, **server)
    theirs = OmegaConf.create(
        {
            "actor_rollout_ref": {
                "rollout": {"prompt_length": 1000, "response_length": 1000, "multi_turn": {}}
            },
            "data": {},
        }
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    agent = PyVisionAgentLoop(
        trainer_config=DictConfigWrap(theirs),
        server_manager=fake,
        tokenizer=tokenizer,
        processor=processor,
        dataset_cls=RLHFDataset,
        data_config=DictConfigWrap(theirs.data),
        hf_model_type="qwen2_5_vl",
        folder=str(out),
        name="pyvision",
    )
    task = Colours(config.tasks)[0]  # type: ignore[arg-type]

    async def go() -> Any:
        extra = {"task": task_line(task), "split": "train", "index": 0}
        row = {"extra_info": extra, "uid": "u", "session_id": 1, "global_steps": 1}
        try:
            return await agent.run({"temperature": 1.0, "logprobs": True}, **row)
        finally:
            bench = bench_of(out, tokenizer, processor, asyncio.get_running_loop())
            await bench.harness.sandbox.close()

    output = loop.run_until_complete(go())
    loop.close()
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.processor, worker.tokenizer, worker.mm_processor_kwargs = processor, tokenizer, {}
    ids = torch.tensor([output.prompt_ids + output.response_ids])
    return output, AgentLoopWorker._compute_multi_modal_inputs(worker, output, ids)


def test_an_episode_with_a_shown_picture_is_what_verl_trains_on(
    tiny: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    output, inputs = play(tiny, tmp_path / "out", turns=[LOOK, SAY])
    pad = tiny[1].convert_tokens_to_ids("<|image_pad|>")
    grids = inputs["image_grid_thw"]
    assert len(grids) == len(output.multi_modal_data["images"]) == 2
    assert (output.prompt_ids + output.response_ids).count(pad) == int((grids.prod(-1) // 4).sum())
    fields = output.as_dict()
    size = len(output.response_ids)
    assert [len(fields[k]) for k in ("response_mask", "rollout_log_probs", "rm_scores")] == [
        size
    ] * 3
    sampled = output.response_mask
    assert 0 < sum(sampled) < size
    told = output.response_logprobs
    assert all((value < 0) == bool(m) for value, m in zip(told, sampled, strict=True))
    # Right, and one call: 1 + 0.1.
    assert fields["rm_scores"].sum().item() == pytest.approx(1.1)
    assert output.extra_fields["reward_extra_info"]["acc"] == 1.0


def test_our_own_failure_reaches_verl_without_gradient(
    tiny: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    output, _ = play(tiny, tmp_path / "out", turns=[LOOK, SAY], fails_at=0)
    assert sum(output.response_mask) == 0
    assert output.reward_score == 0.0
    assert output.as_dict()["rm_scores"].numel() > 0


class Queue:
    """verl's TransferQueue in memory: tags and summaries."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, Any]] = {}
        self.fields: dict[str, str] = {}
        self.cleared: list[str] = []

    def add(self, uid: str, rewards: Sequence[float | None]) -> None:
        self.tags[uid] = {"is_prompt": True, "status": "finished", "global_steps": 1}
        for k, reward in enumerate(rewards):
            key = f"{uid}_{k}_0"
            self.tags[key] = {"status": "success"}
            self.fields[key] = summarize(a_task(uid), a_trajectory(k, reward, task=uid))

    def kv_list(self) -> dict[str, Any]:
        return {"train": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_batch_get(self, *, keys: Sequence[str], **_: Any) -> dict[str, Any]:
        return {"extra_fields": [{FIELD: self.fields[key]} for key in keys]}

    def kv_clear(self, *, keys: Sequence[str], **_: Any) -> None:
        for key in keys:
            self.cleared.append(key)
            self.tags.pop(key, None)


def sample(
    config: Config, folder: Path, rounds: Sequence[dict[str, Sequence[float | None]]]
) -> tuple[Any, dict[str, float], Queue, list[int]]:
    """Return the sampler's batch; ``rounds`` are what each request for prompts brings."""
    import verl.trainer.ppo.v1.replay_buffer as theirs
    from omegaconf import OmegaConf

    import pyvision_rl.integrations.verl.sampler as ours

    export_verl(config, folder, Machines(gpus=1))
    queue, asked, waiting = Queue(), [], list(rounds)

    def refill(count: int) -> int:
        asked.append(count)
        for uid, rewards in waiting.pop(0).items():
            queue.add(uid, rewards)
        return count

    for uid, rewards in waiting.pop(0).items():
        queue.add(uid, rewards)
    with mock.patch.object(theirs, "tq", queue), mock.patch.object(ours, "tq", queue):
        sampler = ours.PyVisionSampler(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({"folder": str(folder)}),
            poll_interval=0.01,
            refill_fn=refill,
        )
        batch, numbers = sampler.sample(1, "train", config.selection.groups_per_step)
    return batch, numbers, queue, asked


def test_the_sampler_takes_the_groups_that_spread_most(tmp_path: Path) -> None:
    rewards: dict[str, Sequence[float | None]] = {
        "a": (1.0, 1.0, 1.0, 1.0),
        "b": (1.0, 0.0, 1.0, 0.0),
        "c": (0.0, 0.0, 0.0, 1.0),
        "d": (1.0, 1.0, 0.0, None),
    }
    # b 0.5, d 0.471 over its three graded members, c 0.433: two of them are used.
    assert statistics.pstdev((1.0, 1.0, 0.0)) == pytest.approx(0.471, abs=1e-3)
    first = {uid: rewards[uid] for uid in "ab"}
    rest = {uid: rewards[uid] for uid in "cd"}
    batch, numbers, queue, asked = sample(a_config("m"), tmp_path / "out", [first, rest])
    assert asked == [2]
    want = {f"b_{k}_0" for k in range(4)} | {f"d_{k}_0" for k in range(3)}
    assert set(batch.keys) == want
    assert len(batch.tags) == 7
    assert {"a", "c", "a_0_0", "c_3_0", "d_3_0"} <= set(queue.cleared)
    assert not want & set(queue.cleared)
    assert numbers["pyvision/dropped_zero_std"] == 4
    assert numbers["pyvision/dropped_surplus"] == 4
    assert numbers["pyvision/dropped_ungraded"] == 1
    assert numbers["pyvision/kept"] == 7
    # No worker noted anything here, which is counted too.
    assert numbers["pyvision/not_noted"] == 16
    assert RunReader(tmp_path / "out").metrics()[0]["kept"] == 7


def test_more_rounds_follow_until_the_batch_is_full(tmp_path: Path) -> None:
    same, spread = (1.0,) * 4, (1.0, 0.0, 0.0, 0.0)
    config = a_config("m", selection={"max_rounds": 3})
    rounds: list[dict[str, Sequence[float | None]]] = [
        {"a": same, "b": same},
        {"c": same, "d": spread},
        {"e": spread, "f": same, "g": same, "h": same},
    ]
    batch, numbers, _, asked = sample(config, tmp_path / "out", rounds)
    assert asked == [2, 4]
    assert {key.split("_")[0] for key in batch.keys} == {"d", "e"}
    assert numbers["pyvision/rounds"] == 2


def test_a_step_without_a_usable_group_stops_the_run(tmp_path: Path) -> None:
    same = (1.0,) * 4
    rounds: list[dict[str, Sequence[float | None]]] = [
        {"a": same, "b": same},
        {"c": same, "d": same},
    ]
    with pytest.raises(TrainError, match="0 of 2 groups are usable"):
        sample(a_config("m"), tmp_path / "out", rounds)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"train": {"micro_batch_rows": 2, "kl_coefficient": 0.01, "loss_norm": "constant"}},
        {"train": {"old_logprobs": "learner", "tis_cap": 2.0, "master_weights": True}},
    ],
    ids=["plain", "rows", "decoupled"],
)
def test_verl_composes_and_validates_the_exported_config(
    tiny: tuple[Path, Any, Any], tmp_path: Path, sections: dict[str, Any]
) -> None:
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = a_config(str(tiny[0]), **sections)
    done = export_verl(config, tmp_path / "out", Machines(gpus=1, workers=2))
    # The command of the export itself; hydra prints the config instead of training.
    _, _, module, *arguments = done.command.split()
    code = (
        "import runpy, sys, tests.peers.cpu_torchvision\n"
        f"sys.argv = ['main_ppo', *{[*arguments, '--cfg', 'job']!r}]\n"
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    theirs = OmegaConf.create(told.stdout)
    validate_config(theirs, need_reference_policy(theirs), need_critic(theirs))
    rollout = omega_conf_to_dataclass(theirs.actor_rollout_ref.rollout)
    actor = omega_conf_to_dataclass(theirs.actor_rollout_ref.actor)
    assert rollout.limit_images == config.rollout.max_images
    assert rollout.max_model_len == config.rollout.max_context_tokens
    assert rollout.agent.agent_loop_config_path == str(done.out / "agent_loop.yaml")
    assert actor.ppo_mini_batch_size == 2
    assert not need_critic(theirs)
    assert need_reference_policy(theirs) == (config.train.kl_coefficient > 0)


def test_verl_reads_the_exported_rows(tiny: tuple[Path, Any, Any], tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    done = export_verl(a_config(str(tiny[0])), tmp_path / "out", Machines(gpus=1))
    options = {
        "filter_overlong_prompts": False,
        "return_raw_chat": True,
        "cache_dir": str(tmp_path),
    }
    rows = RLHFDataset(str(done.out / "train.parquet"), tiny[1], OmegaConf.create(options), tiny[2])
    assert len(rows) == 8
    kinds = [part["type"] for part in rows[0]["raw_prompt"][0]["content"]]
    assert kinds.count("image") == 1
    assert rows[3]["extra_info"]["id"] == "colour-3"
    assert rows[3]["index"] == 3

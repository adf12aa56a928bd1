"""Several processes make the step that one would make; what they cannot do is refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvision_rl.checks.rl import check_training
from pyvision_rl.checks.sft import check_stages
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train import sharding
from pyvision_rl.train.batching import Example, MicroBatch, pack
from pyvision_rl.train.processes import own_gpu
from pyvision_rl.train.shares import rounds
from pyvision_rl.types import Batch, Segment
from tests.parallel_runs import Runner
from tests.parallel_steps import Outcome, Scenario, play
from tests.sampled import batch_of, episode
from tests.tiny_models import FAMILIES, make_tiny

CLOSE = 1e-5
RATE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    from pyvision_rl.models.load import load_model

    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as started:
        yield started


def examples(model: VisionLanguageModel) -> list[Example]:
    """Three with pictures, two without, of different lengths and weights."""
    pictured = [Example(episode(model, seed, turns).segments) for seed, turns in ((1, 1), (2, 3))]
    written = tuple(range(60, 65))
    weighed = replace(pictured[0], weights=tuple(0.5 + i for i in range(_targets(pictured[0]))))
    plain = [
        Example((Segment(tuple(range(70, 70 + n)), False), Segment(written, True, (0.0,) * 5)))
        for n in (3, 9)
    ]
    return [*pictured, weighed, *plain]


def _targets(example: Example) -> int:
    return sum(len(s.token_ids) for s in example.segments if s.sampled)


def scenarios(folder: Path, model: VisionLanguageModel) -> dict[str, Scenario]:
    """What is played by one process and by two."""
    tuned, batch = examples(model), batch_of(model)
    bad = Batch((replace(batch.samples[0], advantage=math.nan), *batch.samples[1:]))
    sft = [tuned[:3], tuned, tuned[3:], tuned[:1]]
    rl = [batch, Batch(batch.samples[:1]), batch]
    small = {"learning_rate": RATE, "micro_batch_tokens": 60}
    parts = {"minibatches": 2, "epochs": 2, "old_logprobs": "learner", "tis_cap": 2.0}
    kinds: dict[str, tuple[dict[str, Any], list[Any]]] = {
        "sft": (small, sft),
        "sft of single rows": ({"learning_rate": RATE, "micro_batch_rows": 1}, sft),
        "sft of one micro-batch": ({"learning_rate": RATE}, sft),
        "rl": (small | {"grad_clip": 0.05}, rl),
        "minibatches": (small | parts, rl),
        "after empty steps": (small | parts | {"warmup_steps": 9}, rl),
        "micro-batch means": (small | {"loss_norm": "micro_batch_mean"}, rl),
        "without its tower": (small | {"freeze_vision": True}, rl),
        "checkpointing": (small | {"gradient_checkpointing": True}, rl),
        "adapters": (small | {"lora_rank": 4, "lora_alpha": 8}, rl),
        "not finite": (small, [batch, bad, batch]),
        "undone": (small | {"minibatches": 4}, [batch, bad, batch]),
        "master weights": (small | {"master_weights": True}, rl),
        "adapters beside bfloat16": (small | {"lora_rank": 4, "lora_alpha": 8}, rl),
    }
    # None starts with the weights that lie in the folder: those of a second stage do not.
    made = {
        n: Scenario(str(folder), *k, "bfloat16" if n in HALF else "float32", moved=0.05)
        for n, k in kinds.items()
    }
    # Rate and minibatches depend on the step: every process must know it.
    apart = [batch, Batch(batch.samples)]
    made["after empty steps"] = replace(made["after empty steps"], batches=apart, skipped=3)
    return made


HALF = ("master weights", "adapters beside bfloat16")
"""What is played with a network in bfloat16."""
WHOLE = ("sft", "rl", "minibatches", "adapters", *HALF)
"""What is played with the whole network in each process."""
SHARED = (
    *(*WHOLE, "sft of one micro-batch", "micro-batch means", "without its tower"),
    *("checkpointing", "not finite", "undone", "after empty steps"),
    "sft of single rows",
)
PLAYED = [*(f"ddp {name}" for name in WHOLE), *(f"fsdp2 {name}" for name in SHARED)]


@pytest.fixture(scope="module")
def alone(folder: Path, model: VisionLanguageModel) -> dict[str, Outcome]:
    """One process."""
    return {name: play(each) for name, each in scenarios(folder, model).items()}


@pytest.fixture(scope="module")
def together(
    folder: Path,
    model: VisionLanguageModel,
    runner: Runner,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Outcome]:
    """Two processes, both ways of sharing."""
    single, orders = scenarios(folder, model), {}
    for played in PLAYED:
        kind, _, name = played.partition(" ")
        train = single[name].train | {"parallel": kind}
        orders[played] = replace(single[name], train=train)
    return run_on_two(orders, runner, tmp_path_factory.mktemp("runs"))


def known(stats: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in stats.items() if value is not None}


def run_on_two(orders: dict[str, Scenario], runner: Runner, place: Path) -> dict[str, Outcome]:
    file, log = place / "scenarios.pickle", place / "stderr"
    file.write_bytes(pickle.dumps(orders))
    codes = runner.run(2, log, steps=file)
    assert codes == [0, 0], log.read_text()
    found: dict[str, Outcome] = pickle.loads(file.with_suffix(".done").read_bytes())
    return found


@pytest.mark.parametrize("played", PLAYED)
def test_two_processes_make_the_steps_of_one(
    played: str, alone: dict[str, Outcome], together: dict[str, Outcome]
) -> None:
    name = played.partition(" ")[2]
    one, two = alone[name], together[played]
    # bfloat16 keeps 8 bits: what was added up in another order differs by 2^-8, which in a logit
    # of 16 is 0.06.
    close, relative = (0.02, 0.05) if name in HALF else (CLOSE, 1e-4)
    assert one.errors == two.errors
    assert len(one.errors) == (name in ("not finite", "undone"))
    assert len(one.stats) == len(two.stats) > 0
    for number, (ours, theirs) in enumerate(zip(one.stats, two.stats, strict=True)):
        assert known(ours) == pytest.approx(known(theirs), abs=close, rel=relative), number
    for ps, qs in zip(one.logprobs, two.logprobs, strict=True):
        assert ps == pytest.approx(qs, abs=0.15 if close > CLOSE else 1e-3)
    for key, value in one.weights.items():
        # AdamW divides by the gradient's size: where that is rounding, so is a weight's step.
        steps = 2 * RATE * sum(s.get("num_optimizer_steps", 1) for s in one.stats)
        assert (value - two.weights[key]).abs().max() < steps, key
    moved = torch.cat([(v - two.weights[k]).abs().flatten() for k, v in one.weights.items()])
    assert moved.mean() < max(0.02, close) * RATE


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_float32_copies_of_two_processes_are_those_of_one(
    kind: str, alone: dict[str, Outcome], together: dict[str, Outcome]
) -> None:
    one, two = alone["master weights"].state, together[f"{kind} master weights"].state
    ours, theirs = (s["optimizers"]["masters"] for s in (one, two))
    assert [m.shape for m in ours] == [m.shape for m in theirs]
    assert {m.dtype for m in theirs} == {torch.float32}
    apart = torch.cat([(a - b).abs().flatten() for a, b in zip(ours, theirs, strict=True)])
    # Three steps of AdamW move a weight by up to three rates.
    assert apart.mean() < 0.5 * RATE


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_state_of_two_processes_is_that_of_one(
    kind: str, alone: dict[str, Outcome], together: dict[str, Outcome]
) -> None:
    one, two = alone["rl"].state, together[f"{kind} rl"].state
    ours, theirs = (s["optimizers"]["optimizers"][0] for s in (one, two))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, moments in ours["state"].items():
        for name, value in moments.items():
            other = theirs["state"][index][name]
            assert type(other) is torch.Tensor
            torch.testing.assert_close(value, other, atol=CLOSE, rtol=1e-3)


def test_what_two_processes_saved_goes_on_with_the_same_bits_and_on_one(
    folder: Path, model: VisionLanguageModel, runner: Runner, tmp_path: Path
) -> None:
    batch = batch_of(model)
    train = {"learning_rate": RATE, "micro_batch_tokens": 60, "parallel": "fsdp2"}
    whole = Scenario(str(folder), train, [batch] * 4)
    first = replace(whole, batches=[batch] * 2)
    found = run_on_two({"whole": whole, "first": first}, runner, tmp_path)
    module: Any = model.module
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(found["first"].weights[name])
    saved = tmp_path / "saved"
    model.save(saved)
    for file in folder.iterdir():
        if not (saved / file.name).exists():
            (saved / file.name).write_bytes(file.read_bytes())
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(before[name])
    second = replace(first, folder=str(saved), state=found["first"].state)
    (tmp_path / "again").mkdir()
    resumed = run_on_two({"second": second}, runner, tmp_path / "again")["second"]
    assert resumed.stats == found["whole"].stats[2:]
    for name, value in found["whole"].weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    alone = play(replace(second, train=train | {"parallel": "none"}))
    for ours, theirs in zip(alone.stats, resumed.stats, strict=True):
        assert known(ours) == pytest.approx(known(theirs), abs=CLOSE, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_process_0_reads_the_models_files(family: str, runner: Runner, tmp_path: Path) -> None:
    folders = {kind: tmp_path / kind for kind in ("none", "ddp", "fsdp2")}
    made = {kind: make_tiny(folder, family)[0] for kind, folder in folders.items()}
    batches = [batch_of(made["none"])] * 2
    train = {"learning_rate": RATE, "micro_batch_tokens": 60}
    orders = {
        kind: Scenario(str(folder), train | {"parallel": kind}, batches, gone=True)
        for kind, folder in folders.items()
    }
    one = play(orders.pop("none"))
    for kind, two in run_on_two(orders, runner, tmp_path).items():
        assert not folders[kind].exists()
        for ours, theirs in zip(one.stats, two.stats, strict=True):
            assert known(ours) == pytest.approx(known(theirs), abs=CLOSE, rel=1e-4)
        for ps, qs in zip(one.logprobs, two.logprobs, strict=True):
            assert ps == pytest.approx(qs, abs=1e-3)


def test_only_process_0_keeps_a_state_whole() -> None:
    state = {"state": [{"exp_avg": torch.ones(3), "step": 2}], "groups": (0.1,)}
    assert sharding.gathered_state(state, keep=True)["state"][0]["exp_avg"].tolist() == [1.0] * 3
    told = sharding.gathered_state(state, keep=False)
    assert told["state"][0]["exp_avg"].numel() == 0
    assert (told["state"][0]["step"], told["groups"]) == (2, (0.1,))


# Who computes what


def micro_batches(model: VisionLanguageModel, lengths: list[tuple[int, bool]]) -> list[MicroBatch]:
    made = []
    for number, (length, pictured) in enumerate(lengths):
        segments = episode(model, number + 1, 1).segments if pictured else ()
        text = Segment(tuple(range(60, 60 + length)), True, (0.0,) * length)
        made.append(Example((Segment((55,), False), *segments, text)))
    return pack(made, model, 50)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=9),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_row_is_computed_once_and_rounds_are_full_and_alike(
    model: VisionLanguageModel, lengths: list[tuple[int, bool]], size: int, cut: bool
) -> None:
    whole = micro_batches(model, lengths)
    turns = rounds(whole, size, cut=cut)
    every = [micro for turn in turns for micro in turn]
    assert sorted(row for micro in every for row in micro.rows) == list(range(len(lengths)))
    assert sum(m.num_targets for m in every) == sum(m.num_targets for m in whole)
    assert sum(float(m.weights_BT.sum()) for m in every) == sum(
        float(m.weights_BT.sum()) for m in whole
    )
    assert all(len(turn) == size for turn in turns)
    assert all(len({bool(m.images) for m in turn}) == 1 for turn in turns)
    assert all(m.token_ids_BT.shape[0] > 0 for m in every)
    assert all(m.num_targets == 0 for m in every if not m.rows)


def test_a_batch_that_fits_one_micro_batch_is_cut_for_all(model: VisionLanguageModel) -> None:
    (whole,) = pack([Example((Segment((60, 61), True, (0.0,) * 2),))] * 8, model, 999)
    assert [len(m.rows) for m in rounds([whole], 4)[0]] == [2, 2, 2, 2]


# What is refused


def test_a_process_without_a_gpu_of_its_own_is_refused_by_number() -> None:
    assert [own_gpu(place, 2) for place in (0, 1)] == [0, 1]
    with pytest.raises(ConfigError, match=r"process 3 on this machine .* there are 2; "):
        own_gpu(2, 2)


def config(**train: Any) -> Config:
    return Config.model_validate({"train": train, "sft": {"stages": [{"name": "s", "data": []}]}})


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ({"parallel": "fsdp2", "optimizer": "muon"}, "train.optimizer"),
        ({"parallel": "ddp", "mixed_precision": "fp16"}, "train.mixed_precision"),
        ({"parallel": "ddp", "kl_coefficient": 0.1}, "train.kl_coefficient"),
    ],
)
def test_what_one_process_alone_can_do_is_refused_by_name(train: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        check_training(config(**train))
    with pytest.raises(ConfigError, match=key):
        check_stages(config(**train))


def test_a_served_policy_is_refused_by_name() -> None:
    wanted = Config.model_validate({"train": {"parallel": "ddp"}, "policy": {"name": "vllm"}})
    with pytest.raises(ConfigError, match=r'policy\.name = "vllm"'):
        check_training(wanted)


def test_a_mean_of_weights_is_refused_by_name() -> None:
    stage = {"name": "s", "steps": 1, "ema_decay": 0.9, "data": [{"kind": "pairs", "path": "x"}]}
    wanted = Config.model_validate({"train": {"parallel": "ddp"}, "sft": {"stages": [stage]}})
    with pytest.raises(ConfigError, match=r"sft\.stages\[0\]\.ema_decay"):
        check_stages(wanted)

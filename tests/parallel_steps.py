"""Scenarios of a learner, made by one process or by several: the same function makes both.

In: a file of scenarios. Out: a file beside it, written by process 0, with what each of them gave:
statistics, weights, log-probabilities, state.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import TrainError
from pyvision_rl.models.load import load_model
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import Batch


@dataclass(frozen=True)
class Scenario:
    """One learner and its steps."""

    folder: str
    train: dict[str, Any]
    """Keys of ``[train]``."""
    batches: list[Any]
    """One a step: a ``Batch``, or a list of examples."""
    dtype: str = "float32"
    state: dict[str, Any] | None = None
    """To go on from."""
    moved: float = 0.0
    """How far (standard deviation) each weight was moved before, as an earlier stage does."""
    skipped: int = 0
    """RL steps without an update before the last one."""
    gone: bool = False
    """Whether the model's folder is removed once process 0 has read it."""


@dataclass
class Outcome:
    """What it gave."""

    stats: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    logprobs: list[tuple[float, ...]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


def play(scenario: Scenario, make: Callable[..., Learner] = Learner) -> Outcome:
    """Make the learner and its steps."""
    torch.manual_seed(0)
    config = TrainConfig.model_validate(scenario.train)
    model = load_model(scenario.folder, device="cpu", dtype=scenario.dtype)
    if config.lora_rank:
        from pyvision_rl.models.adapters import add_adapters
        from pyvision_rl.sizes.parameters import LORA_MAPS

        targets = LORA_MAPS[config.lora_targets]
        add_adapters(model.module, rank=config.lora_rank, alpha=8, targets=targets, seed=5)
    if scenario.moved:
        _move(model.module, scenario.moved)
    if scenario.gone:
        shutil.rmtree(scenario.folder)
    learner = make(model, config, seed=7)
    if scenario.state is not None:
        learner.load_state_dict(scenario.state)
    done = Outcome()
    for batch in scenario.batches:
        if scenario.skipped and batch is scenario.batches[-1]:
            learner.go_to(learner.step + scenario.skipped + 1)
        try:
            rl = isinstance(batch, Batch)
            stats = learner.update(batch, 1.0) if rl else learner.sft_step(batch)
            done.stats.append(asdict(stats))
        except TrainError as error:
            done.errors.append(str(error))
    last = scenario.batches[-1]
    if isinstance(last, Batch):
        done.logprobs = learner.logprobs([s.trajectory for s in last.samples])
    done.weights = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    done.state = learner.state_dict()
    return done


@torch.no_grad()
def _move(module: torch.nn.Module, scale: float) -> None:
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape) * scale)


def run(file: Path) -> None:
    """Play the scenarios of ``file`` on all processes; process 0 writes ``<file>.done``."""
    from pyvision_rl.train.parallel import follower, lead
    from pyvision_rl.train.processes import Processes, follow

    with Processes(60.0, "cpu") as processes:
        if not processes.leads:
            follow(processes, follower)
            return
        scenarios = pickle.loads(file.read_bytes())
        found = {name: play(each, partial(lead, processes)) for name, each in scenarios.items()}
    file.with_suffix(".done").write_bytes(pickle.dumps(found))

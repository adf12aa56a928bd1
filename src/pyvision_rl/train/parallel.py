"""A learner on several processes, which together make the step that one would make.

In: what ``Learner`` takes, on process 0; the others are told. Out: the same steps, with the
micro-batches of each spread over the processes. On process 0 it is a ``Learner`` like any other:
whoever calls it need not know. Sampling, selecting, saving and logging are done by process 0 alone,
from ``model``, a whole network that has the trained weights after every step.

    process 0                                  the others
    lead(.., model, config)      build ->      follow: ParallelLearner of the same network
    learner.update(batch)        update ->     the same method with the same batch
      each computes its micro-batches; gradients and diagnostics are added up; all move their piece
    learner.model <- weights
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyvision_rl.config import TrainConfig
from pyvision_rl.images import VisionSpec
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.blank import blank_network
from pyvision_rl.train import sharding
from pyvision_rl.train.batching import Example, MicroBatch
from pyvision_rl.train.learner import Learner, SftStats, Share
from pyvision_rl.train.processes import Processes
from pyvision_rl.train.shares import rounds
from pyvision_rl.types import Batch, Scored, Trajectory, UpdateStats


@dataclass(frozen=True, slots=True)
class Plan:
    """What the others need to build the learner of process 0."""

    layout: Any
    """transformers' config of the network; the weights come from process 0."""
    dtype: torch.dtype
    vision: VisionSpec
    vocab_size: int
    config: TrainConfig
    options: dict[str, Any]
    """Further arguments of ``Learner``."""


def lead(
    processes: Processes, model: VisionLanguageModel, config: TrainConfig, **options: Any
) -> Learner:
    """Return a learner over all processes, on process 0.

    Args:
        processes: The others ``follow`` with ``follower``.
        model: The whole network; it gets the new weights after every step.
        config: Its ``parallel`` says what every process holds.
        options: As in ``Learner``, but for a reference.

    Raises:
        ConfigError: As in ``Learner``.
        LostProcess: Another process died.
    """
    assert options.pop("reference", None) is None
    module: Any = model.module
    plan = Plan(module.config, model.dtype, model.vision, model.vocab_size, config, options)
    processes.tell("build", plan)
    network = model
    if config.parallel == "fsdp2":
        network = _twin(model)
    return ParallelLearner(network, config, processes, model, model.device, **options)


def follower(processes: Processes, plan: Plan) -> Learner:
    """Return the learner of a process that does not lead, in step with ``lead``."""
    config = plan.config
    module = blank_network(plan.layout, plan.dtype)
    if config.lora_rank:
        from pyvision_rl.train.adapting import put_adapters

        put_adapters(module, config, seed=0)
    device = processes.device
    if config.parallel == "ddp":
        module.to(device)
    network = VisionLanguageModel(module.eval(), plan.vision, plan.vocab_size)
    return ParallelLearner(network, config, processes, None, device, **plan.options)


class ParallelLearner(Learner):
    """One process's part of a learner. Methods are called on process 0; it has the others join."""

    def __init__(
        self,
        network: VisionLanguageModel,
        config: TrainConfig,
        processes: Processes,
        model: VisionLanguageModel | None,
        device: torch.device,
        **options: Any,
    ) -> None:
        """Prepare this process.

        Args:
            network: What it computes with; with fsdp2 it is left with its pieces on ``device``.
            config: As in ``Learner``.
            processes: All of them build theirs together.
            model: The whole network of process 0; it may be ``network``.
            device: Of this process.
            options: As in ``Learner``.
        """
        self._processes = processes
        self._scorer = sharding.Scorer(network)
        self._sharded = config.parallel == "fsdp2"
        with processes.guarded():
            if self._sharded:
                sharding.shard(self._scorer, device, processes)
            source = None if model is None else model.module
            sharding.spread_weights(source, network.module, processes)
            # Only now: it may take copies of the weights.
            super().__init__(network, config, **options)
        self.model = model or network
        self.network = network

    def go_to(self, step: int) -> None:
        """Have the next update be that of ``step``; see ``Learner.go_to``."""
        self._processes.tell("go_to", step)
        super().go_to(step)

    def update(self, batch: Batch, temperature: float) -> UpdateStats:
        """Make one RL step over the whole batch; see ``Learner.update``."""
        # Others need no more of an episode than its tokens, pictures and task.
        samples = tuple(replace(s, trajectory=_bare(s.trajectory)) for s in batch.samples)
        self._processes.tell("update", Batch(samples), temperature)
        with self._processes.guarded():
            stats = super().update(batch, temperature)
            self._publish()
        return stats

    def sft_step(self, examples: Sequence[Example]) -> SftStats:
        """Make one cross-entropy step over the examples; see ``Learner.sft_step``."""
        self._processes.tell("sft_step", list(examples))
        with self._processes.guarded():
            stats = super().sft_step(examples)
            self._publish()
        return stats

    def logprobs(
        self, trajectories: Sequence[Trajectory], temperature: float = 1.0
    ) -> list[tuple[float, ...]]:
        """Return each trajectory's log-probabilities of its sampled tokens, as training sees."""
        self._processes.tell("logprobs", [_bare(t) for t in trajectories], temperature)
        with self._processes.guarded():
            samples = [Scored(t, 0.0) for t in trajectories]
            own: dict[int, tuple[float, ...]] = {}
            for micro in self._own(self._packed(samples)):
                with torch.no_grad(), self.accelerator.autocast():
                    logprobs_BT, _ = self._score(micro, temperature)
                for b, index in enumerate(micro.rows):
                    own[index] = tuple(logprobs_BT[b][micro.loss_mask_BT[b]].tolist())
            found = {k: v for part in self._processes.gathered(own) for k, v in part.items()}
        return [found.get(index, ()) for index in range(len(trajectories))]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed learner needs, whole, whatever the number of processes.

        On the others, who only help to gather it, it holds no tensors.
        """
        if self._sharded:
            self._processes.tell("state_dict")
        with self._processes.guarded():
            state = super().state_dict()
            keep = self._processes.leads
            return state | {"optimizers": sharding.gathered_state(state["optimizers"], keep=keep)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, which any number of processes may have made.

        Raises:
            CheckpointError: It belongs to other optimizers or another model.
        """
        if self._processes.leads:
            self._processes.tell("load_state_dict", sharding.outline(state))
        parameters = [
            [p for group in optimizer.param_groups for p in group["params"]]
            for optimizer in self.optimizers.optimizers
        ]
        with self._processes.guarded():
            own = sharding.scattered_state(state["optimizers"], parameters, self._processes)
            super().load_state_dict(state | {"optimizers": own})
            if self.config.master_weights:
                self._publish()

    def _own(self, micro_batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """Return the micro-batches of this process: one of each round."""
        return [turn[self._processes.rank] for turn in self._rounds(micro_batches)]

    def _rounds(self, micro_batches: Sequence[MicroBatch]) -> list[list[MicroBatch]]:
        # That mean depends on how samples are cut, and must not depend on who computes them.
        cut = self.config.loss_norm != "micro_batch_mean"
        return rounds(micro_batches, self._processes.size, cut=cut)

    def _score(self, micro: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        scored: tuple[Tensor, Tensor] = self._scorer(micro, temperature, self.logits_per_chunk)
        return scored

    def _prepare(
        self, plan: Sequence[Sequence[MicroBatch]], temperature: float, mismatches: list[Tensor]
    ) -> list[list[MicroBatch]]:
        if self.config.old_logprobs == "sampler":
            return super()._prepare(plan, temperature, mismatches)
        return [self._prepared_part(part, temperature, mismatches) for part in plan]

    def _prepared_part(
        self, part: Sequence[MicroBatch], temperature: float, mismatches: list[Tensor]
    ) -> list[MicroBatch]:
        """Return a part as it is cut for the processes, with what each of them computed for it."""
        turns = self._rounds(part)
        seen: list[Tensor] = []
        own = []
        for turn in turns:
            micro = self._prepared(turn[self._processes.rank], temperature, seen)
            own.append((micro.old_logprobs_BT.cpu(), micro.weights_BT.cpu()))
        found = self._processes.gathered((own, [mismatch.cpu() for mismatch in seen]))
        for _, theirs in found:
            mismatches += theirs
        device = part[0].token_ids_BT.device
        return [
            replace(micro, old_logprobs_BT=old_BT.to(device), weights_BT=weights_BT.to(device))
            for number, turn in enumerate(turns)
            for micro, (old_BT, weights_BT) in zip(turn, (f[0][number] for f in found), strict=True)
            if micro.rows
        ]

    def _gradients(
        self, micro_batches: Sequence[MicroBatch], share: Callable[[MicroBatch], Share]
    ) -> tuple[list[Share], float]:
        """Leave clipped, finite gradients of the whole step in the parameters of all processes."""
        self.optimizers.zero_grad()
        shares = [self._backward(micro, share) for micro in self._own(micro_batches)]
        parts = [p for found in self._processes.gathered(_told(shares)) for p in found]
        bad = [(rows, loss) for rows, loss, _, _ in parts if not math.isfinite(loss)]
        if bad:
            raise self._stopped(f"the loss of samples {list(bad[0][0])} is {bad[0][1]}")
        parameters = self.optimizers.parameters
        if not self._sharded:
            sharding.sum_gradients(parameters)
        norm = sharding.clip(parameters, self.config.grad_clip)
        if not math.isfinite(norm):
            raise self._stopped(f"the gradient norm is {norm}")
        return [Share(torch.tensor(loss), sums, drift_N) for _, loss, sums, drift_N in parts], norm

    def _backward(self, micro: MicroBatch, share: Callable[[MicroBatch], Share]) -> Share:
        # Not finite is for all to hear of: one that stopped here would leave the others waiting.
        with self.accelerator.autocast():
            part = share(micro)
        self.accelerator.backward(part.loss)
        return replace(part, loss=part.loss.detach(), rows=micro.rows)

    def _publish(self) -> None:
        """Have the weights of all pieces in the whole network of process 0."""
        if self._sharded:
            target = self.model.module if self._processes.leads else None
            sharding.collect_weights(self.network.module, target)

    @contextmanager
    def _training(self) -> Iterator[None]:
        self.network.module.train()
        try:
            yield
        finally:
            self.optimizers.zero_grad()
            self.network.module.eval()


def _told(
    shares: Sequence[Share],
) -> list[tuple[tuple[int, ...], float, tuple[float, ...], Tensor | None]]:
    """Return a process's shares as values that can be sent."""
    return [
        (s.rows, float(s.loss), s.sums, None if s.drift_N is None else s.drift_N.cpu())
        for s in shares
    ]


def _bare(trajectory: Trajectory) -> Trajectory:
    return Trajectory(
        trajectory.task_id, trajectory.rollout, trajectory.segments, (), (), trajectory.end
    )


def _twin(model: VisionLanguageModel) -> VisionLanguageModel:
    """Return a copy of a network on the CPU."""
    module, device = model.module, model.device
    # Not two whole copies on a device that may hold only one.
    twin = copy.deepcopy(module.to("cpu"))
    module.to(device)
    return VisionLanguageModel(twin, model.vision, model.vocab_size)

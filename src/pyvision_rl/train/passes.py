"""Several optimizer steps from one batch: how it is cut, and how they stay all or nothing.

In: the samples of a batch, or optimizers. Out: which samples share a minibatch; a context that puts
weights and moments back. Needed only where an RL step makes more than one optimizer step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyvision_rl.train.optimizers import Optimizers
from pyvision_rl.types import Scored


def split(samples: Sequence[Scored], minibatches: int, seed: int) -> list[list[int]]:
    """Return the indices of each minibatch: whole groups, shuffled, as even as groups allow.

    Fewer groups than ``minibatches`` make one minibatch each.
    """
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.trajectory.task_id, []).append(index)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    count = min(minibatches, len(order))
    borders = [len(order) * k // max(1, count) for k in range(count + 1)]
    return [
        sorted(i for group in order[start:stop] for i in group)
        for start, stop in itertools.pairwise(borders)
    ]


@contextmanager
def whole_or_nothing(optimizers: Optimizers) -> Iterator[None]:
    """Put trained weights and optimizer states back if what is inside fails (copies on the CPU)."""
    weights = [_copy(p) for p in optimizers.parameters]
    state = optimizers.state_dict()
    states = {"optimizers": [_snapshot(s) for s in state["optimizers"]]}
    states |= {"masters": [_copy(m) for m in state["masters"]]} if "masters" in state else {}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, before in zip(optimizers.parameters, weights, strict=True):
                parameter.copy_(before)
        optimizers.load_state_dict(states)
        raise


def _snapshot(state: dict[str, Any]) -> dict[str, Any]:
    moments = {
        index: {name: _copy(value) for name, value in kept.items()}
        for index, kept in state["state"].items()
    }
    return {**state, "state": moments}


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value

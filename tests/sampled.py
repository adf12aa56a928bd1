"""Episodes of random tokens and pictures, with log-probabilities of a sampler beside the learner.

For tests of training that need a batch but no skill.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from pyvision_rl.config import TrainConfig
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import Batch, EndReason, Scored, Segment, Trajectory
from tests.tiny_models import noise


def clone(model: VisionLanguageModel) -> VisionLanguageModel:
    return VisionLanguageModel(copy.deepcopy(model.module), model.vision, model.vocab_size)


def episode(model: VisionLanguageModel, seed: int, turns: int) -> Trajectory:
    """A trajectory of random tokens with one picture per turn."""
    rng = np.random.default_rng(seed)
    segments = []
    for turn in range(turns):
        image = noise(seed * 10 + turn)
        before = rng.integers(50, 300, 3).tolist()
        segments.append(Segment((*before, model.image_token_id, 51), False, media=(image,)))
        written = rng.integers(50, 300, int(rng.integers(2, 6))).tolist()
        segments.append(Segment(tuple(written), True, (0.0,) * len(written)))
    return Trajectory(f"t{seed}", 0, tuple(segments), (), (), EndReason.ANSWERED)


def with_logprobs(trajectory: Trajectory, logprobs: tuple[float, ...]) -> Trajectory:
    left = list(logprobs)
    segments = tuple(
        replace(s, logprobs=tuple(left.pop(0) for _ in s.token_ids)) if s.sampled else s
        for s in trajectory.segments
    )
    return replace(trajectory, segments=segments)


def batch_of(model: VisionLanguageModel, temperature: float = 1.0, drift: float = 0.4) -> Batch:
    """Four episodes of one to three turns, sampled by a policy ``drift`` nats away."""
    bare = [episode(model, seed, turns) for seed, turns in ((1, 1), (2, 3), (3, 2), (4, 1))]
    found = Learner(model, TrainConfig()).logprobs(bare, temperature)
    rng = np.random.default_rng(0)
    samples = [
        Scored(
            with_logprobs(
                t, tuple(p - d for p, d in zip(ps, noise_of(rng, ps, drift), strict=True))
            ),
            a,
        )
        for t, ps, a in zip(bare, found, (0.75, -0.25, 1.5, -0.5), strict=True)
    ]
    return Batch(tuple(samples))


def noise_of(rng: np.random.Generator, like: tuple[float, ...], scale: float) -> list[float]:
    return [float(x) for x in rng.normal(0, scale, len(like))] if scale else [0.0] * len(like)

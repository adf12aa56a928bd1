"""A policy that tells no log-probabilities can teach, but its episodes never enter an RL update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_tiny

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import TrainError
from pyvision_rl.train.batching import Example
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import Batch, EndReason, Scored, Segment, Trajectory

SEGMENTS = (Segment((60, 61, 62), False), Segment((63, 64), True, None))


def test_untold_log_probabilities_stop_rl_and_do_not_matter_to_sft(tmp_path: Path) -> None:
    model, _ = make_tiny(tmp_path)
    assert np.isnan(model.expand(SEGMENTS).logprobs).tolist() == [False] * 3 + [True] * 2
    learner = Learner(model, TrainConfig())
    episode = Trajectory("t", 0, SEGMENTS, (), (), EndReason.ANSWERED)
    with pytest.raises(TrainError, match=r"finite|nan"):
        learner.update(Batch((Scored(episode, 1.0),)), 1.0)
    assert np.isfinite(learner.sft_step([Example(SEGMENTS)]).loss)

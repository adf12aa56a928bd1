"""The estimate of memory holds on a network of a real size, too large for the quick tests."""

from __future__ import annotations

import pytest

from pyvision_rl.config import Config
from pyvision_rl.sizes import memory
from pyvision_rl.sizes.parameters import count
from pyvision_rl.train.batching import pack
from pyvision_rl.train.learner import Learner
from tests.measured import examples, measured_peak, network_135m


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step_of_135_million_parameters(checkpointing: bool) -> None:
    """Slow: two steps of a network of a real width on a CPU, about 4 GB."""
    model, architecture = network_135m(12544)
    parameters = sum(p.numel() for p in model.module.parameters())
    keys = {"gradient_checkpointing": checkpointing, "micro_batch_tokens": 512}
    config = Config.model_validate({"train": keys})
    assert count(architecture, config.train).total == parameters > 135e6
    batch = examples(model, rows=4, text=120, side=112, written=100)
    micro = pack(batch, model, 512)
    assert [len(m.rows) for m in micro] == [2, 2]
    B, T = micro[0].token_ids_BT.shape
    one = memory.Pass(tokens=B * T, targets=micro[0].num_targets, patches=2 * 64)
    want = memory.fixed(architecture, config, "sft").total
    want += memory.activations(architecture, config, one) + memory.logits(architecture, one)
    got = measured_peak(Learner(model, config.train), batch)
    assert abs(want - got) / got < 0.2, (want, got)

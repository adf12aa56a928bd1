"""A learner whose result is the mean of the weights along the way.

In: what ``Learner`` takes, and a decay. Out: after n steps the mean of the weights w_1 ... w_n
behind each step, w_i weighed by decay^(n-i) and all weights together by 1: unlike a mean that
starts at the first weights it needs no warm-up. Training goes on from the last weights; only
``averaged`` puts the mean into the model. Frozen parameters are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.batching import Example
from pyvision_rl.train.learner import Learner, SftStats


class AveragingLearner(Learner):
    """A learner that keeps an exponential moving average of its weights in SFT."""

    def __init__(
        self, model: VisionLanguageModel, config: TrainConfig, *, decay: float, **options: Any
    ) -> None:
        """Prepare to train ``model`` in place.

        Args:
            model: As in ``Learner``; its weights must be float32, or the mean would be rounded.
            config: As in ``Learner``.
            decay: Above 0 and below 1.
            options: As in ``Learner``.

        Raises:
            ConfigError: The weights are not float32, or as in ``Learner``.
        """
        if model.dtype != torch.float32:
            raise ConfigError(
                f"ema_decay needs float32 weights and got {model.dtype}: set policy.dtype = "
                '"float32"; train.mixed_precision makes the passes cheap'
            )
        super().__init__(model, config, **options)
        self.decay = decay
        module: Any = model.module
        self._names = [n for n, p in module.named_parameters() if p.requires_grad]
        self._live: list[Tensor] = [p.data for p in module.parameters() if p.requires_grad]
        self._other = [tensor.clone() for tensor in self._live]
        """The mean; while ``averaged`` is open, the weights that training goes on from."""

    def sft_step(self, examples: Sequence[Example]) -> SftStats:
        """Make one step, and take its weights into the mean."""
        stats = super().sft_step(examples)
        # (1 - d) / (1 - d^n): the share of the newest weights once all shares sum to 1.
        share = (1 - self.decay) / (1 - self.decay**self.step)
        for mean, live in zip(self._other, self._live, strict=True):
            mean.lerp_(live, share)
        return stats

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the mean in the model inside; the last weights again afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def settle(self) -> None:
        """Leave the mean in the model for good; nothing is trained after it."""
        self._swap()

    def state_dict(self) -> dict[str, Any]:
        """Return the learner's state with the weights that training goes on from.

        To be called while ``averaged`` is open: the mean is what is saved as the model.
        """
        return {**super().state_dict(), "live": dict(zip(self._names, self._other, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, in a model that holds the mean saved beside it.

        Raises:
            CheckpointError: It is of a learner without a mean, or of another model.
        """
        super().load_state_dict(state)
        saved = state.get("live", {})
        if list(saved) != self._names:
            raise CheckpointError("the checkpoint holds no weights to go on averaging from")
        for name, mean, live in zip(self._names, self._other, self._live, strict=True):
            mean.copy_(live)
            live.copy_(saved[name])

    def _swap(self) -> None:
        for other, live in zip(self._other, self._live, strict=True):
            kept = live.clone()
            live.copy_(other)
            other.copy_(kept)

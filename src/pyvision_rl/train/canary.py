"""Whether two engines hold the same weights: both score the same fixed tokens.

In: sequences of text and pictures, made once; the learner's network; the other engine's scores.
Out: an ``Agreement`` of numbers, and what is wrong with it. Scores are log-probabilities of given
tokens under the whole vocabulary at temperature 1, which is what servers tell of a prompt.
Publishes nothing and knows no server.

Axes: T tokens of one sequence, images expanded; n scored tokens of a chunk; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import image_media
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Message, Segment, Text

Scores = npt.NDArray[np.float64]
"""Log-probabilities (nats) of every scored token, sequence after sequence."""

_REPLY = "<code>\n```python\nprint(image_clue_0.size)\n```\n</code>"
"""Scored after every prompt: what a turn may look like."""
_CHUNK = 256
_NOISE = 3.0
"""A movement shows when it is so many times the difference there was at the start."""
_LEAST_MOVED = 1e-5


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the other engine's scores are from the learner's (nats)."""

    gap: float
    """Mean over tokens."""
    gap_max: float
    moved: float
    """How far the learner's own scores are from those at the first comparison: root mean square."""
    follow: float | None
    """The share of that movement that the other engine has made too: 1 when it followed, 0 when it
    has kept old weights; None while the movement is too small to tell."""

    def numbers(self) -> dict[str, float]:
        """Return them by metric name."""
        found = {"gap": self.gap, "gap_max": self.gap_max, "moved": self.moved}
        found |= {} if self.follow is None else {"follow": self.follow}
        return {f"sync_{name}": value for name, value in found.items()}

    def problem(self, max_gap: float, min_follow: float) -> str:
        """Return why the engines cannot hold the same weights; "" if they may."""
        # NaN compares false: it must not pass.
        if not self.gap <= max_gap:
            return (
                f"log-probabilities differ by {self.gap:.3g} nats on average, at most by "
                f"{self.gap_max:.3g} (max_gap = {max_gap:g})"
            )
        if self.follow is not None and not self.follow >= min_follow:
            return (
                f"the learner has moved by {self.moved:.3g} nats and the server has followed "
                f"{self.follow:.0%} of it (min_follow = {min_follow:g}): it keeps old weights"
            )
        return ""


class Canary:
    """Compares with the first comparison too: small updates show in the long run."""

    def __init__(self, sequences: Sequence[tuple[Segment, ...]]) -> None:
        """Take the sequences to score, all of given tokens."""
        self.sequences = tuple(sequences)
        self._first: tuple[Scores, Scores] | None = None

    def compare(self, ours: Scores, theirs: Scores) -> Agreement:
        """Return how far two engines are apart, and how far they moved together.

        Args:
            ours: The learner's, of all sequences.
            theirs: The other engine's.
        """
        if self._first is None:
            self._first = (ours, theirs)
        apart = np.abs(theirs - ours)
        before, their_before = self._first
        movement, their_movement = ours - before, theirs - their_before
        moved = float(np.sqrt(np.mean(movement**2)))
        noise = float(np.sqrt(np.mean((their_before - before) ** 2)))
        follow = None
        if moved > _NOISE * noise + _LEAST_MOVED:
            follow = float(movement @ their_movement / (movement @ movement))
        return Agreement(float(apart.mean()), float(apart.max()), moved, follow)


def make_sequences(
    tasks: TaskSet, count: int, prompts: PromptBuilder, renderer: Renderer
) -> list[tuple[Segment, ...]]:
    """Return the prompts of the first ``count`` tasks, and one with a picture of ours.

    Raises:
        ConfigError: No task of the first ones can be read.
    """
    reply = Segment(renderer.encode(_REPLY), sampled=False)
    found: list[tuple[Segment, ...]] = []
    failure: TaskError | None = None
    for index in range(min(len(tasks), 4 * count)):
        try:
            messages = prompts.prompt(tasks[index].input).messages
            found.append((renderer.open(messages), reply))
        except TaskError as error:
            failure = error
        if len(found) == count:
            break
    if not found:
        raise ConfigError(f"policy.options.sync: no task to make a canary of: {failure}")
    # Where tasks show no picture at the start, the vision tower must be compared all the same.
    ramp = Image.linear_gradient("L").resize((112, 84)).convert("RGB")
    shown = Message("user", (Text("What is this?"), image_media(ramp)))
    return [*found, (renderer.open((shown,)), reply)]


@torch.no_grad()
def scores(model: VisionLanguageModel, sequences: Sequence[tuple[Segment, ...]]) -> Scores:
    """Return the network's score of every token but the first and the pads of images."""
    module: Any = model.module
    head, parts = module.get_output_embeddings(), []
    for segments in sequences:
        expanded = model.expand(segments)
        ids = torch.tensor([expanded.token_ids], device=model.device)
        positions = torch.from_numpy(expanded.positions).to(model.device)
        images = [(0, offset, media) for offset, media in expanded.images]
        hidden = model.hidden(model.embed(ids, images), positions[:, None])
        keep = torch.from_numpy(scored(expanded.token_ids, model.image_token_id)).to(model.device)
        chunks = (torch.split(each, _CHUNK) for each in (hidden[0, :-1][keep], ids[0, 1:][keep]))
        for part, target in zip(*chunks, strict=True):
            # Not model.logits: a server scores a prompt without our bans.
            logprobs = head(part).float().log_softmax(-1)
            parts.append(logprobs.gather(1, target[:, None])[:, 0].double().cpu().numpy())
    return np.concatenate(parts)


def scored(token_ids: Sequence[int], image_token_id: int) -> npt.NDArray[np.bool_]:
    """Return [T - 1], True where the next token is text."""
    keep: npt.NDArray[np.bool_] = np.array(token_ids[1:]) != image_token_id
    return keep

"""What SFT learns from: examples, their token weights, and the order in which they come.

In: ``[[sft.stages]]`` data sources and token weights. Out: for every step the same batch of
``Example`` records, given seed, stage and the number of examples already taken. Batches are drawn
uniformly: sorting by length across batches would make whole batches of short direct answers, and
the last ones would decide whether the model looks at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pyvision_rl.assemble import build_tasks
from pyvision_rl.checks_sft import compile_rules
from pyvision_rl.config import Config, SftDataConfig, TokenWeight
from pyvision_rl.errors import ConfigError
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.runs import RunReader, read_rollouts
from pyvision_rl.tasks.base import Paired
from pyvision_rl.tasks.pairs import read_pairs
from pyvision_rl.train.batching import Example
from pyvision_rl.types import Pair, Segment, Trajectory

Segments: TypeAlias = tuple[Segment, ...]
RunScripts: TypeAlias = Callable[[SftDataConfig], Sequence[Trajectory]]
"""Executes the scripts of a source's task set and returns one trajectory per task."""


class StageData:
    """All examples of one stage, and the next batch of them."""

    def __init__(
        self, config: Config, index: int, renderer: Renderer, run_scripts: RunScripts
    ) -> None:
        """Load every source of stage ``index``.

        Raises:
            ConfigError: A source names what is not there, or has no example.
        """
        stage = config.sft.stages[index]
        where = f"sft.stages[{index}]"
        self._sources = [
            load_source(data, f"{where}.data[{i}]", renderer, run_scripts)
            for i, data in enumerate(stage.data)
        ]
        self._weights = TokenWeights(stage.token_weights, renderer.decode, where)
        sizes = [len(source) for source in self._sources]
        shares = [data.weight for data in stage.data]
        self.mixture = Mixture(sizes, shares, (config.seed, index))

    @property
    def num_examples(self) -> int:
        """Distinct examples over all sources."""
        return sum(len(source) for source in self._sources)

    def batch(self, size: int) -> list[Example]:
        """Return the next ``size`` examples, each with its token weights."""
        drawn = (self._sources[source][index] for source, index in self.mixture.draw(size))
        return [Example(segments, self._weights.of(segments)) for segments in drawn]


class Mixture:
    """Draws from several sources in fixed shares, each in seeded random order without repeats."""

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], seed: Sequence[int]) -> None:
        """Start from the first draw.

        Args:
            sizes: Examples per source; each at least 1.
            shares: Relative weight of each source.
            seed: Equal seeds, equal draws.
        """
        self._sizes, self._shares, self._seed = tuple(sizes), tuple(shares), tuple(seed)
        self.taken = (0,) * len(self._sizes)
        """Draws from each source so far: the whole state, and assignable."""
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def draw(self, count: int) -> list[tuple[int, int]]:
        """Return ``count`` pairs (source, index in it)."""
        taken, drawn = list(self.taken), []
        for _ in range(count):
            # The source that is furthest behind its share: every batch has nearly the same
            # composition, where drawing sources at random would make it vary from step to step.
            source = min(range(len(taken)), key=lambda s: (taken[s] + 1) / self._shares[s])
            epoch, place = divmod(taken[source], self._sizes[source])
            drawn.append((source, int(self._order(source, epoch)[place])))
            taken[source] += 1
        self.taken = tuple(taken)
        return drawn

    def _order(self, source: int, epoch: int) -> np.ndarray:
        known = self._orders.get(source)
        if known is None or known[0] != epoch:
            rng = np.random.default_rng((*self._seed, source, epoch))
            known = (epoch, rng.permutation(self._sizes[source]))
            self._orders[source] = known
        return known[1]


class TokenWeights:
    """Loss weights of tokens by the text they decode to; the first pattern that matches counts."""

    def __init__(
        self, rules: Sequence[TokenWeight], decode: Callable[[Sequence[int]], str], where: str
    ) -> None:
        """Compile the patterns.

        Raises:
            ConfigError: A pattern is no regular expression.
        """
        self._rules = compile_rules(rules, where)
        self._decode = decode
        self._known: dict[int, float] = {}

    def of(self, segments: Segments) -> tuple[float, ...]:
        """Return the weight of each sampled token; empty when there are no rules."""
        if not self._rules:
            return ()
        return tuple(self._weight(t) for s in segments if s.sampled for t in s.token_ids)

    def _weight(self, token: int) -> float:
        if token not in self._known:
            text = self._decode([token])
            matching = (weight for pattern, weight in self._rules if pattern.fullmatch(text))
            self._known[token] = next(matching, 1.0)
        return self._known[token]


def load_source(
    data: SftDataConfig, where: str, renderer: Renderer, run_scripts: RunScripts
) -> list[Segments]:
    """Return the token segments of every example of one source.

    Raises:
        ConfigError: The source is missing, holds nothing to learn from, or was recorded without
            images or with another tokenizer.
    """
    found: list[Segments]
    if data.kind == "pairs":
        found = [tuple(renderer.pair(pair)) for pair in _pairs(data, where)]
    elif data.kind == "scripts":
        found = [t.segments for t in run_scripts(data)]
    else:
        found = _correct(_recorded(Path(data.path)), data, where, renderer)
    found = found[: data.count]
    if not found:
        raise ConfigError(f"{where}: the source has no examples")
    return found


def _pairs(data: SftDataConfig, where: str) -> Sequence[Pair]:
    if data.path:
        return read_pairs(Path(data.path))
    assert data.tasks is not None
    tasks = build_tasks(data.tasks, f"{where}.tasks")
    if not isinstance(tasks, Paired):
        raise ConfigError(f"{where}: task set {data.tasks.name!r} has no pairs")
    return tasks.pairs(data.count or len(tasks))


def _recorded(path: Path) -> Iterable[Trajectory]:
    saved = RunReader(path).trajectories() if path.is_dir() else read_rollouts(path)
    return (each.trajectory for each in saved)


def _correct(
    trajectories: Iterable[Trajectory], data: SftDataConfig, where: str, renderer: Renderer
) -> list[Segments]:
    """Return the tokens of up to ``data.count`` trajectories whose answer was graded correct."""
    where = f"{where}.path = {data.path!r}"
    total, found = 0, []
    for trajectory in trajectories:
        total += 1
        if trajectory.reward is None or not trajectory.reward.correct:
            continue
        if not trajectory.num_sampled_tokens:
            raise ConfigError(
                f"{where}: its trajectories hold no tokens; write them with run.logprobs = true"
            )
        _check_tokenizer(trajectory, where, renderer)
        _check_images(trajectory, where, Path(data.path))
        found.append(trajectory.segments)
        if len(found) == data.count:
            break
    if not found:
        raise ConfigError(f"{where}: none of {total} trajectories is correct")
    return found


def _check_tokenizer(trajectory: Trajectory, where: str, renderer: Renderer) -> None:
    """Refuse ids that do not say what was written: they would teach noise."""
    sampled = (s.token_ids for s in trajectory.segments if s.sampled)
    for ids, turn in zip(sampled, trajectory.turns, strict=False):
        ended = ids[-1:] == (renderer.end_of_turn,)
        text = renderer.decode(ids[:-1] if ended else ids)
        if text != turn.text:
            raise ConfigError(
                f"{where}: task {trajectory.task_id!r} was written with another tokenizer than "
                f"that of policy.model, which reads {turn.text!r:.80} as {text!r:.80}"
            )


def _check_images(trajectory: Trajectory, where: str, path: Path) -> None:
    folder = (path if path.is_dir() else path.parent.parent) / "media"
    for media in trajectory.media:
        if media.source is None:
            raise ConfigError(
                f"{where}: task {trajectory.task_id!r} needs {folder / media.sha256}.png, which is "
                "not there; write the images of every step with run.media_every = 1"
            )

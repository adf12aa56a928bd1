"""What SFT learns from: examples, their token weights, and the order in which they come.

In: ``[[sft.stages]]`` data sources and token weights. Out: for every step the same batch of
``Example`` records, given seed, stage and the number of examples already taken; and the examples
that are held out. Batches are drawn uniformly: sorting by length across batches would make whole
batches of short direct answers, and the last ones would decide whether the model looks at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from pyvision_rl.assemble import build_tasks
from pyvision_rl.checks.sft import compile_rules
from pyvision_rl.config import Config, SftDataConfig, TokenWeight
from pyvision_rl.conversations import learnable, render, spoken
from pyvision_rl.errors import ConfigError
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.sft_format import read_conversations
from pyvision_rl.tasks.base import Paired
from pyvision_rl.tasks.pairs import read_pairs
from pyvision_rl.train.batching import Example
from pyvision_rl.types import Pair, Segment, Trajectory

Segments: TypeAlias = tuple[Segment, ...]
RunScripts: TypeAlias = Callable[[SftDataConfig], Sequence[Trajectory]]
"""Executes the scripts of a source's task set and returns one trajectory per task."""


_HOLD_OUT = 2**40
"""Ends the seed of a split, where the seed of an order has an epoch."""


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

        self.num_too_long = 0
        """Examples left out because they are above their source's ``max_tokens``."""

        def load(sources: Sequence[SftDataConfig], key: str) -> list[list[Segments]]:
            loaded = []
            for i, data in enumerate(sources):
                name = f"{where}.{key}[{i}]"
                found = load_source(data, name, renderer, run_scripts)
                fitting = _fitting(found, data.max_tokens, name, renderer)
                self.num_too_long += len(found) - len(fitting)
                loaded.append(fitting)
            return loaded

        self._sources = load(stage.data, "data")
        self.held_out: list[Segments] = []
        """Examples that are measured and never trained on."""
        if stage.eval_share:
            # A prompt may come from several sources: two teachers, or two samplings of one.
            unseen: set[Segment] = set()
            for i, source in enumerate(self._sources):
                seed = (config.seed, index, i, _HOLD_OUT)
                unseen |= hold_out(source, stage.eval_share, seed, unseen)
            for i, source in enumerate(self._sources):
                self.held_out += [each for each in source if each[0] in unseen]
                self._sources[i] = [each for each in source if each[0] not in unseen]
                if not self._sources[i]:
                    raise ConfigError(
                        f"{where}.eval_share = {stage.eval_share} leaves nothing of data[{i}] to "
                        "train on: its examples share too few prompts"
                    )
        trained = {each[0] for source in self._sources for each in source}
        self.num_seen = 0
        """Examples of ``eval_data`` whose prompt is trained on too."""
        for source in load(stage.eval_data, "eval_data"):
            self.held_out += source
            self.num_seen += sum(each[0] in trained for each in source)
        self._weights = TokenWeights(stage.token_weights, renderer.decode, where)
        self.batch_size = stage.batch_size
        sizes = [len(source) for source in self._sources]
        shares = [data.weight for data in stage.data]
        seeds = (config.seed, index)
        self.order: Order = Epochs(sizes, seeds) if stage.epochs else Mixture(sizes, shares, seeds)
        per_epoch = -(-sum(sizes) // stage.batch_size)
        self.num_steps: int = stage.steps or (stage.epochs or 0) * per_epoch
        """Optimizer steps of the stage."""

    @property
    def num_examples(self) -> int:
        """Distinct examples over all sources, without those that are held out."""
        return sum(len(source) for source in self._sources)

    def batch(self) -> list[Example]:
        """Return the next examples, each with its token weights."""
        drawn = (self._sources[source][index] for source, index in self.order.draw(self.batch_size))
        return [Example(segments, self._weights.of(segments)) for segments in drawn]


def _fitting(
    found: list[Segments], most: int | None, where: str, renderer: Renderer
) -> list[Segments]:
    if most is None:
        return found
    fitting = [each for each in found if sum(map(renderer.length, each)) <= most]
    if not fitting:
        raise ConfigError(f"{where}.max_tokens = {most}: all {len(found)} examples are longer")
    return fitting


def hold_out(
    examples: Sequence[Segments],
    share: float,
    seed: Sequence[int],
    unseen: Collection[Segment] = (),
) -> set[Segment]:
    """Return the prompts whose examples are held out, at least one.

    Examples of one prompt stay together: a model that was trained on one answer to a question has
    seen the question.

    Args:
        examples: In any order.
        share: Of the examples. A prompt of more examples than are missing is passed over, so that
            it may be a little less; where none fits, the smallest is taken.
        seed: Equal seeds, equal splits.
        unseen: Prompts that are held out already.
    """
    sizes = Counter(segments[0] for segments in examples)
    wanted = math.ceil(share * len(examples))
    chosen = {prompt for prompt in sizes if prompt in unseen}
    others = [prompt for prompt in sizes if prompt not in unseen]
    taken = sum(sizes[prompt] for prompt in chosen)
    for number in np.random.default_rng(tuple(seed)).permutation(len(others)):
        prompt = others[number]
        if taken + sizes[prompt] <= wanted:
            chosen.add(prompt)
            taken += sizes[prompt]
    return chosen or {min(others, key=sizes.__getitem__)}


class Order(Protocol):
    """Says which examples come next."""

    taken: tuple[int, ...]
    """The whole state, and assignable."""

    def draw(self, count: int) -> list[tuple[int, int]]:
        """Return up to ``count`` pairs (source, index in it)."""
        ...


class Epochs:
    """Draws every example of all sources once per epoch, each time in another seeded order."""

    def __init__(self, sizes: Sequence[int], seed: Sequence[int]) -> None:
        """Start from the first draw.

        Args:
            sizes: Examples per source.
            seed: Equal seeds, equal draws.
        """
        self._starts = [0, *accumulate(sizes)]
        self._seed = tuple(seed)
        self.taken: tuple[int, ...] = (0,)
        """Draws so far: the whole state, and assignable."""

    def draw(self, count: int) -> list[tuple[int, int]]:
        """Return ``count`` pairs (source, index in it), fewer at the end of an epoch."""
        total = self._starts[-1]
        epoch, place = divmod(self.taken[0], total)
        order = np.random.default_rng((*self._seed, epoch)).permutation(total)
        drawn = order[place : place + count]
        self.taken = (self.taken[0] + len(drawn),)
        sources = np.searchsorted(self._starts, drawn, side="right") - 1
        return [(int(s), int(i) - self._starts[s]) for s, i in zip(sources, drawn, strict=True)]


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
        self.taken: tuple[int, ...] = (0,) * len(self._sizes)
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
        TaskError: A file of pairs or conversations has a faulty row.
    """
    found: list[Segments]
    if data.kind == "pairs":
        found = [tuple(renderer.pair(pair)) for pair in _pairs(data, where)]
    elif data.kind == "scripts":
        found = [t.segments for t in run_scripts(data)]
    elif data.kind == "conversations":
        root = Path(data.image_root) if data.image_root else None
        said = read_conversations(Path(data.path), root)[: data.count]
        found = [render(renderer, each) for each in said]
    else:
        found = _correct(data, where, renderer)
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


def _correct(data: SftDataConfig, where: str, renderer: Renderer) -> list[Segments]:
    """Return the tokens of up to ``data.count`` trajectories that are to be learnt from."""
    where = f"{where}.path = {data.path!r}"
    total, found = 0, []
    for saved, good in learnable(Path(data.path)):
        total += 1
        if not good:
            continue
        found.append(_segments(saved.trajectory, data, where, renderer))
        if len(found) == data.count:
            break
    if not found:
        raise ConfigError(f"{where}: none of {total} trajectories is correct and kept")
    return found


def _segments(
    trajectory: Trajectory, data: SftDataConfig, where: str, renderer: Renderer
) -> Segments:
    _check_images(trajectory, where, Path(data.path))
    if data.tokens == "rendered":
        return render(renderer, spoken(trajectory))
    if not trajectory.num_sampled_tokens:
        raise ConfigError(
            f"{where}: its trajectories hold no tokens; write them with run.logprobs = true, or "
            'set tokens = "rendered"'
        )
    _check_tokenizer(trajectory, where, renderer)
    return trajectory.segments


def _check_tokenizer(trajectory: Trajectory, where: str, renderer: Renderer) -> None:
    """Refuse ids that do not say what was written: they would teach noise."""
    sampled = (s.token_ids for s in trajectory.segments if s.sampled)
    for ids, turn in zip(sampled, trajectory.turns, strict=False):
        ended = ids[-1:] == (renderer.end_of_turn,)
        text = renderer.decode(ids[:-1] if ended else ids)
        if text != turn.text:
            raise ConfigError(
                f"{where}: task {trajectory.task_id!r} was written with another tokenizer than "
                f"that of policy.model, which reads {turn.text!r:.80} as {text!r:.80}; set tokens "
                '= "rendered" to tokenize its turns anew'
            )


def _check_images(trajectory: Trajectory, where: str, path: Path) -> None:
    folder = (path if path.is_dir() else path.parent.parent) / "media"
    shown = (media for message in trajectory.messages for media in message.media)
    for media in (*trajectory.media, *shown):
        if media.source is None:
            raise ConfigError(
                f"{where}: task {trajectory.task_id!r} needs {folder / media.sha256}.png, which is "
                "not there; write the images of every step with run.media_every = 1"
            )

"""Continuous batching over episodes: prefill what is new, then one token per row and step.

In: ``Row``s (one turn of one episode each). Out: for every row a ``Completion`` or an error. Rows
join between steps and leave as soon as they are done. What an episode has fed to the network is
kept until its next turn, which then prefills only what was added; equal new prompts are prefilled
once. Synchronous: knows nothing of event loops, futures or weights files.

Axes: B rows decoded together, T tokens of a prefill chunk, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyvision_rl.errors import PolicyError, PVRLError, RenderError
from pyvision_rl.models.base import Expanded, VisionLanguageModel
from pyvision_rl.policy.kv_cache import KVCache
from pyvision_rl.policy.sampling import Rules, TurnEnd, draw
from pyvision_rl.types import Completion, Media, SampleRequest, Segment, StopReason

_PREFILL_TOKENS = 16384
"""Padded tokens of one prefill pass; bounds memory."""


@dataclass(slots=True, eq=False)
class Row:
    """One turn while it is written."""

    request: SampleRequest
    policy_version: int
    ids: tuple[int, ...] = field(init=False)
    """The history as ledger ids, one placeholder per image."""
    media: tuple[Media, ...] = field(init=False)
    uniforms: np.ndarray = field(init=False)
    """[max_new_tokens] float64; number t draws token t, whatever was forced before."""
    keep: bool = True
    """False once the episode was released: nothing is kept for a next turn."""
    length: int = 0
    """Tokens in the cache when the first token is drawn."""
    position: int = 0
    """Where the first drawn token stands."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        segments = self.request.segments
        self.ids = tuple(chain.from_iterable(s.token_ids for s in segments))
        self.media = tuple(chain.from_iterable(s.media for s in segments))
        generator = np.random.default_rng(self.request.seed)
        self.uniforms = generator.random(self.request.limits.max_new_tokens)


Result = Completion | PVRLError


@dataclass(frozen=True, slots=True)
class _Kept:
    """What an episode has fed to the network.

    The last sampled token is not in it: it is fed together with what follows it.
    """

    ids: tuple[int, ...]
    media: tuple[Media, ...]
    next_position: int
    cache: Tensor
    """[layers, 2, H, tokens, D]."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens to prefill for one row; the other rows have the same history and copy the result."""

    rows: list[Row]
    expanded: Expanded
    kept: _Kept | None

    @property
    def size(self) -> int:
        return len(self.expanded.token_ids)

    @property
    def start(self) -> int:
        return 0 if self.kept is None else self.kept.cache.shape[3]


class Decoder:
    """The rows that are decoded together, and the memory of the episodes between turns."""

    def __init__(
        self, model: VisionLanguageModel, decode: Callable[[Sequence[int]], str], end_of_turn: int
    ) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._end = TurnEnd(decode, end_of_turn)
        self._kept: dict[str, _Kept] = {}
        self._cache = self._new_cache()
        self._logits = torch.empty(0)
        """[B, V] for the next token of every row."""
        self._changed = True
        """Rows came or went since the tensors below were made."""
        self._rules: Rules
        self._lengths: Tensor
        self._positions: Tensor

    @property
    def kept_bytes(self) -> int:
        """Memory of the episodes between turns."""
        return sum(k.cache.nbytes for k in self._kept.values())

    def forget(self, episode: str) -> None:
        """Drop what is kept for an episode, now or at the end of its running turn."""
        self._kept.pop(episode, None)
        for row in self.rows:
            if row.request.episode == episode:
                row.keep = False

    def reset(self, *, episodes: bool = True) -> None:
        """Drop all rows and free their memory; with ``episodes`` also what is kept."""
        self.rows = []
        self._cache = self._new_cache()
        self._logits = torch.empty(0)
        if episodes:
            self._kept = {}

    def _new_cache(self) -> KVCache:
        module: Any = self._model.module
        config = module.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return KVCache(
            config.num_hidden_layers,
            config.num_key_value_heads,
            size,
            dtype=self._model.dtype,
            device=self._model.device,
        )

    # ---- joining

    @torch.no_grad()
    def admit(self, rows: Sequence[Row]) -> list[tuple[Row, PVRLError]]:
        """Prefill the rows and add them to the batch; return those that failed, and why."""
        failed: list[tuple[Row, PVRLError]] = []
        chunks = self._plan(rows, failed)
        columns = max((c.start + c.size for c in chunks), default=0)
        # Grown once for all; where memory lacks, the passes below find out which rows fit.
        with contextlib.suppress(RuntimeError):
            self._cache.reserve(len(self.rows) + len(rows), columns)
        for batch in _batches(chunks):
            self._prefill_what_works(batch, failed)
        return failed

    def _prefill_what_works(
        self, batch: Sequence[_Chunk], failed: list[tuple[Row, PVRLError]]
    ) -> None:
        """Prefill; where that fails, halve: one bad image, or a lack of memory, spares the rest."""
        try:
            self._prefill(batch)
            return
        except Exception as error:  # noqa: BLE001 any failure of the network or of the device
            failure = as_error(error) if len(batch) == 1 else None
        # Outside of the handler, where the failed pass no longer holds its memory.
        if failure is not None:
            failed += [(row, failure) for row in batch[0].rows]
            return
        half = len(batch) // 2
        self._prefill_what_works(batch[:half], failed)
        self._prefill_what_works(batch[half:], failed)

    def _plan(self, rows: Sequence[Row], failed: list[tuple[Row, PVRLError]]) -> list[_Chunk]:
        chunks: list[_Chunk] = []
        fresh: dict[tuple[tuple[int, ...], tuple[Media, ...]], _Chunk] = {}
        for row in rows:
            kept = self._kept.pop(row.request.episode, None)
            rest = None if kept is None else self._rest(row, kept)
            try:
                if kept is not None and rest is not None:
                    chunks.append(_Chunk([row], self._model.expand(rest, kept.next_position), kept))
                elif (row.ids, row.media) in fresh:
                    fresh[row.ids, row.media].rows.append(row)
                else:
                    chunk = _Chunk([row], self._model.expand(row.request.segments), None)
                    fresh[row.ids, row.media] = chunk
                    chunks.append(chunk)
            except Exception as error:  # noqa: BLE001 an unreadable image must fail its row only
                failed.append((row, as_error(error)))
        return chunks

    def _rest(self, row: Row, kept: _Kept) -> tuple[Segment, ...] | None:
        """Return what must still be fed, or None when the history is not the one kept."""
        skip = len(kept.ids)
        if len(row.ids) <= skip or row.ids[:skip] != kept.ids:
            return None
        if row.media[: len(kept.media)] != kept.media:
            return None
        rest: list[Segment] = []
        for segment in row.request.segments:
            if skip < len(segment.token_ids):
                rest.append(self._tail(segment, skip))
            skip = max(0, skip - len(segment.token_ids))
        return tuple(rest)

    def _tail(self, segment: Segment, skip: int) -> Segment:
        if skip == 0:
            return segment
        num_media = segment.token_ids[:skip].count(self._model.image_token_id)
        return Segment(
            segment.token_ids[skip:],
            segment.sampled,
            segment.logprobs and segment.logprobs[skip:],
            segment.media[num_media:],
        )

    def _prefill(self, batch: Sequence[_Chunk]) -> None:
        first, device = len(self.rows), self._model.device
        starts = [c.start for c in batch]
        sizes = [c.size for c in batch]
        tokens, longest = max(sizes), max(starts)
        self._cache.reserve(first + sum(len(c.rows) for c in batch), longest + tokens)
        ids = np.zeros((len(batch), tokens), np.int64)
        positions = np.zeros((3, len(batch), tokens), np.int64)
        images: list[tuple[int, int, Media]] = []
        for b, chunk in enumerate(batch):
            if chunk.kept is not None:
                self._cache.load(first + b, chunk.kept.cache)
            ids[b, : chunk.size] = chunk.expanded.token_ids
            positions[:, b, : chunk.size] = chunk.expanded.positions
            images += [(b, offset, media) for offset, media in chunk.expanded.images]
        window = self._cache.window(first, torch.tensor(starts, device=device), tokens, longest)
        hidden = self._model.hidden(
            self._model.embed(torch.from_numpy(ids).to(device), images),
            torch.from_numpy(positions).to(device),
            mask=window.mask,
            cache=window,
        )
        last = torch.tensor(sizes, device=device) - 1
        logits = self._model.logits(hidden[torch.arange(len(batch), device=device), last])
        self._join(batch, logits)

    def _join(self, batch: Sequence[_Chunk], logits: Tensor) -> None:
        """Make the prefilled chunks rows of the batch, and copy them to rows that share them."""
        first = len(self.rows)
        source = list(range(len(batch)))
        joining = [chunk.rows[0] for chunk in batch]
        for b, chunk in enumerate(batch):
            for row in chunk.rows:
                row.length, row.position = chunk.start + chunk.size, chunk.expanded.next_position
            twins = chunk.rows[1:]
            if twins:
                target = first + len(joining)
                self._cache.copy(first + b, target, len(twins), chunk.start + chunk.size)
                joining += twins
                source += [b] * len(twins)
        logits = logits[torch.tensor(source, device=logits.device)]
        self._logits = torch.cat([self._logits, logits]) if self.rows else logits
        self.rows += joining
        self._changed = True

    # ---- one step: sample, then feed

    @torch.no_grad()
    def sample(self) -> list[tuple[Row, Result]]:
        """Draw one token for every row; return the rows that are done, which leave the batch."""
        rows, device = self.rows, self._logits.device
        if self._changed:
            self._rules = Rules.of([r.request.limits for r in rows], device)
        uniforms = torch.from_numpy(np.array([r.uniforms[len(r.token_ids)] for r in rows]))
        tokens, logprobs = draw(self._logits, self._rules, uniforms.to(device), self._forced())
        done: list[tuple[int, Result]] = []
        for b, (row, token, logprob) in enumerate(
            zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
        ):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            if not math.isfinite(logprob):
                why = f"token {token} has log-probability {logprob}: the network's output is "
                done.append((b, PolicyError(why + "not finite, or a forced token is banned")))
                continue
            stop = self._end.reason(row.token_ids, row.request.limits, len(row.request.forced))
            if stop is not None:
                done.append((b, self._completion(row, stop)))
        results = [(rows[b], result) for b, result in done]
        # From the last row down: the row that fills a gap is then never one that leaves.
        for b, result in reversed(done):
            self._remove(b, remember=isinstance(result, Completion))
        return results

    def drop(self, leaving: Iterable[Row]) -> None:
        """Remove rows that nobody waits for any more; to be called between sample and feed."""
        gone = {id(row) for row in leaving}
        for b in reversed(range(len(self.rows))):
            if id(self.rows[b]) in gone:
                self._remove(b, remember=False)

    def _forced(self) -> Tensor | None:
        forced = [
            f[n] if (n := len(r.token_ids)) < len(f := r.request.forced) else -1 for r in self.rows
        ]
        return torch.tensor(forced, device=self._logits.device) if max(forced) >= 0 else None

    def _completion(self, row: Row, stop: StopReason) -> Completion:
        return Completion(
            tuple(row.token_ids),
            tuple(row.logprobs),
            self._end.text(row.token_ids),
            stop,
            row.policy_version,
        )

    def _remove(self, b: int, *, remember: bool) -> None:
        """Take a row out; the last row moves into its place."""
        row = self.rows[b]
        fed = len(row.token_ids) - 1
        if remember and row.keep:
            self._kept[row.request.episode] = _Kept(
                row.ids + tuple(row.token_ids[:-1]),
                row.media,
                row.position + fed,
                self._cache.save(b, row.length + fed),
            )
        if not remember:
            self._cache.clear(b)
        last = len(self.rows) - 1
        if b < last:
            moved = self.rows[b] = self.rows[last]
            # Rows are removed between sample and feed: the newest token is not in the cache yet.
            self._cache.copy(last, b, 1, moved.length + len(moved.token_ids) - 1)
        self.rows.pop()
        self._changed = True

    @torch.no_grad()
    def feed(self) -> None:
        """Feed every row's newest token and compute the logits of the next one."""
        rows, device = self.rows, self._model.device
        longest = max(r.length + len(r.token_ids) for r in rows) - 1
        if self._changed:
            fed = [len(r.token_ids) - 1 for r in rows]
            lengths = [r.length + n for r, n in zip(rows, fed, strict=True)]
            positions = [r.position + n for r, n in zip(rows, fed, strict=True)]
            self._lengths = torch.tensor(lengths, device=device)
            self._positions = torch.tensor(positions, device=device)
            self._rules = Rules.of([r.request.limits for r in rows], device)
            self._changed = False
        else:
            self._lengths = self._lengths + 1
            self._positions = self._positions + 1
        tokens = torch.tensor([[r.token_ids[-1]] for r in rows], device=device)
        self._cache.reserve(len(rows), longest + 1)
        window = self._cache.window(0, self._lengths, 1, longest)
        hidden = self._model.hidden(
            self._model.embed(tokens, ()),
            self._positions[None, :, None].expand(3, -1, 1),
            mask=window.mask,
            cache=window,
        )
        self._logits = self._model.logits(hidden[:, 0])


def as_error(error: Exception) -> PVRLError:
    """Return ``error`` as a ``PolicyError``; a ``RenderError``, being our bug, stays one."""
    if isinstance(error, PolicyError | RenderError):
        return error
    text = f"sampling failed: {type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        text += " (policy.max_batch and rollout.max_live_episodes bound what sampling takes)"
    failure = PolicyError(text)
    failure.__cause__ = error
    return failure


def _batches(chunks: Iterable[_Chunk]) -> list[list[_Chunk]]:
    """Return the chunks in passes of similar ones: new prompts apart from added text, by size."""
    batches: list[list[_Chunk]] = []
    for chunk in sorted(chunks, key=lambda c: (c.start > 0, c.size)):
        last = batches[-1] if batches else []
        same = last and (last[0].start > 0) == (chunk.start > 0)
        # Sizes ascend, so the newcomer is the widest of its pass.
        if not same or (len(last) + 1) * chunk.size > _PREFILL_TOKENS:
            batches.append([])
        batches[-1].append(chunk)
    return batches

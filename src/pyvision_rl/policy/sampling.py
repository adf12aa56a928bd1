"""One token per row: how it is drawn, what it scores, and whether it ends the turn.

In: logits, each row's limits and one uniform number per row. Out: tokens and log-probabilities.
A row's token depends on its own logits, limits and number only, never on its neighbours. Draws no
random numbers and runs no network.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyvision_rl.types import SampleLimits, StopReason


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of B rows as tensors; made when the rows change, used at every step."""

    temperature: Tensor
    """[B, 1] float64; 1.0 for greedy rows."""
    greedy: Tensor | None
    """[B] bool; None when no row is greedy."""
    all_greedy: bool
    top_k: Tensor | None
    """[B, 1]; V for rows that keep all. None, like ``top_p``, when no row filters."""
    top_p: Tensor | None
    """[B, 1] float64."""

    @classmethod
    def of(cls, limits: Sequence[SampleLimits], device: torch.device) -> Rules:
        """Return the rules of the given rows."""
        greedy = [row.temperature == 0 for row in limits]
        everything = torch.iinfo(torch.int64).max

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        top_k = top_p = None
        if any(row.top_k > 0 or row.top_p < 1 for row in limits):
            top_k = column([row.top_k or everything for row in limits], torch.int64)
            top_p = column([row.top_p for row in limits], torch.float64)
        return cls(
            temperature=column([row.temperature or 1.0 for row in limits], torch.float64),
            greedy=torch.tensor(greedy, device=device) if any(greedy) else None,
            all_greedy=all(greedy),
            top_k=top_k,
            top_p=top_p,
        )


def draw(
    logits: Tensor, rules: Rules, uniforms: Tensor, forced: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return tokens [B] int64 and their log-probabilities [B] float32 (nats).

    The token is drawn from the filtered distribution by inverting its cumulative sum in vocabulary
    order, in float64. The log-probability is the token's under softmax(logits / temperature) of the
    whole distribution, which is what a learner computes; at temperature 1 for greedy rows.

    Args:
        logits: [B, V] float32; -inf where a token is banned.
        rules: Of the same rows.
        uniforms: [B] float64 in [0, 1).
        forced: [B] int64 tokens to take as given where they are >= 0.
    """
    scaled = logits.double().div_(rules.temperature)
    scaled.sub_(scaled.amax(-1, keepdim=True))
    mass = scaled.exp()
    tokens = _pick(mass, rules, uniforms)
    if forced is not None:
        tokens = torch.where(forced >= 0, forced, tokens)
    logprobs = scaled.gather(1, tokens[:, None])[:, 0] - mass.sum(-1).log()
    return tokens, logprobs.float()


def _pick(mass: Tensor, rules: Rules, uniforms: Tensor) -> Tensor:
    if rules.all_greedy:
        return mass.argmax(-1)
    cumulative = _filtered(mass, rules).cumsum(-1)
    # right=True: the first token whose sum lies above the target, so never one of zero mass.
    target = uniforms[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Only NaN can lead beyond the vocabulary; it is reported with the log-probability.
    tokens.clamp_(max=mass.shape[1] - 1)
    if rules.greedy is None:
        return tokens
    return torch.where(rules.greedy, mass.argmax(-1), tokens)


def _filtered(mass: Tensor, rules: Rules) -> Tensor:
    """Return [B, V] with the mass of tokens outside top-k, then outside top-p, set to zero."""
    if rules.top_k is None or rules.top_p is None:
        return mass
    ordered, order = mass.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(mass.shape[1], device=mass.device)
    ordered = ordered.masked_fill(rank >= rules.top_k, 0.0)
    before = ordered.cumsum(-1) - ordered
    # The token that crosses top_p is kept, and so is always the first. Rows with top_p = 1 keep
    # everything: rounding of the sum must not cost them their tail.
    out = (before >= rules.top_p * ordered.sum(-1, keepdim=True)) & (rules.top_p < 1)
    return torch.zeros_like(mass).scatter_(1, order, ordered.masked_fill(out, 0.0))


class TurnEnd:
    """Tells when a turn is over, decoding text only where a stop string may have ended."""

    def __init__(self, decode: Callable[[Sequence[int]], str], end_of_turn: int) -> None:
        self._decode = decode
        self._end_of_turn = end_of_turn
        self._may_end: dict[tuple[str, ...], dict[int, bool]] = {}

    def reason(
        self, token_ids: Sequence[int], limits: SampleLimits, num_forced: int
    ) -> StopReason | None:
        """Return why the turn ends with its last token, or None when it goes on.

        Args:
            token_ids: The turn so far; at least one token.
            limits: Stop strings and the token limit.
            num_forced: Forced tokens do not end a turn, save the last of them.
        """
        if len(token_ids) >= num_forced:
            if token_ids[-1] == self._end_of_turn:
                return StopReason.END
            if limits.stop and self._stops(token_ids, limits.stop):
                return StopReason.STOP_STRING
        return StopReason.LENGTH if len(token_ids) >= limits.max_new_tokens else None

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the turn's text without its end-of-turn token."""
        if token_ids and token_ids[-1] == self._end_of_turn:
            token_ids = token_ids[:-1]
        return self._decode(token_ids)

    def _stops(self, token_ids: Sequence[int], stop: tuple[str, ...]) -> bool:
        known = self._may_end.setdefault(stop, {})
        token = token_ids[-1]
        may_end = known.get(token)
        if may_end is None:
            may_end = known[token] = self._contains_last_character(token, stop)
        if not may_end:
            return False
        # A token holds at least one byte of text, so the string spans no more tokens than that.
        tail = self._decode(token_ids[-max(len(s.encode()) for s in stop) :])
        return any(s in tail for s in stop)

    def _contains_last_character(self, token: int, stop: tuple[str, ...]) -> bool:
        text = self._decode((token,))
        # A token may hold a part of a character (shown as U+FFFD), and decoders may trim spaces.
        return any(
            s[-1] in text or s[-1].isspace() or (not s[-1].isascii() and "\ufffd" in text)
            for s in stop
        )

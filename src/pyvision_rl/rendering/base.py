"""The renderer contract: the only place that turns messages into token ids.

In: messages and completions. Out: segments of the token ledger, with ONE placeholder id per
image. Sampled ids are never re-tokenized: a renderer only ever adds given tokens around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyvision_rl.types import Completion, Message, Pair, Segment


class Renderer(Protocol):
    """One model family's chat format."""

    @property
    def end_of_turn(self) -> int:
        """Id of the token that ends a turn."""
        ...

    def open(self, messages: Sequence[Message]) -> Segment:
        """Return the prompt as given tokens, ending with the assistant's header."""
        ...

    def observe(self, completion: Completion, message: Message) -> Segment:
        """Return the given tokens between ``completion`` and the next turn.

        Its end-of-turn token if that was not sampled (stop string or length), ``message``, and
        the assistant's header.
        """
        ...

    def script(self, text: str, stop: Sequence[str] = ()) -> Completion:
        """Return ``text`` as if it had been sampled, with log-probabilities 0.0.

        Closed by the end-of-turn token unless it ends with one of the ``stop`` strings.
        """
        ...

    def pair(self, pair: Pair) -> tuple[Segment, Segment]:
        """Return a prompt-target example as (given, sampled) segments.

        The target ends with the end-of-turn token.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of plain text; special tokens in it are recognised."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return ids as text, special tokens shown."""
        ...

    def length(self, segment: Segment) -> int:
        """Tokens of a segment as the network sees it: images expanded."""
        ...

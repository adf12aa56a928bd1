r"""ChatML over any vocabulary: messages and completions as segments of the token ledger.

In: messages, completions, pairs. Out: given segments with ONE placeholder id per image. A message
is ``<|im_start|>role\n...<|im_end|>\n``. Text of messages can never become a control token:
whoever asked the question or printed the output cannot end a turn or feign an image. Sampled ids
are passed by, never made again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pyvision_rl.errors import RenderError
from pyvision_rl.images import VisionSpec, num_tokens
from pyvision_rl.types import Completion, Media, Message, Pair, Part, Segment, StopReason, Text

_CACHED_TEXTS = 4096


@dataclass(frozen=True, slots=True)
class ControlIds:
    """The ids that only a renderer may write."""

    start: int
    """Begins a message."""
    end: int
    """Ends a message: the end-of-turn token."""
    image: int
    """Stands for one image in the ledger."""
    before_image: tuple[int, ...] = ()
    after_image: tuple[int, ...] = ()


class ChatMLRenderer(ABC):
    """The layout of ChatML; a subclass brings the vocabulary."""

    def __init__(self, ids: ControlIds, vision: VisionSpec | None) -> None:
        self.end_of_turn: int = ids.end
        self._control = ids
        self._vision = vision
        # What a template says before the first message when no system message is given.
        self._preamble: tuple[int, ...] = ()
        self._text_ids = lru_cache(_CACHED_TEXTS)(self._encode_text)

    @abstractmethod
    def _encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of text from anywhere: decodes to the same text, and holds no control id."""

    @abstractmethod
    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of text of ours; special tokens in it are recognised."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Return ids as text, special tokens shown."""

    def open(self, messages: Sequence[Message]) -> Segment:
        """Return the prompt as given tokens, ending with the assistant's header.

        Raises:
            RenderError: There are no messages, or one holds a video.
        """
        if not messages:
            raise RenderError("a prompt needs at least one message")
        ids = [] if messages[0].role == "system" else list(self._preamble)
        for message in messages:
            ids += self._message(message)
        media = tuple(m for message in messages for m in message.media)
        return Segment((*ids, *self._header()), sampled=False, media=media)

    def observe(self, completion: Completion, message: Message) -> Segment:
        """Return what follows ``completion``, as given tokens, up to the next assistant header.

        That is its end-of-turn token, if it was not sampled, and ``message``.

        Raises:
            RenderError: The completion says END but does not end so, or a part is a video.
        """
        ended = completion.token_ids[-1:] == (self.end_of_turn,)
        if completion.stop is StopReason.END and not ended:
            raise RenderError("a completion with stop END lacks its end-of-turn token")
        ids = () if ended else (self.end_of_turn,)
        newline = self._text_ids("\n")
        return Segment(
            (*ids, *newline, *self._message(message), *self._header()),
            sampled=False,
            media=message.media,
        )

    def script(self, text: str, stop: Sequence[str] = ()) -> Completion:
        """Return ``text`` as if it had been sampled, with log-probabilities 0.0.

        It is closed by the end-of-turn token unless it ends with one of the ``stop`` strings.
        """
        ids = self._text_ids(text)
        if stop and text.endswith(tuple(stop)):
            return Completion(ids, (0.0,) * len(ids), text, StopReason.STOP_STRING)
        ids = (*ids, self.end_of_turn)
        return Completion(ids, (0.0,) * len(ids), text, StopReason.END)

    def pair(self, pair: Pair) -> tuple[Segment, Segment]:
        """Return a prompt-target example as (given, sampled) segments.

        The target ends with the end-of-turn token. A raw pair has no chat headers.
        """
        message = Message("user", pair.parts)
        if pair.raw:
            given = Segment(self._parts("", pair.parts), sampled=False, media=message.media)
        else:
            given = self.open([message])
        target = (*self._text_ids(pair.target), self.end_of_turn)
        return given, Segment(target, sampled=True, logprobs=(0.0,) * len(target))

    def length(self, segment: Segment) -> int:
        """Return the tokens of a segment as the network sees it: images expanded.

        Raises:
            RenderError: Placeholders and images differ in number, or no ``VisionSpec`` was given.
        """
        if not segment.sampled:
            placeholders = segment.token_ids.count(self._control.image)
            if placeholders != len(segment.media):
                raise RenderError(
                    f"a segment has {placeholders} image placeholders but {len(segment.media)} "
                    "images"
                )
        return len(segment.token_ids) + sum(self._image_tokens(m) - 1 for m in segment.media)

    def _image_tokens(self, media: Media) -> int:
        """How many tokens one image takes in the network's context."""
        if self._vision is None:
            raise RenderError("counting the tokens of an image needs the model's VisionSpec")
        return num_tokens(media, self._vision)

    def _header(self) -> tuple[int, ...]:
        """What the policy writes behind."""
        return (self._control.start, *self._text_ids("assistant\n"))

    def _message(self, message: Message) -> tuple[int, ...]:
        """One whole message, with the newline behind it."""
        body = self._parts(f"{message.role}\n", message.parts)
        return (self._control.start, *body, self.end_of_turn, *self._text_ids("\n"))

    def _parts(self, text: str, parts: Sequence[Part]) -> tuple[int, ...]:
        """``text`` and ``parts`` as ids; texts between two images are encoded in one piece."""
        control = self._control
        image = (*control.before_image, control.image, *control.after_image)
        ids: list[int] = []
        for part in parts:
            if isinstance(part, Text):
                text += part.text
                continue
            if part.kind != "image":
                raise RenderError(f"{part.sha256} is a {part.kind}; only images can be rendered")
            ids += [*self._text_ids(text), *image]
            text = ""
        return (*ids, *self._text_ids(text))

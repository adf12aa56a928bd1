"""The chat format of Qwen2.5-VL and Qwen3-VL, and of tiny models made in their likeness.

In: messages, completions, pairs, and a transformers tokenizer. Out: segments of the token ledger.
The layout is checked against the tokenizer's own chat template before the first use, so that a
model never reads a format it was not trained on. Imports transformers only to load a tokenizer,
and never torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Protocol

from jinja2 import TemplateError

from pyvision_rl.errors import ConfigError
from pyvision_rl.images import VisionSpec
from pyvision_rl.rendering.chatml import ChatMLRenderer, ControlIds
from pyvision_rl.template import encodable
from pyvision_rl.types import Media, Message, Text

NEEDED_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
_CONTROL_TOKEN = re.compile(r"<\|.+\|>")
_PROBE_IMAGE = Media("image", "0" * 64, 28, 28)
_PROBE = (
    Message("user", (Text(" Look:\n"), _PROBE_IMAGE, Text("\n{{ é }} 漢 \n"), _PROBE_IMAGE)),
    Message("assistant", (Text("I look <at> it: 1 + 1.\n"),)),
    Message("user", (_PROBE_IMAGE, Text("\n\nAnd now?"))),
)
_PROBE_SYSTEM = Message("system", (Text("Be brief.\n"),))


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    name_or_path: str
    chat_template: Any

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Id -> special token."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return ids; special tokens in the text are recognised."""
        ...

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str:
        """Return text."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any:
        """Return a conversation as the tokenizer's template writes it."""
        ...


def load_renderer(model: str, vision: VisionSpec | None = None) -> QwenRenderer:
    """Return the renderer of a Hugging Face directory or name.

    Args:
        model: Where the tokenizer is.
        vision: How the model wants its images; needed only to count their tokens.

    Raises:
        ConfigError: No tokenizer can be loaded, or it is not of these families.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigError(
            f"policy.model = {model!r} needs transformers: install pyvision-rl[train]"
        ) from error
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.model = {model!r}: no tokenizer found ({error})") from error
    return QwenRenderer(tokenizer, vision)


class QwenRenderer(ChatMLRenderer):
    """ChatML over a Qwen-VL vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vision: VisionSpec | None) -> None:
        """Find the control tokens and compare with the tokenizer's chat template.

        Raises:
            ConfigError: Control tokens are missing, or the template writes another format.
        """
        self._tokenizer = tokenizer
        names = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
        missing = [name for name in NEEDED_TOKENS if name not in names]
        if missing:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path!r} lacks {', '.join(missing)}; the chat "
                f"format of Qwen-VL needs {', '.join(NEEDED_TOKENS)}"
            )
        if not tokenizer.chat_template:
            raise ConfigError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template")
        control = [name for name in names if _CONTROL_TOKEN.fullmatch(name)]
        self._control_pattern = re.compile("|".join(map(re.escape, control)))
        self._control_ids = frozenset(names[name] for name in control)
        start, end, before, after, image = (names[name] for name in NEEDED_TOKENS)
        super().__init__(ControlIds(start, end, image, (before,), (after,)), vision)
        self._preamble = self.encode(self._template_preamble())
        for probe in (_PROBE, (_PROBE_SYSTEM, *_PROBE)):
            self._check_template(probe)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of text of ours; special tokens in it are recognised."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return ids as text, special tokens shown."""
        return self._tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _encode_text(self, text: str) -> tuple[int, ...]:
        text = encodable(text)
        # A control token is no token once it is cut in two: "<" and "|im_end|>".
        cuts = [match.start() + 1 for match in self._control_pattern.finditer(text)]
        pieces = (text[a:b] for a, b in pairwise([0, *cuts, len(text)]))
        ids = tuple(chain.from_iterable(map(self.encode, pieces)))
        if self._control_ids.isdisjoint(ids):
            return ids
        # A normalizer may turn other spellings into a control token; one character cannot be one.
        return tuple(chain.from_iterable(map(self.encode, text)))

    def _template_preamble(self) -> str:
        """What the template writes before a first user message."""
        text = self._apply_template((Message("user", (Text("x"),)),), add_generation_prompt=False)
        message = "<|im_start|>user\nx<|im_end|>\n"
        if not text.endswith(message):
            raise self._wrong_template(message, text)
        return text.removesuffix(message)

    def _check_template(self, messages: Sequence[Message]) -> None:
        """Refuse a template that does not write what ``open`` writes."""
        want = self._apply_template(messages, add_generation_prompt=True)
        ours = self.open(messages).token_ids
        if ours != self.encode(want):
            raise self._wrong_template(self.decode(ours), want)

    def _apply_template(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The messages as the tokenizer's own template writes them."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [_as_dict(message) for message in messages],
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the chat template of {self._tokenizer.name_or_path!r} cannot write a "
                f"conversation with images: {error}"
            ) from error

    def _wrong_template(self, ours: str, theirs: str) -> ConfigError:
        return ConfigError(
            f"the chat template of {self._tokenizer.name_or_path!r} is not Qwen-VL's ChatML: it "
            f"writes {theirs!r} where this renderer writes {ours!r}"
        )


def _as_dict(message: Message) -> dict[str, Any]:
    """The message as chat templates read it: text alone as a string, else a list of parts."""
    content: list[dict[str, str]] = [
        {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
        for part in message.parts
    ]
    if message.role != "user" and all(part["type"] == "text" for part in content):
        return {"role": message.role, "content": "".join(part["text"] for part in content)}
    return {"role": message.role, "content": content}

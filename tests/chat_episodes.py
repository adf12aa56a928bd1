"""Random episodes, the way rollouts make them, and what a tokenizer's own chat template writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from pyvision_rl.rendering.chatml import ChatMLRenderer
from pyvision_rl.types import Media, Message, Part, Segment, Text

IMAGE = Media("image", "a" * 64, 448, 448)
CROP = Media("image", "b" * 64, 56, 56)


def user(*parts: str | Media) -> Message:
    return Message("user", tuple(Text(p) if isinstance(p, str) else p for p in parts))


def template_text(tokenizer: Any, messages: Sequence[Message], *, header: bool) -> str:
    """A conversation as the tokenizer's own template writes it."""
    conversation = []
    for message in messages:
        parts = [
            {"type": "text", "text": p.text} if isinstance(p, Text) else {"type": "image"}
            for p in message.parts
        ]
        content = parts if message.role == "user" else parts[0]["text"]
        conversation.append({"role": message.role, "content": content})
    return str(
        tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=header)
    )


def template_ids(tokenizer: Any, messages: Sequence[Message], *, header: bool) -> list[int]:
    text = template_text(tokenizer, messages, header=header)
    return list(tokenizer.encode(text, add_special_tokens=False))


# Text that no template or normalizer changes; blanks and newlines stand everywhere.
words = st.lists(
    st.sampled_from([*"aeT1 \n\t.<>|{}\\'é漢😀", "print", "image", "assistant", "<code>"]),
    max_size=12,
).map("".join)
images = st.sampled_from([IMAGE, CROP])
turns = st.tuples(
    # What the policy wrote begins with a word: a blank first would merge with the header's newline.
    words.map(lambda text: f"I{text}"),
    st.booleans(),
    st.lists(st.one_of(words.map(Text), images), max_size=5).filter(
        lambda parts: sum(isinstance(p, Media) for p in parts) <= 4
    ),
)
conversations = st.tuples(
    st.none() | words,
    st.lists(st.one_of(words.map(Text), images), max_size=4),
    st.lists(turns, min_size=1, max_size=6),
)
Conversation = tuple[str | None, list[Part], list[tuple[str, bool, list[Part]]]]


def play(
    renderer: ChatMLRenderer, conversation: Conversation
) -> tuple[list[Message], list[Segment], list[int]]:
    """An episode as the rollout makes it: messages, ledger segments, and where turns begin."""
    system, question, rest = conversation
    messages = [] if system is None else [Message("system", (Text(system),))]
    messages.append(Message("user", tuple(question)))
    segments = [renderer.open(messages)]
    starts = []
    for number, (text, stopped, parts) in enumerate(rest):
        last = number == len(rest) - 1
        text += "</code>" if stopped and not last else ""
        completion = renderer.script(text, ("</code>",))
        starts.append(sum(len(s.token_ids) for s in segments))
        segments.append(Segment(completion.token_ids, True, completion.logprobs))
        messages.append(Message("assistant", (Text(text),)))
        if not last:
            observation = Message("user", tuple(parts))
            segments.append(renderer.observe(completion, observation))
            messages.append(observation)
    return messages, segments, starts

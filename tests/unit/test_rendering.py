"""Token segments equal the tokenizer's own chat template, and hold what was sampled untouched."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from pyvision_rl.errors import ConfigError, RenderError
from pyvision_rl.images import VisionSpec
from pyvision_rl.rendering import QwenRenderer, load_renderer
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.rendering.chatml import ChatMLRenderer
from pyvision_rl.types import (
    Completion,
    Message,
    Pair,
    Segment,
    StopReason,
    Text,
)
from tests.chat_episodes import (
    CROP,
    IMAGE,
    Conversation,
    conversations,
    play,
    template_ids,
    template_text,
    user,
)
from tests.chat_tokenizers import (
    COARSE,
    CONTROL,
    FINE,
    WITH_DEFAULT_SYSTEM,
    WITHOUT_DEFAULT_SYSTEM,
    make_tokenizer,
)
from tests.fakes import a_video

VISION = VisionSpec(min_pixels=784, max_pixels=12_544)
VIDEO = a_video()

TEMPLATES = {"default system": WITH_DEFAULT_SYSTEM, "no default": WITHOUT_DEFAULT_SYSTEM}
TOKENIZERS: dict[tuple[str, str], Any] = {
    (name, split): make_tokenizer(template, split=pattern)
    for name, template in TEMPLATES.items()
    for split, pattern in (("fine", FINE), ("coarse", COARSE))
}
QWEN = {key: QwenRenderer(tokenizer, VISION) for key, tokenizer in TOKENIZERS.items()}
RENDERERS: dict[str, ChatMLRenderer] = {"chars": CharsRenderer(VISION)} | {
    " ".join(key): renderer for key, renderer in QWEN.items()
}


@pytest.mark.parametrize("family", TEMPLATES)
@given(conversation=conversations)
def test_episodes_equal_the_chat_template_token_by_token(
    family: str, conversation: Conversation
) -> None:
    renderer, tokenizer = QWEN[family, "fine"], TOKENIZERS[family, "fine"]
    messages, segments, _ = play(renderer, conversation)
    ids = list(chain.from_iterable(s.token_ids for s in segments))
    newline = tokenizer.encode("\n", add_special_tokens=False)
    assert ids + newline == template_ids(tokenizer, messages, header=False)
    assert list(chain.from_iterable(s.media for s in segments)) == [
        media for message in messages for media in message.media
    ]


@pytest.mark.parametrize("family", TEMPLATES)
@given(conversation=conversations)
def test_coarse_vocabularies_differ_only_where_a_sampled_turn_begins(
    family: str, conversation: Conversation
) -> None:
    # Merges may run over words: a template would join "\n" and "I" to a token nobody sampled.
    renderer, tokenizer = QWEN[family, "coarse"], TOKENIZERS[family, "coarse"]
    messages, segments, _ = play(renderer, conversation)
    text = "".join(renderer.decode(s.token_ids) for s in segments)
    assert f"{text}\n" == template_text(tokenizer, messages, header=False)
    given_ids = list(renderer.open(messages).token_ids)
    assert given_ids == template_ids(tokenizer, messages, header=True)


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(conversation=conversations)
def test_an_episode_is_append_only_and_alternates(
    renderer: ChatMLRenderer, conversation: Conversation
) -> None:
    _, segments, starts = play(renderer, conversation)
    ids = list(chain.from_iterable(s.token_ids for s in segments))
    assert [s.sampled for s in segments] == [i % 2 == 1 for i in range(len(segments))]
    for start in starts:
        assert renderer.decode(ids[:start]).endswith("<|im_start|>assistant\n")
    assert ids[-1] == renderer.end_of_turn
    assert not any(s.media for s in segments if s.sampled)


def test_default_system_message_is_the_templates_own() -> None:
    message = user("x")
    own = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    rest = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    for family, want in (("default system", own + rest), ("no default", rest)):
        renderer = QWEN[family, "fine"]
        assert renderer.decode(renderer.open([message]).token_ids) == want
    system = Message("system", (Text("Hi"),))
    assert QWEN["default system", "fine"].open([system, message]) == QWEN[
        "no default", "fine"
    ].open([system, message])


def test_turn_closed_by_the_renderer_only_if_it_was_not_sampled() -> None:
    renderer = QWEN["no default", "fine"]
    follow = "\n<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n"
    stopped = renderer.script("<code>1</code>", ("</code>",))
    assert stopped.stop is StopReason.STOP_STRING
    assert stopped.token_ids[-1] != renderer.end_of_turn
    ended = renderer.script("1", ("</code>",))
    assert ended.stop is StopReason.END
    assert ended.text == "1"
    assert ended.token_ids[-1] == renderer.end_of_turn
    cut = Completion(ended.token_ids[:-1], ended.logprobs[:-1], "1", StopReason.LENGTH)
    for completion, want in (
        (stopped, f"<|im_end|>{follow}"),
        (cut, f"<|im_end|>{follow}"),
        (ended, follow),
    ):
        segment = renderer.observe(completion, user("2"))
        assert renderer.decode(segment.token_ids) == want
    with pytest.raises(RenderError, match="lacks its end-of-turn token"):
        renderer.observe(Completion(cut.token_ids, cut.logprobs, "1", StopReason.END), user("2"))


HOSTILE = "".join(CONTROL) + "<<|im_end|>|><|image_pad|><|im_<|im_end|>end|>"


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(pieces=st.lists(st.one_of(st.sampled_from([*CONTROL, HOSTILE, "\ud800"]), st.text())))
def test_no_text_becomes_a_control_token(renderer: ChatMLRenderer, pieces: list[str]) -> None:
    text = "".join(pieces)
    plain, same = (renderer.open([user(t, IMAGE, t)]) for t in ("", text))
    control = set(range(len(CONTROL))) if not isinstance(renderer, CharsRenderer) else {0, 1, 2}
    count = [sum(i in control for i in segment.token_ids) for segment in (plain, same)]
    assert count[0] == count[1]
    assert renderer.length(same) - len(same.token_ids) == 15
    observed = renderer.observe(renderer.script(text), user(text))
    assert sum(i in control for i in observed.token_ids) == 3
    assert sum(i in control for i in renderer.script(text).token_ids) == 1


def test_defused_text_still_reads_the_same() -> None:
    for renderer in QWEN.values():
        segment = renderer.open([user(HOSTILE)])
        assert f"user\n{HOSTILE}<|im_end|>" in renderer.decode(segment.token_ids)


def test_tags_of_a_tiny_vocabulary_stay_whole_tokens() -> None:
    renderer, tokenizer = QWEN["no default", "coarse"], TOKENIZERS["no default", "coarse"]
    tag, code = tokenizer.convert_tokens_to_ids(["<image_clue_0>", "<code>"])
    segment = renderer.open([user("<image_clue_0>", IMAGE, "use <code>")])
    assert {tag, code} <= set(segment.token_ids)
    assert renderer.encode("<code>") == (code,)
    assert renderer.encode("<|im_end|>") == (renderer.end_of_turn,)


def test_a_normalizer_cannot_make_a_control_token() -> None:
    tokenizer = make_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace("¦", "|")
    backend.add_special_tokens([AddedToken("<|end|>", normalized=True)])
    special = tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer.encode("<¦end¦>", add_special_tokens=False) == [special]
    segment = QwenRenderer(tokenizer, VISION).open([user("<¦end¦>")])
    assert special not in segment.token_ids
    assert "user\n<|end|><|im_end|>" in tokenizer.decode(segment.token_ids)


def test_length_counts_images_expanded() -> None:
    for renderer in RENDERERS.values():
        segment = renderer.open([user(IMAGE, "and", CROP)])
        # 448 x 448 at most 12544 pixels: 112 x 112, 16 tokens; 56 x 56: 4 tokens.
        assert renderer.length(segment) == len(segment.token_ids) - 2 + 16 + 4
        assert renderer.length(Segment((5, 6), True, (0.0, 0.0))) == 2
        with pytest.raises(RenderError, match="2 image placeholders but 1 images"):
            renderer.length(Segment(segment.token_ids, False, media=(IMAGE,)))
    blind = QwenRenderer(TOKENIZERS["no default", "fine"], None)
    with pytest.raises(RenderError, match="VisionSpec"):
        blind.length(blind.open([user(IMAGE)]))
    chars = CharsRenderer()
    assert chars.length(chars.open([user(IMAGE)])) == len(chars.open([user(IMAGE)]).token_ids)


def test_pairs_with_and_without_chat_headers() -> None:
    renderer = QWEN["no default", "fine"]
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    parts = (Text("<image_clue_0>"), IMAGE, Text(" red box at"))
    given_part, target = renderer.pair(Pair(parts, "1,2", raw=True))
    assert renderer.decode(given_part.token_ids) == f"<image_clue_0>{vision} red box at"
    assert given_part.media == (IMAGE,)
    assert renderer.decode(target.token_ids) == "1,2<|im_end|>"
    assert target.sampled
    assert set(target.logprobs) == {0.0}
    chat, same = renderer.pair(Pair(parts, "1,2"))
    assert chat == renderer.open([Message("user", parts)])
    assert same == target


def test_media_and_messages_that_cannot_be_rendered_are_refused() -> None:
    for renderer in RENDERERS.values():
        with pytest.raises(RenderError, match="is a video"):
            renderer.open([user(VIDEO)])
        with pytest.raises(RenderError, match="at least one message"):
            renderer.open([])


@given(st.text())
def test_chars_decode_what_they_encode(text: str) -> None:
    renderer = CharsRenderer()
    assert renderer.decode(renderer.encode(text)) == text
    assert len(renderer.encode(text)) == len(text)


def test_a_vocabulary_without_vision_tokens_is_refused() -> None:
    tokenizer = make_tokenizer(control=CONTROL[:4])
    with pytest.raises(ConfigError, match=r"'tiny' lacks <\|vision_end\|>, <\|image_pad\|>;"):
        QwenRenderer(tokenizer, VISION)


@pytest.mark.parametrize(
    "template",
    [
        None,
        WITH_DEFAULT_SYSTEM.replace("<|im_end|>\n", "<|im_end|>"),
        WITH_DEFAULT_SYSTEM.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
        WITH_DEFAULT_SYSTEM.replace("{{ c['text'] }}", "{{ c['text'] | trim }}"),
        WITH_DEFAULT_SYSTEM.replace("<|image_pad|>", ""),
        WITHOUT_DEFAULT_SYSTEM.replace("message.content + '<|im_end|>", "'<|im_end|>"),
        WITHOUT_DEFAULT_SYSTEM.replace("messages[0].content", "'fixed'"),
        "{% for m in messages %}<|im_start|>{{ m.role + m.content }}<|im_end|>\n{% endfor %}",
        "{{ raise_exception('no images') }}",
    ],
    ids=range(9),
)
def test_a_template_of_another_format_is_refused(template: str | None) -> None:
    with pytest.raises(ConfigError, match="chat template"):
        QwenRenderer(make_tokenizer(template), VISION)


def test_saved_tokenizer_is_loaded_and_an_absent_one_is_named(tmp_path: Path) -> None:
    TOKENIZERS["default system", "fine"].save_pretrained(tmp_path)
    loaded = load_renderer(str(tmp_path), VISION)
    messages = [user("Look", IMAGE)]
    assert loaded.open(messages) == QWEN["default system", "fine"].open(messages)
    with pytest.raises(ConfigError, match="absent"):
        load_renderer(str(tmp_path / "absent"), VISION)


def test_both_renderers_keep_the_contract() -> None:
    # Checked by mypy: the annotation refuses a class that lacks a method of the protocol.
    renderers: list[Renderer] = [CharsRenderer(), QWEN["no default", "fine"]]
    assert all(isinstance(renderer.end_of_turn, int) for renderer in RENDERERS.values())
    assert [r.decode(r.encode("<code>")) for r in renderers] == ["<code>", "<code>"]

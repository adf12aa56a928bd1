"""With the true Qwen vocabulary, episodes equal the families' own chat templates, id for id."""

from __future__ import annotations

import unicodedata
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvision_rl.config import PromptsConfig
from pyvision_rl.images import VisionSpec
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering import QwenRenderer
from pyvision_rl.types import ExecStatus, Execution, Media, Message, Segment, TaskInput, Text
from tests.chat_episodes import Conversation, play, template_ids
from tests.chat_tokenizers import FINE
from tests.fakes import a_video
from tests.peers.qwen_tokenizer import FIRST_SPECIAL, TEMPLATES, qwen_tokenizer, ranks

pytestmark = [
    pytest.mark.peer,
    # Of the libraries beside us, which deprecate as they like.
    pytest.mark.filterwarnings("ignore"),
]

MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
VISION = VisionSpec()
IMAGE_PAD = 151_655

# Control tokens in text are broken up by us and not by a template; everything else may come.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
spoken = st.lists(
    st.one_of(
        anything,
        st.sampled_from(
            ["\n", " ", "\n\n", "\t", "{{ x }}", "é", "e\u0301", "漢字", "😀", "</code>"]
        ),
        st.sampled_from(["<code>\n```python\nplt.show()\n```\n", "<tool_call>", "\\boxed{1,024}"]),
    ),
    max_size=8,
).map("".join)
texts = spoken.filter(lambda text: "<|" not in text)
pictures = st.builds(
    Media, st.just("image"), st.just("a" * 64), st.integers(28, 2000), st.integers(28, 2000)
)
# What the policy wrote begins with a word: a blank first would merge with the header's newline.
written = texts.map(lambda text: f"I{text}")
parts = st.lists(st.one_of(texts.map(Text), pictures), max_size=9).filter(
    lambda found: sum(isinstance(part, Media) for part in found) <= 6
)
conversations = st.tuples(
    st.none() | texts,
    parts,
    st.lists(st.tuples(written, st.booleans(), parts), min_size=1, max_size=8),
)
executions = st.builds(
    Execution,
    status=st.sampled_from(ExecStatus),
    output=st.one_of(st.just(""), texts),
    error=texts,
    images=st.lists(pictures, max_size=6).map(tuple),
    state_lost=st.booleans(),
)
media = st.lists(st.one_of(pictures, st.just(a_video())), max_size=6).map(tuple)
styles = st.sampled_from(
    [
        PromptsConfig(style=style, context=context, system=system)
        for style in ("plain", "pyvision")
        for context in ("on_demand", "runtime")
        for system in (None, "Solve the problem.")
    ]
)


@pytest.fixture(scope="module", params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return qwen_tokenizer(request.param)


@pytest.fixture(scope="module")
def renderer(tokenizer: Any) -> QwenRenderer:
    return QwenRenderer(tokenizer, VISION)


@pytest.fixture(scope="module")
def other() -> Any:
    import tiktoken

    return tiktoken.Encoding("qwen", pat_str=FINE, mergeable_ranks=ranks(), special_tokens={})


def check(tokenizer: Any, messages: list[Message], segments: list[Segment]) -> None:
    """The ledger is what the template writes, but for what stands behind the last turn."""
    ids = list(chain.from_iterable(segment.token_ids for segment in segments))
    want = template_ids(tokenizer, messages, header=False)
    # A turn that a stop string ended has no end of turn until something follows.
    behind = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)[ids[-1] == want[-2] :]
    assert ids + behind == want


@given(text=spoken)
@MANY
def test_the_vocabulary_is_the_published_one(tokenizer: Any, other: Any, text: str) -> None:
    for cut in ("<tool_call>", "<|"):
        text = text.replace(cut, "")
    want = other.encode_ordinary(unicodedata.normalize("NFC", text))
    assert tokenizer.encode(text, add_special_tokens=False) == want


def test_special_tokens_have_their_published_ids(tokenizer: Any) -> None:
    ids = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
    assert ids["<|endoftext|>"] == FIRST_SPECIAL
    assert (ids["<|im_start|>"], ids["<|im_end|>"]) == (151_644, 151_645)
    assert (ids["<|vision_start|>"], ids["<|image_pad|>"]) == (151_652, IMAGE_PAD)


@given(conversation=conversations)
@MANY
def test_random_transcripts_equal_the_chat_template(
    tokenizer: Any, renderer: QwenRenderer, conversation: Conversation
) -> None:
    messages, segments, _ = play(renderer, conversation)
    check(tokenizer, messages, segments)


@given(
    config=styles,
    question=texts,
    given_media=media,
    turns=st.lists(st.tuples(written, st.booleans(), executions), max_size=7),
    answer=written,
)
@MANY
def test_real_prompts_and_observations_equal_the_chat_template(
    tokenizer: Any,
    renderer: QwenRenderer,
    config: PromptsConfig,
    question: str,
    given_media: tuple[Media, ...],
    turns: list[tuple[str, bool, Execution]],
    answer: str,
) -> None:
    prompts = PromptBuilder(config)
    messages = list(prompts.prompt(TaskInput("t", question, given_media)).messages)
    segments = [renderer.open(messages)]
    shown = 0
    for text, stopped, execution in turns:
        completion = renderer.script(f"{text}{'</code>' if stopped else ''}", ("</code>",))
        observed = prompts.observation(execution, shown, given_media).message
        shown += len(execution.images)
        segments.append(Segment(completion.token_ids, True, completion.logprobs))
        segments.append(renderer.observe(completion, observed))
        messages += [Message("assistant", (Text(completion.text),)), observed]
    last = renderer.script(answer, ("</code>",))
    segments.append(Segment(last.token_ids, True, last.logprobs))
    messages.append(Message("assistant", (Text(last.text),)))
    check(tokenizer, messages, segments)
    told = [medium for segment in segments for medium in segment.media]
    ids = chain.from_iterable(segment.token_ids for segment in segments)
    assert sum(token == IMAGE_PAD for token in ids) == len(told)

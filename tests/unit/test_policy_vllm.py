"""A vLLM server writes the turns that the local policy would, or is refused with a reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from pyvision_rl.assemble import assemble
from pyvision_rl.checks.sections import check_config
from pyvision_rl.config import Config, PolicyConfig
from pyvision_rl.errors import ConfigError, PolicyError, RenderError
from pyvision_rl.images import VisionSpec, grid, num_tokens
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.facts import model_facts
from pyvision_rl.policy.local import LocalPolicy
from pyvision_rl.policy.vllm import VLLMPolicy
from pyvision_rl.policy.vllm_prompt import PromptWriter
from pyvision_rl.rendering import load_renderer
from pyvision_rl.rendering.qwen_vl import QwenRenderer
from pyvision_rl.testing.fake_openai import Fault
from pyvision_rl.testing.fake_vllm import GENERATE, FakeVLLM, Started
from pyvision_rl.types import (
    Completion,
    Media,
    Message,
    SampleLimits,
    SampleRequest,
    Segment,
    StopReason,
    Text,
)
from tests.tiny_models import make_tiny, noise
from tests.vllm_engines import TinyEngine, WordEngine

R = TypeVar("R")
GREEDY = SampleLimits(10, temperature=0, stop=("</code>",))
CHECKS = 3
"""Requests of a check that finds nothing: models, tokenizer, one token."""


@dataclass
class Bench:
    """A tiny model on both sides."""

    folder: Path
    model: VisionLanguageModel
    renderer: QwenRenderer
    engine: TinyEngine

    def local(self) -> LocalPolicy:
        decode, end = self.renderer.decode, self.renderer.end_of_turn
        return LocalPolicy(self.model, decode=decode, end_of_turn=end, max_batch=8)

    def served(self, server: FakeVLLM, **options: Any) -> VLLMPolicy:
        quick = {"timeout_s": 60.0, "retry_wait_s": 0.01, "max_wait_s": 0.1, "max_retries": 1}
        values = {"url": server.url, **quick, **options}
        config = PolicyConfig(name="vllm", model=str(self.folder), options=values)
        return VLLMPolicy(config, self.renderer)

    def prompt(self, text: str = "Which digit?", *media: Media) -> Segment:
        return self.renderer.open((Message("user", (Text(text), *media)),))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("one_family"), "qwen2_5_vl")


def make_bench(folder: Path, family: str) -> Bench:
    model, tokenizer = make_tiny(folder, family)
    renderer = load_renderer(str(folder), model.vision)
    return Bench(folder, model, renderer, TinyEngine(folder, tokenizer))


def ask(*segments: Segment, **values: Any) -> SampleRequest:
    return SampleRequest("e", "t", 0, segments, (), **{"limits": GREEDY, "seed": 7, **values})


def run(policy: Any, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    async def and_close() -> R:
        try:
            return await work()
        finally:
            await policy.close()

    return asyncio.run(and_close())


def sample(policy: Any, *requests: SampleRequest) -> list[Completion]:
    async def together() -> list[Completion]:
        return list(await asyncio.gather(*(policy.sample(r) for r in requests)))

    return run(policy, together)


def episode(bench: Bench, policy: Any, turns: int) -> list[Completion]:
    """Several turns; each shows another picture, one of them larger than the model takes."""

    async def play() -> list[Completion]:
        segments = [bench.prompt("Two:", noise(1), noise(2, 84, 140))]
        made: list[Completion] = []
        for turn in range(turns):
            made.append(await policy.sample(ask(*segments, seed=turn)))
            shown = Message("user", (Text("Result"), noise(10 + turn, 200 + 10 * turn, 120)))
            segments.append(Segment(made[-1].token_ids, True, made[-1].logprobs))
            segments.append(bench.renderer.observe(made[-1], shown))
        return made

    return run(policy, play)


# What it writes.


def test_greedy_episodes_are_those_of_the_local_policy(bench: Bench) -> None:
    ours = episode(bench, bench.local(), 3)
    with FakeVLLM(bench.engine) as server:
        theirs = episode(bench, bench.served(server), 3)
    assert [c.token_ids for c in theirs] == [c.token_ids for c in ours]
    assert [c.text for c in theirs] == [c.text for c in ours]
    assert [c.stop for c in theirs] == [c.stop for c in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_a_picture_that_the_server_scales_all_the_same_is_sent_as_it_is(qwen: Bench) -> None:
    strip = noise(1, 1000, 36)
    seen = grid(strip, qwen.model.vision)
    size = Media("image", "", seen[2] * 14, seen[1] * 14)
    assert grid(size, qwen.model.vision) != seen, "or it would not be scaled again"
    asked = ask(qwen.prompt("Look", strip))
    with FakeVLLM(qwen.engine) as server:
        (theirs,) = sample(qwen.served(server), asked)
    (ours,) = sample(qwen.local(), asked)
    assert theirs.token_ids == ours.token_ids


def test_sampled_turns_score_as_they_do_here(qwen: Bench) -> None:
    limits = SampleLimits(12, temperature=0.7)
    asked = ask(qwen.prompt("Look", noise(3)), limits=limits)
    with FakeVLLM(qwen.engine) as server:
        (made,) = sample(qwen.served(server), asked)
        (other,) = sample(qwen.served(server), replace(asked, seed=8))
    (scored,) = sample(qwen.local(), replace(asked, forced=made.token_ids))
    assert made.logprobs == pytest.approx(scored.logprobs, abs=1e-4)
    assert made.token_ids != other.token_ids


def test_a_turn_may_begin_with_given_tokens(qwen: Bench) -> None:
    forced = qwen.renderer.encode("<code>\nprint")
    asked = ask(qwen.prompt("Look", noise(3)), forced=forced)
    (ours,) = sample(qwen.local(), asked)
    with FakeVLLM(qwen.engine) as server:
        (theirs,) = sample(qwen.served(server), asked)
        hot = replace(asked, limits=SampleLimits(10, temperature=0.5))
        (untold,) = sample(qwen.served(server), hot)
    assert theirs.token_ids == ours.token_ids
    # The server scores given tokens with the two placeholders in the vocabulary.
    assert theirs.logprobs is not None
    assert theirs.logprobs[: len(forced)] == pytest.approx(
        (ours.logprobs or ())[: len(forced)], abs=0.1
    )
    assert theirs.logprobs[len(forced) :] == pytest.approx(
        (ours.logprobs or ())[len(forced) :], abs=1e-4
    )
    assert untold.token_ids[: len(forced)] == forced
    assert untold.logprobs is None


def test_given_tokens_can_be_the_whole_turn(qwen: Bench) -> None:
    forced = qwen.renderer.encode("<code></code>")
    with FakeVLLM(qwen.engine) as server:
        made, cut = sample(
            qwen.served(server),
            ask(qwen.prompt(), forced=forced),
            ask(qwen.prompt(), forced=forced, limits=SampleLimits(1, temperature=0)),
        )
    assert (made.token_ids, made.stop) == (forced, StopReason.STOP_STRING)
    assert (cut.token_ids, cut.stop) == (forced[:1], StopReason.LENGTH)


# What is asked.


def test_ids_go_as_they_are_and_pictures_beside_them(qwen: Bench) -> None:
    prompt = qwen.prompt("Look", noise(3, 300, 200))
    with FakeVLLM(qwen.engine) as server:
        sample(qwen.served(server), ask(prompt, limits=SampleLimits(5, stop=("</code>", "x"))))
        body = server.requests[-1].body
    assert body["token_ids"] == list(prompt.token_ids)
    (part,) = body["content_parts"]
    assert set(part) == {"type", "url"}
    sampling = body["sampling_params"]
    assert sampling["stop"] == ["</code>", "x"]
    assert sampling["skip_special_tokens"] is False
    assert sampling["stop_token_ids"] == [qwen.renderer.end_of_turn]
    assert {int(i) for i in sampling["logit_bias"]} == set(qwen.model.banned_ids)


def test_what_is_known_without_weights_is_what_the_network_knows(qwen: Bench) -> None:
    facts = model_facts(str(qwen.folder))
    assert facts.banned_ids == qwen.model.banned_ids
    assert facts.image_token_id == qwen.model.image_token_id
    assert facts.width == qwen.engine.vocab_size


SIDES = st.integers(20, 200)


@examples(st.lists(st.tuples(st.integers(0, 5), SIDES, SIDES), max_size=3))
def test_expanded_prompts_are_those_of_the_network(pictures: list[tuple[int, int, int]]) -> None:
    spec = VisionSpec(min_pixels=784, max_pixels=12544)
    writer, image = PromptWriter(9, spec), 9
    segments, want = [], 0
    for words, width, height in pictures:
        media = noise(width * height, width, height)
        segments.append(Segment((*[1] * words, image, 2), False, media=(media,)))
        want += words + 1 + num_tokens(media, spec)
    asked = asyncio.run(writer.write(segments, forced=(3,)))
    assert len(asked.expanded) == want + 1
    assert sum(size for _, size in asked.spans) == asked.expanded.count(image)
    assert asked.token_ids.count(image) == len(asked.images) == len(pictures)
    for offset, size in asked.spans:
        assert set(asked.expanded[offset : offset + size]) == {image}
        assert offset == 0 or asked.expanded[offset - 1] != image


def test_pictures_and_placeholders_must_agree(qwen: Bench) -> None:
    pad = qwen.model.image_token_id
    with FakeVLLM(qwen.engine) as server:
        with pytest.raises(RenderError, match="1 image placeholders and 0 images"):
            sample(qwen.served(server), ask(Segment((1, pad), sampled=False)))
        bad = Segment((1, pad), sampled=True, logprobs=(0.0, 0.0))
        with pytest.raises(PolicyError, match="sampled placeholder"):
            sample(qwen.served(server), ask(bad))


# What is refused before the first turn.


@pytest.mark.parametrize(
    ("started", "options", "message"),
    [
        (Started(scale_out=False), {}, r"version 0\.32\.0\) has no .*--enable-scale-out"),
        (Started(), {"model": "other"}, "policy.options.model = 'other': .* serves tiny"),
        (Started(processed_logprobs=False), {}, "--logprobs-mode processed_logprobs"),
        (Started(omit=("prompt_token_ids",)), {}, "answer of another form.*prompt_token_ids"),
        (Started(omit=("choices",)), {}, "its vLLM is older or newer"),
        (Started(omit=("mm_placeholders",)), {}, "gives the images"),
    ],
)
def test_a_server_that_is_not_what_it_should_be_is_refused(
    qwen: Bench, started: Started, options: dict[str, str], message: str
) -> None:
    with FakeVLLM(qwen.engine, started) as server:
        policy = qwen.served(server, **options)
        with pytest.raises(ConfigError, match=message):
            sample(policy, ask(qwen.prompt()), ask(qwen.prompt()))


def test_a_server_with_less_room_than_an_episode_may_take_is_refused(qwen: Bench) -> None:
    with FakeVLLM(qwen.engine, Started(max_model_len=500)) as server:
        policy = qwen.served(server)
        policy.room = 501
        with pytest.raises(ConfigError, match=r"rollout\.max_context_tokens = 501, .*-len 500"):
            sample(policy, ask(qwen.prompt()))
        policy = qwen.served(server)
        policy.room = 500
        sample(policy, ask(qwen.prompt()))
    for name in ("vllm", "pyvision_rl.policy.vllm:VLLMPolicy"):
        raw = {"name": name, "model": str(qwen.folder), "options": {"url": server.url}}
        config = Config.model_validate({"policy": raw, "rollout": {"max_context_tokens": 501}})
        with assemble(config) as assembly:
            assert assembly.harness.policy.room == 501


def test_another_model_is_refused(qwen: Bench, tmp_path: Path) -> None:
    # Another tokenizer; the same one over a narrower network; and another size of pictures.
    _, tokenizer = make_tiny(tmp_path, vocab_size=300)
    with (
        FakeVLLM(TinyEngine(tmp_path, tokenizer)) as server,
        pytest.raises(ConfigError, match=r"is not policy.model = .*its tokenizer makes"),
    ):
        sample(qwen.served(server), ask(qwen.prompt()))
    with (
        FakeVLLM(_Changed(qwen.engine, width=qwen.engine.vocab_size - 1)) as server,
        pytest.raises(ConfigError, match=r"token .*, the last of ours.*out of vocabulary"),
    ):
        sample(qwen.served(server), ask(qwen.prompt()))
    with (
        FakeVLLM(_Changed(qwen.engine, pads=5)) as server,
        pytest.raises(ConfigError, match=r"gives the images \[5\] tokens.*--mm-processor-kwargs"),
    ):
        sample(qwen.served(server), ask(qwen.prompt()))


class _Changed:
    """An engine with another vocabulary, or other pictures."""

    def __init__(self, engine: TinyEngine, width: int = 0, pads: int = 0) -> None:
        self._engine = engine
        self._pads = pads
        self.vocab_size = width or engine.vocab_size
        self.image_token_id = engine.image_token_id

    def num_pads(self, image: bytes) -> int:
        return self._pads or self._engine.num_pads(image)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_no_server_is_said_to_be_none(qwen: Bench) -> None:
    with FakeVLLM(qwen.engine) as server:
        gone = qwen.served(server)
    with pytest.raises(ConfigError, match="no vLLM server answers there"):
        sample(gone, ask(qwen.prompt()))


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ({"url": "http://x:1/v1"}, "m", "without /v1"),
        ({}, "m", "policy.options.url is empty"),
        ({"url": "http://x:1"}, "", "wants policy.model"),
        ({"url": "http://x:1", "sync": {"how": "copy"}}, "m", "policy.options.sync.how"),
        ({"url": "http://x:1", "tolerance": 1}, "m", "tolerance is not a key"),
    ],
)
def test_wrong_options_are_found_by_the_check_of_a_config(
    options: dict[str, Any], model: str, message: str
) -> None:
    policy = PolicyConfig(name="vllm", model=model, options=options)
    findings = {f.name: f for f in check_config(Config(policy=policy))}
    assert findings["[policy]"].status == "failed"
    assert message in findings["[policy]"].detail


# What goes wrong later.


def later(qwen: Bench, fault: Fault, message: str, **values: Any) -> dict[str, float]:
    """The error of a turn with a fault, after a check without one."""
    with FakeVLLM(qwen.engine, faults=[None] * CHECKS + [fault] * 2) as server:
        policy = qwen.served(server, timeout_s=2.0)
        with pytest.raises(PolicyError, match=message):
            sample(policy, ask(qwen.prompt(), **values))
        return policy.stats()


def body(qwen: Bench, *ids: int, finish: str = "length", **changes: Any) -> Fault:
    """An answer as the server gives it to ``qwen.prompt()``."""
    content = [{"token_id": i, "logprob": -1.0} for i in ids]
    choice = {"token_ids": ids, "logprobs": {"content": content}, "finish_reason": finish}
    value = {"choices": [choice], "prompt_token_ids": qwen.prompt().token_ids}
    return Fault(body=json.dumps(value | changes).encode())


def test_a_server_that_fails_fails_the_episode(qwen: Bench) -> None:
    stats = later(qwen, Fault(status=500), "status 500")
    assert (stats["policy_retries"], stats["policy_failures"]) == (1, 1)
    later(qwen, Fault(delay_s=5.0), "no whole answer within 2 s")


def test_a_sampled_placeholder_is_refused(qwen: Bench) -> None:
    later(qwen, body(qwen, 65, qwen.model.image_token_id), "which is a placeholder")
    later(qwen, body(qwen, qwen.engine.vocab_size), "not of this vocabulary")


def test_a_misread_prompt_is_refused(qwen: Bench) -> None:
    ids = [*qwen.prompt().token_ids[:-1], 3, 3]
    later(qwen, body(qwen, 65, prompt_token_ids=ids), "misread a prompt: it read")


def test_a_turn_that_the_server_cut_is_not_the_models(qwen: Bench) -> None:
    later(qwen, body(qwen, 65, 66), "--max-model-len is reached")
    later(qwen, body(qwen, 65, finish="abort"), "the turn was aborted")
    later(qwen, body(qwen, 65, finish="stop"), "finish reason 'stop'")
    later(qwen, body(qwen, 65, choices=[{"token_ids": [1]}]), "answer of another form.*logprobs")


def test_what_a_server_writes_beyond_the_end_is_cut_off(qwen: Bench) -> None:
    stop = qwen.renderer.encode("</code>")
    end = qwen.renderer.end_of_turn
    for tail, reason in ((stop, StopReason.STOP_STRING), ((end,), StopReason.END)):
        answer = body(qwen, 65, *tail, 66, 67, finish="stop")
        with FakeVLLM(qwen.engine, faults=[None] * CHECKS + [answer]) as server:
            (made,) = sample(qwen.served(server), ask(qwen.prompt()))
        assert made.token_ids == (65, *tail)
        assert made.stop is reason
        assert made.logprobs == (-1.0,) * len(made.token_ids)


def test_older_servers_name_tokens_by_text(qwen: Bench) -> None:
    end = qwen.renderer.end_of_turn
    for token, failure in ((end, ""), (end - 1, "for token")):
        content = [{"token": f"token_id:{token}", "logprob": -0.5}]
        choice = {"token_ids": [end], "logprobs": {"content": content}, "finish_reason": "stop"}
        answer = body(qwen, end, choices=[choice])
        if failure:
            later(qwen, answer, failure)
            continue
        with FakeVLLM(qwen.engine, faults=[None] * CHECKS + [answer]) as server:
            (made,) = sample(qwen.served(server), ask(qwen.prompt()))
        assert (made.token_ids, made.logprobs, made.text) == ((end,), (-0.5,), "")


def test_usage_is_counted(qwen: Bench) -> None:
    with FakeVLLM(qwen.engine) as server:
        policy = qwen.served(server)
        (made,) = sample(policy, ask(qwen.prompt("Look", noise(1))))
        stats = policy.stats()
    assert stats["policy_requests"] == CHECKS + 1
    # One more of each kind: the token of the check, after its prompt with a picture.
    assert stats["policy_completion_tokens"] == len(made.token_ids) + 1
    assert stats["policy_prompt_tokens"] > qwen.renderer.length(qwen.prompt("Look", noise(1)))


# The fake itself, where a wrong fake would hide a wrong client.


@pytest.fixture
def words() -> Iterator[FakeVLLM]:
    with FakeVLLM(WordEngine("one</code>two", 3)) as server:
        yield server


def post(server: FakeVLLM, path: str, body: dict[str, Any]) -> dict[str, Any]:
    from pyvision_rl.config import EndpointConfig
    from pyvision_rl.http_client import JsonClient

    client = JsonClient(EndpointConfig(url=server.url, max_retries=0))
    return run(client, lambda: client.post(path, body, any_answer=True))


def generate(server: FakeVLLM, ids: Sequence[int], **sampling: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 20, "temperature": 0.0, "logprobs": 0, **sampling}
    url = "data:image/png;base64,aGk="
    parts = [{"type": "image_url", "url": url}]
    asked = {"token_ids": list(ids), "content_parts": parts, "sampling_params": sampling}
    return post(server, GENERATE, asked)


def test_already_expanded_pads_are_taken_and_misread_as_recorded(words: FakeVLLM) -> None:
    value = generate(words, [1, 300, 300, 300, 300, 2], max_tokens=1)
    # Of four pads the first becomes four: seven for a picture of four, as vLLM 0.32 did.
    assert value["prompt_token_ids"].count(300) == 7
    assert value["mm_placeholders"] == {"image": [{"offset": 1, "length": 4}]}


def test_the_fake_stops_where_vllm_does(words: FakeVLLM) -> None:
    stopped = generate(words, [1, 300, 2], stop=["</code>"], skip_special_tokens=False)
    assert bytes(stopped["choices"][0]["token_ids"]) == b"one</code>"
    assert stopped["choices"][0]["stop_reason"] == "</code>"
    blind = generate(words, [1, 300, 2], stop=["</code>"])
    assert blind["choices"][0]["finish_reason"] == "length"


def test_a_reload_beside_full_caches_ends_the_engine_as_recorded(words: FakeVLLM) -> None:
    reload = {"method": "reload_weights", "kwargs": {"weights_path": "x"}}
    generate(words, [1, 300, 2], max_tokens=1)
    for path in ("/pause", "/reset_mm_cache", "/reset_encoder_cache"):
        post(words, path, {})
    post(words, "/collective_rpc", reload)
    post(words, "/resume", {})
    generate(words, [1, 300, 2], max_tokens=1)
    post(words, "/collective_rpc", reload)
    with pytest.raises(Exception, match="Encoder cache miss"):
        generate(words, [1, 300, 2], max_tokens=1)

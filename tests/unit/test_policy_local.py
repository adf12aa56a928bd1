"""The in-process policy: the same tokens as transformers, the same scores as one full forward."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, ROUNDING, decoder, given, make_tiny, noise

from pyvision_rl.errors import PolicyError, RenderError
from pyvision_rl.images import grid, patches
from pyvision_rl.models.base import Embedded, VisionLanguageModel
from pyvision_rl.policy.local import LocalPolicy
from pyvision_rl.types import (
    Completion,
    Media,
    SampleLimits,
    SampleRequest,
    Segment,
    StopReason,
)

GREEDY = SampleLimits(12, temperature=0)
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Tiny:
    """A random network, its tokenizer, and shorthands."""

    model: VisionLanguageModel
    tokenizer: Any
    folder: Path

    @property
    def end(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))

    def policy(
        self, *, max_batch: int = 16, model: VisionLanguageModel | None = None
    ) -> LocalPolicy:
        return LocalPolicy(
            model or self.model,
            decode=decoder(self.tokenizer),
            end_of_turn=self.end,
            max_batch=max_batch,
        )

    def prompt(self, text: str, *media: Media) -> Segment:
        return given(self.tokenizer, f"<|im_start|>user\n{text}{TAIL}", *media)

    def observe(self, completion: Completion, text: str, *media: Media) -> Segment:
        closed = completion.token_ids[-1] == self.end
        start = "\n" if closed else "<|im_end|>\n"
        return given(self.tokenizer, f"{start}<|im_start|>user\n{text}{TAIL}", *media)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp(request.param)
    return Tiny(*make_tiny(folder, request.param), folder)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("one_family")
    return Tiny(*make_tiny(folder), folder)


def ask(
    *segments: Segment,
    limits: SampleLimits = GREEDY,
    episode: str = "e",
    seed: int = 0,
    order: tuple[int, ...] = (),
    forced: tuple[int, ...] = (),
) -> SampleRequest:
    return SampleRequest(episode, "task", 0, segments, (), limits, seed, order, forced)


def play(policy: LocalPolicy, *requests: SampleRequest) -> list[Completion]:
    """Sample the requests together."""

    async def together() -> list[Completion]:
        return list(await asyncio.gather(*(policy.sample(r) for r in requests)))

    return asyncio.run(together())


def sampled(completion: Completion) -> Segment:
    return Segment(completion.token_ids, sampled=True, logprobs=completion.logprobs)


def generated(tiny: Tiny, segments: Sequence[Segment], count: int) -> list[int]:
    """Greedy tokens of transformers' own ``generate`` for the whole history."""
    model, module = tiny.model, tiny.model.module
    expanded = model.expand(segments)
    ids = torch.tensor([expanded.token_ids])
    media = [m for _, m in expanded.images]
    images = {
        "pixel_values": torch.from_numpy(np.concatenate([patches(m, model.vision) for m in media])),
        "image_grid_thw": torch.tensor([grid(m, model.vision) for m in media]),
        "mm_token_type_ids": (ids == model.image_token_id).int(),
    }
    module.model.rope_deltas = None
    with torch.no_grad():
        out = module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            suppress_tokens=list(model.banned_ids),
            eos_token_id=tiny.end,
            pad_token_id=tiny.end,
            **images,
        )
    return out[0, ids.shape[1] :].tolist()


def full_forward(model: VisionLanguageModel, segments: Sequence[Segment], t: float) -> np.ndarray:
    """Log-probabilities [T] of every token by one causal forward over the whole trajectory."""
    expanded = model.expand(segments)
    ids = torch.tensor([expanded.token_ids])
    with torch.no_grad():
        embedded = model.embed(ids, [(0, o, m) for o, m in expanded.images])
        hidden = model.hidden(embedded, torch.from_numpy(expanded.positions)[:, None])
        scores = torch.log_softmax(model.logits(hidden) / t, -1)[0, :-1]
    found = scores.gather(1, ids[0, 1:, None])[:, 0].numpy()
    return np.concatenate([[0.0], found])[expanded.sampled]


def test_greedy_turns_are_those_of_generate(tiny: Tiny) -> None:
    policy = tiny.policy()
    prompts = [
        tiny.prompt("Which digit? [image]", noise(1)),
        tiny.prompt("Compare [image] with [image], please.", noise(2, 84, 56), noise(3, 28, 112)),
        tiny.prompt("[image][image] Short.", noise(4, 112, 84), noise(1)),
    ]
    first = play(policy, *(ask(p, episode=f"e{i}") for i, p in enumerate(prompts)))
    for prompt, completion in zip(prompts, first, strict=True):
        assert list(completion.token_ids) == generated(tiny, [prompt], 12)
    histories = [
        (p, sampled(c), tiny.observe(c, "Look: [image]" + "." * i, noise(9 + i, 56, 84)))
        for i, (p, c) in enumerate(zip(prompts, first, strict=True))
    ]
    second = play(policy, *(ask(*h, episode=f"e{i}") for i, h in enumerate(histories)))
    for history, completion in zip(histories, second, strict=True):
        assert list(completion.token_ids) == generated(tiny, history, 12)


async def episode(
    tiny: Tiny, policy: LocalPolicy, index: int, *, limits: SampleLimits, late: int
) -> tuple[Segment, ...]:
    """Three turns with images, started ``late`` cycles of the event loop after the others."""
    for _ in range(late):
        await asyncio.sleep(0)
    text = "Look " * (1 + index % 3)
    segments = [tiny.prompt(text + "[image]" * (1 + index % 2), *PICTURES[: 1 + index % 2])]
    for turn in range(3):
        done = await policy.sample(
            ask(
                *segments,
                limits=replace(limits, max_new_tokens=4 + (7 * index + 5 * turn) % 17),
                episode=str(index),
                seed=10 * index + turn,
                order=(index, turn),
            )
        )
        segments.append(sampled(done))
        if turn < 2:
            shown = (noise(100 * index + turn, 56, 28 * (1 + turn)),) * (index % 3)
            segments.append(tiny.observe(done, "Result " + "[image]" * len(shown), *shown))
    return tuple(segments)


PICTURES = (noise(50), noise(51, 84, 28))


@pytest.mark.parametrize("max_batch", [16, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_are_those_of_one_forward_over_the_finished_trajectory(
    tiny: Tiny, temperature: float, max_batch: int
) -> None:
    policy = tiny.policy(max_batch=max_batch)
    limits = SampleLimits(1, temperature=temperature)

    async def everyone() -> list[tuple[Segment, ...]]:
        jobs = [episode(tiny, policy, i, limits=limits, late=3 * (i % 4)) for i in range(9)]
        return await asyncio.gather(*jobs)

    worst = 0.0
    for segments in asyncio.run(everyone()):
        want = full_forward(tiny.model, segments, temperature)
        got = [p for s in segments for p in s.logprobs]
        assert len(got) == len(want) >= 12
        worst = max(worst, float(np.abs(want - got).max()))
    # Dividing logits by the temperature divides their rounding errors too.
    assert worst <= ROUNDING / temperature


def test_a_row_writes_the_same_alone_and_in_company(tiny: Tiny) -> None:
    async def run(indices: Sequence[int], late: int) -> dict[int, tuple[Segment, ...]]:
        policy = tiny.policy()
        jobs = [episode(tiny, policy, i, limits=SampleLimits(1), late=late * i) for i in indices]
        return dict(zip(indices, await asyncio.gather(*jobs), strict=True))

    together, staggered = asyncio.run(run(range(6), 0)), asyncio.run(run(range(6), 2))
    for index in (0, 3, 5):
        alone = asyncio.run(run([index], 0))[index]
        for other in (together[index], staggered[index]):
            assert [s.token_ids for s in other] == [s.token_ids for s in alone]


def test_requests_of_one_cycle_give_the_same_bits_every_time(qwen: Tiny) -> None:
    def run() -> list[tuple[Segment, ...]]:
        policy = qwen.policy(max_batch=4)

        async def everyone() -> list[tuple[Segment, ...]]:
            jobs = [episode(qwen, policy, i, limits=SampleLimits(1), late=0) for i in range(7)]
            return await asyncio.gather(*jobs)

        return asyncio.run(everyone())

    assert run() == run()


def test_the_seed_decides_and_nothing_else(qwen: Tiny) -> None:
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    free = SampleLimits(16)
    a, b, c = play(
        qwen.policy(),
        *(ask(prompt, limits=free, seed=s, episode=e) for s, e in ((1, "a"), (1, "b"), (2, "c"))),
    )
    assert a == b
    assert a.token_ids != c.token_ids


def test_forced_tokens_begin_the_turn_and_are_scored(tiny: Tiny) -> None:
    prompt = tiny.prompt("Which digit? [image]", noise(1))
    forced = tuple(tiny.tokenizer.encode("<code>plt"))
    free = SampleLimits(10, temperature=0.8)
    policy = tiny.policy()
    done, other = play(
        policy,
        ask(prompt, limits=free, forced=forced, episode="a"),
        ask(prompt, limits=free, episode="b"),
    )
    assert done.token_ids[: len(forced)] == forced
    assert other.token_ids[: len(forced)] != forced
    want = full_forward(tiny.model, (prompt, sampled(done)), 0.8)
    assert np.abs(want - done.logprobs).max() <= ROUNDING


def test_a_forced_placeholder_is_refused(qwen: Tiny) -> None:
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    with pytest.raises(PolicyError, match="forced token is banned"):
        play(qwen.policy(), ask(prompt, forced=(qwen.model.image_token_id,)))


def test_the_end_of_turn_token_is_kept_and_its_text_is_not(qwen: Tiny) -> None:
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    forced = (*qwen.tokenizer.encode("corner"), qwen.end)
    (done,) = play(qwen.policy(), ask(prompt, forced=forced))
    assert done.token_ids == forced
    assert (done.stop, done.text) == (StopReason.END, "corner")


def test_a_stop_string_ends_the_turn_at_the_token_that_completes_it(qwen: Tiny) -> None:
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    policy, decode = qwen.policy(), decoder(qwen.tokenizer)
    (free,) = play(policy, ask(prompt, limits=SampleLimits(20, temperature=0)))
    # Some text that the free turn holds, ending in the middle of a token's text or at its end.
    spot = next(i for i in range(6, 20) if decode(free.token_ids[i : i + 1]).isascii())
    stop = decode(free.token_ids[: spot + 1])[-3:]
    first = next(i for i in range(21) if stop in decode(free.token_ids[:i]))
    (done,) = play(policy, ask(prompt, limits=replace(GREEDY, max_new_tokens=20, stop=(stop,))))
    assert done.token_ids == free.token_ids[:first]
    assert (done.stop, done.text) == (StopReason.STOP_STRING, decode(done.token_ids))


def test_the_token_limit_ends_the_turn(qwen: Tiny) -> None:
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    for count in (1, 5):
        (done,) = play(qwen.policy(), ask(prompt, limits=replace(GREEDY, max_new_tokens=count)))
        assert (len(done.token_ids), done.stop) == (count, StopReason.LENGTH)


class Counting(VisionLanguageModel):
    """Keeps the shape of every token block that was embedded, and may fail on command."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__(model.module, model.vision, model.vocab_size)
        self.blocks: list[tuple[int, int]] = []
        self.fail_at: int | None = None
        self.poison: int | None = None

    def embed(self, token_ids: torch.Tensor, images: Sequence[tuple[int, int, Media]]) -> Embedded:
        if self.fail_at == len(self.blocks):
            raise RuntimeError("out of memory")
        self.blocks.append((token_ids.shape[0], token_ids.shape[1]))
        return super().embed(token_ids, images)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden)
        if self.poison is not None and self.poison < len(logits):
            logits[self.poison] = torch.nan
        return logits


def test_equal_prompts_are_prefilled_once(qwen: Tiny) -> None:
    model = Counting(qwen.model)
    a, b = (qwen.prompt(t + " [image]", noise(1)) for t in ("Which digit?", "Why not?"))
    requests = [
        ask(p, limits=SampleLimits(3), episode=f"{i}", seed=i)
        for i, p in enumerate([a, b, a, a, b])
    ]
    play(qwen.policy(model=model), *requests)
    widest = max(len(model.expand([p]).token_ids) for p in (a, b))
    assert model.blocks == [(2, widest), (5, 1), (5, 1)]


def test_a_next_turn_prefills_only_what_was_added(qwen: Tiny) -> None:
    model = Counting(qwen.model)
    policy = qwen.policy(model=model)
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    (done,) = play(policy, ask(prompt))
    added = qwen.observe(done, "Result [image]", noise(2))
    model.blocks.clear()
    # However the history is cut into segments.
    whole = (
        Segment(added.token_ids[:3], sampled=False),
        replace(added, token_ids=added.token_ids[3:]),
    )
    play(policy, ask(prompt, sampled(done), *whole, limits=SampleLimits(1)))
    assert model.blocks == [(1, 1 + len(model.expand([added]).token_ids))]


def test_a_changed_history_is_prefilled_from_scratch(qwen: Tiny) -> None:
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    (done,) = play(qwen.policy(), ask(prompt))
    other = list(done.token_ids)
    other[2] = (other[2] + 1) % 200 + 20
    changed_turn = replace(sampled(done), token_ids=tuple(other))
    changed_image = replace(prompt, media=(noise(2),))
    added = qwen.observe(done, "Result [image]", noise(3))
    for history in (
        (prompt, changed_turn, added),
        (changed_image, sampled(done), added),
        (prompt,),
    ):
        model = Counting(qwen.model)
        policy = qwen.policy(model=model)
        play(policy, ask(prompt))
        model.blocks.clear()
        again = play(policy, ask(*history))
        assert model.blocks[0] == (1, len(model.expand(history).token_ids))
        assert again == play(qwen.policy(), ask(*history))


def test_release_frees_what_an_episode_holds(qwen: Tiny) -> None:
    policy = qwen.policy()
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    play(policy, ask(prompt, episode="a"), ask(prompt, episode="b"))
    both = policy.kept_bytes
    policy.release("a")
    assert 0 < policy.kept_bytes == both // 2
    policy.release("b")
    policy.release("never seen")
    assert policy.kept_bytes == 0


def test_an_episode_released_while_it_is_sampled_keeps_nothing(qwen: Tiny) -> None:
    policy = qwen.policy()
    prompt = qwen.prompt("Which digit? [image]", noise(1))

    async def leave_early() -> None:
        job = asyncio.create_task(policy.sample(ask(prompt)))
        for _ in range(6):
            await asyncio.sleep(0)
        policy.release("e")
        await job

    asyncio.run(leave_early())
    assert policy.kept_bytes == 0


def test_a_new_version_drops_caches_and_is_named(qwen: Tiny, tmp_path: Path) -> None:
    model, _ = make_tiny(tmp_path / "shared")
    policy = qwen.policy(model=model)
    prompt = qwen.prompt("Which digit? [image]", noise(1))
    (before,) = play(policy, ask(prompt))
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    policy.set_version(3)
    assert policy.kept_bytes == 0
    history = prompt, sampled(before), qwen.observe(before, "Go on.")
    (after,) = play(policy, ask(*history))
    assert (before.policy_version, after.policy_version) == (0, 3)
    want = full_forward(model, (*history, sampled(after)), 1.0)[len(before.token_ids) :]
    assert np.abs(want - after.logprobs).max() <= ROUNDING


def test_weights_may_not_change_during_a_turn(qwen: Tiny) -> None:
    policy = qwen.policy()

    async def change() -> Completion:
        job = asyncio.create_task(policy.sample(ask(qwen.prompt("Why? [image]", noise(1)))))
        for _ in range(6):
            await asyncio.sleep(0)
        with pytest.raises(PolicyError, match="1 turns are being sampled"):
            policy.set_version(1)
        return await job

    assert asyncio.run(change()).policy_version == 0


async def outcomes(jobs: Sequence[Awaitable[Completion]]) -> list[Completion | BaseException]:
    return list(await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 30))


@pytest.mark.parametrize("fail_at", [0, 1, 5])
def test_a_failing_network_fails_who_waits_and_nobody_later(qwen: Tiny, fail_at: int) -> None:
    model = Counting(qwen.model)
    policy = qwen.policy(model=model)
    requests = [ask(qwen.prompt("Why? [image]", noise(i)), episode=f"{i}") for i in range(3)]
    model.fail_at = fail_at
    failed = asyncio.run(outcomes([policy.sample(r) for r in requests]))
    assert all(isinstance(f, PolicyError) and "out of memory" in str(f) for f in failed)
    model.fail_at = None
    assert play(policy, *requests) == play(qwen.policy(), *requests)


def test_nan_fails_its_row_only(qwen: Tiny) -> None:
    model = Counting(qwen.model)
    model.poison = 1
    requests = [
        ask(qwen.prompt("Why? [image]", noise(i)), episode=f"{i}", order=(i,)) for i in range(2)
    ]
    policy = qwen.policy(model=model)
    good, bad = asyncio.run(outcomes([policy.sample(r) for r in requests]))
    assert isinstance(bad, PolicyError)
    assert "not finite" in str(bad)
    assert isinstance(good, Completion)


def test_an_image_that_cannot_be_read_fails_no_other_episode(qwen: Tiny) -> None:
    media = [
        noise(1),
        replace(noise(2), source=None, sha256="0" * 64),
        noise(3),
        noise(4),
        noise(5),
    ]
    requests = [
        ask(qwen.prompt("Why? [image]", m), episode=f"{i}", order=(i,)) for i, m in enumerate(media)
    ]
    policy = qwen.policy()
    done = asyncio.run(outcomes([policy.sample(r) for r in requests]))
    assert isinstance(done[1], PolicyError)
    assert all(isinstance(done[i], Completion) for i in (0, 2, 3, 4))


def test_placeholders_without_an_image_are_our_bug(qwen: Tiny) -> None:
    policy = qwen.policy()
    broken, fine = qwen.prompt("Why? [image]"), qwen.prompt("Why? [image]", noise(1))
    jobs = [policy.sample(ask(p, episode=e)) for p, e in ((broken, "a"), (fine, "b"))]
    bad, good = asyncio.run(outcomes(jobs))
    assert isinstance(bad, RenderError)
    assert isinstance(good, Completion)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: replace(r, limits=SampleLimits(0)), "max_new_tokens is 0"),
        (lambda r: replace(r, segments=()), "empty history"),
        (lambda r: replace(r, seed=-1), "seed|non-negative"),
    ],
)
def test_a_senseless_request_is_refused(
    qwen: Tiny, change: Callable[[SampleRequest], SampleRequest], why: str
) -> None:
    with pytest.raises(PolicyError, match=why):
        play(qwen.policy(), change(ask(qwen.prompt("Why? [image]", noise(1)))))


def test_a_cancelled_request_disturbs_nobody(qwen: Tiny) -> None:
    prompts = [qwen.prompt("Why? [image]" + "!" * i, noise(i)) for i in range(4)]
    requests = [ask(p, episode=f"{i}") for i, p in enumerate(prompts)]
    policy = qwen.policy()

    async def cancel_one() -> list[Completion | BaseException]:
        jobs = [asyncio.create_task(policy.sample(r)) for r in requests]
        for _ in range(6):
            await asyncio.sleep(0)
        jobs[1].cancel()
        return await outcomes(jobs)

    done = asyncio.run(cancel_one())
    want = play(qwen.policy(), *requests)
    assert isinstance(done[1], asyncio.CancelledError)
    for index in (0, 2, 3):
        assert isinstance(found := done[index], Completion)
        assert found.token_ids == want[index].token_ids


def test_closing_fails_who_waits_and_refuses_who_comes(qwen: Tiny) -> None:
    policy = qwen.policy(max_batch=1)
    requests = [ask(qwen.prompt("Why? [image]", noise(i)), episode=f"{i}") for i in range(3)]

    async def close() -> list[Completion | BaseException]:
        jobs = [asyncio.create_task(policy.sample(r)) for r in requests]
        for _ in range(6):
            await asyncio.sleep(0)
        await policy.close()
        await policy.close()
        return await outcomes(jobs)

    assert all(isinstance(d, PolicyError) for d in asyncio.run(close()))
    assert policy.kept_bytes == 0
    with pytest.raises(PolicyError, match="closed"):
        play(policy, requests[0])


def test_the_event_loop_goes_on_between_steps(qwen: Tiny) -> None:
    policy = qwen.policy()

    async def count() -> int:
        job = asyncio.create_task(policy.sample(ask(qwen.prompt("Why? [image]", noise(1)))))
        cycles = 0
        while not job.done():
            await asyncio.sleep(0)
            cycles += 1
        return cycles

    assert asyncio.run(count()) >= GREEDY.max_new_tokens


def test_sampling_leaves_modes_and_gradients_as_they_were(qwen: Tiny) -> None:
    module = qwen.model.module
    module.train()
    module.model.visual.eval()
    before = {name: part.training for name, part in module.named_modules()}
    play(qwen.policy(), ask(qwen.prompt("Why? [image]", noise(1))))
    after = {name: part.training for name, part in module.named_modules()}
    module.eval()
    assert before == after
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in module.parameters())

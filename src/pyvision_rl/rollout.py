"""The agent loop: from tasks to graded groups of trajectories.

In: tasks and a ``Harness`` (prompts, renderer, policy, sandbox, rewarder). Out: one ``Group`` per
task. An episode alternates completion -> action -> execution -> observation until it answers or
meets a limit. A bad rollout is data: whatever model code does ends as a status or an end reason;
only a failure of our machinery ends an episode as FAILED, which is never graded.

Two schedules. ``lockstep``: all episodes take their turns together, so batches form in
(task, rollout, turn) order and a run depends on its seeds only. ``async``: each episode goes at its
own pace; the records are the same, the bits of the sampled numbers may not be.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pyvision_rl.config import RolloutConfig
from pyvision_rl.errors import PolicyError, SandboxError
from pyvision_rl.parsing import parse
from pyvision_rl.policy.base import Policy
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.sandbox.base import Sandbox, SandboxLimits, Session
from pyvision_rl.types import (
    Action,
    Completion,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Group,
    Malformed,
    Observation,
    Prompt,
    RunCode,
    SampleLimits,
    SampleRequest,
    Segment,
    Task,
    TaskInput,
    TokenCount,
    Trajectory,
    Turn,
    transcript,
)


class Rewarder(Protocol):
    """Grades one finished trajectory."""

    async def grade(self, task: Task, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with its reward, or ungraded with an error text."""
        ...

    def stats(self) -> dict[str, float]:
        """Return what was counted so far, by metric name."""
        ...

    async def close(self) -> None:
        """Free what is held. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Harness:
    """Everything an episode meets, wired once per run."""

    prompts: PromptBuilder
    renderer: Renderer
    policy: Policy
    sandbox: Sandbox
    rewarder: Rewarder
    config: RolloutConfig
    sampling: SampleLimits
    sandbox_limits: SandboxLimits


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part; the same parts give the same seed."""
    text = "\x1f".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


async def run_groups(
    harness: Harness,
    tasks: Sequence[Task],
    *,
    seed: int,
    group_size: int | None = None,
    forced: str = "",
    wanted: Sequence[tuple[int, Sequence[int]]] | None = None,
) -> list[Group]:
    """Return one graded group per task, in task order.

    Args:
        harness: What the episodes meet.
        tasks: Each is rolled out ``group_size`` times.
        seed: All randomness of these episodes comes from it.
        group_size: None takes ``rollout.group_size``.
        forced: Text that every first turn must begin with (the probe's forced action).
        wanted: For each task, the place that its seeds come from and the rollouts to make. None
            takes its place in ``tasks``, and all of the group.
    """
    size = group_size or harness.config.group_size
    together = max(1, harness.config.max_live_episodes // size)
    forced_ids = harness.renderer.encode(forced) if forced else ()
    jobs = list(zip(tasks, wanted or [(i, range(size)) for i in range(len(tasks))], strict=True))
    groups: list[Group] = []
    for first in range(0, len(tasks), together):
        part, episodes = jobs[first : first + together], []
        for task, (index, rollouts) in part:
            # Made once per task: G rollouts share one prompt segment, and so one prefill.
            prompt = harness.prompts.prompt(task.input)
            start = _Start(prompt, harness.renderer.open(prompt.messages), forced_ids)
            for rollout in rollouts:
                episode_seed = derive_seed(seed, index, task.id, rollout)
                episode = _Episode(harness, task.input, start, rollout, index, episode_seed)
                episodes.append((episode, task))
        gate = _Gate(len(episodes)) if harness.config.schedule == "lockstep" else None
        done = iter(await asyncio.gather(*(_graded(*episode, gate) for episode in episodes)))
        groups += [Group(task, tuple(next(done) for _ in made)) for task, (_, made) in part]
    return groups


async def _graded(episode: _Episode, task: Task, gate: _Gate | None) -> Trajectory:
    return await episode.harness.rewarder.grade(task, await episode.run(gate))


class _Gate:
    """Lets live episodes through together, once all of them wait."""

    def __init__(self, live: int) -> None:
        self._live = live
        self._waiting = 0
        self._open = asyncio.Event()

    async def turn(self) -> None:
        self._waiting += 1
        here = self._open
        self._release_if_complete()
        await here.wait()

    def leave(self) -> None:
        self._live -= 1
        self._release_if_complete()

    def _release_if_complete(self) -> None:
        if self._waiting and self._waiting == self._live:
            self._waiting = 0
            opened, self._open = self._open, asyncio.Event()
            opened.set()


@dataclass(frozen=True, slots=True)
class _Start:
    prompt: Prompt
    segment: Segment
    forced: tuple[int, ...] = ()
    """Ids that the first turn must begin with."""


@dataclass(slots=True)
class _Episode:
    """One episode while it runs; its record is made at the end."""

    harness: Harness
    task: TaskInput
    start: _Start
    rollout: int
    index: int
    seed: int
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    length: int = 0
    """Tokens so far, images expanded."""
    next_image: int = 0
    """k of the next shown image's name, as the session counts."""
    answer: str | None = None
    session: Session | None = None

    @property
    def name(self) -> str:
        return f"{self.seed:016x}"

    async def run(self, gate: _Gate | None) -> Trajectory:
        error = ""
        try:
            end = await self._loop(gate)
        except (PolicyError, SandboxError) as failure:
            end, error = EndReason.FAILED, f"{type(failure).__name__}: {failure}"
        finally:
            if gate:
                gate.leave()
            self.harness.policy.release(self.name)
            if self.session:
                await self.session.close()
        return Trajectory(
            task_id=self.task.id,
            rollout=self.rollout,
            segments=tuple(self.segments),
            prompt=self.start.prompt.messages,
            turns=tuple(self.turns),
            end=end,
            answer=self.answer,
            error=error,
            prompted=self._given(self.start.segment),
            prompt_frames=self.start.prompt.frames,
        )

    async def _loop(self, gate: _Gate | None) -> EndReason:
        config = self.harness.config
        self._append(self.start.segment)
        self.next_image = sum(m.kind == "image" for m in self.start.prompt.bindings.values())
        for turn in range(config.max_tool_calls + 1):
            if self.length >= config.max_context_tokens:
                return EndReason.TOKEN_LIMIT
            if gate:
                await gate.turn()
            began = time.perf_counter()
            completion = await self._sample(turn)
            elapsed = time.perf_counter() - began
            action = parse(completion.text, completion.stop)
            self._append(Segment(completion.token_ids, True, completion.logprobs))
            self.turns.append(_turn(completion, action, elapsed))
            end = await self._act(completion, action, last=turn == config.max_tool_calls)
            if end is not None:
                return end
        raise AssertionError("the last turn always ends the episode")

    async def _sample(self, turn: int) -> Completion:
        room = self.harness.config.max_context_tokens - self.length
        limits = self.harness.sampling
        return await self.harness.policy.sample(
            SampleRequest(
                episode=self.name,
                task_id=self.task.id,
                turn=turn,
                segments=tuple(self.segments),
                messages=transcript(self.start.prompt.messages, self.turns),
                limits=replace(limits, max_new_tokens=min(limits.max_new_tokens, room)),
                seed=derive_seed(self.seed, turn),
                order=(self.index, self.rollout, turn),
                forced=self.start.forced if turn == 0 else (),
            )
        )

    async def _act(self, completion: Completion, action: Action, *, last: bool) -> EndReason | None:
        """Carry out one action; return why the episode ends, or None to go on."""
        config = self.harness.config
        if isinstance(action, GiveAnswer):
            self.answer = action.answer
            return EndReason.ANSWERED
        if isinstance(action, Malformed):
            if self.length >= config.max_context_tokens:
                return EndReason.TOKEN_LIMIT
            if last or config.end_on_malformed:
                return EndReason.MALFORMED
            return self._observe(completion, self.harness.prompts.refusal(action.why))
        if last:
            return EndReason.TURN_LIMIT
        execution = await self._execute(action)
        self.turns[-1] = replace(self.turns[-1], execution=execution)
        first_image = self.next_image
        self.next_image += len(execution.images)
        if config.end_on_code_error and execution.status is not ExecStatus.OK:
            return EndReason.CODE_ERROR
        observation = self.harness.prompts.observation(execution, first_image, self.task.media)
        return self._observe(completion, observation)

    async def _execute(self, action: RunCode) -> Execution:
        if self.session is None:
            self.session = await self.harness.sandbox.open(
                self.start.prompt.bindings,
                self.harness.sandbox_limits,
                derive_seed(self.seed, "sandbox"),
            )
        return await self.session.run(action.code)

    def _observe(self, completion: Completion, observation: Observation) -> EndReason | None:
        """Append an observation whole, images and pads together, or not at all."""
        config = self.harness.config
        segment = self.harness.renderer.observe(completion, observation.message)
        num_images = sum(len(s.media) for s in (*self.segments, segment))
        if segment.media and num_images > config.max_images:
            return EndReason.IMAGE_LIMIT
        given = self._given(segment)
        if self.length + given.text + given.visual >= config.max_context_tokens:
            return EndReason.TOKEN_LIMIT
        self._append(segment)
        self.turns[-1] = replace(self.turns[-1], observation=observation, observed=given)
        return None

    def _append(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.length += self.harness.renderer.length(segment)

    def _given(self, segment: Segment) -> TokenCount:
        text = len(segment.token_ids) - len(segment.media)
        return TokenCount(text, self.harness.renderer.length(segment) - text)


def _turn(made: Completion, action: Action, took: float) -> Turn:
    size = len(made.token_ids)
    return Turn(
        made.text, made.stop, action, size, policy_version=made.policy_version, sample_s=took
    )

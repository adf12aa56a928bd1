"""The records of one episode, in the order they are made.

    Task -> Prompt -> Completion -> Action -> Execution -> Observation -> Trajectory

Every record is frozen and checks its own invariants when it is built, so a broken one cannot
travel. Shapes: T tokens of a trajectory. Units: seconds for ``*_s``, pixels for width and height,
nats for log-probabilities. Media and executions are in ``execution``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Literal, TypeAlias

from pyvision_rl.types.execution import ExecStatus, Execution, Media, VideoFrames


@dataclass(frozen=True, slots=True)
class TaskInput:
    """The public half of a task: all that prompts, policy and sandbox may ever see."""

    id: str
    """Unique in its task set and stable between runs."""
    question: str
    media: tuple[Media, ...] = ()
    category: str = ""
    """Evaluation tables are split by it."""
    data_source: str = ""
    """Where the row came from; rewards may be routed by it."""


ANSWER_TYPES = ("auto", "text", "letter", "integer", "float", "yes_no", "set", "sequence")
"""How a reference may be compared with an answer; the rules are in ``rewards.answers``."""


Fact: TypeAlias = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Gold:
    """The secret half of a task. Only tasks, rewards, evaluate and runs may import it."""

    answer: str
    answer_type: str = "auto"
    """How rewards compare; one of ``ANSWER_TYPES``."""
    facts: Mapping[str, Fact] = field(default_factory=dict, hash=False)
    """What a scorer needs beside the answer: options, cycle, kind of question (see ``suites``)."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its media, and its reference answer kept apart."""

    input: TaskInput
    gold: Gold

    @property
    def id(self) -> str:
        """The id of the public half."""
        return self.input.id


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text inside a message."""

    text: str


Part: TypeAlias = Text | Media


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; media stand where the model sees them."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def media(self) -> tuple[Media, ...]:
        """The media of the message, in order."""
        return tuple(p for p in self.parts if isinstance(p, Media))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy reads first, and what the sandbox holds before the first turn."""

    messages: tuple[Message, ...]
    bindings: Mapping[str, Media]
    """Python name -> media, e.g. ``image_clue_0``. A video may be bound here and be absent
    from ``messages``: on-demand context."""
    frames: tuple[VideoFrames, ...] = ()
    """The frames of videos that stand in ``messages``; of each video by its name at code, even
    where code does not have it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that were all sampled, or all given. The only store of token ids.

    An image is ONE placeholder id here; ``models`` expands it to the model's N pads.
    """

    token_ids: tuple[int, ...]
    sampled: bool
    logprobs: tuple[float, ...] | None = ()
    """One per token when ``sampled`` (nats, at the sampling temperature); empty otherwise. None
    when sampled by a policy that does not tell: never trained on by RL."""
    media: tuple[Media, ...] = ()
    """The images whose placeholders lie in this segment, in token order."""

    def __post_init__(self) -> None:
        want = len(self.token_ids) if self.sampled else 0
        have = want if self.sampled and self.logprobs is None else len(self.logprobs or ())
        if have != want or (self.logprobs is None and not self.sampled):
            raise ValueError(f"segment has {have} logprobs, wants {want}")
        if self.sampled and self.media:
            raise ValueError("a sampled segment cannot hold media")

    @property
    def known_logprobs(self) -> tuple[float, ...]:
        """One number per token: 0.0 if it was given, NaN if its policy does not tell."""
        if self.sampled and self.logprobs is not None:
            return self.logprobs
        return (math.nan if self.sampled else 0.0,) * len(self.token_ids)


class StopReason(StrEnum):
    """Why the policy stopped writing this turn."""

    END = "end"
    """The end-of-turn token was sampled (it is the last id)."""
    STOP_STRING = "stop_string"
    """A stop string was completed; the renderer closes the turn with a given end-of-turn token."""
    LENGTH = "length"
    """The token limit of the turn was reached."""


@dataclass(frozen=True, slots=True)
class SampleLimits:
    """How one turn is sampled."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One turn asked of a policy: all that was said so far, and how to go on."""

    episode: str
    """Unique per episode; a policy may keep state (a KV cache) under it until ``release``."""
    task_id: str
    turn: int
    """0 for the first turn."""
    segments: tuple[Segment, ...]
    messages: tuple[Message, ...]
    """The same history for policies that read chat messages instead of tokens."""
    limits: SampleLimits
    seed: int
    """Every random choice of this turn comes from it."""
    order: tuple[int, ...] = ()
    """(task, rollout, turn): batches are formed in this order under the lockstep schedule."""
    forced: tuple[int, ...] = ()
    """Ids the turn must begin with (used by the probe); scored like sampled ones."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One turn as the policy sampled it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    """[len(token_ids)] log-probabilities under the sampling policy (nats); None: not told."""
    text: str
    """Without the end-of-turn token. For parsing and for people; never tokenized again."""
    stop: StopReason
    policy_version: int = 0
    """RL steps behind the weights that sampled this turn."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} token_ids but {len(self.logprobs)} logprobs")


@dataclass(frozen=True, slots=True)
class RunCode:
    """The turn asks to run code."""

    code: str


@dataclass(frozen=True, slots=True)
class GiveAnswer:
    """The turn gives the final answer."""

    answer: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """The turn is neither; ``why`` is shown to the model."""

    why: str


Action: TypeAlias = RunCode | GiveAnswer | Malformed


@dataclass(frozen=True, slots=True)
class Observation:
    """An ``Execution`` (or a refusal) in the words the policy will read."""

    message: Message
    execution: Execution | None
    """None when no code ran (a malformed turn)."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Given tokens as the network sees them, images expanded."""

    text: int = 0
    visual: int = 0
    """Pads of images; the tags around them are text."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One completion and what it led to; its token ids are in the trajectory's segments, once."""

    text: str
    stop: StopReason
    action: Action
    num_tokens: int
    policy_version: int = 0
    observation: Observation | None = None
    """None for the last turn of an episode."""
    execution: Execution | None = None
    """What the turn's code did; kept even when the observation was not (over a limit)."""
    sample_s: float = 0.0
    observed: TokenCount = TokenCount()
    """Of the observation and what the renderer puts around it; zero without one."""


class EndReason(StrEnum):
    """Why an episode ended. Viewer, filters and metrics all use these names."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    """Code was written in a turn in which only an answer was allowed."""
    TOKEN_LIMIT = "token_limit"
    IMAGE_LIMIT = "image_limit"
    MALFORMED = "malformed"
    CODE_ERROR = "code_error"
    """Only with ``rollout.end_on_code_error``."""
    FAILED = "failed"
    """Our machinery failed; never graded, never trained on."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A grade. An ungraded trajectory has ``reward=None``, which is not a zero."""

    parts: Mapping[str, float]
    """Named terms, e.g. ``{"accuracy": 1.0, "tool_use": 0.3}``."""
    correct: bool
    why: str = ""
    """How accuracy was decided, in a few words."""
    rung: str = ""
    """What decided it: rule, maths, judge, ``suite:<protocol>``; empty where a grader of your own
    does not say."""

    @property
    def total(self) -> float:
        """The scalar the learner sees: the sum of the parts."""
        return math.fsum(self.parts.values())


def transcript(prompt: tuple[Message, ...], turns: Iterable[Turn]) -> tuple[Message, ...]:
    """Return prompt and turns as chat messages, the way people and chat endpoints read them."""
    messages = list(prompt)
    for turn in turns:
        messages.append(Message("assistant", (Text(turn.text),)))
        if turn.observation is not None:
            messages.append(turn.observation.message)
    return tuple(messages)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode. ``segments`` is the only store of tokens; the rest is read off it."""

    task_id: str
    rollout: int
    """Index in its group."""
    segments: tuple[Segment, ...]
    prompt: tuple[Message, ...]
    turns: tuple[Turn, ...]
    end: EndReason
    answer: str | None = None
    """The final answer; None when the episode ended without one."""
    reward: Reward | None = None
    error: str = ""
    """What failed, when ``end`` is FAILED or grading failed."""
    prompted: TokenCount | None = None
    """Of the prompt; None says that no turn's ``observed`` was counted either."""
    prompt_frames: tuple[VideoFrames, ...] = ()
    """The frames of videos that stand in the prompt (``Prompt.frames``)."""

    def __post_init__(self) -> None:
        if self.end is EndReason.FAILED and self.reward is not None:
            raise ValueError("a failed episode cannot carry a reward")

    @property
    def token_ids(self) -> tuple[int, ...]:
        """[T] the ids the policy saw and wrote, one placeholder per image."""
        return tuple(chain.from_iterable(s.token_ids for s in self.segments))

    @property
    def loss_mask(self) -> tuple[bool, ...]:
        """[T] True on sampled tokens."""
        return tuple(chain.from_iterable((s.sampled,) * len(s.token_ids) for s in self.segments))

    @property
    def logprobs(self) -> tuple[float, ...]:
        """[T] sampling log-probabilities (nats); 0.0 on given tokens, NaN where not told."""
        return tuple(chain.from_iterable(s.known_logprobs for s in self.segments))

    @property
    def media(self) -> tuple[Media, ...]:
        """Every image in the context, in token order."""
        return tuple(chain.from_iterable(s.media for s in self.segments))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The episode as chat messages."""
        return transcript(self.prompt, self.turns)

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens the policy wrote."""
        return sum(len(s.token_ids) for s in self.segments if s.sampled)

    @property
    def num_executions(self) -> int:
        """Code blocks that were run, with or without an error."""
        return sum(t.execution is not None for t in self.turns)

    @property
    def num_tool_calls(self) -> int:
        """Code blocks that ran without an error: what the tool reward counts."""
        ran = (t.execution.status for t in self.turns if t.execution is not None)
        return sum(status is ExecStatus.OK for status in ran)


@dataclass(frozen=True, slots=True)
class Pair:
    """A plain prompt-target example for SFT."""

    parts: tuple[Part, ...]
    target: str
    raw: bool = False
    """True leaves out the chat headers: short sequences, for perception warm-ups."""

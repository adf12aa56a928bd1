"""The words of an episode without its tokens, and the tokens that a model would learn them in.

In: a trajectory, whoever wrote it and with whatever tokenizer, or a conversation read from a file.
Out: a ``Conversation``, and its segments for a renderer: assistant turns sampled, all else given.
Also says which trajectories of a run are to be learnt from. Reads and writes no conversation
files: ``sft_format`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyvision_rl.parsing import CODE_CLOSE
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.runs import RunReader, read_info
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_order import comes_again, counted
from pyvision_rl.types import Completion, Message, Segment, StopReason, Trajectory

SYNTHESIZE = "synthesize"
"""The verb whose runs say of each trajectory whether it is to be learnt from."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One assistant turn, and the message that answers it."""

    text: str
    stop: StopReason
    reply: Message | None = None
    """None after the last turn."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A whole episode in words, without tokens."""

    prompt: tuple[Message, ...]
    turns: tuple[Spoken, ...]
    source: str = ""


def render(renderer: Renderer, said: Conversation) -> tuple[Segment, ...]:
    """Return a conversation in tokens: assistant turns as sampled, everything else as given."""
    segments = [renderer.open(said.prompt)]
    for turn in said.turns:
        completion = _completion(renderer, turn)
        segments.append(Segment(completion.token_ids, True, completion.logprobs))
        if turn.reply is not None:
            segments.append(renderer.observe(completion, turn.reply))
    return tuple(segments)


def spoken(trajectory: Trajectory, source: str = "") -> Conversation:
    """Return the words of a trajectory."""
    last = len(trajectory.turns) - 1
    turns = []
    for number, turn in enumerate(trajectory.turns):
        # A reply behind the last turn would be given tokens that nothing is learnt after.
        reply = None if turn.observation is None or number == last else turn.observation.message
        turns.append(turn_of(turn.text, turn.stop, reply))
    return Conversation(trajectory.prompt, tuple(turns), source)


def learnable(path: Path) -> Iterator[tuple[SavedRollout, bool]]:
    """Yield the trajectories of a run folder or rollouts file, each with whether to learn from it.

    One that was carried from step to step comes once, with its last fate. Those that were graded
    right are to be learnt from; of a run of ``pvrl synthesize`` only those that it kept.

    Raises:
        RunError: There is no run, or a line of it cannot be understood.
    """
    folder = path if path.is_dir() else path.absolute().parent.parent
    chosen = (folder / "run.json").exists() and read_info(folder).verb == SYNTHESIZE
    last = max(RunReader(path).steps(), default=0) if path.is_dir() else None
    records = (
        RunReader(path).trajectories() if path.is_dir() else (s for _, s in counted(path, [])[1])
    )
    for saved in records:
        if last is not None and comes_again(saved, last):
            continue
        reward = saved.trajectory.reward
        yield saved, reward is not None and reward.correct and (saved.kept or not chosen)


def turn_of(text: str, stop: StopReason, reply: Message | None) -> Spoken:
    """Return a turn as our policies write it: stopped at the end of its code.

    A chat endpoint may end its turn there by itself, which is not what is to be learnt.
    """
    bare = text.rstrip()
    if bare.endswith(CODE_CLOSE):
        return Spoken(bare, StopReason.STOP_STRING, reply)
    return Spoken(text, StopReason.END if stop is StopReason.STOP_STRING else stop, reply)


def _completion(renderer: Renderer, turn: Spoken) -> Completion:
    made = renderer.script(turn.text)
    if turn.stop is StopReason.END:
        return made
    ids = made.token_ids[:-1]
    return Completion(ids, (0.0,) * len(ids), turn.text, turn.stop)

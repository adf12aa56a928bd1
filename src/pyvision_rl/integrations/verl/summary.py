"""A graded trajectory as selection reads it: small enough to travel beside verl's tensors.

In: a task and its graded trajectory. Out: one line of JSON, and from it a record that every filter,
rank and metric of ours treats as the whole one. Texts, pixels, tokens and the reference answer stay
behind.
"""

from __future__ import annotations

import json
from dataclasses import replace

from pyvision_rl.runs_codec import SavedRollout, encode
from pyvision_rl.runs_decode import decode
from pyvision_rl.types import Execution, RunCode, Task, Trajectory, Turn

FIELD = "pyvision"
"""Where the line stands in the ``extra_fields`` of verl's agent loop output."""


def summarize(task: Task, trajectory: Trajectory) -> str:
    """Return the line."""
    bare = replace(
        task,
        input=replace(task.input, question="", media=()),
        gold=replace(task.gold, answer="", facts={}),
    )
    light = replace(
        trajectory,
        segments=(),
        prompt=(),
        turns=tuple(map(_turn, trajectory.turns)),
        answer=None,
    )
    return json.dumps(encode(SavedRollout(bare, light), tokens=False))


def read_summary(line: str) -> SavedRollout:
    """Return the record of a line.

    Raises:
        KeyError, TypeError, ValueError: The line was not written by ``summarize``.
    """
    return decode(json.loads(line))


def _turn(turn: Turn) -> Turn:
    action = RunCode("") if isinstance(turn.action, RunCode) else turn.action
    return replace(
        turn,
        text="",
        action=action,
        observation=None,
        execution=None if turn.execution is None else _execution(turn.execution),
    )


def _execution(execution: Execution) -> Execution:
    # Text between the images goes, so their order in it does too.
    return replace(execution, output="", error="", parts=(), sources=(), fetched=())

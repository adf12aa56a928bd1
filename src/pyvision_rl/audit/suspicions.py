"""Rewards that a person should look at: signs of a grader or a tool reward that is being played.

In: a graded trajectory and ``[rewards]``. Out: names of ``TITLES``, each with a few words on what
was seen. Reads stored text only: runs no code, opens no image, asks nobody. Signs, not proofs: an
answer that code prints may have been read off a picture first.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from pyvision_rl.config import RewardsConfig
from pyvision_rl.parsing import split_code
from pyvision_rl.rewards.answers import infer_type, normalise
from pyvision_rl.rewards.choices import options_of
from pyvision_rl.rewards.grading import code_shape
from pyvision_rl.rewards.guards import boxes, hedges, speaks_to_grader
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import ExecStatus, Execution, RunCode, Text, Trajectory

TITLES = {
    "printed_answer": "code prints the answer as a literal",
    "several_boxes": "the last turn boxes several answers",
    "to_grader": "text that tells a grader what to say",
    "paid_no_op": "calls paid that gave nothing back",
    "paid_duplicate": "calls paid that repeat an earlier one",
    "gold_in_prompt": "reference stands in the prompt",
    "gold_in_output": "reference first seen in output of code",
    "long_answer": "answer far longer than the reference",
    "hedged": "answer that hedges, rewarded",
}
MAX_CODE = 20_000
MAX_TEXT = 100_000
"""Characters that are read of one text."""
LONG_FACTOR = 5
LONG_SPARE = 60
MIN_GOLD = 3
"""Characters; shorter references are found anywhere."""


def suspicions(saved: SavedRollout, config: RewardsConfig) -> Iterator[tuple[str, str]]:
    """Yield what is suspicious about a reward; nothing for a trajectory that has none."""
    trajectory = saved.trajectory
    if trajectory.reward is None:
        return
    for turn in trajectory.turns:
        before, _, after = split_code(turn.text[-MAX_TEXT:])
        if words := speaks_to_grader(f"{before}\n{after}"):
            yield "to_grader", repr(words[:80])
            break
    if trajectory.reward.parts.get("tool_use", 0.0) > 0:
        yield from _calls(trajectory, config)
    if trajectory.reward.correct and trajectory.answer is not None:
        yield from _answer(saved, trajectory.answer)
        yield from _leak(saved)


def _answer(saved: SavedRollout, answer: str) -> Iterator[tuple[str, str]]:
    gold, trajectory = saved.task.gold.answer, saved.trajectory
    several = boxes(trajectory.turns[-1].text) if trajectory.turns else ()
    if len(several) > 1:
        yield "several_boxes", ", ".join(f"{box!r:.30}" for box in several[:4])
    if len(answer) > LONG_FACTOR * len(gold) + LONG_SPARE:
        yield "long_answer", f"{len(answer)} characters for {len(gold)}"
    if hedges(answer) and not hedges(gold):
        yield "hedged", repr(answer[:80])
    wanted = normalise(answer[:MAX_TEXT])
    for index, (code, execution) in enumerate(_ran(trajectory)):
        if wanted and wanted in _printed(code) and wanted in normalise(execution.output[:MAX_TEXT]):
            yield "printed_answer", f"call {index + 1} prints {answer!r:.60}"
            return


def _calls(trajectory: Trajectory, config: RewardsConfig) -> Iterator[tuple[str, str]]:
    ran = list(_ran(trajectory))
    empty = sum(not (done.output.strip() or done.images) for _, done in ran)
    if empty and config.paid_calls != "showed_image":
        yield "paid_no_op", f"{empty} of {len(ran)} calls"
    repeated = len(ran) - len({code_shape(code) for code, _ in ran})
    if repeated and config.paid_calls != "distinct":
        yield "paid_duplicate", f"{repeated} of {len(ran)} calls"


def _leak(saved: SavedRollout) -> Iterator[tuple[str, str]]:
    """Where a reference stands before the model says it: no common word, and not among options."""
    gold, question = saved.task.gold, saved.task.input.question
    kind = infer_type(gold.answer) if gold.answer_type == "auto" else gold.answer_type
    wanted = normalise(gold.answer)
    if len(wanted) < MIN_GOLD or kind in ("letter", "yes_no") or options_of(question):
        return
    sought = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    for message in saved.trajectory.prompt:
        for part in message.parts:
            if isinstance(part, Text) and _holds(sought, part.text):
                yield "gold_in_prompt", f"{gold.answer!r:.60} in the {message.role} message"
                return
    for index, turn in enumerate(saved.trajectory.turns):
        if _holds(sought, turn.text):
            return
        if turn.execution is not None and _holds(sought, turn.execution.output):
            yield "gold_in_output", f"{gold.answer!r:.60} in the output of turn {index + 1}"
            return


def _holds(sought: re.Pattern[str], text: str) -> bool:
    return bool(sought.search(" ".join(text[:MAX_TEXT].casefold().split())))


def _ran(trajectory: Trajectory) -> Iterator[tuple[str, Execution]]:
    """The calls that ran without an error, in order."""
    for turn in trajectory.turns:
        done = turn.execution
        if isinstance(turn.action, RunCode) and done and done.status is ExecStatus.OK:
            yield turn.action.code, done


def _printed(code: str) -> set[str]:
    """What code prints that stands in it as a literal."""
    if len(code) > MAX_CODE:
        return set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        normalise(str(argument.value))
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "print"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }

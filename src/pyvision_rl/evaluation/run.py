"""An evaluation that is a run of its own: ``pvrl eval``.

In: a config. Out: a run folder with every episode, ``protocol.json`` (how it was asked and graded),
and the result as ``result.json``, ``result.md`` and ``row.csv``. Goes on in a folder after a kill
with the samples that are missing, and grades again what a grader failed on. Scores nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyvision_rl.config import Config
from pyvision_rl.errors import RewardError, RunError
from pyvision_rl.evaluation.choice import choose
from pyvision_rl.evaluation.evaluate import EvalResult
from pyvision_rl.evaluation.protocol import check_same_data, note_protocol
from pyvision_rl.evaluation.result import write_result
from pyvision_rl.evaluation.steps import (
    Progress,
    Runner,
    Survey,
    drop_metrics,
    finish,
    grade_again,
    steps_of,
    survey,
    whole_parts,
)
from pyvision_rl.runs import RunWriter, read_info
from pyvision_rl.runs_lock import locked
from pyvision_rl.same_config import HOW_MUCH_IS_GRADED, other_sections

LOCK = "eval.lock"
"""The file of a run folder that keeps a second evaluation out while one is going on."""
_EVALUATION = "an evaluation"


def run_eval(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    retry_failed: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> EvalResult:
    """Evaluate ``policy.model`` and write a run folder with every episode and the result.

    Args:
        config: ``[eval]`` names tasks and samples.
        out: The run folder.
        resume: The same folder after a kill: samples already written are not run again; those that
            a grader failed on are graded again.
        retry_failed: With ``resume``, run again also what failed by our own fault. Without it a
            failed episode stays failed, and wrong.
        report: Receives lines that count episodes.

    Raises:
        RewardError: Nothing could be graded; the episodes are written.
        RunError: The folder is of another config, verb or data, or an evaluation is running there.
    """
    with ExitStack() as held:
        if resume:
            held.enter_context(_going_on(resume, config))
        choice = choose(config)
        steps = steps_of(config, choice)
        found = Survey(len(steps))
        if resume:
            found = survey(resume, steps, retry_failed=retry_failed, whole=whole_parts(config))
        unclosed = [s for s in steps if s.number not in found.closed]
        if resume:
            # Before a grade changes: a chunk is closed by its line, which is made of the grades.
            drop_metrics(out, {s.number for s in unclosed})
        graded = grade_again(config, out, unclosed, report) if found.ungraded else {}
        progress = Progress(report, len(choice.indices) * config.eval.samples, found.present)
        with ExitStack() as stack:
            runner = None
            # A folder in which only grades were missing needs no model.
            if resume is None or found.missing:
                spent = sum(stats.get("judge_calls", 0.0) for stats in graded.values())
                runner = stack.enter_context(Runner(config, choice, progress, spent, retry_failed))
            last = max((s.number for s in steps), default=0) if resume else None
            writer = stack.enter_context(RunWriter(out, config, verb="eval", resume_step=last))
            if resume is None:
                # Not before: a folder with a lock in it would be a used one.
                held.enter_context(locked(out, LOCK, _EVALUATION))
            if runner:
                note_protocol(out, config, choice, runner.harness, runner.vision)
            for step in unclosed:
                stats = graded.get(step.number, {})
                found.closed[step.number] = finish(config, writer, step, runner, stats)
                progress.tell()
        items = [item for step in steps for item in found.closed[step.number]]
        result = write_result(out, config, items)
    if items and result.overall.accuracy is None:
        raise RewardError(f"none of {len(items)} episodes could be graded: {items[-1].why}")
    return result


@contextmanager
def _going_on(resume: Path, config: Config) -> Iterator[None]:
    """Hold the folder of an evaluation of this config and data."""
    _refuse_other_run(resume, config)
    with locked(resume, LOCK, _EVALUATION):
        check_same_data(resume, config)
        yield


def _refuse_other_run(resume: Path, config: Config) -> None:
    info = read_info(resume)
    if info.verb != "eval":
        raise RunError(f"{resume} is a run of {info.verb!r}; eval cannot go on in it")
    may_differ = {"run": True, "rewards": HOW_MUCH_IS_GRADED}
    if other := other_sections(info.config, config, may_differ):
        raise RunError(
            f"{resume} was evaluated with another [{other[0]}] section; a result of two configs "
            "means nothing: start a new one"
        )

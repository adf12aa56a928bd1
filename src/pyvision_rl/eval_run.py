"""An evaluation that is a run of its own: ``pvrl eval``.

In: a config. Out: a run folder with every episode, and ``result.json``. Goes on in a folder after a
kill. Scores nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pyvision_rl.assemble import assemble, chunks
from pyvision_rl.config import Config
from pyvision_rl.errors import RewardError, RunError
from pyvision_rl.evaluate import EvalResult, evaluate, held_out, judged, result_of
from pyvision_rl.metrics import rollout_metrics
from pyvision_rl.runs import RunReader, RunWriter, read_info
from pyvision_rl.same_config import HOW_MUCH_IS_GRADED, other_sections


def run_eval(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> EvalResult:
    """Evaluate ``policy.model`` and write a run folder with every episode and ``result.json``.

    Args:
        config: ``[eval]`` names tasks and samples.
        out: The run folder.
        resume: The same folder after a kill: chunks already written are not run again.
        report: Receives one line per chunk.

    Raises:
        RewardError: Nothing could be graded; the episodes are written.
        RunError: The folder is of another config or verb.
    """
    tasks, total = held_out(config)
    done, items = 0, []
    if resume:
        _refuse_other_config(resume, config)
        reader = RunReader(resume)
        done = len(reader.steps())
        saved = (reader.trajectories(step) for step in range(1, done + 1))
        items = [(r.task.input, r.trajectory) for rs in saved for r in rs]
    with (
        assemble(config) as assembly,
        RunWriter(out, config, verb="eval", resume_step=done if resume else None) as writer,
    ):
        for step, chunk in enumerate(chunks(total), 1):
            if step <= done:
                continue
            groups = evaluate(assembly, tasks, chunk)
            writer.rollouts(step, groups)
            writer.metrics(step, rollout_metrics(groups) | assembly.stats())
            items += judged(groups)
            report(f"evaluated {chunk.stop} of {total} tasks")
    result = result_of(items)
    (out / "result.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
    if items and result.overall.accuracy is None:
        raise RewardError(f"none of {len(items)} episodes could be graded: {items[-1][1].error}")
    return result


def _refuse_other_config(resume: Path, config: Config) -> None:
    may_differ = {"run": True, "rewards": HOW_MUCH_IS_GRADED}
    if other := other_sections(read_info(resume).config, config, may_differ):
        raise RunError(
            f"{resume} was evaluated with another [{other[0]}] section; a result of two configs "
            "means nothing: start a new one"
        )

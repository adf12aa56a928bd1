"""``pvrl audit``: where the graders of a run disagree, and which of its rewards to look at.

In: a run folder. Out: one table, or every finding as JSON. A finding is no failure: the exit code
is 0 whatever is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pyvision_rl.cli.execute import (
    AsJson,
    Debug,
    MaxJudgeCalls,
    Overrides,
    guarded,
    judge_budget,
    say,
    wide_console,
    write_json,
)
from pyvision_rl.config_file import find_config, load_config

if TYPE_CHECKING:
    from pyvision_rl.audit import Audit, Finding


@guarded
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    ask_judge: Annotated[
        bool, typer.Option("--ask-judge", help="Ask the judge what it was not asked before.")
    ] = False,
    max_judge_calls: MaxJudgeCalls = None,
    overrides: Overrides = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, metavar="N", help="Of each kind of finding.")
    ] = 2,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Audit a run's rewards: where rules, math-verify and judge disagree; what is suspicious."""
    from pyvision_rl.audit import audit as look
    from pyvision_rl.runs import read_info

    read_info(run)  # or "nothing" would be looked for among the configs
    keys = [*judge_budget(max_judge_calls), *(overrides or ())]
    found = look(run, load_config(find_config(str(run)), keys), ask_judge=ask_judge)
    first = found.findings[0] if found.findings else None
    task = f" --step {first.step} --task {first.task} --rollout {first.rollout}" if first else ""
    following = f"pvrl show {run}{task}"
    if as_json:
        write_json({"verb": "audit", "result": found.to_json(), "next": following})
        return
    _show(found, examples)
    say(f"{len(found.findings)} findings in {found.graded} graded trajectories")
    say(f"next: {following}")


def _show(found: Audit, examples: int) -> None:
    """Print what was looked at, and one table of the findings, the most frequent kinds first."""
    from pyvision_rl.show import sanitize

    console = wide_console(200)
    looked = ", ".join(f"{name} {count}" for name, count in found.opinions.items()) or "none"
    rungs = ", ".join(f"{name or 'not told'} {n}" for name, n in sorted(found.rungs.items()))
    console.print(Text(f"{found.run}: {found.trajectories} trajectories, {found.graded} graded"))
    console.print(Text(f"decided by: {rungs or 'none'}; opinions: {looked}"))
    for note in found.notes:
        console.print(Text(sanitize(f"note: {note}"), "yellow"))
    table = Table("finding", box=None, pad_edge=False)
    table.add_column("count", justify="right")
    table.add_column("rewarded", justify="right")
    table.add_column("examples (task, step, rollout)", overflow="fold")
    for kind, members in _by_kind(found.findings):
        shown = [f"{f.task}, {f.step}, {f.rollout}: {f.detail}" for f in members[:examples]]
        right = str(sum(f.correct for f in members))
        cells = (_title(kind), str(len(members)), right, "\n".join(shown))
        table.add_row(*(Text(sanitize(cell)) for cell in cells))
    if found.findings:
        console.print(table)


def _title(kind: str) -> str:
    from pyvision_rl.audit.suspicions import TITLES

    return TITLES.get(kind, kind)


def _by_kind(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return sorted(kinds.items(), key=lambda item: -len(item[1]))

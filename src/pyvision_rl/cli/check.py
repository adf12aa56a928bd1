"""``pvrl check``: prove that a config, task set, sandbox or policy works before using it.

In: a config, or just the thing to check. Out: a table of findings, and exit code 1 if one fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyvision_rl.cli.execute import (
    AsJson,
    ConfigArgument,
    Debug,
    Overrides,
    guarded,
    say,
    write_json,
)
from pyvision_rl.config import Config, PolicyConfig, SandboxConfig, TasksConfig
from pyvision_rl.config_file import find_config, load_config

if TYPE_CHECKING:
    from pyvision_rl.checks_sandbox import Finding

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "failed": ("FAIL", "bold red")}
_OR_FILE = "A config, or a .jsonl or .parquet file of tasks."
_OR_NAME = "A config, or the thing itself as package.module:Name."


@app.command("config")
@guarded
def check_config(
    config: ConfigArgument,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a config: every name, file and template it needs."""
    _check("config", config, overrides, as_json=as_json)


@app.command("tasks")
@guarded
def check_tasks(
    target: Annotated[str, typer.Argument(metavar="CONFIG|FILE", help=_OR_FILE)],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a task set: every row and image, ids, and that gold answers are graded right."""
    alone = target.endswith((".jsonl", ".parquet"))
    config = Config(tasks=TasksConfig(path=target)) if alone else None
    _check("tasks", target, overrides, config, as_json=as_json)


@app.command("conversations")
@guarded
def check_conversations(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON or JSONL of conversations.")],
    image_root: Annotated[
        Path | None, typer.Option("--image-root", metavar="DIR", help="Default: FILE's folder.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a file of whole conversations for SFT: every record, message and image."""
    from pyvision_rl.checks_sft import check_conversations as findings

    _finish("conversations", str(file), findings(file, image_root), as_json=as_json)


@app.command("sandbox")
@guarded
def check_sandbox(
    target: Annotated[str, typer.Argument(metavar="CONFIG|NAME", help=_OR_NAME)],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a sandbox backend against the contract."""
    config = Config(sandbox=SandboxConfig(name=target)) if ":" in target else None
    _check("sandbox", target, overrides, config, as_json=as_json)


@app.command("policy")
@guarded
def check_policy(
    target: Annotated[str, typer.Argument(metavar="CONFIG|NAME", help=_OR_NAME)],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a policy: it samples a turn whose ids, log-probabilities and seeds hold."""
    config = Config(policy=PolicyConfig(name=target)) if ":" in target else None
    _check("policy", target, overrides, config, as_json=as_json)


def _check(
    what: Literal["config", "tasks", "sandbox", "policy"],
    target: str,
    overrides: list[str] | None,
    config: Config | None = None,
    *,
    as_json: bool,
) -> None:
    """Check ``config``, or the one that ``target`` names."""
    from pyvision_rl import checks

    if config is None:
        config = load_config(find_config(target), overrides or ())
    elif overrides:
        raise typer.BadParameter("--set needs a config; none was given")
    check = {
        "config": checks.check_config,
        "tasks": checks.check_tasks,
        "sandbox": checks.check_sandbox,
        "policy": checks.check_policy,
    }[what]
    _finish(what, target, check(config), as_json=as_json)


def _finish(what: str, target: str, findings: Sequence[Finding], *, as_json: bool) -> None:
    """Show the findings; exit 1 if one failed."""
    failed = sum(not f.ok for f in findings)
    if as_json:
        rows = [{"name": f.name, "status": f.status, "detail": f.detail} for f in findings]
        write_json({"check": what, "target": target, "failed": failed, "findings": rows})
    else:
        table = Table("", "check", "detail", box=None, pad_edge=False)
        for finding in findings:
            mark = Text.assemble(_MARKS[finding.status])
            table.add_row(mark, Text(finding.name), Text(finding.detail))
        # Unlimited width off a terminal: a wrapped line number is hard to search for.
        Console(width=None if Console().is_terminal else 500).print(table)
        say(f"{len(findings)} checks, {failed} failed")
        say(f"next: {_next(what, target)}" if not failed else "next: mend the lines marked FAIL")
    if failed:
        raise typer.Exit(1)


def _next(what: str, target: str) -> str:
    if what == "conversations":
        return f'pvrl sft with a source of kind = "conversations" and path = "{target}"'
    if what == "config":
        return f"pvrl check tasks {target}"
    runs = target.endswith((".toml", ".json")) or not (":" in target or "." in target)
    return f"pvrl rollout {target}" if runs else "pvrl rollout CONFIG"

"""``pvrl check``: prove that a config, task set, sandbox or policy works before using it.

In: a config, or just the thing to check. Out: a table of findings, and exit code 1 if one fails.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    wide_console,
    writable,
    write_json,
)
from pyvision_rl.config import Config, PolicyConfig, SandboxConfig
from pyvision_rl.config_file import find_config, load_config, read_value, toml_value

if TYPE_CHECKING:
    from pyvision_rl.checks.sandbox import Finding

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "failed": ("FAIL", "bold red")}
_OR_FILE = "A config, or a .json, .jsonl or .parquet file of tasks."
_SHOWN = 20
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
    media_root: Annotated[
        str, typer.Option("--media-root", metavar="DIR", help="Of FILE's paths; its folder.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Read headers; decode no image.")] = False,
    show: Annotated[
        int, typer.Option("--show", min=0, help="Faults to show; 0 shows all. All are counted.")
    ] = _SHOWN,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write everything as JSON.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check tasks: every row, image and video, ids, and that gold answers are graded right."""
    from pyvision_rl.checks.tasks import survey_tasks
    from pyvision_rl.tasks.survey import names_records, section_of
    from pyvision_rl.template import spelt_out

    file = Path(target)
    alone = file.suffix in (".jsonl", ".parquet") or (
        file.suffix == ".json" and names_records(file)
    )
    if alone:
        if overrides:
            raise typer.BadParameter("--set needs a config; none was given")
        config = Config(tasks=section_of(file, media_root))
    elif media_root:
        raise typer.BadParameter("--media-root is for a file; a config has tasks.options")
    else:
        config = load_config(find_config(target), overrides or ())
    writable("--report", report)
    console = Console(stderr=True)
    with console.status("looking at the rows") as status:
        findings, survey = survey_tasks(
            config,
            decode=not quick,
            progress=lambda rows: status.update(f"looked at {rows:,} rows"),
        )
    more = {} if survey is None else {"survey": survey.to_json()}
    if report is not None:
        value = _result("tasks", target, findings) | more
        text = spelt_out(json.dumps(value, indent=2, ensure_ascii=False))
        report.write_text(text + "\n", encoding="utf-8")
    then = f"pvrl rollout {target}"
    if alone and config.tasks is not None:
        sets = [f"tasks.name={config.tasks.name}", f"tasks.path={target}"]
        sets += [f"tasks.options.{k}={_as_text(v)}" for k, v in config.tasks.options.items()]
        then = "pvrl rollout CONFIG " + " ".join(f"--set {shlex.quote(word)}" for word in sets)
    _finish("tasks", target, findings, as_json=as_json, show=show, more=more, then=then)


def _as_text(value: str) -> str:
    """Return a text as ``--set`` reads it: in quotes where it would be a number, or true."""
    return value if read_value(value) == value else toml_value(value)


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
    from pyvision_rl.checks.sft import check_conversations as findings

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
    what: Literal["config", "sandbox", "policy"],
    target: str,
    overrides: list[str] | None,
    config: Config | None = None,
    *,
    as_json: bool,
) -> None:
    """Check ``config``, or the one that ``target`` names."""
    from pyvision_rl.checks import sections

    if config is None:
        config = load_config(find_config(target), overrides or ())
    elif overrides:
        raise typer.BadParameter("--set needs a config; none was given")
    check = {
        "config": sections.check_config,
        "sandbox": sections.check_sandbox,
        "policy": sections.check_policy,
    }[what]
    _finish(what, target, check(config), as_json=as_json)


def _finish(
    what: str,
    target: str,
    findings: Sequence[Finding],
    *,
    as_json: bool,
    show: int = 0,
    more: Mapping[str, Any] | None = None,
    then: str = "",
) -> None:
    """Show the findings; exit 1 if one failed.

    Args:
        what: The noun of the verb.
        target: What was checked.
        findings: All of them.
        as_json: Write them to stdout instead.
        show: At most so many that failed are shown to people; 0 shows all.
        more: Goes into the JSON beside the findings.
        then: The next useful command, if it is another than that of ``what``.
    """
    result = _result(what, target, findings) | dict(more or {})
    if as_json:
        write_json(result)
    else:
        _table(findings, show)
        failed = result["failed"]
        say(f"{len(findings)} checks, {failed} failed")
        say(
            f"next: {then or _next(what, target)}"
            if not failed
            else "next: mend the lines marked FAIL"
        )
    if result["failed"]:
        raise typer.Exit(1)


def _result(what: str, target: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON."""
    rows = [{"name": f.name, "status": f.status, "detail": f.detail} for f in findings]
    failed = sum(not f.ok for f in findings)
    return {"check": what, "target": target, "failed": failed, "findings": rows}


def _table(findings: Sequence[Finding], show: int) -> None:
    from pyvision_rl.show import sanitize

    table = Table("", "check", "detail", box=None, pad_edge=False)
    bad = [f for f in findings if not f.ok]
    # What is wrong with single rows comes first; the last failure counts them.
    left_out = {id(f) for f in bad[show:-1]} if show else set()
    told = False
    for finding in findings:
        if id(finding) not in left_out:
            cells = (Text(sanitize(text)) for text in (finding.name, finding.detail))
            table.add_row(Text.assemble(_MARKS[finding.status]), *cells)
        elif not told:
            told = True
            text = f"{len(left_out):,} more; --show 0 or --report FILE has them all"
            table.add_row("", "...", text)
    wide_console().print(table)


def _next(what: str, target: str) -> str:
    if what == "conversations":
        return f'pvrl sft with a source of kind = "conversations" and path = "{target}"'
    if what == "config":
        return f"pvrl check tasks {target}"
    runs = target.endswith((".toml", ".json")) or not (":" in target or "." in target)
    return f"pvrl rollout {target}" if runs else "pvrl rollout CONFIG"

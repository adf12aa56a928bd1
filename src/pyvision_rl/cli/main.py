"""The ``pvrl`` command line: which verbs there are, and the version.

Exit codes: 0 done, 1 the run failed, 2 bad usage or config, 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pyvision_rl import __version__
from pyvision_rl.cli import check, evaluation, verbs
from pyvision_rl.cli.audit import audit
from pyvision_rl.cli.execute import say
from pyvision_rl.cli.exporting import export
from pyvision_rl.cli.exporting_verl import export_verl
from pyvision_rl.cli.study import study
from pyvision_rl.cli.view import view

app = typer.Typer(
    name="pvrl",
    help="Agentic vision models that write Python, look at what it shows, and learn by RL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # "[sft]" in a help text is a config section, not markup
    # Errors are ours to word (see execute.guarded); --debug shows Python's own traceback.
    pretty_exceptions_enable=False,
)
app.command("new-model")(verbs.new_model)
app.command("probe")(verbs.probe)
app.command("rollout")(verbs.rollout)
app.command("synthesize")(verbs.synthesize)
app.command("sft")(verbs.sft)
app.command("rl")(verbs.rl)
app.command("eval")(evaluation.evaluate)
app.command("rescore")(evaluation.rescore)
app.command("compare")(evaluation.compare)
app.command("study")(study)
app.command("show")(verbs.show)
app.command("audit")(audit)
app.command("view")(view)
app.command("export")(export)
app.command("export-sft")(verbs.export_sft)
app.command("export-log")(evaluation.export_log)
app.command("export-verl")(export_verl)
app.add_typer(check.app, name="check", help="Prove that a thing works before using it.")


def _version(value: bool) -> None:
    if value:
        say(f"pvrl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Run the command line; the process exits with the code."""
    app()


if __name__ == "__main__":
    main()

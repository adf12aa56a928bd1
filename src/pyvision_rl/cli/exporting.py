"""The verb that gives a trained model away: ``pvrl export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyvision_rl.cli.execute import (
    AsJson,
    Debug,
    guarded,
    print_result,
    say,
    to_json,
    write_json,
)


@guarded
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder of rl or sft, or a checkpoint (RUN/best)."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write; new or empty.")],
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="RUN", help="A run of pvrl eval to tell of; repeatable."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a trained model as a Hugging Face directory, with a card made from its run."""
    from pyvision_rl.export.write import export_model

    written = to_json(export_model(source, out, tuple(evaluations or ())))
    following = f"pvrl eval CONFIG --set policy.model={out}"
    if as_json:
        write_json({"verb": "export", "out": str(out), "result": written, "next": following})
        return
    print_result(written)
    say(f"next: {following}")

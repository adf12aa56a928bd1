"""The verb that hands a config to verl: ``pvrl export-verl``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyvision_rl.cli.execute import (
    AsJson,
    ConfigArgument,
    Debug,
    Overrides,
    guarded,
    new_folder,
    print_result,
    say,
    to_json,
    write_json,
)
from pyvision_rl.config_file import find_config, load_config


@guarded
def export_verl(
    config: ConfigArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write; new or empty.")],
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of each node.")] = 8,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", min=1, help="GPUs per copy of the sampling model.")
    ] = 1,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that play episodes.")
    ] = 8,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write what verl needs to train as CONFIG says: its config, data and a launch script."""
    from pyvision_rl.integrations.verl.export import export_verl as export
    from pyvision_rl.integrations.verl.mapping import Machines

    machines = Machines(gpus, nodes, tensor_parallel, workers)
    loaded = load_config(find_config(config), tuple(overrides or ()))
    with new_folder(out):
        done = export(loaded, out, machines)
    written = to_json(done)
    following = f"in verl's environment: sh {done.out / 'launch.sh'}"
    if as_json:
        write_json({"verb": "export-verl", "out": str(out), "result": written, "next": following})
        return
    print_result({k: v for k, v in written.items() if k != "notes"})
    for note in done.notes:
        say(f"note: {note}")
    say(f"next: {following}")

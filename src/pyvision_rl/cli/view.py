"""``pvrl view``: a run or a study in a browser, or as files.

In: a folder. Out: a server until Ctrl-C, a folder of pages, or one page. Exit codes are those of
every verb; 0 when a person ends the server.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pyvision_rl.cli.execute import AsJson, Debug, guarded, say, to_json, write_json
from pyvision_rl.cli.report import Reporter
from pyvision_rl.errors import ConfigError

if TYPE_CHECKING:
    from pyvision_rl.view.export import Exported
    from pyvision_rl.view.limits import Steps

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a study folder.")]
Export = Annotated[
    Path | None,
    typer.Option("--export", metavar="DIR", help="Write the pages into a new or empty folder."),
]
SingleFile = Annotated[
    Path | None, typer.Option("--single-file", metavar="FILE", help="Write one HTML file.")
]
MaxMb = Annotated[
    float | None, typer.Option("--max-mb", min=0.0, help="Bound of --single-file; default: 50.")
]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Serve at this port; default: free.")
]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Open no browser.")]
LimitSteps = Annotated[
    str | None,
    typer.Option(
        "--limit-steps", metavar="STEPS", help="Some steps only: 3, 1-10, last:5, every:20, lists."
    ),
]
NoTokens = Annotated[
    bool, typer.Option("--no-tokens", help="Leave out token ids and log-probabilities.")
]
Against = Annotated[
    Path | None,
    typer.Option("--against", metavar="RUN", help="Show item by item how another run did."),
]


@guarded
def view(
    run: RunArgument,
    against: Against = None,
    export: Export = None,
    single_file: SingleFile = None,
    max_mb: MaxMb = None,
    port: Port = None,
    no_open: NoOpen = False,
    limit_steps: LimitSteps = None,
    no_tokens: NoTokens = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a run or a study in a browser, or write its pages with --export or --single-file."""
    from pyvision_rl.view.limits import parse_steps

    _refuse_mixed(export, single_file, port, max_mb, no_open=no_open)
    limits = parse_steps(limit_steps)
    if export is None and single_file is None:
        _serve(
            run,
            port or 0,
            limits,
            tokens=not no_tokens,
            against=against,
            opens=not no_open,
            as_json=as_json,
        )
        return
    with Reporter(Console(stderr=True), "view") as report:
        if export is not None:
            from pyvision_rl.view.export import export_folder

            cores = len(os.sched_getaffinity(0))
            written = export_folder(
                run,
                export,
                limits=limits,
                tokens=not no_tokens,
                against=against,
                processes=cores,
                report=report,
            )
        else:
            from pyvision_rl.view.single import MAX_MB, export_file

            assert single_file is not None
            bound = MAX_MB if max_mb is None else max_mb
            written = export_file(
                run,
                single_file,
                limits=limits,
                tokens=not no_tokens,
                against=against,
                max_mb=bound,
                report=report,
            )
    _show(run, written, as_json=as_json)


def has_screen(environment: Mapping[str, str], platform: str) -> bool:
    """Return whether a browser has a place to open; a text browser would take the terminal."""
    return platform != "linux" or any(environment.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))


def _refuse_mixed(
    export: Path | None,
    single_file: Path | None,
    port: int | None,
    max_mb: float | None,
    *,
    no_open: bool,
) -> None:
    """Raise ConfigError for options that do not go together."""
    if export is not None and single_file is not None:
        raise ConfigError("--export and --single-file: name one of them")
    if (export or single_file) and (port is not None or no_open):
        raise ConfigError("--port and --no-open are for serving: leave them out")
    if single_file is None and max_mb is not None:
        raise ConfigError("--max-mb is the bound of --single-file")


def _show(run: Path, written: Exported, *, as_json: bool) -> None:
    following = f"open {written.page} in a browser"
    if as_json:
        result: Any = to_json(written)
        write_json({"verb": "view", "run": str(run), "result": result, "next": following})
        return
    runs = f" of {written.runs} runs" if written.runs > 1 else ""
    counted = f"{written.trajectories} trajectories{runs}, {written.images} images"
    say(f"wrote {written.page}: {counted}, {written.bytes / 1e6:.1f} MB")
    say(f"next: {following}")


def _serve(
    run: Path,
    port: int,
    limits: Steps,
    *,
    tokens: bool,
    against: Path | None,
    opens: bool,
    as_json: bool,
) -> None:
    from pyvision_rl.view.server import Server, new_token
    from pyvision_rl.view.site import Options, RunSite, open_site

    token = new_token()
    options = Options(live=True, token=token, limits=limits, tokens=tokens, against=against)
    site = open_site(run, options)
    server = Server(site, token, port)
    try:
        if isinstance(site, RunSite):
            with Reporter(Console(stderr=True), "view") as report:
                site.refresh(report)
        if as_json:
            write_json({"verb": "view", "run": str(run), "url": server.url})
        else:
            say(f"{run} at {server.url} (Ctrl-C ends it)")
        if opens and has_screen(os.environ, sys.platform):
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        say("" if as_json else "ended")
    finally:
        server.server_close()

"""Pages as files: a folder that opens without a server.

In: a run folder or a study, also one that is being written. Out: a new folder with the page, its
data, media and thumbnails, of one moment of each run. The page itself is written last: a folder
without it is not whole. Holds one chunk in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.runs_files import writing
from pyvision_rl.view.index import Snapshot
from pyvision_rl.view.limits import ALL_STEPS, Steps
from pyvision_rl.view.site import PAGE, Found, Options, RunSite, StudySite, open_site
from pyvision_rl.view.steps import ChangedError
from pyvision_rl.view.thumbs import write_thumbnails

Made = TypeVar("Made")
Report = Callable[[str], None]
_NOTHING: Mapping[str, str] = {}
_TRIES = 3
"""How often an export of a run that keeps being written anew is begun."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    page: Path
    trajectories: int
    images: int
    bytes: int
    runs: int = 1


def export_folder(
    run: Path,
    out: Path,
    *,
    limits: Steps = ALL_STEPS,
    tokens: bool = True,
    against: Path | None = None,
    processes: int = 1,
    report: Report = lambda _: None,
) -> Exported:
    """Write the page of a run or a study, and all it needs, into a folder.

    Args:
        run: The run folder or study folder.
        out: A new or empty folder.
        limits: The steps to show.
        tokens: Whether token ids and log-probabilities are written.
        against: Another run, whose grades stand beside this one's.
        processes: How many make thumbnails.
        report: Receives lines on the progress.

    Raises:
        ConfigError: ``out`` is there already and not an empty folder, or ``run`` is a study and
            to stand beside another run.
        RunError: ``run`` is none, is written anew again and again, or the disk refuses.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--export {out} is there already and not an empty folder; name another")
    site = open_site(run, Options(limits=limits, tokens=tokens, against=against))
    if isinstance(site, RunSite):
        return _write_run(site, out, processes, report)
    return _write_study(site, out, processes, report)


def at_one_moment(site: RunSite, write: Callable[[Snapshot], Made], report: Report) -> Made:
    """Return what ``write`` makes of a run at one moment; lines may be added meanwhile.

    An evaluation that ends, or a run that is resumed, writes lines anew; then it is begun again.

    Raises:
        RunError: That happened every time.
    """
    for _ in range(_TRIES):
        snapshot = site.pin(report)
        try:
            return write(snapshot)
        except ChangedError as error:
            report(f"{error} was written anew: the export begins again")
    raise RunError(
        f"{site.path} was written anew {_TRIES} times while it was exported; try again when it "
        "stands still, or export steps that do, with --limit-steps"
    )


def _write_study(site: StudySite, out: Path, processes: int, report: Report) -> Exported:
    found: list[Exported] = []
    *names, page = site.names()
    # Before the runs: what it lists has a page, also when another begins meanwhile.
    size = _write_names(site, names, out)
    for unit in site.units():
        inner = site.run(unit)
        if inner is not None:
            report(f"export {unit}")
            found.append(_write_run(inner, out / "runs" / unit, processes, report))
    size += _write_names(site, [page], out)
    return Exported(
        page=out / PAGE,
        trajectories=sum(e.trajectories for e in found),
        images=sum(e.images for e in found),
        bytes=size + sum(e.bytes for e in found),
        runs=len(found),
    )


def _write_run(site: RunSite, out: Path, processes: int, report: Report) -> Exported:
    def write(snapshot: Snapshot) -> Exported:
        try:
            return _write_snapshot(site, snapshot, out, processes, report)
        except ChangedError:
            # The next moment may have fewer chunks and images.
            for folder in ("data", "media", "thumbs"):
                shutil.rmtree(out / folder, ignore_errors=True)
            raise

    return at_one_moment(site, write, report)


def _write_snapshot(
    site: RunSite, snapshot: Snapshot, out: Path, processes: int, report: Report
) -> Exported:
    digests = site.images()
    with writing(out):
        (out / "media").mkdir(parents=True, exist_ok=True)
        (out / "thumbs").mkdir(exist_ok=True)
        jobs = [(site.image_file(d), out / "thumbs" / f"{d}.webp") for d in digests]
        for digest in digests:
            shutil.copyfile(site.image_file(digest), out / "media" / f"{digest}.png")
        report(f"copied {len(digests)} images")
        failed = write_thumbnails(
            jobs, processes, lambda n: report(f"made {n} of {len(jobs)} thumbnails")
        )
        if failed:
            report(f"{failed} images could not be read: they have no thumbnail")
    size = sum(f.stat().st_size for d in ("media", "thumbs") for f in (out / d).iterdir())
    size += _write_names(site, site.names(), out)
    rows = sum(len(s.rows) for s in snapshot.steps)
    return Exported(out / PAGE, rows, len(digests), size)


def _write_names(site: RunSite | StudySite, names: Iterable[str], out: Path) -> int:
    """Write everything but images; return the bytes."""
    size = 0
    for name in names:
        if name.startswith(("media/", "thumbs/")):
            continue
        found = site.get(name, _NOTHING)
        # Tokens that cannot be read are nowhere.
        if found is not None:
            size += _write(found, out / name)
    return size


def _write(found: Found, file: Path) -> int:
    assert isinstance(found.body, bytes)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.write_bytes(found.body)

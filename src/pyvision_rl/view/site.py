"""The one way to the data: a name of the page's, and what lies there.

In: a run folder or a study. Out: bytes or files by name, made when they are asked for. Server and
exports use nothing else. A name is looked up, never joined to a path: what is not listed is not
there, whatever it says.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.runs import read_info
from pyvision_rl.view.against import Other
from pyvision_rl.view.index import RunIndex, Snapshot, index_payload
from pyvision_rl.view.limits import ALL_STEPS, Steps
from pyvision_rl.view.lines import Problems
from pyvision_rl.view.notes import read_notes
from pyvision_rl.view.payloads import Shelf, Writer
from pyvision_rl.view.run import run_payload
from pyvision_rl.view.scripts import Json, script
from pyvision_rl.view.steps import ChangedError, StepIndex, UnreadableError, records
from pyvision_rl.view.study import is_study, runs_of, study_payload, study_version
from pyvision_rl.view.thumbs import thumbnail
from pyvision_rl.view.tokens import TokenTexts, tokens_payload

PAGE = "index.html"
_KEPT = 24
"""Chunks that stay in memory."""
_TRIES = 3
"""How often a chunk is looked for in a file that keeps changing."""
_DATA = re.compile(r"data/([a-z0-9-]+)\.js")
_CHUNK = re.compile(r"([ct])(\d{6,})-(\d{2,})")
_IMAGE = re.compile(r"(media/([0-9a-f]{64})\.png|thumbs/([0-9a-f]{64})\.webp)")
_RUN = re.compile(r"runs/(.+/seed-[^/]+/[^/]+)/(.*)")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".png": "image/png",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
_NO_PAGE = b"""<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'">
<title>pvrl view</title>
<p>The pages of the viewer are not installed; its data are at data/run.js and data/index.js.
<!-- PVRL:DATA -->
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at a name."""

    kind: str
    """Media type."""
    body: bytes | Path
    lasting: bool = False
    """Whether the name says the content, so that it never changes."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a site is made."""

    live: bool = False
    token: str | None = None
    """What a page sends with notes."""
    limits: Steps = ALL_STEPS
    tokens: bool = True
    """Whether there are files of tokens."""
    home: str | None = None
    """The way from the page to that of the study around it."""
    alone: bool = False
    """Whether a study's page has no pages of its runs beside it."""
    against: Path | None = None
    """Another run, whose grades stand beside this one's."""


class Site(Protocol):
    """A run's or a study's page."""

    path: Path

    def get(self, name: str, query: Mapping[str, str]) -> Found | None:
        """Return what lies at a name; None if nothing does."""
        ...

    def names(self) -> Iterator[str]:
        """Yield every name, the page last; of a study without those of its runs."""
        ...

    def run(self, unit: str) -> RunSite | None:
        """Return the site that notes for a run go to: "" is the run itself."""
        ...


def open_site(path: Path, options: Options) -> RunSite | StudySite:
    """Return the site of a run folder or a study folder.

    Raises:
        RunError: It is neither, or newer than this version; or the other run is.
        ConfigError: A study is to be shown beside another run.
    """
    if options.against is not None and is_study(path):
        raise ConfigError(f"--against is for a run; {path} is a study, which compares its own")
    return StudySite(path, options) if is_study(path) else RunSite(path, options)


class RunSite:
    """The site of one run."""

    def __init__(self, path: Path, options: Options) -> None:
        """Open the folder; nothing but ``run.json`` is read yet.

        Raises:
            RunError: It is no run folder, or newer than this version.
        """
        self.path = Path(path)
        self._options = options
        self._info = read_info(self.path)
        self._index = RunIndex(self.path, options.limits)
        self._other = None if options.against is None else Other(options.against, self.path)
        self._shelf = Shelf(self.path / "media")
        self._texts = TokenTexts(self.path, _model(self._info.config))
        self._chunks: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._pinned: Snapshot | None = None

    def refresh(self, report: Callable[[str], None] = lambda _: None) -> Snapshot:
        """Read what is new, see ``RunIndex.refresh``; of a pinned site nothing is."""
        return self._index.refresh(report) if self._pinned is None else self._pinned

    def pin(self, report: Callable[[str], None] = lambda _: None) -> Snapshot:
        """Read what is new, and show the trajectories and images of this moment from here on."""
        self._pinned, self._shelf.pinned = None, None
        self._pinned = self.refresh(report)
        self._shelf.pinned = frozenset(self.images())
        return self._pinned

    def run(self, unit: str) -> RunSite | None:
        """Return this site for ""."""
        return None if unit else self

    def get(self, name: str, query: Mapping[str, str]) -> Found | None:
        """Return what lies at a name; None if nothing does.

        Raises:
            ChangedError: The site is pinned, and the lines that the name is made of are others now.
        """
        if found := _DATA.fullmatch(name):
            payload = self._data(found[1], query)
            return None if payload is None else Found(_KINDS[".js"], payload)
        if found := _IMAGE.fullmatch(name):
            return self._image(found[2], found[3])
        return web_file(name)

    def names(self) -> Iterator[str]:
        """Yield every name, the page last."""
        snapshot = self.refresh()
        yield from ("data/run.js", "data/index.js", "data/notes.js")
        if self._other is not None:
            yield "data/other.js"
        for step in snapshot.steps:
            yield from (f"data/{name}.js" for name in step.chunk_names())
            if step.has_tokens and self._options.tokens:
                yield from (f"data/{name}.js" for name in step.chunk_names("t"))
        for digest in self.images():
            yield f"media/{digest}.png"
            yield f"thumbs/{digest}.webp"
        yield from web_names()

    def images(self) -> list[str]:
        """Return the hashes of the images that are named and have files."""
        named: set[str] = set().union(*(s.images for s in self.refresh().steps))
        return sorted(digest for digest in named if self._shelf.has(digest))

    def image_file(self, digest: str) -> Path:
        """Return the file of an image that is there."""
        return self._shelf.folder / f"{digest}.png"

    def _data(self, name: str, query: Mapping[str, str]) -> bytes | None:
        snapshot = self.refresh()
        if name == "run":
            if query.get("after") == snapshot.version:
                return script("run", unchanged(snapshot.version, self._options))
            return script("run", self._run(snapshot))
        if name == "index":
            payload = index_payload(snapshot)
            if not self._options.tokens:
                payload["chunks"] = [{**c, "tokens": None} for c in payload["chunks"]]
            return script("index", payload)
        if name == "notes":
            return script("notes", {"notes": read_notes(self.path, Problems("notes.jsonl"))})
        if name == "other":
            return None if self._other is None else script("other", self._other.payload())
        return self._read(name)

    def _read(self, name: str) -> bytes | None:
        """Return a chunk, or its tokens; see ``get``."""
        for _ in range(_TRIES):
            try:
                return self._chunk(name, self.refresh())
            except ChangedError:
                # The step was written anew since it was indexed.
                if self._pinned is not None:
                    raise
            except UnreadableError:
                return None
        return None

    def _run(self, snapshot: Snapshot) -> Json:
        problems = Problems("notes.jsonl")
        read_notes(self.path, problems)
        self._shelf.videos()
        # Read anew: it says when a run was resumed.
        info = self._info = read_info(self.path)
        told = [*self._shelf.problems, *problems.told()]
        other = None if self._other is None else self._other.name
        payload = run_payload(self.path, info, snapshot, told) | of_site(self._options)
        return {**payload, "other": other}

    def _chunk(self, name: str, snapshot: Snapshot) -> bytes | None:
        found = _CHUNK.fullmatch(name)
        step = snapshot.step(int(found[2])) if found else None
        if found is None or step is None or int(found[3]) >= len(step.chunks):
            return None
        with_tokens = found[1] == "t"
        if with_tokens and not (self._options.tokens and step.has_tokens):
            return None
        key = (name, step.stamp)
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        chunk = int(found[3])
        payload = self._tokens(step, chunk) if with_tokens else self._records(step, chunk)
        made = script(name, payload)
        with self._lock:
            self._chunks[key] = made
            while len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
        return made

    def _records(self, step: StepIndex, chunk: int) -> Json:
        writer = Writer(self._shelf, self._shelf.videos())
        return writer.chunk(step.step, records(step, chunk), step.stds, step.ranks())

    def _tokens(self, step: StepIndex, chunk: int) -> Json:
        saved = (record for _, record in records(step, chunk, tokens=True))
        return tokens_payload(step.step, saved, self._texts)

    def _image(self, full: str | None, small: str | None) -> Found | None:
        digest = full or small
        if digest is None or not self._shelf.has(digest):
            return None
        file = self.image_file(digest)
        if full:
            return Found(_KINDS[".png"], file, lasting=True)
        made = thumbnail(file)
        return None if made is None else Found(_KINDS[".webp"], made, lasting=True)


class StudySite:
    """The site of a study; its runs lie under ``runs/``."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = Path(path)
        self._options = options
        self._sites: dict[str, RunSite] = {}
        self._lock = threading.Lock()

    def run(self, unit: str) -> RunSite | None:
        """Return the site of one of its runs."""
        with self._lock:
            if unit in self._sites:
                return self._sites[unit]
            folder = runs_of(self.path).get(unit)
            if folder is None:
                return None
            home = "../" * (unit.count("/") + 2) + PAGE
            try:
                self._sites[unit] = RunSite(folder, replace(self._options, home=home))
            except RunError:
                # It is listed, with the reason, on the study's page.
                return None
            return self._sites[unit]

    def units(self) -> list[str]:
        """Return the names of its runs."""
        return list(runs_of(self.path))

    def get(self, name: str, query: Mapping[str, str]) -> Found | None:
        """Return what lies at a name; None if nothing does."""
        if found := _RUN.fullmatch(name):
            site = self.run(found[1])
            return None if site is None else site.get(found[2] or PAGE, query)
        if found := _DATA.fullmatch(name):
            payload = self._data(found[1], query)
            return None if payload is None else Found(_KINDS[".js"], script(found[1], payload))
        return web_file(name)

    def names(self) -> Iterator[str]:
        """Yield every name but those of its runs, the page last."""
        yield from ("data/run.js", "data/index.js", "data/notes.js", *web_names())

    def _data(self, name: str, query: Mapping[str, str]) -> Json | None:
        if name == "run":
            version = study_version(self.path)
            if query.get("after") == version:
                return unchanged(version, self._options)
            found = {**study_payload(self.path), **of_site(self._options), "other": None}
            return {**found, "runs": []} if self._options.alone else found
        if name == "index":
            return index_payload(Snapshot("", (), 0, 0))
        return {"notes": []} if name == "notes" else None


def _model(config: object) -> str:
    """Return the model that a config names; "" if it names none, whatever its age."""
    policy = config.get("policy") if isinstance(config, dict) else None
    return str(policy.get("model") or "") if isinstance(policy, dict) else ""


def of_site(options: Options) -> Json:
    """Return what ``data/run.js`` says of the site rather than of the run."""
    return {"live": options.live, "notes_token": options.token, "home": options.home}


def unchanged(version: str, options: Options) -> Json:
    """Return the answer to a page that knows this version already."""
    return {"schema": 1, "live": options.live, "version": version, "same": True}


@cache
def _web() -> dict[str, bytes]:
    """The files of the page by name; read once."""
    top = resources.files("pyvision_rl.view") / "web"
    found: dict[str, bytes] = {}

    def walk(folder: Any, prefix: str) -> None:
        for entry in folder.iterdir():
            name = prefix + entry.name
            if entry.is_dir():
                walk(entry, f"{name}/")
            elif PurePosixPath(name).suffix in _KINDS:
                found[name] = entry.read_bytes()

    if top.is_dir():
        walk(top, "")
    found.setdefault(PAGE, _NO_PAGE)
    return found


def web_file(name: str) -> Found | None:
    """Return a file of the page."""
    body = _web().get(name or PAGE)
    kind = _KINDS.get(PurePosixPath(name or PAGE).suffix, "")
    return None if body is None else Found(kind, body)


def web_names() -> list[str]:
    """Return the names of the page's files, the page itself last."""
    return [*sorted(name for name in _web() if name != PAGE), PAGE]

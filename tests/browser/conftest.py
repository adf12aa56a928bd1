"""A Chromium, and pages for it to show: runs of the viewer's example, exported and served."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyvision_rl.view.export import export_folder
from pyvision_rl.view.server import Server, new_token
from pyvision_rl.view.single import export_file
from pyvision_rl.view.site import Options, open_site
from tests.view_example import write_run, write_study

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ALARM = {"time": 1767225600.0, "step": 6, "name": "alarm", "text": "entropy_collapse: 0.2 nats"}
# A slow machine is no failure.
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return one browser for the tests of a file.

    Not for longer: while its driver lives, an event loop runs in this thread, and no other test
    could run one.
    """
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with api.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        own = driver.chromium.executable_path
        if found is None and not Path(own).exists():
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        launched = driver.chromium.launch(executable_path=found or own, args=FLAGS)
        yield launched
        launched.close()


@dataclass
class Tab:
    """A page, with everything that went wrong on it and all that it asked for."""

    page: Any
    root: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, place: str = "") -> Any:
        """Open an address of the page and wait until it is drawn."""
        self.page.goto(f"{self.root}#{place}")
        self.page.wait_for_function("() => document.documentElement.dataset.ready")
        # A change of the hash is told to the page a moment later.
        self.page.wait_for_timeout(30)
        self.page.evaluate("PVRL.drawn()")
        return self.page

    def press(self, keys: str) -> None:
        """Press keys one after another, each when the page has drawn the one before."""
        for key in keys.split():
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(30)
            self.page.evaluate("PVRL.drawn()")

    def place(self) -> str:
        """Return what the address says."""
        return str(self.page.evaluate("location.hash"))


@pytest.fixture
def tab(browser: Any, site: Path) -> Iterator[Callable[..., Tab]]:
    """Return an opener of pages: of the exported run, unless another root is given."""
    contexts = []

    def open_tab(root: str | None = None, **options: Any) -> Tab:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        made = Tab(context.new_page(), root or (site / "index.html").as_uri())
        made.page.on("pageerror", lambda error: made.errors.append(str(error)))
        made.page.on("console", lambda said: said.type == "error" and made.errors.append(said.text))
        made.page.on("request", lambda request: made.requests.append(request.url))
        return made

    yield open_tab
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder of three steps, with an alarm at step 6 of its numbers."""
    path = write_run(tmp_path_factory.mktemp("runs") / "rl", 3)
    with (path / "events.jsonl").open("a") as events:
        events.write(json.dumps(ALARM) + "\n")
    return path


@pytest.fixture(scope="session")
def site(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run as a folder of files."""
    out = tmp_path_factory.mktemp("sites") / "site"
    export_folder(run, out)
    return out


@pytest.fixture(scope="session")
def single(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run as one file."""
    out = tmp_path_factory.mktemp("single") / "one.html"
    export_file(run, out)
    return out


@pytest.fixture(scope="session")
def study_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study as a folder of files."""
    folder = tmp_path_factory.mktemp("study")
    export_folder(write_study(folder / "study"), folder / "site")
    return folder / "site"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Return a run folder of two steps, and the address at which it is served."""
    path = write_run(tmp_path / "rl", 2)
    token = new_token()
    server = Server(open_site(path, Options(live=True, token=token)), token)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield path, server.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""How soon a browser shows a site of the viewer, and how soon its filters answer.

In: the address of a page, a server's or a file's. Out: seconds by name, one per round:
``first_page_s`` from asking for the page to its curves being drawn, ``list_s`` until the list of
all trajectories is, ``filter_s`` from a change of a filter to the frame that shows its rows
(largest over the filters of a round), ``open_s`` from a click on a row to its trajectory. Each
round has a browser context of its own, so that no cache answers. The browser is the machine's
Chromium, driven by Playwright; without either, nothing is measured.

    python -m benchmarks.viewer_browser http://127.0.0.1:8000/ --rounds 5
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import time
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
TIMEOUT_MS = 120_000
DRAWN = "page => document.documentElement.dataset.ready === page"
ROWS = "() => document.querySelectorAll('.rows .row').length > 0"
FILTERS = (
    {"correct": "wrong"},
    {"calls_min": "2", "sort": "reward", "down": "1"},
    {"q": "which"},
    {"kept": "dropped", "sort": "question"},
    {},
)
# The change is made as a person makes it, by the address, and ends when the frame is painted.
FILTER = """query => new Promise((done) => {
  const from = performance.now();
  location.hash = `#samples?${new URLSearchParams(query)}`;
  addEventListener("hashchange", () => PVRL.drawn().then(() =>
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - from)))),
    { once: true });
})"""


def measure_page(url: str, rounds: int) -> dict[str, list[float]]:
    """Return seconds by name, a value per round; empty without Playwright or Chromium."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        return {}
    try:
        api = importlib.import_module("playwright.sync_api")
    except ImportError:
        return {}
    found: dict[str, list[float]] = {}
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=list(FLAGS))
        for _ in range(rounds):
            for name, seconds in _round(chromium, url).items():
                found.setdefault(name, []).append(seconds)
        chromium.close()
    return found


def _round(chromium: Any, url: str) -> dict[str, float]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    try:
        started = time.perf_counter()
        page.goto(f"{url}#training")
        page.wait_for_function(DRAWN, arg="training")
        numbers = {"first_page_s": time.perf_counter() - started}
        started = time.perf_counter()
        page.evaluate("location.hash = '#samples'")
        page.wait_for_function(ROWS)
        numbers["list_s"] = time.perf_counter() - started
        numbers["filter_s"] = max(page.evaluate(FILTER, query) for query in FILTERS) / 1000
        started = time.perf_counter()
        page.locator(".rows .row").first.click()
        page.wait_for_function(DRAWN, arg="trajectory")
        numbers["open_s"] = time.perf_counter() - started
        return numbers
    finally:
        context.close()


def main() -> int:
    """Measure one page and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer_browser")
    parser.add_argument("url", help="of the page: http://... or file:///.../index.html")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    found = measure_page(asked.url, asked.rounds)
    print(json.dumps(found, indent=1) if found else "no Chromium or no playwright here")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())

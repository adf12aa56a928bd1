"""The viewer on a large run: reading, serving, exporting, and how soon a browser shows it.

In: nothing; a run of 10,000 trajectories with 40,000 different pictures is made in a temporary
folder, or in ``--run`` and kept. Out: a JSON file with every number, and a Markdown table beside
it. What is timed: the index of a folder nobody has read (``index``) and of one where nothing
changed (``again``), what a page loads first (``run``, ``list``), chunks, their tokens and
thumbnails as the server makes them, and an export. Reading and exporting run in processes of their
own, whose largest memory is told. With a browser (``benchmarks.viewer_browser``) also the first
page and a filter, served and as files; without one it says so.

    python -m benchmarks.viewer --json results/viewer.json

Wants a machine that does nothing else, and 3 GB of disk.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from pyvision_rl.config import Config, RunConfig
from pyvision_rl.media import pixels_media
from pyvision_rl.present import hardware, markdown
from pyvision_rl.runs import RunWriter
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    ImageSource,
    Media,
    Message,
    Observation,
    Reward,
    RunCode,
    Segment,
    StopReason,
    Task,
    TaskInput,
    Text,
    TokenCount,
    Trajectory,
    Turn,
)
from pyvision_rl.view.export import export_folder
from pyvision_rl.view.index import RunIndex
from pyvision_rl.view.server import Server
from pyvision_rl.view.site import Options, RunSite

SEED = 0
BROWSER = "benchmarks.viewer_browser"
"""Its ``measure_page(url, rounds)`` gives seconds by name: ``first_page_s``, ``filter_s``."""
CODE = "x = image_clue_0.crop((8, 8, 24, 24))\nplt.imshow(x)\nplt.show()\n" + "# why\n" * 30
WIDTH, HEIGHT = 48, 36


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the run is."""

    steps: int = 25
    groups: int = 50
    rollouts: int = 8
    pictures: int = 4
    """That each trajectory shows, all different; its task has one more."""
    tokens: int = 250
    """Sampled in a turn."""
    requests: int = 40
    """Of each kind, to the server."""
    rounds: int = 5
    """Of a browser."""

    @property
    def trajectories(self) -> int:
        """How many there are."""
        return self.steps * self.groups * self.rollouts


QUICK = Sizes(steps=2, groups=3, rollouts=4, pictures=2, tokens=20, requests=3, rounds=1)


def make_run(path: Path, sizes: Sizes) -> Path:
    """Write the run folder."""
    rng = random.Random(SEED)
    config = Config(seed=SEED, run=RunConfig())
    with RunWriter(path, config, "rl", command="made by benchmarks.viewer") as writer:
        for step in range(1, sizes.steps + 1):
            groups = [made_group(rng, step, k, sizes) for k in range(sizes.groups)]
            writer.rollouts(step, [saved for group in groups for saved in group])
            writer.metrics(step, {"reward": rng.random(), "accuracy": rng.random()})
    return path


def made_group(rng: random.Random, step: int, number: int, sizes: Sizes) -> list[SavedRollout]:
    """Return one task's trajectories."""
    category, source = rng.choice(["easy", "hard", "chart", "map"]), rng.choice(["a", "b"])
    question = f"Question {number} of step {step}: which digit is on the card?"
    public = TaskInput(f"task-{number}", question, (noise(rng),), category, source)
    task = Task(public, Gold("7", "integer"))
    return [
        SavedRollout(task, made_trajectory(rng, task, k, sizes), rng.gauss(0, 0.5), fate(rng), step)
        for k in range(sizes.rollouts)
    ]


def made_trajectory(rng: random.Random, task: Task, rollout: int, sizes: Sizes) -> Trajectory:
    """Return an episode of as many code blocks as it shows pictures, and an answer."""
    prompt = (Message("user", (Text(task.input.question * 4), *task.input.media)),)
    segments = [given(rng, task.input.media, 200)]
    turns = []
    for _ in range(sizes.pictures):
        picture = noise(rng)
        source = ImageSource("image_clue_0", (8, 8, 24, 24), True)
        ran = Execution(ExecStatus.OK, "(16, 16)\n", "", (picture,), 0.05, sources=(source,))
        seen = Observation(Message("user", (Text("Image Result:\n"), picture)), ran)
        action, text = RunCode(CODE), f"I look.\n<code>\n```python\n{CODE}```\n</code>"
        turns.append(Turn(text, StopReason.STOP_STRING, action, sizes.tokens, 0, seen, ran, 0.4))
        segments += [sampled(rng, sizes.tokens), given(rng, (picture,), 60)]
    answer = rng.choice("0123456789")
    last = GiveAnswer(answer)
    turns.append(Turn(f"<answer>{answer}</answer>", StopReason.END, last, sizes.tokens))
    segments.append(sampled(rng, sizes.tokens))
    right = answer == "7"
    return Trajectory(
        task_id=task.id,
        rollout=rollout,
        segments=tuple(segments),
        prompt=prompt,
        turns=tuple(turns),
        end=EndReason.ANSWERED,
        answer=answer,
        reward=Reward({"accuracy": float(right), "tool_use": 0.1 * right}, right, "rule"),
        prompted=TokenCount(200, 4),
    )


def given(rng: random.Random, media: tuple[Media, ...], count: int) -> Segment:
    """Return given tokens."""
    return Segment(tuple(rng.randrange(3, 1000) for _ in range(count)), False, (), media)


def sampled(rng: random.Random, count: int) -> Segment:
    """Return sampled tokens with log-probabilities of a usual length in JSON."""
    ids = tuple(rng.randrange(3, 1000) for _ in range(count))
    return Segment(ids, True, tuple(-rng.random() for _ in range(count)))


def noise(rng: random.Random) -> Media:
    """Return a picture that no other is equal to: six colours in blocks."""
    colors = [rng.randbytes(3) for _ in range(6)]
    rows = [b"".join(rng.choice(colors) * 6 for _ in range(WIDTH // 6)) for _ in range(HEIGHT // 6)]
    return pixels_media(WIDTH, HEIGHT, b"".join(row * 6 for row in rows))


def fate(rng: random.Random) -> str | None:
    """Return a reason to be left out, or None."""
    return rng.choice([None, None, "zero_std", "surplus"])


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def index_numbers(run: Path) -> dict[str, float]:
    """Return what reading a run costs; runs in a process of its own."""
    index = RunIndex(run)
    numbers = {"index_s": timed(index.refresh), "again_s": timed(index.refresh)}
    return numbers | {"peak_mb": peak_mb()}


def export_numbers(run: Path) -> dict[str, float]:
    """Return what an export costs; runs in a process of its own."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=run.parent) as folder:
        began = time.perf_counter()
        written = export_folder(run, Path(folder) / "out", processes=cores)
        seconds = time.perf_counter() - began
    return {"export_s": seconds, "export_mb": written.bytes / 1e6, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


ALONE = {"index": index_numbers, "export": export_numbers}


def alone(what: str, run: Path) -> dict[str, float]:
    """Return the numbers of one of ``ALONE``, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.viewer", "--alone", what, "--run", str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


@contextmanager
def serving(run: Path) -> Iterator[tuple[Server, RunSite]]:
    """Yield a server of the run that has read it."""
    site = RunSite(run, Options(live=True, token="benchmark"))
    site.refresh()
    server = Server(site, "benchmark")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server, site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def served_numbers(run: Path, sizes: Sizes) -> dict[str, list[float]]:
    """Return seconds of requests by kind."""
    rng = random.Random(SEED)
    with serving(run) as (server, site):
        names = list(site.names())
        kinds = {
            "run_s": ["data/run.js"],
            "list_s": ["data/index.js"],
            "chunk_s": [n for n in names if n.startswith("data/c")],
            "tokens_s": [n for n in names if n.startswith("data/t")],
            "thumb_s": [n for n in names if n.startswith("thumbs/")],
            "picture_s": [n for n in names if n.startswith("media/")],
        }
        found = {}
        for kind, some in kinds.items():
            urls = [server.url + rng.choice(some) for _ in range(sizes.requests)]
            found[kind] = [timed(partial(fetch, url)) for url in urls]
        return found


def fetch(url: str) -> bytes:
    """Return what lies at an address."""
    with urlopen(url, timeout=600) as answer:
        body: bytes = answer.read()
    return body


def browser_numbers(run: Path, sizes: Sizes) -> dict[str, Mapping[str, list[float]]]:
    """Return what a browser needs, served and as files; empty without one."""
    if importlib.util.find_spec(BROWSER) is None:
        return {}
    measure = importlib.import_module(BROWSER).measure_page
    found = {}
    with serving(run) as (server, _):
        found["served"] = measure(server.url, sizes.rounds)
    with tempfile.TemporaryDirectory(dir=run.parent) as folder:
        page = export_folder(run, Path(folder) / "out", tokens=False).page
        found["files"] = measure(page.as_uri(), sizes.rounds)
    return found


def measured(run: Path, sizes: Sizes) -> dict[str, Any]:
    """Return all numbers of a run."""
    say("index")
    found: dict[str, Any] = {"index": alone("index", run)}
    say("served")
    found["served"] = served_numbers(run, sizes)
    say("export")
    found["export"] = alone("export", run)
    say("browser")
    return found | {"browser": browser_numbers(run, sizes)}


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the numbers as a table, medians where there are several, and the notes."""
    rows = []
    groups = {k: result[k] for k in ("index", "served", "export")}
    groups |= {f"browser, {where}": numbers for where, numbers in result["browser"].items()}
    for group, numbers in groups.items():
        for name, value in numbers.items():
            number = median(value) if isinstance(value, list) else value
            rows.append((group, name, f"{number:.4g}"))
    table = markdown(("part", "number", "value"), rows)
    return "\n".join([table, "", *result["notes"]]) + "\n"


def notes(sizes: Sizes, found: Mapping[str, Any], *, load: float) -> list[str]:
    """Return what a reader has to know."""
    told = [
        f"{sizes.trajectories} trajectories with {sizes.trajectories * sizes.pictures} pictures "
        f"shown, in {sizes.steps} steps."
    ]
    if sizes == QUICK:
        told.append("A quick run: the numbers mean nothing.")
    if load > 0.5:
        told.append(f"The load was {load:.2f} before: other programs took part of the machine.")
    if not found["browser"]:
        told.append("No browser: the first page and the filter were not measured.")
    return told


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Make a run, measure, write what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.viewer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--run", type=Path, help="folder of the made run; kept, and used again")
    parser.add_argument("--quick", action="store_true", help="small; the numbers mean nothing")
    parser.add_argument("--alone", choices=sorted(ALONE), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(ALONE[options.alone](options.run)))
        return 0
    if options.json is None:
        parser.error("--json names the file to write")
    sizes = QUICK if options.quick else Sizes()
    load = float(Path("/proc/loadavg").read_text().split()[0])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        if not run.exists():
            say("make the run")
            make_run(run, sizes)
        found = measured(run, sizes)
    result = {
        "benchmark": "viewer",
        "command": shlex.join(["python", "-m", "benchmarks.viewer", *sys.argv[1:]]),
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "load_before": load,
        "hardware": hardware(),
        "sizes": asdict(sizes),
        "seeds": {"made run": SEED},
        **found,
        "notes": notes(sizes, found, load=load),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = to_markdown(result)
    options.json.with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

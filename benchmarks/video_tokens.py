"""Accuracy against visual tokens: a policy that fetches frames, and baselines that are given them.

In: trained policies, and the cold start that they began with. Out: one JSON file, a Markdown table
and a figure. A baseline is trained to answer at once from frames at equal distances in its context:
in rounds that double in length, until a round adds less than ``CONVERGED`` on tasks that are
neither trained on nor reported. The one with the fewest frames of a size begins with the cold
start, each other one with what the one before it ended with. Tokens are what the renderer
counted, by Qwen2.5-VL's rule for images. A round that is done is not run again. What an earlier
result left out can be added to it: where the models are lost that it would begin with, they are
trained again, and evaluated beside what they reached before.

    python -m benchmarks.video_tokens --start SFT/final --policy 0=RL/final --json FILE
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.video_tokens_report import draw, goal, to_markdown
from pyvision_rl.config import SCHEMA
from pyvision_rl.config_file import find_config, load_config, resolved
from pyvision_rl.present import hardware
from pyvision_rl.runs import RunReader

SFT_CONFIG, RL_CONFIG = "tiny_video_sft", "tiny_video_rl"
CONVERGED = 0.01
"""A round that adds less to the accuracy is the last one."""
TEST, VALIDATION = 5, 6
"""Seeds of the held-out tasks that are reported, and of those that say when to stop."""
SAVE_EVERY = 100
"""Steps that a stopped round loses at most."""
MAX_FRAMES = 256
SECONDS = 128
"""Of every video of the task set."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done."""

    steps: int = 150
    """Of the first round; every further one has twice as many."""
    max_rounds: int = 4
    batch_size: int = 32
    train_tasks: int = 3000
    test_tasks: int = 490
    validation_tasks: int = 245
    threads: int = 1
    """Of a process."""


QUICK = Sizes(2, 2, 4, 16, 8, 8)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Frames that a model is given."""

    name: str
    px: int
    """Side of a frame: (px / 28) ** 2 visual tokens."""
    num_frames: int | None = None
    fps: float | None = None

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of ``SECONDS``."""
        frames = self.num_frames or round(SECONDS * (self.fps or 0))
        return frames * (self.px // 28) ** 2

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return self.name.replace(", ", "-").replace(" ", "-")

    @property
    def prompts(self) -> dict[str, Any]:
        """What ``[prompts]`` says."""
        which: dict[str, Any] = {"num_frames": self.num_frames}
        if self.fps is not None:
            which = {"frames_fps": self.fps, "max_frames": MAX_FRAMES}
        return {**which, "context": "frames", "frame_labels": False, "frame_pixels": self.px**2}


BASELINES = tuple(
    baseline
    for px in (56, 28)
    for baseline in (
        *(Baseline(f"{n} frames, {px} px", px, num_frames=n) for n in (8, 16, 32, 64)),
        Baseline(f"1 a second, {px} px", px, fps=1.0),
    )
)


def main() -> int:
    """Train and evaluate what is not done, then write what all of it says; 0 if the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video_tokens", description=__doc__)
    parser.add_argument("--start", type=Path, required=True, help="model that baselines start from")
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME=DIR", help="a trained policy"
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--add-to", type=Path, help="an earlier result; only what it left out runs")
    parser.add_argument("--work", type=Path, default=Path("runs/video-tokens"), help="kept")
    parser.add_argument("--most", type=int, help="leave out baselines of more visual tokens")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a process")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    options = parser.parse_args()
    if bool(options.policy) == bool(options.add_to):
        parser.error("name either policies (--policy) or a result that has some (--add-to)")
    sizes = replace(QUICK if options.quick else Sizes(), threads=options.threads)
    earlier = json.loads(options.add_to.read_text()) if options.add_to else {}
    wanted = [b for b in BASELINES if options.most is None or b.tokens <= options.most]
    wanted = [b for b in wanted if b.name in earlier.get("left_out", [b.name])]
    if earlier and not same_sizes(earlier, sizes):
        parser.error(f"{options.add_to} is of other sizes: {earlier['sizes']}")
    if not wanted:
        parser.error("no baseline is left to run")
    result = measured(options, wanted, sizes, earlier)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    options.json.with_suffix(".md").write_text(text := to_markdown(result))
    draw(result["points"], options.json.with_suffix(".png"))
    print(text)
    return 0 if result["goal"]["met"] else 1


def same_sizes(earlier: Mapping[str, Any], sizes: Sizes) -> bool:
    """Return whether an earlier result is as large; the threads may be others."""
    return {**earlier["sizes"], "threads": sizes.threads} == asdict(sizes)


def measured(
    options: argparse.Namespace,
    wanted: Sequence[Baseline],
    sizes: Sizes,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the command line asks for, measured, with the points of an earlier result."""
    began = time.monotonic()
    policies = dict(policy.split("=", 1) for policy in options.policy)

    def line(px: int) -> list[dict[str, Any]]:
        baselines = [b for b in wanted if b.px == px]
        if not earlier:
            return run_line(baselines, options.start, options.work, sizes)
        first = min(baselines, key=lambda b: b.tokens)
        start, told = remade(first, earlier["points"], options.start, options.work, sizes)
        points = run_line(baselines, start, options.work, sizes)
        points[0] |= {"remade": told, "threads": sizes.threads}
        return points

    with ThreadPoolExecutor(options.jobs) as pool:
        ours = pool.map(lambda p: evaluate_policy(*p, options.work, sizes), policies.items())
        # The longest first: what is left at the end then runs beside something.
        given = pool.map(line, sorted({b.px for b in wanted}, reverse=True))
        points = [*ours, *(point for points in given for point in points)]
    made = {
        "command": shlex.join(["python", "-m", "benchmarks.video_tokens", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "hardware": hardware(),
        "versions": _versions(options.work / "baselines" / wanted[0].folder),
        "sizes": asdict(sizes),
    }
    if earlier:
        points = in_order([*earlier["points"], *points])
        made = {"added": [*earlier.get("added", []), made]}
    else:
        made |= {"seeds": {"test tasks": TEST, "validation tasks": VALIDATION}}
    left_out = [b.name for b in BASELINES if b.name not in {p["name"] for p in points}]
    last = {"left_out": left_out, "points": points, "goal": goal(points)}
    return {"benchmark": "video_tokens", "quick": options.quick, **earlier, **made, **last}


def _versions(folder: Path) -> dict[str, str]:
    return dict(RunReader(folder / "test").info.versions)


def in_order(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points, policies first and then the baselines as they stand in ``BASELINES``."""
    names = [b.name for b in BASELINES]
    return sorted(points, key=lambda p: names.index(p["name"]) if p["name"] in names else -1)


def evaluate_policy(name: str, model: str, work: Path, sizes: Sizes) -> dict[str, Any]:
    """Return the point of a policy that fetches its frames."""
    config = resolved(load_config(find_config(RL_CONFIG)))
    config["policy"] |= {"threads": sizes.threads}
    result = _evaluated(config, Path(model), work / "policies" / name, TEST, sizes.test_tasks)
    return {"name": f"policy {name}", "kind": "policy", **_point(result)}


def run_line(
    line: Sequence[Baseline], start: Path, work: Path, sizes: Sizes
) -> list[dict[str, Any]]:
    """Return the points of baselines of one frame size, each begun with the one before it."""
    points = []
    for baseline in sorted(line, key=lambda b: b.tokens):
        point, start = run_baseline(baseline, start, work, sizes)
        points.append(point)
    return points


def remade(
    wanted: Baseline, points: Sequence[Mapping[str, Any]], start: Path, work: Path, sizes: Sizes
) -> tuple[Path, dict[str, Any]]:
    """Return the model that ``wanted`` begins with, made anew as an earlier result says.

    Its ``points`` tell the baselines of fewer frames and which of their rounds was the best; up
    to that one they are trained again. Only the last one is evaluated: what is returned with it
    holds its accuracy then and now.
    """
    told: dict[str, Any] = {}
    found = {p["name"]: p for p in points}
    before = [b for b in BASELINES if b.px == wanted.px and b.tokens < wanted.tokens]
    for baseline in before:
        accuracies = [r["validation_accuracy"] for r in found[baseline.name]["rounds"]]
        for number in range(accuracies.index(max(accuracies)) + 1):
            folder = work / "baselines" / baseline.folder
            config, start = run_round(baseline, start, folder, number, sizes)
    if before:
        out = start.parent.with_name("eval")
        again = _evaluated(config, start, out, VALIDATION, sizes.validation_tasks)
        told = {"name": baseline.name, "validation_accuracy_before": max(accuracies)}
        told["validation_accuracy"] = again["overall"]["accuracy"]
    return start, told


def run_baseline(
    baseline: Baseline, start: Path, work: Path, sizes: Sizes
) -> tuple[dict[str, Any], Path]:
    """Return the point of one baseline, trained until a round adds nothing, and its model."""
    folder = work / "baselines" / baseline.folder
    model, best, rounds = start, -1.0, []
    for number in range(sizes.max_rounds):
        config, trained = run_round(baseline, model, folder, number, sizes)
        out = trained.parent.with_name("eval")
        found = _evaluated(config, trained, out, VALIDATION, sizes.validation_tasks)
        accuracy = found["overall"]["accuracy"]
        steps = config["sft"]["stages"][0]["steps"]
        rounds.append({"steps": steps, "validation_accuracy": accuracy})
        if accuracy > best:
            model, gained, best = trained, accuracy - best, accuracy
        else:
            gained = 0.0
        if gained < CONVERGED:
            break
    result = _evaluated(config, model, folder / "test", TEST, sizes.test_tasks)
    ended = gained < CONVERGED
    point = {
        **{"name": baseline.name, "kind": "baseline", "px": baseline.px, **_point(result)},
        **{"started_from": str(start), "rounds": rounds, "converged": ended},
    }
    return point, model


def run_round(
    baseline: Baseline, model: Path, folder: Path, number: int, sizes: Sizes
) -> tuple[dict[str, Any], Path]:
    """Train a model for one round, counted from 0; return the config and the trained model."""
    config = baseline_config(baseline, model, sizes.steps * 2**number, number, sizes)
    out = folder / f"round-{number + 1}" / "sft"
    if not out.exists():
        _pvrl("sft", config, out)
    return config, out / "final"


def baseline_config(
    baseline: Baseline, model: Path, steps: int, number: int, sizes: Sizes
) -> dict[str, Any]:
    """Return the resolved config of one round of SFT; evaluations use it too."""
    config = resolved(load_config(find_config(SFT_CONFIG)))
    config["seed"] = number
    config["prompts"] |= baseline.prompts
    config["policy"] |= {"model": str(model), "min_pixels": min(baseline.px**2, 56**2)}
    config["policy"] |= {"threads": sizes.threads}
    config["rollout"] |= {"max_images": MAX_FRAMES, "max_context_tokens": 4096}
    config["rollout"] |= {"max_tool_calls": 0}
    stage = copy.deepcopy(config["sft"]["stages"][-2])
    options = {"seed": 1, "direct": 1.0}
    tasks = {"name": "clips", "path": "", "limit": None, "options": options}
    stage |= {"name": "answers", "steps": steps, "batch_size": sizes.batch_size}
    stage["data"] = [{"kind": "scripts", "tasks": tasks, "count": sizes.train_tasks}]
    config["sft"] = {"stages": [stage]}
    config["train"]["save_every"] = SAVE_EVERY
    return config


def _evaluated(
    config: Mapping[str, Any], model: Path, out: Path, seed: int, num_tasks: int
) -> dict[str, Any]:
    """The result of an evaluation, made if it is not there."""
    if not out.exists():
        config = copy.deepcopy(dict(config))
        config["policy"]["model"] = str(model)
        config["eval"]["tasks"]["options"] |= {"seed": seed}
        config["eval"] |= {"num_tasks": num_tasks, "samples": 1, "temperature": 0.0}
        _pvrl("eval", config, out)
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def _pvrl(verb: str, config: Mapping[str, Any], out: Path) -> None:
    """Run a verb on a config, or go on where it was stopped; ``out`` is there once it is done.

    Raises:
        subprocess.CalledProcessError: It failed; its log lies beside the folder.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    file, log = (out.with_name(f"{out.name}{ending}") for ending in (".json", ".log"))
    # A run that was stopped has a ``final`` too, of half its steps.
    unfinished = out.with_name(f"{out.name}.part")
    words = [str(file), "--out", str(unfinished)]
    if (unfinished / "run.json").exists():
        words = ["--resume", str(unfinished)]
    else:
        file.write_text(json.dumps({"schema": SCHEMA, "config": config}))
    command = [sys.executable, "-m", "pyvision_rl.cli.main", verb, *words]
    with log.open("ab") as lines:
        subprocess.run(command, stdout=lines, stderr=lines, check=True)
    unfinished.replace(out)


def _point(result: Mapping[str, Any]) -> dict[str, Any]:
    overall = result["overall"]
    names = ("accuracy", "accuracy_se", "visual_tokens", "text_tokens", "frames_fetched")
    numbers = {name: overall.get(name) for name in (*names, "tool_calls")}
    categories = {name: score["accuracy"] for name, score in result["categories"].items()}
    return {**numbers, "categories": categories}


if __name__ == "__main__":
    sys.exit(main())

"""Accuracy against visual tokens: a policy that fetches frames, and baselines that are given them.

In: trained policies, and the cold start that they began with. Out: one JSON file, a Markdown table
and a figure. A baseline is trained to answer at once from frames at equal distances in its context:
in rounds that double in length, until a round adds less than ``CONVERGED`` on tasks that are
neither trained on nor reported. The one with the fewest frames of a size begins with the cold
start, each other one with what the one before it ended with. Tokens are what the renderer
counted, by Qwen2.5-VL's rule for images. A round that is done is not run again.

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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from pyvision_rl.config import SCHEMA
from pyvision_rl.config_file import find_config, load_config, resolved
from pyvision_rl.present import STYLE, hardware, markdown
from pyvision_rl.runs import RunReader

SFT_CONFIG, RL_CONFIG = "tiny_video_sft", "tiny_video_rl"
CONVERGED = 0.01
"""A round that adds less to the accuracy is the last one."""
WITHIN = 0.02
"""As good as: at most so much less accurate."""
RATIO = 9
"""The paper's: 45 thousand visual tokens against 5 thousand."""
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
    def prompts(self) -> dict[str, Any]:
        """What ``[prompts]`` says."""
        which = {"num_frames": self.num_frames, "frames_fps": self.fps, "max_frames": MAX_FRAMES}
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
        "--policy", action="append", required=True, metavar="NAME=DIR", help="a trained policy"
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--work", type=Path, default=Path("runs/video-tokens"), help="kept")
    parser.add_argument("--most", type=int, help="leave out baselines of more visual tokens")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    options = parser.parse_args()
    sizes, began = QUICK if options.quick else Sizes(), time.monotonic()
    policies = dict(policy.split("=", 1) for policy in options.policy)
    wanted = [b for b in BASELINES if options.most is None or b.tokens <= options.most]
    with ThreadPoolExecutor(options.jobs) as pool:
        ours = pool.map(lambda p: evaluate_policy(*p, options.work, sizes), policies.items())
        # The longest first: what is left at the end then runs beside something.
        sides = sorted({b.px for b in wanted}, reverse=True)
        lines = [[b for b in wanted if b.px == px] for px in sides]
        given = pool.map(lambda line: run_line(line, options.start, options.work, sizes), lines)
        points = [*ours, *(point for line in given for point in line)]
    result = {
        "benchmark": "video_tokens",
        "command": shlex.join(["python", "-m", "benchmarks.video_tokens", *sys.argv[1:]]),
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.monotonic() - began, 1),
        "hardware": hardware(),
        "versions": dict(RunReader(options.work / "policies" / next(iter(policies))).info.versions),
        "sizes": asdict(sizes),
        "seeds": {"test tasks": TEST, "validation tasks": VALIDATION},
        "left_out": [b.name for b in BASELINES if b not in wanted],
        "points": points,
        "goal": goal(points),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    options.json.with_suffix(".md").write_text(text := to_markdown(result))
    draw(points, options.json.with_suffix(".png"))
    print(text)
    return 0 if result["goal"]["met"] else 1


def evaluate_policy(name: str, model: str, work: Path, sizes: Sizes) -> dict[str, Any]:
    """Return the point of a policy that fetches its frames."""
    config = resolved(load_config(find_config(RL_CONFIG)))
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


def run_baseline(
    baseline: Baseline, start: Path, work: Path, sizes: Sizes
) -> tuple[dict[str, Any], Path]:
    """Return the point of one baseline, trained until a round adds nothing, and its model."""
    folder = work / "baselines" / baseline.name.replace(", ", "-").replace(" ", "-")
    model, best, rounds = start, -1.0, []
    for number in range(sizes.max_rounds):
        steps = sizes.steps * 2**number
        here = folder / f"round-{number + 1}"
        config = baseline_config(baseline, model, steps, number, sizes)
        if not (here / "sft").exists():
            _pvrl("sft", config, here / "sft")
        trained = here / "sft" / "final"
        found = _evaluated(config, trained, here / "eval", VALIDATION, sizes.validation_tasks)
        accuracy = found["overall"]["accuracy"]
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


def baseline_config(
    baseline: Baseline, model: Path, steps: int, number: int, sizes: Sizes
) -> dict[str, Any]:
    """Return the resolved config of one round of SFT; evaluations use it too."""
    config = resolved(load_config(find_config(SFT_CONFIG)))
    config["seed"] = number
    config["prompts"] |= baseline.prompts
    config["policy"] |= {"model": str(model), "min_pixels": min(baseline.px**2, 56**2)}
    config["policy"] |= {"threads": 1}
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


def goal(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return whether the policies reach the accuracy of a baseline with a ninth of its tokens.

    Compared with the cheapest baseline that is as good, and where none is, with the best one.
    """
    ours = [p for p in points if p["kind"] == "policy"]
    given = [p for p in points if p["kind"] == "baseline"]
    accuracy = sum(p["accuracy"] for p in ours) / len(ours)
    tokens = sum(p["visual_tokens"] for p in ours) / len(ours)
    equal = [p for p in given if p["accuracy"] >= accuracy - WITHIN]
    other = min(equal, key=lambda p: p["visual_tokens"]) if equal else None
    best = max(given, key=lambda p: p["accuracy"])
    ratio = (other or best)["visual_tokens"] / tokens
    return {
        "policy_accuracy": accuracy,
        "policy_visual_tokens": tokens,
        "cheapest_equal_baseline": other and other["name"],
        "best_baseline": best["name"],
        "best_baseline_accuracy": best["accuracy"],
        "ratio": ratio,
        # Better than every baseline is more than was asked for, if it is cheap as well.
        "met": ratio >= RATIO,
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a page."""
    categories = list(result["points"][0]["categories"])
    head = ("model", "visual tokens", "accuracy", *categories)
    rows = [
        (
            p["name"] + ("" if p.get("converged", True) else " (not converged)"),
            f"{p['visual_tokens']:.0f}",
            f"{p['accuracy']:.2f} ± {p['accuracy_se']:.2f}",
            *(f"{p['categories'][name]:.2f}" for name in categories),
        )
        for p in result["points"]
    ]
    g = result["goal"]
    if g["cheapest_equal_baseline"]:
        other = f"the cheapest baseline within {WITHIN} of it, {g['cheapest_equal_baseline']}"
    else:
        other = f"no baseline comes near it; the best one, {g['best_baseline']}"
    open_ = result["left_out"] and not g["cheapest_equal_baseline"]
    verdict = "open" if open_ else "met" if g["met"] else "**missed**"
    return (
        ("**A quick run: the numbers mean nothing.**\n\n" if result["quick"] else "")
        + markdown(head, rows)
        + (f"\nLeft out: {'; '.join(left)}.\n" if (left := result["left_out"]) else "")
        + f"\nPolicy: accuracy {g['policy_accuracy']:.3f} with {g['policy_visual_tokens']:.1f} "
        f"visual tokens; {other}, takes {g['ratio']:.1f} times as many. Goal {RATIO}: {verdict}.\n"
    )


def draw(points: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw accuracy over visual tokens: baselines joined by size of frame, policies as stars."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), dpi=150, facecolor="white")
        axes = figure.subplots()
        for px, color in ((56, "#d1495b"), (28, "#edae49")):
            line = [p for p in points if p.get("px") == px]
            axes.errorbar(
                [p["visual_tokens"] for p in line],
                [p["accuracy"] for p in line],
                [p["accuracy_se"] for p in line],
                fmt="o-",
                color=color,
                label=f"frames at equal distances, {px} px",
            )
        ours = [p for p in points if p["kind"] == "policy"]
        axes.errorbar(
            [p["visual_tokens"] for p in ours],
            [p["accuracy"] for p in ours],
            [p["accuracy_se"] for p in ours],
            fmt="*",
            markersize=12,
            color="#00798c",
            label="frames on demand",
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("visual tokens an episode", color="#555555")
        axes.set_title("Held-out accuracy")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.legend(frameon=False, labelcolor="linecolor", loc="upper left")
        figure.tight_layout()
        figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())

"""One GPU: how long steps of 113 million parameters take there, and what real sizes hold in it.

In: a machine with a CUDA device. Out: one JSON file. Two parts:

runs   A new model of 113 M parameters goes through the image recipe of the tiny model: cold start
       with all weights and with adapters, then RL with both. Each is an ordinary run of ``pvrl``;
       its numbers are those of its metrics.jsonl.
sizes  Networks of published sizes with random weights make SFT steps and sample text in this
       process; what they hold is compared with what ``--dry-run`` says.

    python -m benchmarks.gpu --json results/gpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

SFT, RL = "tiny_image_sft", "tiny_image_rl"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    hidden: int = 768
    layers: int = 16
    heads: int = 12
    intermediate: int = 2304
    tower: int = 256
    tower_layers: int = 4
    pictures: int = 300
    """Steps of the cold start's first stage."""
    skill: int = 300
    habit: int = 60
    examples: int = 3000
    """Of the first two stages each."""
    steps: int = 50
    """Of the other runs."""
    groups: int = 8
    """Trained on at each step of RL; twice as many are sampled."""
    limit_s: float = 170.0
    """Of a run; one that takes longer is stopped after a step, and the steps it made count."""


STOP_S = 300.0
"""For a run that is stopped to end; it saves first."""
QUICK = Sizes(64, 2, 4, 96, 32, 2, pictures=2, skill=3, habit=2, examples=40, steps=3, groups=2)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of ``pvrl``."""

    name: str
    verb: str
    config: str
    sets: tuple[str, ...]


def recipe(sizes: Sizes, work: Path, device: str) -> list[Run]:
    """Return the runs in order; later ones start from what earlier ones made."""
    model, start = work / "model", work / "sft-full" / "final"
    new = (
        f"new_model.hidden_size={sizes.hidden}",
        f"new_model.num_layers={sizes.layers}",
        f"new_model.num_heads={sizes.heads}",
        f"new_model.num_kv_heads={sizes.heads // 2}",
        f"new_model.intermediate_size={sizes.intermediate}",
        f"new_model.initializer_range={1 / sizes.hidden**0.5:.3f}",
        f"new_model.vision.hidden_size={sizes.tower}",
        f"new_model.vision.depth={sizes.tower_layers}",
        f"new_model.vision.num_heads={max(2, sizes.tower // 64)}",
        f"new_model.vision.intermediate_size={2 * sizes.tower}",
    )
    both = (f"policy.device='{device}'", "sandbox.max_running=16", "train.save_every=1000")
    lora = ("train.lora_rank=32", "train.lora_alpha=32", "train.optimizer='adamw'")
    # The three ways of docs/models.md to hold numbers: float32 weights and products in bfloat16,
    # bfloat16 with a float32 copy, adapters beside bfloat16.
    mixed = ("train.mixed_precision='bf16'",)
    half = ("policy.dtype='bfloat16'",)
    imitation = (
        *both,
        f"policy.model={model}",
        *stages((sizes.pictures, sizes.skill, sizes.habit), sizes.examples),
        "train.learning_rate=6e-4",
        "train.muon_learning_rate=1.5e-3",
        "sft.stages.1.muon_learning_rate=1.2e-3",
        "sft.stages.2.muon_learning_rate=4e-4",
        "train.micro_batch_tokens=16384",
        *mixed,
    )
    adapters = (
        *both,
        f"policy.model={start}",
        *stages((1, sizes.steps - 2, 1), sizes.examples // 10),
        "train.learning_rate=2e-4",
        *lora,
        *half,
    )
    learning = (
        *both,
        f"policy.model={start}",
        f"train.steps={sizes.steps}",
        f"selection.groups_per_step={sizes.groups}",
        "selection.oversample=2.0",  # the paper's; the recipe's is the demo's
        "rollout.max_live_episodes=256",
        "policy.threads=4",
        "train.micro_batch_tokens=16384",
        *half,
    )
    full = (*learning, "train.master_weights=true", "train.learning_rate=3e-5")
    return [
        Run("model", "new-model", SFT, new),
        Run("sft-full", "sft", SFT, imitation),
        Run("sft-lora", "sft", SFT, adapters),
        Run("rl-full", "rl", RL, full),
        Run("rl-lora", "rl", RL, (*learning, *lora, "train.learning_rate=3e-4")),
    ]


def stages(steps: Sequence[int], examples: int) -> tuple[str, ...]:
    """Return overrides that give each stage its steps, and no probe that would end it."""
    sets: list[str] = []
    each = zip(steps, (examples, examples, examples // 3), strict=True)
    for index, (count, of) in enumerate(each):
        sets += [f"sft.stages.{index}.steps={count}", f"sft.stages.{index}.stop_when=''"]
        sets += [f"sft.stages.{index}.data.0.count={of}"]
    return (*sets, "sft.stages.2.min_steps=0", "sft.stages.2.data.0.max_wrong=1.0")


def make(run: Run, work: Path, limit_s: float) -> dict[str, Any]:
    """Make a run; return its numbers, or why there are none."""
    out = work / run.name
    words = [sys.executable, "-m", "pyvision_rl.cli.main", run.verb, run.config, "--out", str(out)]
    for each in run.sets:
        words += ["--set", each]
    began = time.monotonic()
    with (work / f"{run.name}.log").open("w") as log:
        child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        stopped = False
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            stopped = True
            child.terminate()  # it saves a whole step first
            try:
                code = child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                code = child.wait()
    found = {"seconds": round(time.monotonic() - began, 1), "exit_code": code, "stopped": stopped}
    print(f"{run.name:9} exit {code} after {found['seconds']} s", flush=True)
    if code and not stopped:
        lines = (work / f"{run.name}.log").read_text(errors="replace").splitlines()
        return found | {"failed": lines[-12:]}
    return found | numbers(out)


def numbers(out: Path) -> dict[str, Any]:
    """Return what a run says of its steps; the first two are slower and left out of times."""
    file = out / "metrics.jsonl"
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found: dict[str, Any] = {"steps": len(lines)}
    for name in ("step_s", "sample_s", "update_s"):
        if values := [line[name] for line in lines[2:] if name in line]:
            found[name] = {"median": median(values), "worst": max(values), "first": lines[0][name]}
    for name in ("step_gib", "sample_gib", "update_gib"):
        if values := [line[name] for line in lines if name in line]:
            found[name] = max(values)
    told = ("loss", "nll", "num_tokens", "stage", "accuracy", "tool_calls", "accuracy_hard")
    told += ("trajectories", "kept", "sampled_tokens", "end_answered", "end_failed")
    told += ("train_num_tokens", "train_mismatch", "train_mismatch_kl", "train_grad_norm")
    ends = {"first": lines[:1], "last": lines[-1:], "last_5": lines[-5:]}
    for when, of in ends.items():
        found[when] = {
            name: of[-1][name] if when != "last_5" else median(line[name] for line in having)
            for name in told
            if (having := [line for line in of if name in line and line[name] is not None])
            and (when != "last_5" or not isinstance(having[0][name], str))
        }
    return found


def machine() -> dict[str, Any]:
    """Return what was measured on."""
    import torch

    from pyvision_rl.present import hardware

    found: dict[str, Any] = {"hardware": hardware(), "torch": torch.__version__}
    import transformers

    found["transformers"] = transformers.__version__
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_gib": round(properties.total_memory / 2**30, 1)}
        found["cuda"] = torch.version.cuda
    return found


def main() -> int:
    """Measure what was asked for, and write the file after each part; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-gpu"), help="kept")
    parser.add_argument("--parts", default="runs,sizes", help="runs, sizes or both")
    parser.add_argument("--runs", default="", help="some of the runs, such as sft-full,rl-lora")
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N", help="another size, e.g. skill=90"
    )
    parser.add_argument("--device", default="cuda", help="cpu only to see it run")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    options = parser.parse_args()
    given = {name: int(n) for name, n in (each.split("=") for each in options.size)}
    sizes = replace(QUICK if options.quick else Sizes(), **given)
    options.work.mkdir(parents=True, exist_ok=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "sizes": asdict(sizes),
        "runs": {},
        "networks": {},
    }

    def write() -> None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    if "runs" in options.parts:
        wanted = set(filter(None, options.runs.split(",")))
        for run in recipe(sizes, options.work, options.device):
            if wanted and run.name not in wanted:
                continue
            result["runs"][run.name] = make(run, options.work, sizes.limit_s)
            write()
            if "failed" in result["runs"][run.name]:
                print("\n".join(result["runs"][run.name]["failed"]), flush=True)
    if "sizes" in options.parts:
        from benchmarks.gpu_networks import CASES, TINY_CASES, measure

        for case in TINY_CASES if options.quick else CASES:
            result["networks"][case.name] = measure(case, options.device)
            print(case.name, json.dumps(result["networks"][case.name]), flush=True)
            write()
    write()
    parts = (*result["runs"].values(), *result["networks"].values())
    return int(any("failed" in part for part in parts))


if __name__ == "__main__":
    sys.exit(main())

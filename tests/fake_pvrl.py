"""Stands in for ``pvrl`` in a study: same words, same folders, no training. Standard library only.

    python fake_pvrl.py RULES VERB [CONFIG] [--set KEY=VALUE]... [--out DIR | --resume DIR]

RULES is a JSON file: ``delay`` seconds per step, ``fail``: endings of folders that fail at once.
Every start adds a line to ``RULES.log``: verb, folder, whether it goes on.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 6


def main() -> None:
    rules_file, verb, *words = sys.argv[1:]
    rules: dict[str, Any] = json.loads(Path(rules_file).read_text())
    goes_on = "--resume" in words
    out = Path(words[words.index("--resume" if goes_on else "--out") + 1])
    sets = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    with Path(f"{rules_file}.log").open("a") as log:
        log.write(f"{verb} {out} {goes_on}\n")
    if any(str(out).endswith(name) for name in rules.get("fail", ())):
        sys.exit("Traceback ...\nValueError: told to fail")
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    out.mkdir(parents=True, exist_ok=True)
    write(out / "run.json", {"schema": 1, "verb": verb, "config": {}, "versions": {"fake": "1"}})
    sets += json.loads((out / "sets.json").read_text()) if goes_on else []
    write(out / "sets.json", sets)
    steps = STEPS if verb in ("rl", "sft") else 1
    paid = "rewards.tool_use_per_call=0.1" in sets
    metrics = out / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for step in range(done + 1, steps + 1):
        time.sleep(rules.get("delay", 0.0))
        with metrics.open("a") as lines:
            lines.write(json.dumps(line(step, paid, str(out))) + "\n")
        saved = out / "checkpoints" / f"step_{step:06d}"
        saved.mkdir(parents=True, exist_ok=True)
        write(saved / "MANIFEST.json", {})
        if stopped and step < steps:
            sys.exit(130)
    if verb == "eval":
        # A model that is not there cannot be evaluated: the order of units matters.
        model = next(json.loads(s.partition("=")[2]) for s in sets if s.startswith("policy.model="))
        assert Path(model).exists(), model
        paid = "tool_reward" in str(out)
        write(out / "result.json", result(paid, str(out)))
    (out / "final").mkdir(exist_ok=True)


def line(step: int, paid: bool, name: str) -> dict[str, float]:
    """One line of metrics: calls rise or fall with the reward, a little different in each run."""
    luck = random.Random(f"{name} {step}").uniform(-0.1, 0.1)
    calls = max(0.0, 0.5 + luck + (0.25 if paid else -0.08) * step)
    values = {
        "step": step,
        "reward": 0.8 + 0.1 * calls * paid,
        "accuracy": 0.8 + luck,
        "tool_calls": calls,
        "zero_tool_share": 1 - min(1.0, calls / 2),
        "sampled_tokens": 12 + 10 * calls,
        "kept_share": 0.5 if paid else 0.25 + luck / 3,
        "correct_negative_advantage_share": 0.1 * paid,
        "train_entropy": 0.3 - 0.02 * step + luck / 5,
        "train_grad_norm": 0.1 + abs(luck),
    }
    if step % 2 == 0:
        values["eval_accuracy"] = 0.5 + luck + 0.03 * step * paid
        values["eval_accuracy_easy"] = 0.9 + luck / 3
        values["eval_accuracy_hard"] = 0.15 + luck / 2 + 0.05 * step * paid
    return values


def result(paid: bool, name: str) -> dict[str, Any]:
    luck = random.Random(name).uniform(-0.05, 0.05)

    def score(accuracy: float) -> dict[str, float]:
        counts = {"tasks": 100, "episodes": 100, "ungraded": 0, "failed": 0}
        rates = {"accuracy": accuracy, "accuracy_se": 0.03, "answered": 1.0, "sampled_tokens": 20}
        calls = {"tool_calls": 2.0 if paid else 0.1, "tool_share": 0.9 if paid else 0.05}
        return {**counts, **rates, **calls}

    easy, hard = 0.9 + luck, (0.4 if paid else 0.12) + luck
    return {
        "overall": score((easy + hard) / 2),
        "categories": {"easy": score(easy), "hard": score(hard)},
    }


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


if __name__ == "__main__":
    main()

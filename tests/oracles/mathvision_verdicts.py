"""Published verdicts beside ours: ``python tests/oracles/mathvision_verdicts.py PATH``.

PATH is a checkout of mathllm/MATH-V, whose ``outputs`` hold responses of models with what the
authors' scorer said. Writes how often ours extracts and says the same; needs this package only.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from pyvision_rl.suites.mathvision_official import extracted, same


def main(checkout: Path) -> None:
    """Compare, and write counts."""
    lines = (checkout / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    items = {row["id"]: row for row in map(json.loads, lines)}
    counts: Counter[str] = Counter()
    for file in sorted((checkout / "outputs").rglob("*.jsonl")):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if "correct" not in row or row["id"] not in items:
                continue
            item = items[row["id"]]
            golds = [str(item["answer"])]
            if item["options"]:
                golds.append(item["options"][ord(item["answer"]) - ord("A")])
            answer = extracted(row["response"])
            found = [same(gold, answer) for gold in golds]
            right = True if any(found) else None if None in found else False
            counts["verdicts"] += 1
            counts["another answer extracted"] += answer != row["model_answer"]
            counts["undecided"] += right is None
            counts["another verdict"] += right is not None and right != row["correct"]
    sys.stdout.write(f"{dict(counts)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

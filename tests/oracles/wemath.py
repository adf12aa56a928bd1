"""Scores of made runs by We-Math's own code, ``python tests/oracles/wemath.py CHECKOUT``.

CHECKOUT is one of We-Math/We-Math; needs pandas < 3. Writes ``wemath.json``: ``answers`` has rows
[response, reference, right], ``runs`` has rows [problems, numbers]. A problem is written as its
steps and the whole, 1 for right: "10:1".
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from published import commit, functions, write

RESPONSES = (
    *(
        "A",
        "B",
        "(C)",
        "C.",
        "Circle",
        "Answer: B",
        "<Answer>: <<A>>",
        "<Answer>: <<(B)>>",
        "answer: D",
    ),
    *(
        "<Thought process>: A is too big. <Answer>: B",
        "The answer is C",
        "Answer is C",
        "",
        "Answer",
        "E",
    ),
    *(
        "AB",
        "H",
        "I",
        "None of them",
        "Both A and B",
        "Answer: A. 3",
        "Answer\nB",
        "D. No correct answer",
    ),
    *(
        "  B  ",
        "<<D>>",
        ": C",
        "Answer:: <C>",
        "3",
        "a",
        "\\boxed{A}",
        "Answer: \\boxed{A}",
        "FAIL",
        "G",
    ),
    *(
        "Answer: Answer: D",
        "AnswerB",
        "Final Answer: E",
        "**B**",
        "{B}",
        "Because",
        "Answer.A",
        ">A",
        "A)",
    ),
    *(
        "Answer (A)",
        "Answer:\tA",
        "Answer: . B",
        "Answer: <.:> C",
        "HCF",
        "Dog",
        "Answer: dog",
        "Answer: Dog",
    ),
)
FUNCTIONS = (
    *("load_and_process_data", "process_steps_data", "calculate_metrics", "compute_final_scores"),
    "update_main_results_df",
)
EDGES = (
    ("11:1", "10:1", "01:1", "00:1", "11:0", "10:0", "00:0"),
    ("111:1", "110:1", "100:1", "000:1", "111:0", "101:0", "000:0"),
    ("11:1", "10:1", "000:1", "110:1", "111:0", "00:0", "11:0", "001:0"),
)


def main(checkout: Path) -> None:
    """Score and write."""
    file = checkout / "evaluation" / "four_dimensional_metrics.py"
    space = functions(file, FUNCTIONS, {"pd": pd, "np": np, "json": json})
    found = {"commit": commit(checkout)}
    rows = [[r, gold, right] for gold in "ABCDE" for r, right in _answers(space, gold)]
    write("wemath", "answers", {**found, "rows": rows})
    draw = random.Random(0)
    runs = [list(edge) for edge in EDGES]
    for odds in (0.3, 0.6, 0.9):
        runs.append([_drawn(draw, 2, odds) for _ in range(360)])
        runs[-1] += [_drawn(draw, 3, odds) for _ in range(165)]
    runs.append([_drawn(draw, draw.choice((2, 3)), 0.6) for _ in range(40)])
    write("wemath", "runs", {**found, "rows": [[run, _scored(space, run)] for run in runs]})


def _drawn(draw: random.Random, num_steps: int, odds: float) -> str:
    bits = "".join("01"[draw.random() < odds] for _ in range(num_steps + 1))
    return f"{bits[:-1]}:{bits[-1]}"


def _answers(space: dict[str, Any], gold: str) -> list[tuple[str, bool]]:
    data = [{"response": r, "answer": gold} for r in RESPONSES]
    frame = space["load_and_process_data"](_file(data))
    return [(r, bool(right)) for r, right in zip(RESPONSES, frame["joker"], strict=True)]


def _scored(space: dict[str, Any], run: list[str]) -> dict[str, Any]:
    data = []
    for number, problem in enumerate(run):
        steps, whole = problem.split(":")
        parts = [*enumerate(steps, 1), ("multi", whole)]
        for part, right in parts:
            response = "Answer: A" if right == "1" else "Answer: B"
            row = {"ID": str(number), "key": f"{len(steps)}steps_{part}", "answer": "A"}
            data.append({**row, "response": response, "knowledge concept": "c"})
    frame = space["load_and_process_data"](_file(data))
    two, three = (
        space["process_steps_data"](frame[frame["key"].str.contains(f"{n}steps")], n)
        for n in (2, 3)
    )
    metrics = space["calculate_metrics"](two, three)
    counts, _ = space["compute_final_scores"](metrics, total_count=525)
    table = space["update_main_results_df"](_Rows(), "made", counts, _)
    scores = {name: table[name] for name in ("Score (Strict)", "Score (Loose)")}
    steps = [frame[frame["key"].str.match(f"{n}steps_[123]")]["joker"] for n in (2, 3)]
    plain = {"S1": float(pd.concat(steps).mean())}
    for name, merged in (("S2", two), ("S3", three)):
        if len(merged):
            plain[name] = float(merged["joker_multi"].astype(float).mean())
    return {**counts, **scores, **plain}


class _Rows:
    """Stands for the table that the published function appends to."""

    def _append(self, row: dict[str, Any], **_: object) -> dict[str, Any]:
        return row


def _file(data: list[dict[str, Any]]) -> str:
    path = Path(tempfile.mkdtemp()) / "made.json"
    path.write_text(json.dumps(data))
    return str(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

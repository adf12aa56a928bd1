"""Writes ``tirbench.json``: what TIR-Bench's own script gives for made extracted answers.

Run from the repository's root, in an environment with Levenshtein, math-verify and matplotlib::

    python tests/oracles/tirbench.py TIR_BENCH

The argument is a checkout at the commit below. Only results are kept, none of its code.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.oracles.made_answers import load, stub, write
from tests.suites.minis import tirbench_rows

COMMIT = "f79c756"
LETTERS = ("A", "B", "C", "(B)", "b", "B.", "Extracted answer: B", "**C**", "CDA", "A, C, D", "ACD")
TEXTS = ("13%", "third box", "a dog", "south", "the third one", "", "xyz", "Definitely", "JUNK")
NUMBERS = (
    "37.5",
    "37.50 bar",
    "90",
    "90 degrees",
    "12",
    "1 2",
    "x = 12",
    "24/2",
    "3",
    "three",
    "8.0",
)
LISTS = ("8.0", "4, 7", "(4,7)", "7, 4", "row 4, 7 columns", "2, 5, 9", "[2,5]", "9 5 2 1", "5")
ORDERS = ("3, 1, 4, 2", "3,1,2,4", "3 1 4 2", "1, 2, 3", "first 3, then 1, 4, 2", "1,1,1,1", "3:4")
OCR = ("mobi", "The word is mobility.", "Mobi", "harbour", "harbor")


def main() -> None:
    """Score every answer of every item in one run of the script."""
    sys.path.insert(0, sys.argv[1])
    stub("openai", OpenAI=object, AzureOpenAI=object)
    stub("tqdm", tqdm=iter)
    script = load(Path(sys.argv[1]) / "calculate_score.py", "kit_tir")
    items: dict[str, dict[str, Any]] = {}
    for row in tirbench_rows():
        for answer in (*LETTERS, *TEXTS, *NUMBERS, *LISTS, *ORDERS, *OCR):
            made = {"extracted_answer": answer, "model_response": answer}
            items[str(len(items))] = dict(row) | made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.json"
        path.write_text(json.dumps(items))
        sys.argv = ["calculate_score.py", "--lists", path.name, "--data-dir", folder]
        script.main()
        scored = json.loads(path.read_text())
    cases = [
        [item["question_id"], item["extracted_answer"], float(item["true_false"])]
        for item in scored.values()
    ]
    out = {"commits": {"official": COMMIT}, "cases": cases}
    write(__file__, out)


if __name__ == "__main__":
    main()

"""Scores of made answers by both kits, ``python tests/oracles/vlmsareblind.py VLMEVALKIT LMMS``.

The two are checkouts of VLMEvalKit and lmms-eval; needs pandas. Writes ``vlmsareblind.json``. A row
is [answer, kind, reference, right].
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pandas as pd
from published import commit, functions, write

KINDS = (
    ("Subway Connections", "3"),
    ("Nested Squares", "4"),
    ("Line Plot Intersections", "2"),
    ("Touching Circles", "No"),
    ("Touching Circles", "Yes"),
    ("Counting Grid - Word Grids", "4,5"),
    ("Counting Grid - Blank Grids", "10,3"),
    ("Olympic Counting - Pentagons", "5"),
    ("Olympic Counting - Circles", "9"),
    ("Circled Letter", "c"),
)
ANSWERS = (
    *(
        "3",
        "{3}",
        "4",
        "{4}",
        "{2}",
        "2",
        "{02}",
        "{ 3 }",
        "It is {3} or {4}",
        "no",
        "No",
        "NO.",
        "yes",
    ),
    *(
        "{Yes}",
        "{no}",
        "I know",
        "(4,5)",
        "(4, 5)",
        "{4}{5}",
        "{4} {5}",
        "rows={4} columns={5}",
        "4,5",
    ),
    *(
        "Rows: {10}, Columns: {3}",
        "columns={3} rows={10}",
        "row {10} column {3}",
        "(10,3)",
        "(3,10)",
    ),
    *(
        "{10}{3}",
        "5",
        "{5}",
        "15",
        "9",
        "{9}",
        "19 circles",
        "c",
        "C",
        "{c}",
        "{C}",
        "the letter c",
    ),
    *("", "{}", "{x}", "none", "five", "rows={10}  columns={3}", "{4,5}", "4 x 5", "yes, no"),
)


def main(kit: Path, lmms: Path) -> None:
    """Score and write."""
    file = lmms / "lmms_eval" / "tasks" / "vlmsareblind" / "utils.py"
    names = ("parse_response", "vlmsareblind_process_results")
    process = functions(file, names, {"re": re})["vlmsareblind_process_results"]
    made = [(a, kind, gold) for kind, gold in KINDS for a in ANSWERS]
    rows = []
    for answer, kind, gold in made:
        right = process({"task": kind, "groundtruth": gold}, [answer])["accuracy"]
        rows.append([answer, kind, gold, right == 1.0])
    write("vlmsareblind", "lmms-eval", {"commit": commit(lmms), "rows": rows})
    judge = _vlmblind(kit / "vlmeval" / "dataset" / "image_mcq.py")
    rows = [[a, kind, gold, judge(a, kind, gold)] for a, kind, gold in made]
    write("vlmsareblind", "vlmevalkit", {"commit": commit(kit), "rows": rows})


def _vlmblind(file: Path):
    """The class's own ``evaluate``, given one row at a time."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "VLMBlind")
    found.bases = []
    space = {
        "pd": pd,
        "load": lambda frame: frame,
        "dump": lambda *_: None,
        "get_intermediate_file_path": lambda *_: "",
    }
    exec(compile(ast.Module([found], []), str(file), "exec"), space)

    def judge(answer: str, kind: str, gold: str) -> bool:
        frame = pd.DataFrame([{"task": kind, "prediction": answer, "answers": gold}])
        return bool(space["VLMBlind"]().evaluate(frame)[kind][0] == 1)

    return judge


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

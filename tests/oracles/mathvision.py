"""Scores of made answers by MATH-Vision's and VLMEvalKit's own code.

``python tests/oracles/mathvision.py official CHECKOUT`` runs ``evaluate`` of mathllm/MATH-V itself
(latex2sympy2, tqdm, fire), ``... vlmevalkit CHECKOUT`` the rules of VLMEvalKit
(latex2sympy2_extended). Writes ``mathvision.json``. A row is [answer, options, reference,
extracted, right]; right is null where the kit asks a language model.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import string
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from published import commit, functions, write

VALUES = ("$\\frac{1}{2}$", "$2 \\sqrt{3}$", "$30^{\\circ}$", "24", "none of these")
LABELS = ("A", "B", "C", "D", "E")
OPTION_ANSWERS = (
    *(
        "A",
        "B",
        "a",
        "(B)",
        "(b)",
        "{C}",
        "A.",
        "B. 3",
        "\\frac{1}{2}",
        "\\frac12",
        "1/2",
        "0.5",
        "$0.5$",
    ),
    *(
        "2\\sqrt{3}",
        "2\\sqrt3",
        "3.46",
        "3.464",
        "30",
        "30^\\circ",
        "24",
        "24.0",
        "24.004",
        "24.01",
        "E",
    ),
    *(
        "none of these",
        "The answer is B",
        "the answer is (B).",
        "It is 24.",
        "so (D).",
        "A or B",
        "",
        "?",
    ),
    *(
        "\\boxed{B}",
        "\\text{B}",
        "B\nbecause",
        "(B) B\nyes",
        "x = 24",
        "Therefore, the answer is D",
        "25",
    ),
)
FREE = (
    *(
        "6",
        "0",
        "-3",
        "2.5",
        "7/3",
        "\\frac{1}{3}",
        "5\\sqrt{5}",
        "24+4\\pi",
        "(3,-4)",
        "1:2",
        "45^2",
    ),
    *("$4 \\pi$", "27000-4500\\pi", "\\frac{360}7"),
)
FREE_ANSWERS = (
    *(
        "6",
        "6.0",
        "6.004",
        "6.006",
        "06",
        "six",
        "6 cm",
        "x=6",
        "0",
        "0.004",
        "-0",
        "-3",
        "−3",
        "2.5",
        "5/2",
    ),
    *(
        "2\\frac{1}{2}",
        "2.50",
        "7/3",
        "\\frac{7}{3}",
        "2.333",
        "2.33",
        "2.3",
        "1/3",
        "0.33",
        "\\frac13",
    ),
    *(
        "0.333333",
        "33\\%",
        "5\\sqrt{5}",
        "5\\sqrt5",
        "11.18",
        "\\sqrt{125}",
        "24+4\\pi",
        "36.57",
        "36.566",
    ),
    *(
        "4(6+\\pi)",
        "(3,-4)",
        "(3, -4)",
        "(3.0,-4.0)",
        "3,-4",
        "[3,-4]",
        "1:2",
        "1/2",
        "2025",
        "45^2",
        "",
    ),
    *("45^{2}", "4\\pi", "4 \\pi", "12.57", "12.566", "\\dfrac{360}{7}", "51.43", "27000-4500\\pi"),
    *(
        "12862.83",
        "The final answer is 6",
        "So the answer is: 6.",
        "a\\approx 2.5",
        "\\boxed{6}",
        "None",
    ),
)


def official(checkout: Path) -> None:
    """Score with ``evaluate`` of the authors."""
    made = _made()
    items, lines = [], []
    for number, (answer, options, gold) in enumerate(made):
        items.append({"id": str(number), "options": options, "answer": gold})
        lines.append({"id": str(number), "response": answer})
    sys.path.insert(0, str(checkout / "evaluation"))
    head = commit(checkout)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("data").mkdir()
        for name, rows in (("data/test.jsonl", items), ("made.jsonl", lines)):
            Path(name).write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        importlib.import_module("evaluate").evaluate("made.jsonl", True)
        found = [json.loads(line) for line in Path("made.jsonl").read_text().splitlines()]
        os.chdir(here)
    rows = [
        [*one, line["model_answer"], bool(line["correct"])]
        for one, line in zip(made, found, strict=True)
    ]
    write("mathvision", "official", {"commit": head, "rows": rows})


def vlmevalkit(checkout: Path) -> None:
    """Score with the rules of VLMEvalKit; null where they find nothing."""
    matching = checkout / "vlmeval" / "utils" / "matching_util.py"
    given: dict[str, Any] = {
        "cp": copy,
        "os": os,
        "re": re,
        "string": string,
        "Counter": Counter,
        "logger": _Silent(),
    }
    names = ("_VERBOSE_ANSWER_RE", "can_infer_option", "can_infer_text", "can_infer")
    infer = functions(matching, names, given)["can_infer"]
    extended = importlib.import_module("latex2sympy2_extended")
    given = {"latex2sympy": extended.latex2sympy, "can_infer": infer, "logger": _Silent()}
    file = checkout / "vlmeval" / "dataset" / "utils" / "mathv.py"
    check = functions(file, ("is_equal", "list_to_dict", "post_check"), given)["post_check"]
    rows = []
    for answer, options, gold in _made():
        line = {"prediction": answer, "answer": gold, "choices": str(options)}
        found = check(line, prefetch=True)
        right = bool(check({**line, "res": found})) if found else None
        rows.append([answer, options, gold, "", right])
    write("mathvision", "vlmevalkit", {"commit": commit(checkout), "rows": rows})


class _Silent:
    def info(self, *_: object) -> None:
        pass

    warning = info


def _made() -> list[tuple[str, list[str], str]]:
    made = [(a, list(VALUES), gold) for gold in "ABCDE" for a in OPTION_ANSWERS]
    made += [(a, list(LABELS), gold) for gold in "AD" for a in OPTION_ANSWERS]
    made += [(a, [], gold) for gold in FREE for a in FREE_ANSWERS]
    return made


if __name__ == "__main__":
    {"official": official, "vlmevalkit": vlmevalkit}[sys.argv[1]](Path(sys.argv[2]))

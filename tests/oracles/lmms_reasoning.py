"""Scores of made answers by lmms-eval, ``python tests/oracles/lmms_reasoning.py CHECKOUT``.

CHECKOUT is one of lmms-eval; needs math-verify. Writes ``lmms_reasoning.json``. A row is [answer,
reference, right, rules]: right is the whole score without a judge; rules is what its rules alone
say, before math-verify. An answer is put between the tags that lmms-eval asks for.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from math_verify import parse, verify
from published import commit, functions, write

LETTERS = (
    *(
        "A",
        "B",
        "(A)",
        "A.",
        "A)",
        "A: 3",
        "a",
        "B. four",
        "The answer is A",
        "Answer is B",
        "answer: A",
    ),
    *(
        "A or B",
        "1. A",
        "2. B",
        "the best answer is D",
        "I choose C",
        "Circle",
        "None",
        "",
        "3",
        "A_",
        "D-",
    ),
    *(
        "C=3",
        "(A) and (B)",
        "Not A but B",
        "B!",
        "'A'",
        "FEED",
        "Option H",
        "H",
        "I",
        "so B = C",
        "yes: B.",
    ),
)
NUMBERS = (
    *(
        "13",
        "13.0",
        "13.",
        "12.999",
        "1/2",
        "0.5",
        ".5",
        "0.50",
        "-9",
        "9",
        "1,000",
        "1000",
        "",
        "none",
    ),
    *("13 cm", "x = 13", "thirteen", "0", "00", "130", "26/2", "2.0944", "2.09", "5e-1", "13 13"),
)
TEXTS = (
    *(
        "May",
        "may",
        "May.",
        "mays",
        "In May",
        "Brown",
        "Blue",
        "blue",
        "(4, 3)",
        "(4,3)",
        "4, 3",
        "white",
    ),
    *("whit", "white ", "DE", "Dog", "E", "[1, 6, 2]", "y = -3", "y=-3", "-3", ""),
)
FUNCTIONS = (
    *("extract_boxed_answer", "extract_anwser_tag", "simple_parse", "parse_mcq"),
    *("relax_exact_match", "acc_reward"),
)


def main(checkout: Path) -> None:
    """Score and write."""
    file = checkout / "lmms_eval" / "tasks" / "_task_utils" / "reasoning_utils.py"
    given = {"re": re, "parse": parse, "verify": verify, "USE_LLM_JUDGE": "False"}
    kit = functions(file, FUNCTIONS, given)
    made = [(a, gold) for gold in "ABCD" for a in LETTERS]
    made += [(a, gold) for gold in ("13", "0.5", "-9", "1000") for a in NUMBERS]
    made += [
        (a, gold) for gold in ("May", "Blue", "(4, 3)", "white", "DE", "y = -3") for a in TEXTS
    ]
    rows = []
    for answer, gold in made:
        said = kit["extract_anwser_tag"](f"<answer>{answer}</answer>").strip()
        rules = kit["relax_exact_match"](kit["simple_parse"](said), kit["simple_parse"](gold))
        rows.append([answer, gold, bool(kit["acc_reward"](said, gold)), bool(rules)])
    write("lmms_reasoning", "lmms-eval", {"commit": commit(checkout), "rows": rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

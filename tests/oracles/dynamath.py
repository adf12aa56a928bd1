"""Scores of made answers by DynaMath's own scorer, ``python tests/oracles/dynamath.py CHECKOUT``.

CHECKOUT is one of VLMEvalKit. Writes ``dynamath.json``. A row is [answer, kind, reference, right];
right is null where the scorer asks a language model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from published import commit, functions, write

NUMBERS = ("2.0944", "13", "0", "-9", "108.0", "0.5")
LETTERS = ("A", "B", "C", "D", "E")
TEXTS = ("May", "y = -3", "(4, 3)", "DE", "Product B", "13:18", "[1, 6, 2, 0, 5]")
FLOATS = (
    *(
        "2.094",
        "2.0944",
        "2.0955",
        "2.0954",
        "2.1",
        "13",
        "13.0",
        "12.999",
        "13.0011",
        "13 cm",
        "0",
    ),
    *("0.0", "-0.001", "0.0011", "-9", "-9.0", "9", "108", "108.0005", "1e2", "0.5", "1/2", "50%"),
    *("0.667π", "π", "2π", "0.6666667π rad", "half", "", "nan", "inf", "1_3", "²", "13.", ".5"),
    *(" 13", "13,0", "the answer is 13", '{"short answer": "13"}', '{"short answer": 13}'),
    *(
        '{"solution": "x", "short answer": "0.500"}',
        '{"solution": "\\pi", "short answer": "2.094"}',
    ),
    *(
        '```json\n{"short answer": "-9.000"}\n```',
        '{"short answer": "13 cm"}',
        '{"short answer": ""}',
    ),
    *("{}", '{"short answer": null}', "{broken", "108.0 degrees"),
)
CHOICES = (
    *("A", "a", "B", "E", "F", "(A)", "(B) no", "B.", "yes", "no", "A or B", "Option C", "D)"),
    *("", "None", "C", "The answer is B", "B, because", '{"short answer": "A"}', "1"),
    *('{"short answer": "C. red"}', '{"short answer": "(D)"}', '{"short answer": "yes"}'),
)
WORDS = (
    *("May", "may", "M", "a", "", "mayor", "y = -3", "y=-3", "-3", "(4, 3)", "(4,3)", "4, 3", "4"),
    *(
        "DE",
        "ED",
        "d",
        "Product B",
        "B",
        "13:18",
        "1:18 pm",
        "[1, 6, 2, 0, 5]",
        "1, 6, 2, 0, 5",
        ",",
    ),
    *(
        " ",
        '{"short answer": "May"}',
        '{"short answer": ""}',
        '{"solution": "", "short answer": "e"}',
    ),
)


class _Asked(Exception):
    """The scorer asked its language model."""


class _Model:
    def generate(self, *_args: object, **_kwargs: object) -> str:
        raise _Asked


def main(checkout: Path) -> None:
    """Score and write."""
    file = checkout / "vlmeval" / "dataset" / "dynamath.py"
    names = ("preprocess", "transfer", "parse_answer", "DynaMath_auxeval")
    score = functions(file, names, {"np": np, "json": json})["DynaMath_auxeval"]
    made = [(a, "float", gold) for gold in NUMBERS for a in FLOATS]
    made += [(a, "multiple choice", gold) for gold in LETTERS for a in CHOICES]
    made += [(a, "text", gold) for gold in TEXTS for a in WORDS]
    rows = []
    for answer, kind, gold in made:
        try:
            line = {"prediction": answer, "answer_type": kind, "answer": gold}
            right = bool(score(_Model(), line)["correct"])
        except (_Asked, ValueError, AttributeError):
            right = None
        rows.append([answer, kind, gold, right])
    write("dynamath", "vlmevalkit", {"commit": commit(checkout), "rows": rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

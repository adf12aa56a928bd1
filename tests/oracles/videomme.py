"""Letters that both kits find, ``python tests/oracles/videomme.py VLMEVALKIT LMMS``.

The two are checkouts of VLMEvalKit and lmms-eval. Writes ``videomme.json``. A row is [answer,
letter]; the letter is empty where a kit finds none.
"""

from __future__ import annotations

import itertools
import re
import sys
import typing
from pathlib import Path

from published import commit, functions, write

FORMS = (
    *(
        "{}",
        "({})",
        "{}.",
        "{})",
        "{}: a cat",
        "{}. A dog",
        "The answer is {}",
        "the answer is {}.",
    ),
    *(
        "The best answer is: {}",
        "The best option is {}",
        "Answer: {}",
        "Option: {}",
        "**{}**",
        "{}!",
    ),
    *("I choose {}", "It is {}, not E", "Because of the Dog, {}", "A cat, so {}", "answer {} or B"),
    *(
        "Best answer: {}",
        "The correct option is {}",
        "<{}>",
        "'{}'",
        "so {}",
        "{} and {}",
        "x{}",
        "{}x",
    ),
    *(
        "정답은 {}",
        "答案是{}",
        "My answer is {}. Because C",
        "(A) no (B) no ({}) yes",
        "1. {}",
        "no{}",
    ),
)
PLAIN = (
    *(
        "",
        " ",
        "none",
        "E",
        "a",
        "all of them are wrong and so on for more than ten words in a row",
    ),
    *(
        "Because",
        "Dog",
        "It Depends",
        "ABCD",
        "A B C D",
        "A, B",
        "A or B?",
        "the answer is unknown",
    ),
    *("BEST", "Answer", "The answer", "the answer is\n(C)", "A.B.C.", "not A", "F)", "Cats. D"),
)


def main(kit: Path, lmms: Path) -> None:
    """Find and write."""
    made = [form.format(c, c) for form, c in itertools.product(FORMS, "ABCDEF")] + list(PLAIN)
    file = kit / "vlmeval" / "dataset" / "utils" / "videomme.py"
    find = functions(file, ("extract_characters_regex",), {"re": re})["extract_characters_regex"]
    rows = [[text, find(text)] for text in made]
    write("videomme", "vlmevalkit", {"commit": commit(kit), "rows": rows})
    file = lmms / "lmms_eval" / "tasks" / "_task_utils" / "mcq_extract.py"
    names = ("_DEFAULT_CHOICES", "_ANSWER_PHRASES", "_FORMAT_PRIORITY", "extract_mcq_answer")
    given = {"List": list, "Optional": typing.Optional}
    find = functions(file, names, given)["extract_mcq_answer"]
    rows = [[text, find(text, choices=list("ABCD"))] for text in made]
    write("videomme", "lmms-eval", {"commit": commit(lmms), "rows": rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

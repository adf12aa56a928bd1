"""Writes ``hrbench.json``: what lmms-eval and VLMEvalKit give for made answers, and for cycles.

Run from the repository's root, in an environment with pandas and what the two import::

    python tests/oracles/hrbench.py LMMS_EVAL VLMEVALKIT

The arguments are checkouts at the commits below. Only results are kept, none of their code. Null
stands where lmms-eval would ask a language model.
"""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.oracles.made_answers import answers, load, stub, write
from tests.suites.minis import HRBENCH_COLUMNS, hrbench_rows

COMMITS = {"lmms-eval": "75571cf", "vlmevalkit": "e8e78f0"}


def main() -> None:
    """Score every answer with both kits, and made hits with VLMEvalKit's report."""
    import pandas as pd

    lmms_eval, vlmevalkit = map(Path, sys.argv[1:3])
    stub("loguru", logger=logging.getLogger("kit"))
    stub("requests")
    stub("vlmeval.smp.log", get_logger=logging.getLogger)
    folder = lmms_eval / "lmms_eval/tasks/hrbench"
    stub("lmms_eval.tasks.hrbench")
    load(folder / "hrbench_evals.py", "lmms_eval.tasks.hrbench.hrbench_evals")
    theirs = load(folder / "utils.py", "kit_hrbench")
    matching = load(vlmevalkit / "vlmeval/utils/matching_util.py", "kit_matching")
    report = load(vlmevalkit / "vlmeval/dataset/utils/hrbench.py", "kit_report")
    judge = theirs.hrbench_evaluator
    rows = [dict(zip(HRBENCH_COLUMNS, row, strict=True)) for row in hrbench_rows()]
    cases, prompts = [], []
    for number, row in enumerate(rows):
        options = {name: row[name] for name in "ABCD"}
        prompts.append(theirs.hrbench_doc_to_text(row))
        for answer in answers(tuple(options.values())):
            lmms = judge.can_infer(answer.strip(), dict(options))
            found = matching.can_infer(answer, dict(options))
            scores = {
                "lmms-eval": float(lmms.lower() == row["answer"].lower()) if lmms else None,
                "vlmevalkit": float(found == row["answer"]),
            }
            cases.append([number, answer, scores])
    runs = []
    for seed in range(5):
        draw = random.Random(seed)
        hits = [draw.randint(0, 1) for _ in rows]
        frame = pd.DataFrame(
            {
                "cycle_category": [row["cycle_category"] for row in rows],
                "category": [row["category"] for row in rows],
                "hit": hits,
            }
        )
        made = report.report_acc_hrbench(frame)
        means = made[made["cycle"] == "Average"]
        names = zip(means["type"], means["accuracy"], strict=True)
        runs.append([hits, {name: float(value) for name, value in names}])
    out = {"commits": COMMITS, "prompts": {"lmms-eval": prompts}, "cases": cases, "reports": runs}
    write(__file__, out)


if __name__ == "__main__":
    main()

"""Writes ``vstar.json``: what lmms-eval and VLMEvalKit give for made answers to V* questions.

Run from the repository's root, in an environment with what the two import::

    python tests/oracles/vstar.py LMMS_EVAL VLMEVALKIT

The arguments are checkouts at the commits below. Only results are kept, none of their code.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.oracles.made_answers import answers, load, stub, write
from tests.suites.minis import LETTER, VSTAR

COMMITS = {"lmms-eval": "75571cf", "vlmevalkit": "e8e78f0"}


def main() -> None:
    """Score every answer with both kits."""
    lmms_eval, vlmevalkit = map(Path, sys.argv[1:3])
    stub("loguru", logger=logging.getLogger("kit"))
    stub("vlmeval.smp.log", get_logger=logging.getLogger)
    theirs = load(lmms_eval / "lmms_eval/tasks/vstar_bench/utils.py", "kit_vstar")
    matching = load(vlmevalkit / "vlmeval/utils/matching_util.py", "kit_matching")
    cases, prompts = [], []
    for number, (question, options, label, category) in enumerate(VSTAR):
        listed = " ".join(f"({'ABCD'[i]}) {o}" for i, o in enumerate(options))
        doc = {"text": f"{question} {listed}", "label": label, "category": category}
        doc["question_id"] = number
        prompts.append(theirs.vstar_doc_to_text(doc, {"post_prompt": f"\n{LETTER}"}))
        for answer in answers(options):
            lmms = theirs.vstar_process_results(doc, [answer])["vstar_overall_acc"]["score"]
            found = matching.can_infer(answer, dict(zip("ABCD", options, strict=False)))
            cases.append([number, answer, {"lmms-eval": lmms, "vlmevalkit": float(found == label)}])
    out = {"commits": COMMITS, "prompts": {"lmms-eval": prompts}, "cases": cases}
    write(__file__, out)


if __name__ == "__main__":
    main()

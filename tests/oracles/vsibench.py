"""Writes ``vsibench.json``: what three scorers give for made answers to VSI-Bench questions.

Run from the repository's root, in an environment with pandas, numpy and yaml::

    python tests/oracles/vsibench.py THINKING_IN_SPACE LMMS_EVAL PYVISION_RL

The arguments are checkouts at the commits below. Only results are kept, none of their code. Where
PyVision-RL's function raises because it finds no number, 0 is kept.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.oracles.made_answers import load, stub, write
from tests.suites.minis import vsibench_rows

COMMITS = {"official": "51e089c", "lmms-eval": "75571cf", "reference": "62ca599"}
LETTERS = ("A", "b", "C.", "(B)", "D", "A. left", "B, I think", "", "right", "The answer is A")
# Of the reference: the table of mean relative accuracy, and more between.
SHARES = (1, 0.9, 0.85, 0.8, 0.75, 0.6, 0.5, 1.5, 2 / 3, 0.95, 1.05, 1.1, 1.3, 1.45, 2, 0.1, -1)
FORMS = ("{n}", "{n}.", "about {n} m", "{n} meters", "two of them, {n} in all")
OTHER = (
    "",
    "no idea",
    "seven",
    "twenty-one",
    "three hundred and two",
    "1,000",
    "1e3",
    "inf",
    "nan",
)
PAIRS = ((10, 10), (9, 10), (8.5, 10), (8, 10), (7.5, 10), (6, 10), (5, 10), (15, 10), (3, 4))
PAIRS += ((2, 3), (1.9, 2))


def main() -> None:
    """Score every answer, then a whole run."""
    official, lmms_eval, reference = map(Path, sys.argv[1:4])
    stub("loguru", logger=logging.getLogger("kit"))
    stub("datasets", Dataset=object)
    kits = {
        "official": load(official / "lmms_eval/tasks/vsibench/utils.py", "kit_vsi"),
        "lmms-eval": load(lmms_eval / "lmms_eval/tasks/vsibench/utils.py", "kit_vsi_lmms"),
    }
    rule = load(reference / "verl_agents/verl/utils/reward_score/rule_match_verify.py", "kit_mra")
    cases, prompts = [], {name: [] for name in kits}
    for number, row in enumerate(vsibench_rows()):
        for name, kit in kits.items():
            prompts[name].append(kit.vsibench_doc_to_text(dict(row), {"default": {}}))
        for answer in made(row):
            scores = {name: scored(kit, row, answer) for name, kit in kits.items()}
            scores["reference"] = by_rule(rule, row, answer)
            cases.append([number, answer, scores])
    table = [[p, g, *relative(kits["official"], rule, p, g)] for p, g in PAIRS]
    docs = [whole(kits["official"], row, n) for n, row in enumerate(vsibench_rows())]
    run = kits["official"].vsibench_aggregate_results(docs)
    report = {name: value for name, value in run.items() if isinstance(value, float)}
    scores = [doc.get("accuracy", doc.get("MRA:.5:.95:.05")) for doc in docs]
    out = {"commits": COMMITS, "prompts": prompts, "cases": cases, "table": table}
    out |= {"report": [list(map(float, scores)), report]}
    write(__file__, out)


def made(row: dict[str, Any]) -> list[str]:
    """Return answers to one question."""
    if row["options"]:
        return list(LETTERS)
    gold = float(row["ground_truth"])
    said = [form.format(n=f"{share * gold:.10g}") for share in SHARES for form in FORMS]
    return list(dict.fromkeys([*said, *OTHER]))


def scored(kit: ModuleType, row: dict[str, Any], answer: str) -> float:
    """Return a kit's score."""
    found = next(iter(kit.vsibench_process_results(dict(row), [answer]).values()))
    return float(found["accuracy"] if row["options"] else found["MRA:.5:.95:.05"])


def whole(kit: ModuleType, row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return what the kit makes of one answer of a run: some right, some near, some wrong."""
    share = SHARES[number + 1]
    if row["options"]:
        answer = (row["ground_truth"], "A")[number % 2]
    else:
        answer = f"{share * float(row['ground_truth']):.10g}"
    return dict(kit.vsibench_process_results(dict(row), [answer])["vsibench_score"])


def by_rule(rule: ModuleType, row: dict[str, Any], answer: str) -> float:
    """Return PyVision-RL's score."""
    if row["options"]:
        return float(rule.compute_score_rule(answer, row["ground_truth"]))
    try:
        return float(rule.compute_score_rule_mra(answer, row["ground_truth"])["score"])
    except TypeError:
        return 0.0


def relative(kit: ModuleType, rule: ModuleType, answer: float, gold: float) -> tuple[float, float]:
    """Return both mean relative accuracies of two numbers."""
    official = kit.mean_relative_accuracy(float(answer), float(gold), 0.5, 0.95, 0.05)
    return float(official), float(rule._compute_mra(float(answer), float(gold)))


if __name__ == "__main__":
    main()

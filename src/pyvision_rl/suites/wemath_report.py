r"""We-Math's four classes of problems, its scores, and plain accuracies.

In: scored questions. Out: a ``Report``. Of each problem, what became of its steps and of the whole:

    steps \ whole   right                                     wrong
    all right       complete mastery (CM)                     inadequate generalization (IG)
    some wrong      strict: rote memorization (RM); loose:    insufficient knowledge (IK)
                    RM only if every step is wrong, else CM
    score = (problems - IG / 2 - RM - IK) / problems

The authors divide by the constant 525 and start from it, so that every problem that is missing from
a run counts as mastered. Here the problems that are complete are counted, and a note says how many
are not. Papers quote the strict score, the loose one, or plain accuracy, often without saying so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyvision_rl.suites import reports
from pyvision_rl.suites.base import Report, Scored, Suite

NUM_PROBLEMS = 525
NUM_ITEMS = 1740
HEADLINE = "score_strict"
WHOLE = "multi"


@dataclass(frozen=True, slots=True)
class Classes:
    """How many problems are of which class; shares of one where a problem has several samples."""

    ik: float
    ig: float
    cm_strict: float
    cm_loose: float
    rm_strict: float
    rm_loose: float


def classes(problems: Sequence[Sequence[tuple[Sequence[bool], bool]]]) -> Classes:
    """Return the classes of problems.

    Args:
        problems: For each, its samples: whether each step is right, and whether the whole is.
    """
    names = ("ik", "ig", "cm_strict", "cm_loose", "rm_strict", "rm_loose")
    sums = dict.fromkeys(names, 0.0)
    for samples in problems:
        for steps, whole in samples:
            for name in _names(steps, whole):
                sums[name] += 1 / len(samples)
    return Classes(**sums)


def score(found: Classes, num_problems: int, *, strict: bool) -> float:
    """Return the strict or loose score of at least one problem."""
    memorized = found.rm_strict if strict else found.rm_loose
    return (num_problems - 0.5 * found.ig - memorized - found.ik) / num_problems


def report(suite: Suite, items: Sequence[Scored], protocol: str) -> Report:
    """Return the report of a run."""
    said = reports.notes(suite, protocol, items, NUM_ITEMS)
    usable = reports.graded(items)
    if not usable:
        return reports.nothing(HEADLINE, items, said)
    problems, incomplete = _problems(items)
    counts = reports.counted(items)
    counts |= {"problems": len(problems), "incomplete_problems": incomplete}
    if len(problems) != NUM_PROBLEMS:
        said.append(
            f"{len(problems)} of {NUM_PROBLEMS} problems are complete; scores are over those, "
            f"where the authors' formula divides by {NUM_PROBLEMS} whatever the run holds"
        )
    numbers = _scores(problems) if problems else {}
    numbers["accuracy"] = reports.mean(usable)
    groups = reports.grouped(usable, lambda item: item.task.input.category)
    numbers |= {name: reports.mean(group) for name, group in groups.items()}
    return Report(HEADLINE, numbers, counts, tuple(said))


def _names(steps: Sequence[bool], whole: bool) -> tuple[str, ...]:
    """The classes that one sample of a problem belongs to."""
    if not whole:
        return ("ig",) if all(steps) else ("ik",)
    strict = "cm_strict" if all(steps) else "rm_strict"
    return strict, "cm_loose" if any(steps) else "rm_loose"


def _problems(items: Sequence[Scored]) -> tuple[list[list[tuple[list[bool], bool]]], int]:
    """The samples of each complete problem, and how many problems are not complete."""
    found, incomplete = [], 0
    for parts in reports.grouped(items, lambda item: reports.fact(item, "problem")).values():
        by_key = {reports.fact(part, "key"): part.scores for part in parts}
        num_steps = int(next(iter(by_key))[0])
        names = [f"{num_steps}steps_{part}" for part in (*range(1, num_steps + 1), WHOLE)]
        num_samples = min(len(by_key.get(name, ())) for name in names)
        if num_samples == 0:
            incomplete += 1
            continue
        right = [[by_key[name][sample] == 1 for name in names] for sample in range(num_samples)]
        found.append([(sample[:-1], sample[-1]) for sample in right])
    return found, incomplete


def _scores(problems: Sequence[Sequence[tuple[Sequence[bool], bool]]]) -> dict[str, float]:
    """Scores, and shares of the classes; rote memorization also as the authors print it."""
    found, total = classes(problems), len(problems)
    numbers = {
        HEADLINE: score(found, total, strict=True),
        "score_loose": score(found, total, strict=False),
        "IK": found.ik / total,
        "IG": found.ig / total,
        "CM_strict": found.cm_strict / total,
        "CM_loose": found.cm_loose / total,
        "RM_strict": found.rm_strict / total,
        "RM_loose": found.rm_loose / total,
    }
    solved = found.cm_strict + found.rm_strict
    if solved > 0:  # The authors print RM as a share of the problems that were solved whole.
        numbers["RM_strict_of_solved"] = found.rm_strict / solved
        numbers["RM_loose_of_solved"] = found.rm_loose / solved
    return numbers

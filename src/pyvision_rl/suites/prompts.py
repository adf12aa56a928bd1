"""How the benchmarks' kits word a question with options.

In: a question and its options. Out: text. The words are each kit's own; what an agent must do to
answer is said by the prompt template, not here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyvision_rl.suites.choices import lines

LETTER = "Answer with the letter of one option."
LETTER_DIRECTLY = "Answer with the option's letter from the given choices directly."
NUMBER = "Answer with one number."


def listed(question: str, options: Sequence[str], suffix: str = "") -> str:
    """Return question, options and suffix, one under the other; empty ones left out."""
    return "\n".join(part for part in (question.strip(), lines(options), suffix) if part)


def vlmevalkit(question: str, options: Sequence[str]) -> str:
    """Return a multiple-choice question as VLMEvalKit words it, to the last space."""
    said = f"Question: {question}\n"
    if options:
        said += f"Options:\n{lines(options)}\n"
        said += "Please select the correct answer from the options above. \n"
    return said

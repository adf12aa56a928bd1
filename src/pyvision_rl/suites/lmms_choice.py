"""Which option lmms-eval's shared rules for multiple choice find in a free text.

In: a text and the letters that may be found. Out: a letter, or None. Forms of a letter are trusted
in an order (alone at the start or the end, after "the answer is", in parentheses, ..., anywhere);
of the most trusted form the last place counts. For ``lmms-eval`` protocols only.
"""

from __future__ import annotations

from collections.abc import Iterator

_AROUND = ",.!?;:'\""
_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is"),
    *("the best answer is", "best answer is", "the correct option is", "correct option is"),
    *("the best option is", "best option is", "the choice is", "choice is"),
    *("the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *(
        "my answer is",
        "my choice is",
        "옵션",
        "정답은",
        "답은",
        "답:",
        "答案是",
        "答案为",
        "选",
        "答えは",
    ),
)
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_START, _END, _PHRASE = 10, 9, 7


def lmms_choice(text: str, letters: str) -> str | None:
    """Return the letter that lmms-eval (75571cf) finds."""
    bare = text.strip()
    for sign in _AROUND:
        bare = bare.strip(sign)
    padded = f" {bare} "
    found = list(_candidates(padded, letters)) if text.strip() else []
    if not found:
        # The kit takes the one that comes last; of letters at one place, the first.
        found = [(0, place, c) for c in letters if (place := padded.rfind(c)) >= 0]
    return max(found, key=lambda one: one[:2])[2] if found else None


def _candidates(text: str, letters: str) -> Iterator[tuple[int, int, str]]:
    """(trust, place, letter) of every form of a letter in a text."""
    bare, small = text.strip(), text.lower()
    for letter in letters:
        for form, trust in _FORMS:
            if (place := text.rfind(form.format(letter))) >= 0:
                yield trust, place, letter
        for phrase in _PHRASES:
            start = small.find(phrase)
            if start >= 0 and (place := text.find(letter, start + len(phrase))) >= 0:
                yield _PHRASE, place, letter
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield _START, 0, letter
        if bare.endswith(letter) and (len(bare) == 1 or not bare[-2].isalpha()):
            yield _END, len(text) - 1, letter

r"""What no reference says: empty talk, hedges, several boxes, words to whoever grades.

In: the text of an answer or of a turn. Out: claims about its form. Pure; reads a text a fixed
number of times and never raises. Says nothing about what is right: rules do that.
"""

from __future__ import annotations

import re
import unicodedata

from pyvision_rl.rewards.answers import normalise

MAX_READ = 100_000
"""Characters of a turn that are looked at, from its end."""

_ANSWER_TAG = re.compile(r"<(/?)answer>")
# A backslash guards the character behind it: the braces of \{1, 2\} are part of the answer.
_BRACE = re.compile(r"(?P<boxed>\\boxed\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
_UNABLE = r"(?:can ?not|can't|could not|couldn't|unable to|impossible to|not possible to)"
_KNOW = r"(?:determin|tell|answer|know|say|identif|be seen|be read|conclud|infer)"
_HEDGE = re.compile(
    rf"\b{_UNABLE}\b[^.]{{0,40}}\b{_KNOW}"
    r"|\b(?:not enough|insufficient|not sufficient|lack of) (?:information|data|context|detail)"
    r"|\bi (?:do not|don't) know\b|\bi am not sure\b|\bi'm not sure\b"
)
_WHOLE_HEDGE = re.compile(
    r"(?:it is |it's )?(?:unknown|unclear|undetermined|indeterminate|undecidable|not sure|n/?a)"
)
# Not right-handed, not true-coloured.
_RIGHT = r"(?:correct|right|true|full marks|full credit)(?![-\w])"
# Of these verbs people say more than of answers: "treat the patient as right handed".
_THE_ANSWER = r"(?:this|it|my|the (?:answer|reply|response|result|output|solution|submission))"
_TO_GRADER = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:instruction|prompt|rule|guideline)"
    rf"|\b(?:(?:grade|mark|score|accept|judge)\b (?:this|it|my|the)"
    rf"|(?:count|rate|treat|evaluate|consider|deem)\b {_THE_ANSWER})"
    rf"\b[^.\n]{{0,30}}\bas\b[^.\n]{{0,10}}\b{_RIGHT}"
    rf"|\b(?:grade|mark|accept|judge) (?:this|it|my answer|(?:the|this) answer) {_RIGHT}"
    r"|\b(?:give|award|assign)\b[^.\n]{0,20}\bfull (?:marks|credit|score)"
    r"|\b(?:dear|hello|hey|to the|attention:?) (?:grader|judge|evaluator|examiner)\b"
    r"|\b(?:grader|judge|evaluator)\s*[:,]\s*(?:reply|output|answer|return|say|respond)\b"
    r"|\bthis (?:answer|response|solution) is (?:correct|right)(?![-\w])"
    r"|\b(?:verdict|reward)\s*[\"']?\s*[:=]\s*[\"']?(?:1|correct|right|true)\b"
    r"|\bthe (?:reference|gold) answer is (?:wrong|incorrect|the same)\b",
    re.IGNORECASE,
)


def says_something(text: str) -> bool:
    """Return whether a text holds a letter, a number or a sign; a lone colon has fooled judges."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)


def hedges(text: str) -> bool:
    """Return whether an answer says that it gives none."""
    text = normalise(text[:2000]).replace("’", "'")
    return bool(_HEDGE.search(text) or _WHOLE_HEDGE.fullmatch(text))


def speaks_to_grader(text: str) -> str:
    """Return the words by which a text tells its grader what to say; empty without any."""
    found = _TO_GRADER.search(text[-MAX_READ:])
    return "" if found is None else found[0].strip()


def boxes(turn: str) -> tuple[str, ...]:
    r"""Return what the outermost ``\boxed{...}`` of a turn's last answer block hold.

    Several of the same content are one; without an answer block there is none.
    """
    block = _last_block(turn[-MAX_READ:])
    found: dict[str, str] = {}
    stack: list[int | None] = []
    for mark in _BRACE.finditer(block):
        if mark["boxed"] or mark["open"]:
            inside = any(start is not None for start in stack)
            stack.append(mark.end() if mark["boxed"] and not inside else None)
        elif mark["close"] and stack:
            start = stack.pop()
            if start is not None:
                content = block[start : mark.start()].strip()
                found.setdefault(normalise(content), content)
    return tuple(content for content in found.values() if content)


def _last_block(text: str) -> str:
    """What stands between the last pair of answer tags."""
    opened, block = None, ""
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            block, opened = text[opened : tag.start()], None
    return block

r"""From the text of a turn to the action it asks for.

In: the text a policy wrote and why it stopped. Out: ``RunCode``, ``GiveAnswer`` or ``Malformed``.
Never raises, and reads the text a fixed number of times: hostile text costs no more than its
length. Runs nothing and grades nothing.

Rules (paper section 3.1). An answer wins over code. Of several blocks the last one counts. The
answer is the last ``\boxed{...}`` of the last answer block that is not empty, or that whole block
when it has none. Code stands in a ```` ```python ```` fence inside ``<code>`` tags; without tags
the last such fence counts.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from pyvision_rl.types import Action, GiveAnswer, Malformed, RunCode, StopReason

CODE_CLOSE = "</code>"
"""Sampling stops when this is written, so that a policy cannot invent the observation."""

_CONTROL = re.compile(
    r"<\|(?:endoftext|im_start|im_end|vision_start|vision_end|vision_pad|image_pad|video_pad)\|>"
)
_ANSWER_TAG = re.compile(r"<(/?)answer>")
_CODE_TAG = re.compile(r"<(/?)code>")
# A backslash guards the character behind it: the braces of \{1, 2\} are part of the answer.
_BRACE = re.compile(r"(?P<boxed>\\boxed\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
_NEXT_QUOTED = re.compile(r"""\S(['"`])[\s,;&/]+(?:(?:and|or)\s+)?\1\S""")
"""Where one quoted text ends and the next begins."""
_FENCE = re.compile(
    r"(?P<line>^[ \t]*)?```(?P<python>(?:python3?|py)\b)?(?P<end>[ \t]*\r?(?=\n|\Z))?",
    re.MULTILINE | re.IGNORECASE,
)
_BLANK_LINES = re.compile(r"\A(?:[ \t]*\r?\n)+")


def parse(text: str, stop: StopReason) -> Action:
    """Return the action of one turn; ``Malformed.why`` is half a sentence, for ``refusal``.

    Args:
        text: The turn without its end-of-turn token.
        stop: A turn cut off by its token limit counts only if its answer block is complete.
    """
    if token := _CONTROL.search(text):
        # Named without its brackets: the name goes back to the policy.
        return Malformed(f"it holds the control token {token[0].strip('<|>')}")
    if answer := _answer(text):
        return GiveAnswer(answer)
    if stop is StopReason.LENGTH:
        return Malformed("it was cut off at the token limit of a turn")
    if _code_span(text) is not None:
        _, code, _ = split_code(text)
        return RunCode(code) if code else Malformed("the code block is empty")
    if _CODE_TAG.search(text):
        return Malformed("the code block holds no complete ```python fence")
    if _ANSWER_TAG.search(text):
        return Malformed("the answer block is empty or not closed")
    return Malformed("it holds neither a code block nor an answer block")


def split_code(text: str) -> tuple[str, str, str]:
    """Return what stands before the code that ``parse`` finds, that code, and what stands after.

    Tags and fences belong to before and after. Without a complete fence all is before.
    """
    start, end = _code_span(text) or (len(text), len(text))
    return text[:start], _tidy(text[start:end]), text[end:]


def _answer(text: str) -> str:
    """The answer of the last block that holds one; empty when none does."""
    for start, end in reversed(list(_blocks(text, _ANSWER_TAG))):
        block = text[start:end]
        boxed = _last_boxed(block)
        if answer := block.strip() if boxed is None else _unquoted(boxed.strip()):
            return answer
    return ""


def _code_span(text: str) -> tuple[int, int] | None:
    """Where the code to run stands; None without a complete fence."""
    for start, end in reversed(list(_blocks(text, _CODE_TAG))):
        if found := _last_fence(text[start:end]):
            return start + found[0], start + found[1]
    return _last_fence(text)


def _blocks(text: str, tag: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where something stands between an opening tag and the closing tag right after it."""
    opened: int | None = None
    for match in tag.finditer(text):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            yield opened, match.start()
            opened = None


def _last_boxed(block: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` whose braces match; None without one."""
    # One pass with a stack: scanning from every \boxed{ would be quadratic in nested ones.
    stack: list[int | None] = []
    found: tuple[int, int] | None = None
    for match in _BRACE.finditer(block):
        if match["boxed"] or match["open"]:
            stack.append(match.end() if match["boxed"] else None)
        elif match["close"] and stack:
            start = stack.pop()
            if start is not None and (found is None or start > found[0]):
                found = (start, match.start())
    return None if found is None else block[slice(*found)]


def _unquoted(answer: str) -> str:
    """The answer without one pair of quotes around all of it."""
    if len(answer) < 2 or answer[0] != answer[-1] or answer[0] not in "'\"`":
        return answer
    # Not 'A', 'C' and not "STOP" and "GO": there the outer signs do not belong together.
    inner = answer[1:-1]
    return answer if any(m[1] == answer[0] for m in _NEXT_QUOTED.finditer(inner)) else inner.strip()


def _last_fence(text: str) -> tuple[int, int] | None:
    """Where the inside of the last complete Python fence stands; None without one.

    A fence ends at three backticks alone on a line, so that code may hold backticks itself; failing
    that, at the first three.
    """
    code: tuple[int, int] | None = None
    start: int | None = None
    inline: int | None = None
    for match in _FENCE.finditer(text):
        alone = match["line"] is not None
        if match["python"] and (start is None or alone):
            if start is not None and inline is not None:
                code = start, inline
            start, inline = match.end(), None
        elif start is not None and alone and match["end"] is not None:
            code, start = (start, match.start()), None
        elif start is not None and inline is None:
            inline = match.start()
    if start is not None and inline is not None:
        code = start, inline
    return code


def _tidy(code: str) -> str:
    """The code without blank lines around it, and flush left if all of it was indented."""
    code = _BLANK_LINES.sub("", code.rstrip())
    return textwrap.dedent(code) if code.startswith((" ", "\t")) else code

"""What a model reads of its errors: its own lines and the message, bounded in length.

In: an exception. Out: text. Describing an error runs code of the model's (``__str__``), so callers
keep it inside the time of the cell. Loaded by the child only; imports nothing of ours.
"""

from __future__ import annotations

import builtins
import io
import re
import traceback

from .output import without_addresses

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

SHOWN_FRAMES = 8
SHOWN_CAUSES = 3
"""Of an error that holds several."""
CELL = "<cell "
"""How the file name of every cell begins."""
_NOT_PYTHON = re.compile(r"\s*([\w.,\[\] ]+=\s*)?(?P<sign>[%!])")
_OFFER = {
    "%": "magic commands (lines that begin with %) are not available here: write plain Python",
    "!": "shell commands (lines that begin with !) are not available here: write plain Python",
}


def describe(error: BaseException, limit: int) -> str:
    """Return a traceback that shows the model's own lines only, at most ``limit`` characters."""
    found: traceback.TracebackException | None
    # Lines of library files are not read: they are not shown.
    found = traceback.TracebackException(
        type(error), error, error.__traceback__, lookup_lines=False, compact=True
    )
    blocks: list[str] = []
    while found is not None and len(blocks) < 3:
        blocks.insert(0, _block(found, limit // 2 if blocks else limit))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    text = "\n\nDuring handling of the above, another error occurred:\n\n".join(blocks)
    return text if len(text) <= limit else "..." + text[len(text) - limit + 3 :]


def explain(error: SyntaxError, code: str) -> None:
    """Say in the error that a line is a notebook command, if that is what is wrong with it."""
    lines = lines_of(code)
    number = error.lineno or 0
    if 0 < number <= len(lines):
        match = _NOT_PYTHON.match(lines[number - 1])
        if match:
            error.msg = _OFFER[match["sign"]]


def lines_of(code: str) -> list[str]:
    """Return the lines as Python counts them: a form feed, say, ends none."""
    return io.StringIO(code, newline=None).readlines()


def _block(found: traceback.TracebackException, limit: int) -> str:
    words = list(found.format_exception_only())
    for one in (found.exceptions or [])[:SHOWN_CAUSES]:
        words += [f"  {line}" for line in one.format_exception_only()]
    message = without_addresses("".join(words).rstrip("\n"))
    if len(message) > limit * 3 // 4:
        kept = limit * 3 // 8 - 3
        message = f"{message[:kept]} ... {message[-kept:]}"
    frames = [frame for frame in found.stack if frame.filename.startswith(CELL)]
    if not frames:
        return message
    lines = ["Traceback (most recent call last):"]
    if len(frames) > SHOWN_FRAMES:
        lines.append(f"  ... {len(frames) - SHOWN_FRAMES} earlier calls")
    for frame in frames[-SHOWN_FRAMES:]:
        lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
        if frame.line:
            lines.append(f"    {frame.line}")
    return "\n".join([*lines, message])

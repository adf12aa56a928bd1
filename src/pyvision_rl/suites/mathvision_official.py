r"""MATH-Vision's own scorer (a1f5cc3): what it takes for the answer, and when that is equal.

In: a response, and the reference. Out: the answer as that scorer writes it, and whether it equals
the reference; None where it would ask latex2sympy about something that ``arithmetic`` does not
read. The published code evaluates what comes out as Python; nothing is evaluated here. Its faults
are kept, for ``official`` and ``lmms-eval`` protocols only: phrases are searched for in prose, and
numbers are equal when they are so after rounding to two decimals, 0.001 and 0 among them.
"""

from __future__ import annotations

import re

from pyvision_rl.suites.arithmetic import value

_PHRASES = (
    "the final answer is",
    "the answer is",
    "the correct answer is",
    "the answer should be",
)
_BOX = re.compile(r"oxed{(.*)}", re.DOTALL)
# What is taken out or put in, one after the other; the order matters.
_FIRST = (
    (" ", ""),
    ("\\,", ""),
    ("∞", "\\infty"),
    ("+\\infty", "\\infty"),
    ("\\\\", "\\"),
    ("\n", ""),
    ("\\text", ""),
    ("\\mbox", ""),
    ("bmatrix", "pmatrix"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("{m}^3", ""),
    ("m^3", ""),
    ("{units}", ""),
    ("units", ""),
    ("{km}", ""),
    ("km", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
    ("$", ""),
    ("\\%", ""),
    ("{.", "{0."),
)
_LETTERS = tuple((f"{left}{c}{right}", c) for left, right in ("()", "{}") for c in "abcde")
_BARE_ROOT = re.compile(r"\\sqrt(?!\\sqrt)([^{])", re.DOTALL)
_SLASH = re.compile(r"(-?[0-9]{1,99})/(-?[0-9]{1,99})")
_NAMES = re.compile(r"[a-z]+")
# latex2sympy reads none of these: signs beyond ASCII, commands without backslash, bare parts of a
# fraction. It makes a list of what has commas, which rounds to nothing.
_FOREIGN = re.compile(
    r"[^\x00-\x7f]|(?<![\\a-z])(?:sqrt|pi)|\\!|\\d?frac(?!\{)|\\d?frac\{[^{}]*\}(?!\{)"
)
_KNOWN = frozenset(
    [
        *("frac", "dfrac", "tfrac", "sqrt", "pi", "cdot", "times", "div", "left", "right"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln"),
        *("exp", "binom", "lfloor", "rfloor", "lceil", "rceil"),
    ]
)
"""Names that latex2sympy gives a value; any other makes an expression that is equal to none."""


def extracted(response: str) -> str:
    """Return the answer in a response, in small letters and the scorer's own spelling."""
    text = _letter(response.strip())
    last = text.split("is ")[-1].rstrip(".")
    if _is_number(last):
        text = last
    if "oxed{" not in text:
        text = _after_phrases(text)
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    text = _spelled(text)
    for written, letter in _LETTERS:
        text = text.replace(written, letter)
    return text.rstrip(".").lstrip(":").strip()


def same(gold: str, answer: str) -> bool | None:
    """Return whether two texts are equal; None if only latex2sympy can tell."""
    gold, answer = gold.lower(), answer.lower()
    if not gold.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if gold.strip() == answer.strip() or _rounded(gold) == _rounded(answer):
        return True
    if _has_no_value(answer) or _has_no_value(gold):
        return False
    mine, theirs = value(answer), value(gold)
    if mine is None or theirs is None:
        return None
    return round(mine, 2) == round(theirs, 2)


def _letter(text: str) -> str:
    """The option that a response begins or ends with, else the response."""
    for c in "ABCDE":
        if text.endswith((f" {c}.", f" ({c}).")) or text.startswith((f"{c}\n", f"({c})\n")):
            return c
        if text.startswith(f"({c}) {c}\n"):
            return c
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _after_phrases(text: str) -> str:
    for small in _PHRASES:
        for phrase in (small, small.replace("the", "The")):
            found = phrase in text
            text = text.split(phrase)[-1].strip()
            if found:
                text = text.split("\n")[0].split(". ")[0]
    return text


def _spelled(text: str) -> str:
    """The last box, or the whole, behind its last equals sign, in one spelling."""
    text = text.lower().replace("{}", "")
    if boxes := _BOX.findall(text):
        text = boxes[-1]
    closing = text.find("}")
    if closing != -1 and not 0 <= text.find("{") < closing:
        text = text[:closing]
    text = text.split("=")[-1].split("\\approx")[-1]
    for written, better in _FIRST:
        text = text.replace(written, better)
    if text.startswith("."):
        text = f"0{text}"
    if "\\sqrt" in text:
        text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    if "sqrt" in text:
        text = _braced(text)
    if text == "0.5":
        text = "\\frac{1}{2}"
    whole = _SLASH.fullmatch(text)
    # int() and back, so that "01/2" stays as it is.
    if whole and text == f"{int(whole[1])}/{int(whole[2])}":
        return f"\\frac{{{whole[1]}}}{{{whole[2]}}}"
    return text


def _braced(text: str) -> str:
    r"""Fractions with braces around both parts: ``\frac12`` is ``\frac{1}{2}``."""
    first, *pieces = text.split("\\frac")
    done = first
    for piece in pieces:
        if piece.startswith("{"):
            done += f"\\frac{piece}"
        elif len(piece) < 2:
            return text
        elif piece[1] == "{":
            done += f"\\frac{{{piece[0]}}}{piece[1:]}"
        else:
            done += f"\\frac{{{piece[0]}}}{{{piece[1]}}}{piece[2:]}"
    return done


def _rounded(text: str) -> str:
    """A list in brackets with its numbers rounded; everything else as it is."""
    parts = text[1:-1].split(",")
    if len(parts) < 2 or text[0] + text[-1] not in ("()", "[]"):
        return text
    found = []
    for part in parts:
        if "infty" in part or part in ("a", "-a"):
            found.append(part)
            continue
        number = value(part)
        if number is None:
            return text
        found.append(str(round(number, 2)))
    return f"{text[0]}{','.join(found)}{text[-1]}"


def _has_no_value(text: str) -> bool:
    """Whether an expression certainly stands for no number."""
    if text.count("{") != text.count("}"):
        return False  # latex2sympy reads as far as it gets.
    if value(text) is not None:
        return _FOREIGN.search(text) is not None
    names = _NAMES.findall(text)
    is_list = any(sign in text for sign in ",;")
    nameless = not re.search("[0-9]", text) and "pi" not in names
    return is_list or nameless or any(name not in _KNOWN for name in names)

"""Answers to multiple-choice questions as models write them, for the oracles to score.

In: options. Out: texts, right and wrong, tidy and not. Ours; no row of a benchmark is among them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

NAMING = (
    "{L}",
    "({L})",
    "{L}.",
    "{L})",
    "{l}",
    "{L}. {text}",
    "({L}) {text}",
    "{text}",
    "The answer is {L}.",
    "The correct answer is **{L}**. Here is why: it can be seen in the middle of the picture.",
    "answer: {L}",
    "Option {L}",
    "\\boxed{{{L}}}",
    "It is {text}, as one sees.",
    "A closer look shows {text}, so {L}",
    "{L} seems right to me, but I am not at all sure because of the light",
    "I see {text} and not {other}.",
    "{L} or {M}",
    "Maybe {L}, maybe {M}; I choose {L}",
    "Definitely {text}",
    "It must be {TEXT}!",
)
EMPTY = (
    "",
    " ",
    "none of them",
    "Z",
    "Cannot determine the answer",
    "Sorry, I can't help with images of people yet.",
    "Failed to obtain answer via API",
    "Both A and B",
    "A cat sits on a mat.",
    "Bad light; call it a day",
    "I don't know",
    "E",
)


def answers(options: Sequence[str]) -> list[str]:
    """Return the answers to one question, each once."""
    found = list(EMPTY)
    for number, text in enumerate(options):
        other = (number + 1) % len(options)
        for form in NAMING:
            said = form.format(
                L="ABCD"[number],
                l="abcd"[number],
                M="ABCD"[other],
                text=text,
                TEXT=text.upper(),
                other=options[other],
            )
            found.append(said)
    return list(dict.fromkeys(found))


def write(script: str, out: dict[str, Any]) -> None:
    """Write results beside a script, as JSON with one case a line."""
    cases = ",\n".join(json.dumps(case) for case in out["cases"])
    rest = json.dumps({name: value for name, value in out.items() if name != "cases"})
    path = Path(script).with_suffix(".json")
    path.write_text(f'{rest[:-1]}, "cases": [\n{cases}\n]}}\n', encoding="utf-8")


def stub(name: str, **attributes: Any) -> None:
    """Put an empty module in the place of one that a scorer imports and does not need."""
    module = ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            stub(parent)
        setattr(sys.modules[parent], child, module)


def load(path: Path, name: str) -> ModuleType:
    """Return a file of a kit as a module, without the rest of the kit."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec, path
    assert spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

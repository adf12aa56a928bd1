"""Write the table of keys in docs/verl.md; run it when ``integrations/verl/keys.py`` changes."""

from __future__ import annotations

import re
from pathlib import Path

from pyvision_rl.integrations.verl.keys import IDLE, MUST_BE_DEFAULT, OURS, VERL

PAGE = Path(__file__).parent / "verl.md"
KINDS = (
    (VERL, "{}"),
    (OURS, "ours: {}"),
    (IDLE, "none: {}"),
    (MUST_BE_DEFAULT, "**refused unless default**: {}"),
)


def table() -> str:
    """Return the rows, by key."""
    rows = {"train.optimizer": "actor.optim.optimizer: AdamW; **muon is refused**"}
    for words, form in KINDS:
        rows |= {key: form.format(text) for key, text in words.items()}
    lines = [f"| `{key}` | {rows[key]} |" for key in sorted(rows)]
    return "\n".join(["| our key | in verl |", "|---|---|", *lines])


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    pattern = r"(?<=<!-- keys -->\n).*?(?=\n<!-- end -->)"
    PAGE.write_text(re.sub(pattern, lambda _: table(), page, flags=re.DOTALL), encoding="utf-8")

"""Values as scripts that hand them to the page, harmless wherever they stand.

In: JSON values. Out: JavaScript of one call, in ASCII. Knows no records.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from pyvision_rl.present import finite

Json: TypeAlias = dict[str, Any]

_ESCAPED = {c: f"\\u{ord(c):04x}" for c in "<>&"}


def literal(value: Any) -> str:
    """Return a value as JSON that may stand in a script element.

    Numbers that are not finite become the texts "nan", "inf" and "-inf".
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        # Few values have such numbers: only those are gone through.
        text = json.dumps(finite(value), allow_nan=False, separators=(",", ":"))
    # Many times faster than str.translate, on megabytes with few of them.
    for character, code in _ESCAPED.items():
        text = text.replace(character, code)
    return text


def script(name: str, payload: Any) -> bytes:
    """Return the content of ``data/NAME.js``."""
    return f"window.PVRL.give({literal(name)}, {literal(payload)});\n".encode("ascii")

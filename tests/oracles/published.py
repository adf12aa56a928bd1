"""Functions of a published scorer, out of a checkout of it, without what it imports.

In: a file of a checkout and names. Out: those functions, compiled from their own source with the
names they need. Used by the scripts of this folder, which run by hand; tests only read what those
wrote: results, never code.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def functions(file: Path, names: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the named functions and constants of a file; ``given`` is what they may refer to."""
    wanted = set(names)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if _name(node) in wanted]
    space = dict(given)
    exec(compile(ast.Module(kept, []), str(file), "exec"), space)
    if lost := wanted - space.keys():
        raise SystemExit(f"{file}: has no {', '.join(sorted(lost))}")
    return space


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return ""


def commit(checkout: Path) -> str:
    """Return the commit of a checkout; a file COMMIT in it stands for a bare copy."""
    if (checkout / "COMMIT").is_file():
        return (checkout / "COMMIT").read_text().strip()
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write(name: str, key: str, found: dict[str, Any]) -> None:
    """Put results under a key of ``<name>.json`` beside this file."""
    path = Path(__file__).with_name(f"{name}.json")
    whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    whole[key] = found
    lines = []
    for kit, results in whole.items():
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in results["rows"])
        rest = {k: v for k, v in results.items() if k != "rows"}
        head = json.dumps(rest, ensure_ascii=False)[1:-1]
        lines.append(f'"{kit}": {{{head}, "rows": [\n{rows}\n]}}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

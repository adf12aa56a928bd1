"""The sources as the architecture tests see them: files, units, layers and imports."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "pyvision_rl"
PACKAGE = "pyvision_rl"

FILES = sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a file's path inside the package."""
    return path.relative_to(SRC).as_posix()


def unit_of(module: str) -> str:
    """Return the part of the architecture that a module inside the package belongs to.

    A folder is one unit; ``runs_codec`` belongs to ``runs``.
    """
    first = module.split(".")[0]
    parts = {
        "runs_codec": "runs",
        "runs_decode": "runs",
        "runs_files": "runs",
        "runs_lock": "runs",
        "runs_opening": "runs",
        "runs_order": "runs",
        "runs_videos": "runs",
        "sft_format": "conversations",
    }
    return parts.get(first, first)


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, *, top_level: bool = False, relative: bool = True) -> Iterator[str]:
    """Yield the dotted name of everything a file imports, inside functions too.

    ``from a.b import c`` gives ``a.b`` and ``a.b.c``: ``c`` may be a module. ``relative=False``
    leaves out what is named by its place beside the file.
    """
    for node in _top_level(tree(path)) if top_level else ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            if node.level and not relative:
                continue
            module = _absolute(path, node)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    """Return the full name of the module that an import names, relative or not."""
    if not node.level:
        return node.module or ""
    folder = (PACKAGE, *path.relative_to(SRC).parts[: -node.level])
    return ".".join([*folder, *([node.module] if node.module else [])])


def child_side() -> list[Path]:
    """Return the files that run beside model code: the folder ``sandbox/inside``.

    They import each other relatively, which is how they work outside the package too.
    """
    return sorted((SRC / "sandbox" / "inside").glob("*.py"))


def _top_level(module: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when the module is imported; not function bodies, not type checking."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not checking and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                waiting.append(child)


def ours(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Yield the modules inside the package that a file imports, without the package's name."""
    for name in imports(path, top_level=top_level):
        root, _, rest = name.partition(".")
        if root == PACKAGE and rest and not rest.startswith("__"):
            yield rest


def file_of(module: str) -> Path | None:
    """Return the file of a module inside the package; None if the name is no module."""
    path = SRC.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def num_lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def num_code_lines(path: Path) -> int:
    """Return the number of lines that hold code: no blank line, comment or docstring."""
    documented: set[int] = set()
    for node in ast.walk(tree(path)):
        body = getattr(node, "body", None)  # a lambda's is an expression
        for child in body if isinstance(body, list) else ():
            text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if text and isinstance(child.value.value, str):
                documented.update(range(child.lineno, (child.end_lineno or 0) + 1))
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    used: set[int] = set()
    with path.open(encoding="utf-8") as text_file:
        for token in tokenize.generate_tokens(text_file.readline):
            if token.type not in silent:
                used.update(range(token.start[0], token.end[0] + 1))
    return len(used - documented)


def closure(starts: list[Path], *, top_level: bool = False) -> set[Path]:
    """Return every file of the package that the given files import, directly or not.

    ``top_level`` leaves out what is imported inside functions: what only some runs need.
    """
    seen: set[Path] = set()
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        # Importing a module runs the __init__ of every folder above it.
        folder = path.parent
        while folder != SRC.parent:
            waiting.append(folder / "__init__.py")
            folder = folder.parent
        named = [file_of(module) for module in ours(path, top_level=top_level)]
        waiting += [found for found in named if found is not None]
    return seen

"""Budgets and habits that keep the code readable. The style itself is in ``AGENTS.md``."""

from __future__ import annotations

import ast
import re

import pytest
from sources import FILES, ROOT, SRC, name_of, num_lines, tree

MAX_FILE = 400
MAX_FUNCTION = 60
TEXTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)


def functions(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_fits_the_budget(path):
    assert num_lines(path) <= MAX_FILE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_fit_the_budget(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path)}
    assert not {name: lines for name, lines in long.items() if lines >= MAX_FUNCTION}


def _undocumented(body, prefix=""):
    """Yield the public classes and functions without a docstring, methods too."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body, f"{node.name}.")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_says_what_it_gives(path):
    assert ast.get_docstring(tree(path)), "the file has no docstring"
    assert not list(_undocumented(tree(path).body))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_command_line_prints(path):
    if name_of(path).startswith("cli/"):
        return
    calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not prints, f"print in lines {prints}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_but_its_task_set_names_the_example_task(path):
    name = name_of(path)
    # Clips show the handwriting of the needle tasks.
    if name.startswith(("tasks/needle", "tasks/clips")):
        return
    text = path.read_text(encoding="utf-8")
    if name == "tasks/__init__.py":
        text = re.sub(r'"(needle|clips)": "pyvision_rl\.tasks\.\1:\w+"', "", text)
    assert "needle" not in text.lower()
    assert not re.search(r"tasks\.clips|[\"']clips[\"']", text)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_say_what_they_are(path):
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
    assert not re.search(r"_v\d+$|^new_(?!model$)", path.stem)


def test_all_public_names_of_the_package_exist():
    import pyvision_rl

    for name in pyvision_rl.__all__:
        assert getattr(pyvision_rl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyvision_rl.nothing


def test_typing_marker_is_there():
    assert (SRC / "py.typed").exists()


@pytest.mark.parametrize(("file", "most"), [("README.md", 150), ("AGENTS.md", 60)])
def test_front_pages_are_short(file, most):
    assert num_lines(ROOT / file) <= most


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(link)
    assert not broken


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them; any line of other files."""
    if path.suffix != ".md":
        return {f"L{number + 1}" for number in range(num_lines(path))}
    headings = re.findall(r"^#+ +(.*?) *$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}

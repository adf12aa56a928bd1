"""A module may import only modules of a lower layer; the tables here are the architecture.

Changing a table changes the architecture: say why in ``docs/decisions``.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from sources import FILES, SRC, child_side, imports, name_of, ours, tree, unit_of

LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "errors"),
    # Each may import those before it.
    (
        "absent",
        "config",
        "registry",
        "config_file",
        "same_config",
        "template",
        "media",
        "images",
        "video_worker",
        "video",
        "video_prompt",
        "released_style",
        "models",
        "http_client",
        "chat_endpoint",
        "testing",
    ),
    # Siblings: never each other.
    (
        *("prompts", "parsing", "rendering", "tasks", "rewards", "sandbox", "policy"),
        *("advantages", "tracking"),
    ),
    # Builds on tasks and rewards, which find it by name.
    ("suites",),
    # Siblings: never each other.
    ("rollout", "selection", "runs"),
    # Each may import those before it.
    (
        "frames_seen",
        "usage",
        "metrics",
        "sources",
        "assemble",
        "conversations",
        "collect",
        "new_model",
        "present",
        "statistics",
        "evaluation",
        "probe",
        "checks",
        "sizes",
        "train",
        "export",
        "integrations",
        "synthesize",
        "show",
        "audit",
        "resuming",
        "demo",
        "study",
        "view",
    ),
    ("cli",),
)
ORDERED = {1, 5}
"""Layers whose modules may import those named before them."""

LEAF = "sandbox.inside"
"""Imports nothing of ours, so that everything above layer 0 may import it."""

LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

TORCH = {
    "policy/local.py",
    "policy/decoding.py",
    "policy/kv_cache.py",
    "policy/sampling.py",
}
"""Files outside models/ and train/ that may import torch: the in-process policy."""
HEAVY = {"torch", "accelerate", "peft", "safetensors"}

VERL = {"integrations/verl/agent_loop.py", "integrations/verl/sampler.py"}
"""Files that may import verl and its queue."""

BESIDE_MODEL_CODE = sys.stdlib_module_names | {"numpy", "PIL", "matplotlib", "av"}
"""What the child side may import."""

MODULES = [p for p in FILES if p != SRC / "__init__.py"]


def may_import(unit: str, other: str) -> bool:
    """Whether a unit may import another."""
    if unit == other:
        return True
    mine, theirs = LAYER[unit], LAYER[other]
    if mine != theirs:
        return theirs < mine
    names = LAYERS[mine]
    return mine in ORDERED and names.index(other) < names.index(unit)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    unit = unit_of(path.relative_to(SRC).with_suffix("").as_posix().replace("/", "."))
    assert unit in LAYER, f"{name_of(path)} has no layer: add it to the table"
    above = {m for m in ours(path) if not (LAYER[unit] and m.startswith(LEAF))}
    wrong = sorted({m for m in above if not may_import(unit, unit_of(m))})
    assert not wrong, f"{name_of(path)} may not import {', '.join(wrong)}"


def test_every_named_module_exists():
    found = {unit_of(name_of(p).removesuffix(".py").replace("/", ".")) for p in MODULES}
    assert set(LAYER) == found


@pytest.mark.parametrize(
    ("unit", "other", "allowed"),
    [
        ("sandbox", "types", True),
        ("sandbox", "sandbox", True),
        ("sandbox", "prompts", False),
        ("rollout", "sandbox", True),
        ("rollout", "selection", False),
        ("types", "config", False),
        ("evaluation", "assemble", True),
        ("assemble", "evaluation", False),
        ("models", "images", True),
        ("images", "models", False),
    ],
)
def test_the_rule_itself(unit, other, allowed):
    assert may_import(unit, other) is allowed


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_torch_stays_behind_its_wall(path):
    name = name_of(path)
    if name.startswith(("models/", "train/")) or name in TORCH:
        return
    roots = {n.partition(".")[0] for n in imports(path)}
    assert not roots & HEAVY, f"{name} imports {', '.join(sorted(roots & HEAVY))}"
    top = {n.partition(".")[0] for n in imports(path, top_level=True)}
    assert "transformers" not in top, f"{name} imports transformers before it is needed"
    if not name.startswith("rendering/"):
        assert "transformers" not in roots, f"{name} imports transformers"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_verl_is_imported_by_its_plug_ins_only(path):
    foreign = {"verl", "transfer_queue", "ray", "omegaconf", "hydra"}
    roots = {n.partition(".")[0] for n in imports(path)}
    assert name_of(path) in VERL or not roots & foreign
    wanted = {f"integrations.verl.{name}" for name in ("agent_loop", "sampler")}
    assert not wanted & set(ours(path)), f"{name_of(path)} needs verl"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_reference_answers_stay_with_those_who_grade(path):
    name, unit = name_of(path), unit_of(name_of(path).removesuffix(".py").replace("/", "."))
    names = set(imports(path))
    if unit not in {"types", "tasks", "rewards", "suites", "evaluate", "runs", "__init__"}:
        assert "pyvision_rl.types.Gold" not in names, f"{name} imports Gold"
    if unit in {"prompts", "parsing", "rendering", "sandbox", "policy", "models"}:
        secret = {f"pyvision_rl.types.{n}" for n in ("Task", "Gold", "Group", "Reward")}
        assert not secret & names, f"{name} sees more of a task than its public half"


@pytest.mark.parametrize("path", child_side(), ids=name_of)
def test_child_side_of_the_sandbox_knows_nothing_of_ours(path):
    foreign = [m for m in ours(path) if not m.startswith("sandbox.inside")]
    assert not foreign, f"{name_of(path)} runs beside hostile code"
    absolute = [
        n for n in imports(path, relative=False) if n.split(".")[0] not in BESIDE_MODEL_CODE
    ]
    assert not absolute, f"{name_of(path)} imports {', '.join(absolute)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_are_absolute_but_on_the_child_side(path):
    if path in child_side():
        return
    relative = [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative


def python(code):
    """Return what a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(SRC.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_core_imports_no_torch():
    modules = [
        name_of(p).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for p in MODULES
        # The child side runs in a process of its own.
        if not name_of(p).startswith(("models/", "train/", "demo/", "study/figures"))
        and name_of(p) not in TORCH
        and p not in child_side()
        # So does what decodes videos.
        and name_of(p) != "video_worker.py"
        # These subclass verl's classes, and are imported where it is installed.
        and name_of(p) not in VERL
    ]
    names = [f"pyvision_rl.{module}" for module in modules]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'sklearn', 'pyarrow', 'av'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    python(code)


def test_importing_the_package_is_quick():
    code = (
        "import time; began = time.perf_counter(); import pyvision_rl; "
        "print(time.perf_counter() - began)"
    )
    # The best of three: another process may be busy.
    assert min(float(python(code)) for _ in range(3)) < 0.3

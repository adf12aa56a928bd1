"""The examples run as their pages say, and the pages name what is really there."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from typer.testing import CliRunner

from pyvision_rl import types
from pyvision_rl.assemble import build_tasks
from pyvision_rl.checks.tasks import check_tasks
from pyvision_rl.cli.main import app
from pyvision_rl.config import Config, RewardsConfig, TasksConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.runs import RunReader

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OWN_TASKS = EXAMPLES / "own_tasks"
DOCS = ROOT / "docs"

SHOWN = {
    "new_task": [r"counting-0 5 5 Reward\(.*'tool_use': 0.1.*correct=True"],
    "new_reward": [
        r"reference 8, answer 8: Reward\(.*'accuracy': 1.0.*correct=True",
        r"answer 7: Reward\(.*'accuracy': 0.75.*correct=False",
        r"answer nan: Reward\(.*'accuracy': 0.0",
        r"reference many, answer 8: grading failed: reference 'many' is no number",
    ],
    "new_policy": [r"counting-0: reward by answer \{.*1\.1", r"counting-2: .*: 0\.0"],
    "new_sandbox": [
        r"zoom\(image_clue_0, .*\): ok \[\(200, 200\)\]",
        r"os\._exit\(1\): died \[\]",
        r"zoom\(image_clue_1, None\): ok \[\(200, 200\)\]",
    ],
}
"""What each example must print, line by line."""

SMALLER = {
    "rollout": ["--set", "rollout.group_size=2", "--set", "tasks.limit=8"],
    "sft": ["--set", "sft.stages.0.steps=2"],
    "rl": ["--set", "rollout.group_size=2", "--set", "selection.groups_per_step=2"],
    "eval": ["--set", "eval.num_tasks=4"],
}
"""What makes the commands of the README quick enough for every test run."""


@pytest.mark.parametrize("name", SHOWN)
def test_example_shows_its_point_without_torch(name):
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(EXAMPLES)!r}); "
        f"runpy.run_path({str(EXAMPLES / f'{name}.py')!r}, run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for pattern in SHOWN[name]:
        assert any(re.search(pattern, line) for line in lines), (pattern, done.stdout)


@pytest.mark.parametrize("name", SHOWN)
def test_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


def test_task_example_passes_the_check_of_task_sets(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    section = TasksConfig(name="new_task:Counting", limit=20, options={"seed": 3})
    findings = check_tasks(Config(tasks=section))
    assert len(findings) == 7
    assert not [f for f in findings if f.status != "ok"]


def test_misspelt_option_of_an_example_names_the_nearest(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(ConfigError, match="did you mean 'most'"):
        build_tasks(TasksConfig(name="new_task:Counting", options={"mots": 3}))
    with pytest.raises(ConfigError, match="did you mean 'zero_at'"):
        build_rewarder(RewardsConfig(name="new_reward:CloseEnough", options={"zero_ta": 3}))


@pytest.mark.slow
def test_sandbox_example_keeps_every_promise(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    done = CliRunner().invoke(app, ["check", "sandbox", "new_sandbox:WithZoom"])
    assert done.exit_code == 0, done.output


def commands() -> list[tuple[str, list[str]]]:
    """Return (folder for PYTHONPATH or "", arguments of pvrl) of every command in the README."""
    page = (OWN_TASKS / "README.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    assert lines.pop(0) == "cd examples/own_tasks"
    found = []
    for line in filter(None, lines):
        words = shlex.split(line)
        path = words.pop(0).removeprefix("PYTHONPATH=") if "=" in words[0] else ""
        assert words[0] == "pvrl", line
        found.append((path, words[1:]))
    return found


def run_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, *, smaller: bool) -> None:
    """Run the README's commands one after the other in a copy of the folder."""
    copy = folder / "examples" / "own_tasks"
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(copy)
    for path, arguments in commands():
        if path:
            monkeypatch.syspath_prepend(copy / path)
        extra = SMALLER.get(arguments[0], []) if smaller else []
        done = CliRunner().invoke(app, [*arguments, *extra])
        assert done.exit_code == 0, (arguments, done.output, done.exception)


def test_commands_of_the_own_tasks_page_run(tmp_path, monkeypatch):
    run_commands(tmp_path, monkeypatch, smaller=True)
    runs = Path("runs")
    assert [m["train_loss"] for m in RunReader(runs / "rl").metrics()] == [0.0, 0.0]
    assert all(r.trajectory.num_tool_calls == 1 for r in RunReader(runs / "teacher").trajectories())
    result = json.loads((runs / "eval" / "result.json").read_text())
    assert result["overall"]["tasks"] == 4
    assert (runs / "rl-after-sft" / "final" / "config.json").is_file()


@pytest.mark.slow
def test_the_own_tasks_page_tells_what_its_commands_give(tmp_path, monkeypatch):
    run_commands(tmp_path, monkeypatch, smaller=False)
    page = (OWN_TASKS / "README.md").read_text(encoding="utf-8")
    right = sum(bool(r.trajectory.reward.correct) for r in teacher(Path("runs/teacher")))
    assert f"{right} of the teacher's {len(teacher(Path('runs/teacher')))} guesses" in page
    overall = json.loads(Path("runs/eval-after-sft/result.json").read_text())["overall"]
    called, correct = (round(overall[k] * overall["tasks"]) for k in ("tool_share", "accuracy"))
    assert f"code in {called} of 20 episodes and answers {correct} of the 20" in " ".join(
        page.split()
    )


def teacher(run: Path):
    return list(RunReader(run).trajectories())


def test_own_tasks_are_twenty_small_sound_rows():
    rows = [json.loads(line) for line in (OWN_TASKS / "tasks.jsonl").read_text().splitlines()]
    files = set((OWN_TASKS / "images").iterdir())
    used = {OWN_TASKS / p for row in rows for p in row.get("images", [row.get("image")])}
    assert len(rows) == 20
    assert used == files
    assert sum(f.stat().st_size for f in files) < 200_000
    assert {"integer", "letter", "float", "yes_no", "set", "sequence"} <= {
        row.get("answer_type") for row in rows
    }


def test_own_tasks_are_what_their_script_makes(tmp_path):
    script = shutil.copy(OWN_TASKS / "make_tasks.py", tmp_path)
    runpy.run_path(script, run_name="__main__")
    assert (tmp_path / "tasks.jsonl").read_text() == (OWN_TASKS / "tasks.jsonl").read_text()
    made = sorted((tmp_path / "images").iterdir())
    assert [f.name for f in made] == sorted(f.name for f in (OWN_TASKS / "images").iterdir())
    for file in made:
        with Image.open(file) as new, Image.open(OWN_TASKS / "images" / file.name) as old:
            # Pixels, not bytes: another version of Pillow may compress differently.
            assert ImageChops.difference(new.convert("RGB"), old.convert("RGB")).getbbox() is None


def core_files() -> tuple[str, ...]:
    """Return the core files in reading order, as the budget test lists them."""
    tree = ast.parse((ROOT / "tests" / "architecture" / "test_budget.py").read_text())
    named = {n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign)}
    return ast.literal_eval(named["CORE"])


def test_tour_visits_every_core_file_in_reading_order():
    text = (DOCS / "tour.md").read_text(encoding="utf-8")
    visited = re.findall(r"^### `([\w/]+\.py)`", text, flags=re.MULTILINE)
    assert tuple(visited) == core_files()


def test_data_flow_shows_the_ten_records_in_the_order_they_are_made():
    chain = re.findall(r"[A-Z]\w+", (types.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0])
    text = (DOCS / "data-flow.md").read_text(encoding="utf-8")
    assert len(chain) == 10
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == chain


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.name)
def test_pages_name_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|tests|examples|configs|docs|benchmarks)/[\w./-]+)`", text))
    named |= {f"src/pyvision_rl/{n}" for n in re.findall(r"`([a-z_]+(?:/\w+)*\.py)`", text)}
    named = {n for n in named if not n.startswith("src/pyvision_rl/examples/")}
    missing = sorted(n for n in named if not (ROOT / n).exists())
    missing = [n for n in missing if not (ROOT / n.removeprefix("src/pyvision_rl/")).exists()]
    assert not missing


@pytest.mark.slow
def test_the_excerpts_of_the_tour_can_be_made_again(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, tmp_path / "docs" / "make_tour.py"], check=True, env=env)
    for name in ("tour.md", "data-flow.md"):
        old, new = ((folder / name).read_text() for folder in (DOCS, tmp_path / "docs"))
        # Numbers may differ in their last digits from one processor to the next.
        assert re.sub(r"\d+\.\d+", "x", new) == re.sub(r"\d+\.\d+", "x", old)

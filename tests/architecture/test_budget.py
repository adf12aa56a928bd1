"""Size is part of the design: the core path must stay readable in one sitting.

Lines of code are counted, without blank lines, comments and docstrings: the style asks for a
docstring on everything, and a budget must not reward leaving it out. Both counts are printed.
"""

from __future__ import annotations

from sources import SRC, child_side, closure, file_of, num_code_lines, num_lines

from pyvision_rl import policy, rewards, sandbox, tasks
from pyvision_rl.config_file import find_config, load_config

CORE = (
    "types/episode.py",
    "types/learning.py",
    "prompts.py",
    "parsing.py",
    "rendering/qwen_vl.py",
    "policy/base.py",
    "policy/local.py",
    "sandbox/base.py",
    "sandbox/pool.py",
    "sandbox/inside/zygote.py",
    "rewards/answers.py",
    "rollout.py",
    "advantages.py",
    "selection.py",
    "models/base.py",
    "train/batching.py",
    "train/losses.py",
    "train/objective.py",
    "train/scoring.py",
    "train/learner.py",
    "train/collecting.py",
    "train/rl.py",
)
"""The reading order of ``docs/tour.md``."""
MAX_CORE = 2_800
MAX_RUN = 6_000
"""What a tiny run imports, without the sandbox."""
MAX_SANDBOX = 1_750
"""The driver's side of the sandbox."""
MAX_INSIDE = 2_850
"""What runs beside model code."""

TINY = "tiny_image_rl"


def count(what, paths, most, record_property):
    """Return the lines of code of some files, and print both counts at the end of the run."""
    code, all_lines = sum(map(num_code_lines, paths)), sum(map(num_lines, paths))
    record_property(
        "summary",
        f"{what}: {code} lines of code (< {most}) in {len(paths)} files; {all_lines} with docs",
    )
    return code


def test_core_path_is_read_in_one_sitting(record_property):
    missing = [name for name in CORE if not (SRC / name).exists()]
    assert not missing, f"core files that are not there: {', '.join(missing)}"
    lines = count("core path", [SRC / name for name in CORE], MAX_CORE, record_property)
    assert lines < MAX_CORE


def test_what_a_tiny_rl_run_imports_is_read_in_a_day(record_property):
    config = load_config(find_config(TINY))
    assert config.tasks is not None
    backends = [
        tasks.TABLE[config.tasks.name],
        policy.TABLE[config.policy.name],
        sandbox.TABLE[config.sandbox.name],
        rewards.TABLE[config.rewards.name],
    ]
    files = [file_of(b.partition(":")[0].removeprefix("pyvision_rl.")) for b in backends]
    assert None not in files
    # Imported inside functions: the loop and the model's loader.
    files += [SRC / "train" / "rl.py", SRC / "models" / "load.py"]
    used = closure([path for path in files if path is not None], top_level=True)
    used -= set(child_side())
    box = {path for path in used if path.is_relative_to(SRC / "sandbox")}
    assert count("a tiny RL run", used - box, MAX_RUN, record_property) < MAX_RUN
    assert count("the sandbox's driver side", box, MAX_SANDBOX, record_property) < MAX_SANDBOX


def test_what_runs_beside_model_code_is_reviewed_in_a_day(record_property):
    assert count("beside model code", child_side(), MAX_INSIDE, record_property) < MAX_INSIDE

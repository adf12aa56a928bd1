"""A study runs every unit once, in order, whatever fails or is killed, and reports all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pyvision_rl.cli.main import app
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config, packaged_studies
from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.metrics import rollout_metrics, selection_metrics, shares
from pyvision_rl.study.conduct import Found, check_starts, check_units, run_study
from pyvision_rl.study.config import (
    StudyConfig,
    dump_study,
    find_study,
    load_study,
    parse_seeds,
    toml_value,
    words,
)
from pyvision_rl.study.figures import DYNAMICS
from pyvision_rl.study.names import panel_names
from pyvision_rl.study.notes import (
    DONE,
    RETRYING,
    Note,
    locked,
    read_note,
    write_json,
    write_note,
)
from pyvision_rl.study.plan import (
    Planner,
    Unit,
    blocked,
    priorities,
    ready,
    seconds_left,
)
from pyvision_rl.study.running import existing
from pyvision_rl.types import Batch
from pyvision_rl.view.study import study_payload
from tests import fake_pvrl

ROOT = Path(__file__).parents[2]

STUDY = """
title = "Two arms"
seeds = "1-2"
main = "tool_reward"
[[cold_starts]]
config = "tiny_image_sft"
[rl]
config = "tiny_image_rl"
[[variants]]
name = "tool_reward"
label = "tool reward"
set = { "rewards.tool_use_per_call" = 0.1 }
[[variants]]
name = "plain"
set = { "rewards.tool_use_per_call" = 0.0 }
[[evaluations]]
name = "free"
[[evaluations]]
name = "tool"
start = "tool"
[[comparisons]]
variant = "tool_reward"
against = "plain"
metrics = ["free.tool_calls", "free.accuracy.hard", "train.reward"]
[[figures]]
name = "calls"
panels = ["tool_calls"]
[quick]
rl = { "train.steps" = 2 }
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    file = folder / "two_arms.toml"
    file.write_text(text)
    return file


def study_of(tmp_path: Path, *overrides: str, text: str = STUDY) -> StudyConfig:
    return load_study(write_study(tmp_path, text), overrides)


def program(tmp_path: Path, **rules: Any) -> tuple[str, ...]:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(rules))
    return (sys.executable, "-S", fake_pvrl.__file__, str(file))


def starts(tmp_path: Path) -> list[str]:
    """What was started so far: ``<verb> <end of folder> <goes on>``."""
    log = tmp_path / "rules.json.log"
    return log.read_text().splitlines() if log.exists() else []


def run(study: StudyConfig, tmp_path: Path, **options: Any) -> Found:
    if "program" not in options:
        options["program"] = program(tmp_path)
    return run_study(study, tmp_path / "out", jobs=2, **options)


# The config.


@pytest.mark.parametrize(("text", "seeds"), [("10-12", (10, 11, 12)), ("1,2, 7-8", (1, 2, 7, 8))])
def test_seeds_are_read(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=a-3", "write seeds as 10-14"),
        ("seeds=[]", "seeds: name at least one"),
        ("seeds=[3, 3]", "seeds: 3 is there twice"),
        ("main=nobody", "main = 'nobody' is not known; known: tool_reward, plain"),
        ("variants.1.name=tool_reward", "tool_reward is there twice"),
        ("variants.1.name=start", '"start" is the name of the models before RL'),
        ("variants.1.name=../up", "no name for a folder"),
        ("variants.1.cold_start=cold", "cold_start = 'cold' is not known; known: main"),
        ("variants.1.againts=plain", "did you mean 'against'"),
        ("evaluations.1.name=train", "metrics of training"),
        ("evaluations.1.name=v1.5", "'v1.5': a dot ends the name in metrics; write 'v1-5'"),
        ("cold_starts.0.model=m", "give either config or model"),
        ("comparisons.0.metrics=['fre.accuracy']", "did you mean 'free.accuracy'"),
        ("comparisons.0.metrics=['free.acuracy.hard']", "did you mean 'free.accuracy.hard'"),
        ("comparisons.0.metrics=['train.rewrd']", "did you mean 'train.reward'"),
        ("comparisons.0.metrics=['train.reward.hard']", "did you mean 'train.reward'"),
        ("comparisons.0.metrics=['free.accuracy.']", "did you mean 'free.accuracy'"),
        ("comparisons.0.metrics=['free']", "'free' is not known; known: train.reward"),
        ("figures.0.panels=['tool_cals']", "panels = 'tool_cals' is not known"),
        ("figures.0.panels=['train_entrpy']", "did you mean 'train_entropy'"),
        ("figures.0.panels=['dropped_']", "'dropped_' is not known"),
        ("comparisons.0.against=nobody", "known: tool_reward, plain, start"),
        ("main=plan", "did you mean 'plain'"),
        ("comparisons.0.metrics=['']", "metrics = '' is not known"),
        (
            "variants.1.set={ rewards = { judge = { max_calls = 5 } } }",
            'set: quote the key that is meant: "rewards.judge.max_calls" sets one entry',
        ),
        ("rl.set={ tasks = { options = { seed = 7 } } }", '"tasks.options" = { ... } replaces'),
        ("quick.rl={ tasks = { options = { seed = 7 } } }", '"tasks.options" = { ... } replaces'),
        ("rl.set={ seed = 7 }", "set: seed is the study's own"),
        ("variants.1.set={ 'policy.model' = 'm' }", "set: policy.model is the study's own"),
        ("evaluations.0.set={ policy = { model = 'm' } }", "set: policy.model is the study's own"),
    ],
)
def test_a_wrong_study_is_refused_with_the_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        study_of(tmp_path, override)
    assert message in str(error.value)


def test_an_evaluation_may_ask_other_tasks_than_training(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("A B")
    options = {"suite": "tests.eval_fakes:Letters", "path": str(tmp_path / "letters.txt")}
    sets = {
        "eval.tasks": {"name": "suite", "options": options},
        "rewards.name": "suite",
        "rewards.options": options,
    }
    study = study_of(tmp_path, f"evaluations.1.set={toml_value(sets)}")
    check_units(Planner(study, tmp_path / "out", quick=False).units())


def test_a_model_that_nobody_makes_must_be_there(tmp_path: Path) -> None:
    other = ("cold_starts.0.config=''", "cold_starts.0.model='a/b/c'")
    with pytest.raises(ConfigError, match=r"cold_starts 'main': model: a/b/c is no model direct"):
        check_starts(study_of(tmp_path, *other))
    check_starts(study_of(tmp_path, other[0], "cold_starts.0.model='some/model'"))


def test_a_variant_may_be_called_dynamics_where_figures_are_named(tmp_path: Path) -> None:
    name = ("variants.1.name=dynamics", "comparisons.0.against=dynamics")
    with pytest.raises(ConfigError, match=r"take another, or name the \[\[figures\]\]"):
        study_of(tmp_path, *name, "figures=[]")
    assert study_of(tmp_path, *name).variants[1].name == "dynamics"


def test_what_names_no_metric_may_hold_a_dot(tmp_path: Path) -> None:
    study = study_of(tmp_path, "variants.1.name=lr_0.5", "comparisons.0.against=lr_0.5")
    assert study.variants[1].name == "lr_0.5"


@pytest.mark.parametrize(
    "start", [("cold_starts.0.per_seed=false",), ("cold_starts.0.config=", "cold_starts.0.model=m")]
)
def test_seeds_are_not_paired_with_a_start_that_all_share(
    tmp_path: Path, start: tuple[str, ...]
) -> None:
    against = (*start, "comparisons.0.against=start")
    with pytest.raises(ConfigError, match="share 'start', so there are no pairs; set paired = fal"):
        study_of(tmp_path, *against)
    # Arms may be paired, whatever they start from.
    assert study_of(tmp_path, *start).comparisons[0].paired
    assert not study_of(tmp_path, *against, "comparisons.0.paired=false").comparisons[0].paired


def test_what_a_step_counts_may_be_drawn() -> None:
    numbers = rollout_metrics([]) | selection_metrics([], Batch(()))
    names = {
        *numbers,
        "drop_share_zero_std",
        *shares(numbers),
        "eval_accuracy_hard",
        "reward_accuracy",
        "judge_calls",
    }
    assert {n for n in (*names, *DYNAMICS) if panel_names(n)} == set()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variants.1.set.train.stepps=3", "variants 'plain': --set: train.stepps is not a key"),
        ("rl.config=tiny_image_r", "did you mean 'tiny_image_rl'"),
        ("cold_starts.0.set.sft.stags=3", "cold_starts 'main': --set: sft.stags is not a key"),
    ],
)
def test_a_wrong_key_of_a_run_names_its_variant(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Planner(study_of(tmp_path, override), tmp_path / "out").units()
    assert message in str(error.value)


def test_an_unknown_filter_is_found_before_anything_runs(tmp_path: Path) -> None:
    study = study_of(tmp_path, "variants.1.set.selection.filters=['zero_sdt']")
    with pytest.raises(ConfigError, match=r"variants/plain/seed-1/rl.*zero_sdt"):
        run(study, tmp_path)
    assert not starts(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_study_folder_loads_to_an_equal_study(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps(dump_study(study)))
    assert load_study(find_study(str(tmp_path))) == study


def test_an_unknown_study_suggests_a_packaged_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'study_collapse'"):
        find_study("study_colapse")


VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats(-1e6, 1e6) | st.text(
        st.characters(blacklist_categories=("Cs", "Cc")), max_size=8
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text("ab. -\"é", max_size=4), inner, max_size=3
    ),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_an_override_says_its_value_again(tmp_path_factory: Any, value: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "values.toml"
    file.write_text("")
    (word,) = words({"tasks.options.x.y": value})
    found = load_config(file, ["tasks.name=jsonl", word])
    assert found.tasks is not None
    assert found.tasks.options["x"]["y"] == value


def test_a_bare_table_is_a_section() -> None:
    assert words({"train": {"steps": 2}, "eval.tasks": {"name": "x"}}) == (
        "train.steps=2",
        'eval.tasks={ "name" = "x" }',
    )
    assert toml_value([1.5, "a\nb"]) == '[1.5, "a\\nb"]'


# The plan.


def test_every_seed_has_its_own_cold_start_shared_by_its_arms(tmp_path: Path) -> None:
    units = {u.name: u for u in Planner(study_of(tmp_path), tmp_path / "out").units()}
    # 2 models, 2 cold starts, 2 x 2 arms, and 2 evaluations of 2 starts and 4 arms.
    assert len(units) == 2 + 2 + 4 + 12
    for arm in ("plain", "tool_reward"):
        unit = units[f"variants/{arm}/seed-2/rl"]
        assert unit.needs == ("cold-starts/main/seed-2/sft",)
        model = tmp_path / "out/cold-starts/main/seed-2/sft/final"
        config = load_config(find_config(unit.config), unit.overrides)
        assert (config.seed, config.policy.model) == (2, str(model.resolve()))
        assert config.rewards.tool_use_per_call == (0.1 if arm == "tool_reward" else 0)
    evaluated = units["variants/plain/seed-1/eval-tool"]
    config = load_config(find_config(evaluated.config), evaluated.overrides)
    assert config.eval.forced_start == config.probe.tool_start
    # All models are evaluated alike: the arm's own keys are for training.
    assert config.rewards.tool_use_per_call == load_rl().rewards.tool_use_per_call
    assert evaluated.needs == ("variants/plain/seed-1/rl",)
    assert units["cold-starts/main/seed-2/eval-free"].needs == ("cold-starts/main/seed-2/sft",)


def load_rl() -> Config:
    return load_config(find_config("tiny_image_rl"))


def test_a_given_model_needs_no_cold_start(tmp_path: Path) -> None:
    sets = ("cold_starts.0.config=", "cold_starts.0.model=some/model")
    units = Planner(study_of(tmp_path, *sets), tmp_path / "out").units()
    assert {u.verb for u in units} == {"rl", "eval"}
    rl = next(u for u in units if u.verb == "rl")
    assert load_config(find_config(rl.config), rl.overrides).policy.model == "some/model"
    assert not rl.needs
    # One start, whatever the number of seeds.
    assert len([u for u in units if u.name.startswith("cold-starts")]) == 2


def test_a_shared_cold_start_is_made_once(tmp_path: Path) -> None:
    units = Planner(study_of(tmp_path, "cold_starts.0.per_seed=false"), tmp_path / "out").units()
    assert [u.name for u in units if u.verb == "sft"] == ["cold-starts/main/seed-1/sft"]
    arms = [u for u in units if u.verb == "rl"]
    assert {u.needs for u in arms} == {("cold-starts/main/seed-1/sft",)}


def test_quick_takes_fewer_seeds_and_steps(tmp_path: Path) -> None:
    planner = Planner(study_of(tmp_path), tmp_path / "out", quick=True)
    assert planner.seeds == (1,)
    unit = next(u for u in planner.units() if u.verb == "rl")
    assert load_config(find_config(unit.config), unit.overrides).train.steps == 2
    with pytest.raises(ConfigError, match=r"no \[quick\]"):
        Planner(study_of(tmp_path, text=STUDY.partition("[quick]")[0]), tmp_path, quick=True)


@pytest.mark.parametrize("name", sorted(packaged_studies()))
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_studies_plan(name: str, quick: bool, tmp_path: Path) -> None:
    study = load_study(packaged_studies()[name])
    units = Planner(study, tmp_path / "out", quick=quick).units()
    names = [u.name for u in units]
    assert len(set(names)) == len(names)
    models = len(study.variants) + 1
    seeds = 1 if quick else len(study.seeds)
    modes = len(study.evaluations)
    assert len([u for u in units if u.verb == "eval"]) == seeds * models * modes


def test_cold_starts_are_taken_from_another_study(tmp_path: Path) -> None:
    other = tmp_path / "other"
    made = {u.name: u for u in Planner(study_of(tmp_path), other).units()}
    sft = made["cold-starts/main/seed-1/sft"]
    write_note(other, Note(sft.name, DONE, sft.sha256, 0, 1.0, "now"))
    study = study_of(tmp_path, f"cold_starts_from={other}")
    units = {u.name: u for u in Planner(study, tmp_path / "out").units()}
    # Seed 1 is there; seed 2 makes its own.
    assert [n for n in units if n.endswith("/sft")] == ["cold-starts/main/seed-2/sft"]
    arm = units["variants/plain/seed-1/rl"]
    assert not arm.needs
    assert str(other / sft.name / "final") in arm.overrides[-1]
    assert arm.sha256 == made["variants/plain/seed-1/rl"].sha256
    write_note(other, Note(sft.name, DONE, "0", 0, 1.0, "now"))
    with pytest.raises(ConfigError, match="made by another config"):
        Planner(study, tmp_path / "out").units()


@st.composite
def graphs(draw: st.DrawFn) -> list[Unit]:
    """Units, each needing some of those before it."""
    units: list[Unit] = []
    for index in range(draw(st.integers(1, 9))):
        needs = draw(st.sets(st.sampled_from(units), max_size=2)) if units else set()
        cost = draw(st.floats(1, 100))
        names = tuple(sorted(u.name for u in needs))
        units.append(Unit(f"u{index}", "rl", "", (), names, cost, ""))
    return units


@given(graphs(), st.data())
def test_every_unit_runs_once_after_what_it_needs_or_is_blocked(
    units: list[Unit], data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.sampled_from([u.name for u in units])))
    order, by_name = priorities(units), {u.name: u for u in units}
    done: set[str] = set()
    failed: set[str] = set()
    while now := ready(units, done, done | failed, order):
        assert [order[u.name] for u in now] == sorted((order[u.name] for u in now), reverse=True)
        unit = data.draw(st.sampled_from(now))
        assert set(unit.needs) <= done
        assert unit.name not in done | failed
        (failed if unit.name in bad else done).add(unit.name)
    lost = blocked(units, failed)
    assert done | failed | lost.keys() == by_name.keys()
    assert not lost.keys() & (done | failed)
    assert set(lost.values()) <= failed
    assert seconds_left(units, {}, {}, 2) is None or not units


@given(graphs())
def test_a_chain_is_as_long_as_its_longest_way(units: list[Unit]) -> None:
    order = priorities(units)
    for unit in units:
        after = [order[u.name] for u in units if unit.name in u.needs]
        assert order[unit.name] == pytest.approx(unit.cost + max(after, default=0))


def test_the_time_left_is_scaled_by_what_was_measured() -> None:
    units = [Unit(f"u{k}", "rl", "", (), (), 10.0, "") for k in range(4)]
    # The first took 20 s instead of 10: three more take 60 s, 5 s of which are over; two at a time.
    assert seconds_left(units, {"u0": 20.0}, {"u1": 5.0}, 2) == pytest.approx(55 / 2)
    # Not less than the longest alone.
    assert seconds_left(units, {"u0": 20.0}, {}, 9) == pytest.approx(20)


# Running.


def test_a_study_runs_everything_and_says_what_it_found(tmp_path: Path) -> None:
    found = run(study_of(tmp_path), tmp_path, command="pvrl study two_arms")
    assert len(starts(tmp_path)) == len(set(starts(tmp_path))) == 20
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result == json.loads(json.dumps(found.result))
    paid = result["models"]["tool_reward"]
    assert (paid["num_seeds"], paid["num_finished"], paid["missing"]) == (2, 2, {})
    assert paid["metrics"]["free.tool_calls"]["mean"] == 2.0
    assert paid["metrics"]["train.kept_share"]["mean"] == 0.5
    assert set(paid["seeds"]) == {"1", "2"}
    calls = result["comparisons"][0]
    assert calls["effect"] == pytest.approx(1.9)
    # Two pairs of one sign: 2 of 4 arrangements. Three tests: Holm makes it 1.
    assert (calls["test"]["p"], calls["p_holm"]) == (0.5, 1.0)
    assert result["versions"] == {"fake": "1"}
    text = (tmp_path / "out/tables.md").read_text()
    assert "| tool reward | 2 of 2 | 2.00 ± 0.00 |" in text
    assert "| start | 2 of 2 |" in text
    assert "| tool reward − plain | `free.tool_calls` | +1.900 |" in text
    assert "2 pairs" in text
    assert "pvrl study two_arms" in text
    for path in found.paths.values():
        assert Path(path).exists()
    assert found.failed == 0


def test_a_finished_study_is_only_shown_again(tmp_path: Path) -> None:
    run(study_of(tmp_path), tmp_path)
    before = len(starts(tmp_path))
    run(study_of(tmp_path), tmp_path)
    assert len(starts(tmp_path)) == before
    # It may grow.
    run(study_of(tmp_path, "seeds=1-3"), tmp_path)
    assert len(starts(tmp_path)) == before + 10
    # But not change what was run: what is refused leaves the folder as it was.
    there = (tmp_path / "out/study.json").read_bytes()
    with pytest.raises(RunError, match="made by another config"):
        run(study_of(tmp_path, "rl.set.train.steps=3"), tmp_path)
    assert (tmp_path / "out/study.json").read_bytes() == there


def test_a_failed_unit_is_noted_and_the_study_goes_on(tmp_path: Path) -> None:
    bad = program(tmp_path, fail=["variants/plain/seed-2/rl"])
    found = run(study_of(tmp_path), tmp_path, program=bad)
    # The arm, and its two evaluations that cannot be made.
    assert found.failed == 3
    note = read_note(tmp_path / "out", "variants/plain/seed-2/rl")
    assert note is not None
    assert "ValueError: told to fail" in note.tail
    plain = found.result["models"]["plain"]
    assert (plain["num_seeds"], plain["num_finished"]) == (2, 1)
    assert "told to fail" in plain["missing"]["2"][0]
    calls = found.result["comparisons"][0]
    assert (calls["seeds"], calls["missing"]) == ((1,), 1)
    text = (tmp_path / "out/tables.md").read_text()
    assert "| plain | 1 of 2 |" in text
    assert "1 pairs (1 missing)" in text
    assert "plain, seed 2: variants/plain/seed-2/rl failed (exit code 1)" in text
    # Not tried again until asked.
    before = len(starts(tmp_path))
    run(study_of(tmp_path), tmp_path)
    assert len(starts(tmp_path)) == before
    again = run(study_of(tmp_path), tmp_path, retry_failed=True)
    assert len(starts(tmp_path)) == before + 3
    assert again.failed == 0
    # What failed once stays on record.
    assert [*again.result["units"]["failures"]] == ["variants/plain/seed-2/rl"]
    mended = read_note(tmp_path / "out", "variants/plain/seed-2/rl")
    assert mended is not None
    assert (mended.status, mended.failures) == (DONE, 1)


def test_a_cold_start_that_failed_loses_its_seed_only(tmp_path: Path) -> None:
    bad = program(tmp_path, fail=["cold-starts/main/seed-1/sft"])
    found = run(study_of(tmp_path), tmp_path, program=bad)
    assert found.result["models"]["plain"]["num_finished"] == 1
    reasons = found.result["models"]["plain"]["missing"]["1"]
    assert len(reasons) == 1
    assert "cold-starts/main/seed-1/sft failed" in reasons[0]
    assert found.result["models"]["start"]["num_finished"] == 1


def test_nothing_left_is_still_a_table(tmp_path: Path) -> None:
    bad = program(tmp_path, fail=["/model"])
    found = run(study_of(tmp_path), tmp_path, program=bad)
    assert found.result["comparisons"][0]["effect"] is None
    assert "| plain | 0 of 2 | – |" in (tmp_path / "out/tables.md").read_text()


def test_a_second_study_is_kept_out_of_a_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "out"),
        pytest.raises(RunError, match=rf"is running there \(process {os.getpid()}\)"),
    ):
        run(study_of(tmp_path), tmp_path)
    run(study_of(tmp_path), tmp_path)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        run(study_of(tmp_path), tmp_path)


DRIVER = """
import sys
from pathlib import Path
from pyvision_rl.study.conduct import run_study
from pyvision_rl.study.config import load_study
study, out, retry, *program = sys.argv[1:]
retry_failed = retry == "True"
run_study(load_study(Path(study)), Path(out), jobs=2, retry_failed=retry_failed, program=program)
"""


def drive(
    tmp_path: Path, words: Sequence[str], *, retry_failed: bool = False
) -> subprocess.Popen[bytes]:
    """A study in a process of its own."""
    study = write_study(tmp_path, STUDY.replace('"1-2"', "[1]"))
    command = [sys.executable, "-c", DRIVER, str(study), str(tmp_path / "out"), str(retry_failed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([*command, *words], env=environment, stderr=subprocess.DEVNULL)


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def in_the_middle_of_rl(tmp_path: Path) -> bool:
    counts = [
        len(f.read_text().splitlines()) for f in (tmp_path / "out/variants").glob("*/*/rl/m*.jsonl")
    ]
    return any(2 <= count < fake_pvrl.STEPS for count in counts)


def alive(tmp_path: Path) -> list[str]:
    """Processes whose command line names this test's folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(tmp_path) in text:
            found.append(text)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_study_that_was_stopped_goes_on_within_its_units(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = drive(tmp_path, program(tmp_path, delay=0.15))
    wait_for(lambda: in_the_middle_of_rl(tmp_path), "no RL run began")
    process.send_signal(number)
    code = process.wait(60)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    # No unit outlives the study, however it ended.
    wait_for(lambda: not alive(tmp_path), "units outlive the study")
    before = starts(tmp_path)
    finished = {f.stem for f in (tmp_path / "out/units").glob("*.json")}
    assert not (tmp_path / "out/result.json").exists()
    metrics = sorted((tmp_path / "out").glob("*/*/*/*/metrics.jsonl"))
    lines = {file: file.read_text().splitlines() for file in metrics}

    found = run(study_of(tmp_path, "seeds=1"), tmp_path)
    assert found.failed == 0
    after = starts(tmp_path)[len(before) :]
    folders = [line.split()[1] for line in after]
    assert len(set(folders)) == len(folders)
    assert not [f for f in folders if f.split("out/")[1].replace("/", "--") in finished]
    gone_on = [line for line in after if line.endswith("True")]
    assert any(" ".join(line.split()[:1]) == "rl" for line in gone_on)
    for line in gone_on:
        file = Path(line.split()[1]) / "metrics.jsonl"
        # What was there was gone on from, not made again.
        assert file.read_text().splitlines()[: len(lines[file])] == lines[file]
        assert len(file.read_text().splitlines()) == fake_pvrl.STEPS
    assert len({line.split()[1] for line in starts(tmp_path)}) == 10


@pytest.mark.parametrize("retry_failed", [False, True])
def test_a_retry_that_was_stopped_goes_on_and_its_failure_stays_on_record(
    tmp_path: Path, retry_failed: bool
) -> None:
    name = "variants/plain/seed-1/rl"
    wanted = study_of(tmp_path, "seeds=1")
    assert run(wanted, tmp_path, program=program(tmp_path, fail=[name])).failed
    process = drive(tmp_path, program(tmp_path, delay=0.15), retry_failed=True)
    wait_for(lambda: in_the_middle_of_rl(tmp_path), "the retry did not begin")
    process.send_signal(signal.SIGINT)
    process.wait(60)
    note = read_note(tmp_path / "out", name)
    assert note is not None
    assert (note.status, note.failures) == (RETRYING, 1)
    shown = study_payload(tmp_path / "out")["study"]["variants"]
    assert [v["seeds"][0]["status"] for v in shown if v["name"] == "plain"] == ["running"]
    units = Planner(wanted, tmp_path / "out").units()
    there = existing(tmp_path / "out", units, retry_failed=retry_failed)
    assert (there["failed"], there["interrupted"]) == ([], [name])
    metrics = tmp_path / "out" / name / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    found = run(wanted, tmp_path, retry_failed=retry_failed)
    assert found.failed == 0
    went_on = [line.endswith("True") for line in starts(tmp_path) if f"{name} " in line]
    assert went_on == [False, False, True]
    assert metrics.read_text().splitlines()[: len(lines)] == lines
    assert found.result["units"]["failures"][name]["failures"] == 1


def test_an_interrupted_unit_goes_on_with_its_own_config_only(tmp_path: Path) -> None:
    process = drive(tmp_path, program(tmp_path, delay=0.15))
    wait_for(lambda: in_the_middle_of_rl(tmp_path), "no RL run began")
    process.send_signal(signal.SIGINT)
    process.wait(60)
    before = starts(tmp_path)
    there = (tmp_path / "out/study.json").read_bytes()
    other = ("seeds=1", "rl.set.train.learning_rate=0.5")
    with pytest.raises(RunError, match=r"rl was made by another config or version"):
        run(study_of(tmp_path, *other), tmp_path)
    planned = invoke("--resume", str(tmp_path / "out"), "--set", other[1], "--dry-run")
    assert planned.exit_code == 1
    assert "was made by another config" in planned.output
    assert starts(tmp_path) == before
    assert (tmp_path / "out/study.json").read_bytes() == there
    # Of a folder in which nobody wrote down what was begun nothing is known.
    for file in (tmp_path / "out/units").glob("*--rl.begun"):
        file.unlink()
    with pytest.raises(RunError, match=r"\(unknown, not "):
        run(study_of(tmp_path, "seeds=1"), tmp_path)


# The verb.


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["study", *arguments])


def test_a_dry_run_shows_the_plan_and_what_is_there(tmp_path: Path) -> None:
    run(study_of(tmp_path, "seeds=1"), tmp_path)
    done = invoke("--resume", str(tmp_path / "out"), "--set", "seeds=1-2", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "20 units: 2 new-model, 2 sft, 12 eval, 4 rl; seeds 1 2" in done.output
    assert "10 done, 0 failed, 0 interrupted" in done.output
    assert "done        rl        variants/plain/seed-1/rl" in done.output
    assert "new         rl        variants/plain/seed-2/rl" in done.output
    plan = json.loads(invoke(str(write_study(tmp_path)), "--dry-run", "--json").output)
    assert len(plan["units"]) == 20


def test_quick_is_how_a_study_was_begun(tmp_path: Path) -> None:
    study, out = dump_study(study_of(tmp_path)), tmp_path / "out"
    resumed = ("--resume", str(out), "--dry-run")
    write_json(out / "study.json", study | {"quick": False})
    done = invoke(*resumed, "--quick")
    assert done.exit_code == 2, done.output
    assert "was begun without it" in done.output
    write_json(out / "study.json", study | {"quick": True})
    done = invoke(*resumed, "--quick")
    assert done.exit_code == 0, done.output
    assert invoke(*resumed).output == done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a CONFIG"),
        (("study_collapse", "--resume", "x"), "name a CONFIG"),
        (("--resume", "nowhere"), "no study config 'nowhere'"),
        (("study_collapse", "--set", "sedes=1", "--dry-run"), "did you mean 'seeds'"),
    ],
)
def test_bad_usage_is_refused(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.slow
def test_a_quick_study_of_the_tiny_model_runs_end_to_end(tmp_path: Path) -> None:
    """Slow: twelve processes that each load torch, 2 minutes."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pyvision_rl.cli.main", "study", "study_collapse", "--quick"]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["models"]["tool_reward"]["num_finished"] == 1
    assert {"free.accuracy.hard", "tool.accuracy.easy", "train.kept_share"} <= set(
        result["models"]["plain"]["metrics"]
    )
    assert "the numbers mean nothing" in (out / "tables.md").read_text()
    assert (out / "figures/dynamics.png").exists()
    # All that a run writes may be drawn.
    lines = [json.loads(x) for f in out.glob("variants/*/*/rl/m*.jsonl")
             for x in f.read_text().splitlines()]  # fmt: skip
    assert {n for line in lines for n in line if panel_names(n)} == {"step", "time"}

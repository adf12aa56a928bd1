"""What a study reads, compares and draws: every number from the folder it is said to be from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.evaluation.evaluate import result_of
from pyvision_rl.runs import RunWriter
from pyvision_rl.study.comparing import compare
from pyvision_rl.study.conduct import draw_figures
from pyvision_rl.study.config import StudyConfig
from pyvision_rl.study.figures import curve, draw, lines_of, mean_curve, title_of
from pyvision_rl.study.notes import DONE, Note, read_note, write_note
from pyvision_rl.study.plan import Planner
from pyvision_rl.study.reading import (
    Row,
    evaluation_numbers,
    read_rows,
    task_scores,
    training_numbers,
)
from pyvision_rl.study.running import Finished
from pyvision_rl.study.tables import summarize, to_markdown
from pyvision_rl.types import EndReason, Gold, Reward, Task, TaskInput, Trajectory


def study(**more: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "title": "Two arms",
        "seeds": [1, 2, 3],
        "cold_starts": [{"config": "tiny_image_sft"}],
        "rl": {"config": "tiny_image_rl"},
        "variants": [{"name": "paid"}, {"name": "plain"}],
        "evaluate_start": False,
    }
    return StudyConfig.model_validate(values | more)


def episode(task: str, correct: bool | None, end: EndReason = EndReason.ANSWERED) -> Trajectory:
    reward = None if correct is None else Reward({"accuracy": float(correct)}, correct)
    return Trajectory(task, 0, (), (), (), end, None, reward)


EPISODES = [
    (TaskInput("a", "?", category="easy"), episode("a", True)),
    (TaskInput("a", "?", category="easy"), episode("a", False)),
    (TaskInput("b", "?", category="hard"), episode("b", None, EndReason.FAILED)),
    (TaskInput("c", "?", category="hard"), episode("c", None)),
    (TaskInput("d", "?", category="hard"), episode("d", True)),
]


def test_scores_by_task_count_as_the_evaluation_does() -> None:
    # a: one of two right; b failed and is wrong; c could not be graded and is left out.
    assert task_scores(EPISODES)["accuracy"] == {"a": 0.5, "b": 0.0, "d": 1.0}
    numbers = evaluation_numbers(result_of(EPISODES).to_json())
    assert numbers["accuracy"] == pytest.approx(1.5 / 3)
    assert numbers["accuracy.hard"] == pytest.approx(0.5)
    assert (numbers["failed"], numbers["ungraded"]) == (1, 1)


def test_an_evaluation_without_a_grade_has_no_accuracy() -> None:
    numbers = evaluation_numbers(
        result_of([(TaskInput("c", "?", category="hard"), episode("c", None))]).to_json()
    )
    assert numbers == {"failed": 0, "ungraded": 1}


def test_training_numbers_are_means_of_the_last_steps() -> None:
    lines = [
        {"step": 1, "reward": 9.0, "kept_share": 0.25, "zero_tool_share": 1.0},
        {"step": 2, "reward": 1.0, "kept_share": 0.25, "zero_tool_share": 0.75},
        {"step": 3, "reward": 2.0, "kept_share": 0.75, "zero_tool_share": 0.25, "graded": 4.0},
    ]
    assert training_numbers(lines, 2) == {
        "train.reward": 1.5,
        "train.kept_share": 0.5,
        "train.zero_tool_share": 0.5,
    }
    assert training_numbers([], 2) == {}


def test_rows_hold_what_the_folders_say(tmp_path: Path) -> None:
    one = study(seeds=[1])
    planner = Planner(one, tmp_path)
    notes = {}
    for unit in planner.units():
        notes[unit.name] = Note(unit.name, DONE, unit.sha256, 0, 1.0, "now")
        if unit.verb not in ("rl", "eval"):
            continue
        with RunWriter(tmp_path / unit.name, Config(), unit.verb) as writer:
            if unit.verb == "rl":
                writer.metrics(1, {"reward": 0.5})
                continue
            rows = [(Task(task, Gold("1")), t, None, None) for task, t in EPISODES]
            writer.rollouts(1, rows)
        result = json.dumps(result_of(EPISODES).to_json())
        (tmp_path / unit.name / "result.json").write_text(result)
    rows = read_rows(one, planner, Finished(notes, {}, None), tmp_path)
    assert [(r.model, r.seed, r.missing) for r in rows] == [("paid", 1, ()), ("plain", 1, ())]
    assert rows[0].numbers["free.accuracy"] == pytest.approx(0.5)
    assert rows[0].numbers["train.reward"] == 0.5
    assert rows[0].tasks["free"]["accuracy"] == {"a": 0.5, "b": 0.0, "d": 1.0}
    assert rows[0].categories["free"] == {"a": "easy", "b": "hard", "c": "hard", "d": "hard"}


def test_a_note_that_is_none_is_an_error_and_a_missing_one_is_not(tmp_path: Path) -> None:
    assert read_note(tmp_path, "x/y") is None
    write_note(tmp_path, Note("x/y", DONE, "0", 0, 1.0, "now"))
    found = read_note(tmp_path, "x/y")
    assert found is not None
    assert found.seconds == 1.0


def graded(model: str, seed: int, scores: dict[str, float]) -> Row:
    """A row whose tasks h* are hard and e* are easy."""
    hard = [v for t, v in scores.items() if t.startswith("h")]
    return Row(
        model,
        seed,
        {
            "free.accuracy": sum(scores.values()) / len(scores),
            "free.accuracy.hard": sum(hard) / len(hard),
            "train.reward": sum(hard),
        },
        {"free": {"accuracy": scores}},
        {"free": {t: "hard" if t.startswith("h") else "easy" for t in scores}},
    )


METRICS = ["free.accuracy.hard", "free.accuracy", "train.reward"]


def pair(**more: Any) -> dict[str, Any]:
    return {"variant": "paid", "against": "plain", "metrics": METRICS, **more}


def test_differences_by_hand() -> None:
    rows = [graded("paid", s, {"h1": 1.0, "h2": 1.0, "e": 1.0}) for s in (1, 2, 3)]
    rows += [graded("plain", s, {"h1": 0.0, "h2": 1.0, "e": 1.0}) for s in (1, 2, 3)]
    hard, every, reward = compare(study(comparisons=[pair()]), rows)
    assert (hard.effect, every.effect) == (pytest.approx(0.5), pytest.approx(1 / 3))
    assert hard.test is not None
    # Three pairs of one sign: 2 of 8. Three tests: Holm makes it 3 x 0.25.
    assert (hard.test.p, hard.p_holm) == (0.25, 0.75)
    assert (hard.over_tasks, reward.over_tasks) == (True, False)
    # All seeds agree, so only the choice of the two hard tasks spreads: 0, 0.5 or 1.
    assert hard.interval is not None
    assert (hard.interval.low, hard.interval.high) == (0.0, 1.0)
    assert reward.interval is not None
    assert reward.interval.low == reward.interval.high == pytest.approx(1.0)


@pytest.mark.parametrize("paired", [True, False])
def test_a_missing_seed_is_left_out_and_counted(paired: bool) -> None:
    rows = [graded("paid", s, {"h1": 1.0}) for s in (1, 2, 3)]
    rows += [graded("plain", s, {"h1": 0.0}) for s in (1, 3)]
    rows.append(Row("plain", 2, {}, missing=("it burnt",)))
    one = study(comparisons=[pair(paired=paired)])
    found = compare(one, rows)[0]
    assert found.seeds == ((1, 3) if paired else (1, 2, 3))
    assert (found.against_seeds, found.missing) == ((1, 3), 1)
    result = summarize(one, (1, 2, 3), rows, [found], provenance())
    assert result["models"]["plain"]["missing"] == {"2": ["it burnt"]}
    text = to_markdown(result, {})
    assert "- plain, seed 2: it burnt" in text
    assert ("2 pairs (1 missing)" if paired else "2 and 3 (1 missing)") in text


def test_a_shared_start_has_one_seed_to_miss() -> None:
    rows = [graded("paid", s, {"h1": 1.0}) for s in (1, 2, 3)]
    one = study(
        cold_starts=[{"config": "tiny_image_sft", "per_seed": False}],
        evaluate_start=True,
        comparisons=[pair(against="start", paired=False)],
    )
    found = compare(one, [*rows, graded("start", 1, {"h1": 0.0})])[0]
    assert (found.seeds, found.against_seeds, found.missing) == ((1, 2, 3), (1,), 0)
    assert found.test is not None
    # One of the C(4, 1) = 4 choices of the lone start.
    assert found.test.p == 0.25
    assert compare(one, [*rows, Row("start", 1, {})])[0].missing == 1


def provenance() -> dict[str, Any]:
    return {
        "command": "pvrl study x",
        "quick": False,
        "jobs": 1,
        "config_sha256": "0",
        "finished": "now",
        "wall_s": 1.0,
        "versions": {},
        "hardware": {},
        "units": {"done": 1, "failed": 0, "blocked": 0, "seconds": 1.0, "failures": {}},
    }


def test_seeds_of_which_none_is_left_make_no_difference() -> None:
    rows = [graded("paid", 1, {"h1": 1.0}), Row("plain", 1, {}, missing=("x",))]
    found = compare(study(comparisons=[pair()]), rows)
    assert [(d.effect, d.test, d.p_holm, d.missing) for d in found] == [(None, None, None, 1)] * 3


def test_seeds_with_tasks_of_their_own_are_not_crossed() -> None:
    rows = [graded(m, s, {f"h{s}": 1.0, f"h{s}b": 0.0}) for m in ("paid", "plain") for s in (1, 2)]
    found = compare(study(comparisons=[pair()]), rows)[0]
    assert found.effect == 0
    assert found.over_tasks


# Figures.


def test_what_is_sampled_before_an_update_stands_one_step_earlier() -> None:
    run = [{"step": 4, "tool_calls": 0.5, "eval_accuracy": 0.3, "kept_share": 0.25}]
    assert curve(run, "tool_calls") == {3: 0.5}
    assert curve(run, "eval_accuracy") == {4: 0.3}
    assert curve(run, "kept_share") == {3: 0.25}
    assert curve(run, "train_entropy") == {}
    assert (
        curve([{"step": 1, "reward": "a word"}, {"step": 2, "reward": float("nan")}], "reward")
        == {}
    )


def test_a_mean_is_drawn_where_every_seed_has_a_value() -> None:
    # At step 2: mean of 1 and 3 is 2; deviation sqrt(2), error sqrt(2) / sqrt(2) = 1.
    assert mean_curve([{1: 5.0, 2: 1.0}, {2: 3.0}]) == ([2], [2.0], [pytest.approx(1.0)])


def test_titles_name_the_category() -> None:
    assert title_of("eval_accuracy_hard") == "Held-out accuracy, hard"
    assert title_of("kept_share") == "Trajectories trained on (share)"
    assert title_of("my_number") == "my_number"


def test_a_variant_keeps_its_colour_in_every_figure() -> None:
    order, names = ("a", "b", "c"), {"a": "A", "b": "B", "c": "C"}
    both = lines_of(("a", "b", "c"), [], names, order)
    assert lines_of(("c",), [], names, order)[0] == both[2]


def test_figures_are_drawn_also_of_what_is_missing(tmp_path: Path) -> None:
    line = {"tool_calls": 0.5, "eval_accuracy_hard": 0.2, "eval_accuracy_easy": 0.9}
    runs = tuple({"step": s, **line} for s in (1, 2))
    rows = [Row("paid", 1, {}, curves=runs), Row("plain", 1, {}, missing=("x",))]
    found = draw_figures(study(), rows, tmp_path)
    file = tmp_path / "plain.png"
    assert found == {
        tmp_path / "dynamics.png": "Training dynamics",
        file: "plain against paid",
    }
    with Image.open(file) as picture:
        # 12 inches at 150 dots, one row of panels: 2.75 + 0.76 + 0.22 inches.
        assert picture.size == (1800, int(150 * 3.73))
        drawn = picture.convert("RGB").getcolors(1 << 20)
    assert drawn is not None
    assert (0x00, 0x72, 0xB2) in {colour for _, colour in drawn}


def test_figures_of_variants_that_share_a_label_are_all_listed(tmp_path: Path) -> None:
    arms = [{"name": "main"}, {"name": "a", "label": "ours"}, {"name": "b", "label": "ours"}]
    found = draw_figures(study(variants=arms), [], tmp_path)
    captions = {"dynamics": "Training dynamics", "a": "ours against main", "b": "ours against main"}
    assert {file.stem: caption for file, caption in found.items()} == captions
    assert all(file.is_file() for file in found)
    result = summarize(study(variants=arms), (1, 2, 3), [], [], provenance())
    text = to_markdown(result, {file.name: caption for file, caption in found.items()})
    assert "![ours against main](a.png)" in text
    assert "![ours against main](b.png)" in text


def test_curves_below_zero_are_in_the_picture(tmp_path: Path) -> None:
    tops = []
    for loss in (-0.05, 0.05):
        runs = tuple({"step": s, "train_loss": loss} for s in (1, 2))
        lines = lines_of(("a",), [Row("a", 1, {}, curves=runs)], {"a": "A"}, ("a",))
        draw(lines, ("train_loss",), tmp_path / "f.png", title="t")
        with Image.open(tmp_path / "f.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        # The curve's colour below the legend: a row of 0.05 is at the top, one of -0.05 below it.
        rows = np.flatnonzero((np.abs(pixels - (0x00, 0x72, 0xB2)).sum(axis=2) < 30).any(axis=1))
        tops.append(rows[rows > 150].mean())
    assert tops[0] > tops[1] + 50


def test_p_is_never_rounded_below_what_it_can_be() -> None:
    rows = [graded(m, s, {"h": p}) for m, p in (("paid", 1.0), ("plain", 0.0)) for s in range(16)]
    many = study(seeds=list(range(16)), comparisons=[pair()])
    result = summarize(many, tuple(range(16)), rows, compare(many, rows), provenance())
    lines = [line for line in to_markdown(result, {}).splitlines() if "16 pairs" in line]
    assert len(lines) == 3
    assert all(" 3e-05 | " in line and "0.0000" not in line for line in lines)


def test_a_figure_of_many_variants_has_room_for_its_legend(tmp_path: Path) -> None:
    names = [f"v{k}" for k in range(9)]
    lines = lines_of(names, [], {n: n for n in names}, names)
    draw(lines, ("tool_calls",), tmp_path / "f.png", title="t")
    with Image.open(tmp_path / "f.png") as picture:
        # Three rows of legend instead of one.
        assert picture.size[1] == pytest.approx(150 * (2.75 + 0.76 + 3 * 0.22), abs=1)

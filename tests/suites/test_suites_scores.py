"""Scores: right answers are right, nothing raises, and no fault of the kits is in our protocol."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.config import RewardsConfig, TasksConfig
from pyvision_rl.config.endpoints import JudgeConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.grading import TABLE as GRADERS
from pyvision_rl.runs_codec import SavedRollout, encode
from pyvision_rl.runs_decode import decode
from pyvision_rl.suites.base import Final, Scored, Undecided, final_of
from pyvision_rl.suites.choices import chosen
from pyvision_rl.suites.grading import SuiteGrader
from pyvision_rl.suites.hrbench import HRBench
from pyvision_rl.suites.task_set import SuiteTasks, find_suite
from pyvision_rl.suites.tirbench import TIRBench
from pyvision_rl.suites.vsibench import VSIBench
from pyvision_rl.suites.vstar import VStar
from pyvision_rl.tasks import TABLE as TASK_SETS
from pyvision_rl.types import EndReason, GiveAnswer, Gold, StopReason, Task, TaskInput, Trajectory
from pyvision_rl.types import Turn as TurnOf
from tests.suites import minis

MINIS = {
    "vstar": minis.vstar_folder,
    "hrbench": lambda folder: minis.hrbench_tsv(folder / "hr_bench_4k.tsv"),
    "vsibench": minis.vsibench_folder,
    "tirbench": minis.tirbench_folder,
}
SUITES = {name: find_suite(name) for name in MINIS}
OURS = "pyvision"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Where each miniature lies."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MINIS.items()}


@pytest.fixture(scope="module")
def tasks(paths):
    """Every item of every miniature, by suite."""
    found = {}
    for name, suite in SUITES.items():
        items = suite.tasks(paths[name], "")
        found[name] = [items[i] for i in range(len(items))]
    return found


def score(name, task, answer, protocol=OURS):
    """Return the grade of a boxed answer."""
    return SUITES[name].score(task, Final(answer, f"So it is {answer}"), protocol)


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("protocol", [OURS, "paper"])
def test_every_reference_scores_1_against_itself(tasks, name, protocol):
    for task in tasks[name]:
        grade = score(name, task, task.gold.answer, protocol)
        assert (grade.score, grade.correct) == (1.0, True), task.gold


@pytest.mark.parametrize("name", ["vstar", "hrbench", "vsibench"])
def test_every_reference_scores_1_in_every_protocol(tasks, name):
    for protocol in SUITES[name].protocols:
        for task in tasks[name]:
            assert score(name, task, task.gold.answer, protocol).score == 1.0, (protocol, task.gold)


def test_every_official_reference_of_tirbench_scores_1_but_those_without_a_rule(tasks):
    for task in tasks["tirbench"]:
        # "3:4" is no letter and no number: officially nobody is ever right. The picture 160.jpg is
        # officially taken for 60.jpg, so that its own word is wrong.
        lost = task.gold.answer in ("3:4", "harbour")
        answer = task.gold.answer
        grade = TIRBench().score(task, Final(answer, answer), "official")
        assert (grade.score == 1.0) is not lost, task.gold


ANSWERS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ABCD()., 0123456789-+/eE\\{}*:naif", max_size=40),
    st.integers().map(str),
    st.floats().map(str),
)


@given(answer=st.none() | ANSWERS, text=ANSWERS, data=st.data())
def test_scorers_never_raise_on_any_text(tasks, answer, text, data):
    name = data.draw(st.sampled_from(sorted(MINIS)))
    task = data.draw(st.sampled_from(tasks[name]))
    for protocol in SUITES[name].protocols:
        found = SUITES[name].score(task, Final(answer, text), protocol)
        if isinstance(found, Grade):
            assert 0 <= found.score <= 1
            assert not (found.correct and found.score < 0.5)
        else:
            assert isinstance(found, Undecided)
            assert protocol == "lmms-eval"


@given(answer=ANSWERS, data=st.data())
def test_our_protocol_gives_nothing_where_no_answer_was_given(tasks, answer, data):
    name = data.draw(st.sampled_from(sorted(MINIS)))
    task = data.draw(st.sampled_from(tasks[name]))
    assert SUITES[name].score(task, Final(None, answer), OURS).score == 0.0


@given(seed=st.integers(0, 1000), data=st.data())
def test_gold_is_right_in_every_drawn_order(paths, seed, data):
    name = data.draw(st.sampled_from(["vstar", "hrbench"]))
    items = SUITES[name].tasks(paths[name], OURS, shuffle=seed)
    filed = SUITES[name].tasks(paths[name], OURS)
    for number in range(len(items)):
        task, before = items[number], filed[number]
        options = task.gold.facts["options"]
        assert sorted(options) == sorted(before.gold.facts["options"])
        assert score(name, task, task.gold.answer).score == 1.0
        # The same thing in other words; and the same letter only if it did not move.
        right = before.gold.facts["options"]["ABCD".index(before.gold.answer)]
        assert score(name, task, right).score == 1.0
        assert f"{task.gold.answer}. {right}" in task.input.question


# The faults of published scorers, each with what ours does instead.


def test_gold_is_not_always_a(tasks):
    """Options built from V*'s raw files have the right one first: DeepEyes pull request 66."""
    for name in ("vstar", "hrbench"):
        always_a = [score(name, task, "A").score for task in tasks[name]]
        assert 0 < sum(always_a) < len(always_a)


@pytest.mark.parametrize(
    "answer", ["A cat is there", "Another one", "AB", "Bad", "aB", "I say: A or B", "A, B", ""]
)
def test_a_letter_inside_words_is_no_answer(tasks, answer):
    for task in tasks["vstar"]:
        assert score("vstar", task, answer).score == 0.0, task.gold.answer
    for task in tasks["vsibench"]:
        if task.gold.answer_type == "letter":
            assert score("vsibench", task, answer).score == 0.0


def test_numbers_of_the_transcript_are_not_read(tasks):
    """The authors' reward reads the first number of the whole transcript."""
    task = tasks["vsibench"][0]
    assert task.gold.answer == "4"
    thought = "I fetch 32 frames. There are 4 chairs."
    assert VSIBench().score(task, Final("4", thought), OURS).score == 1.0
    assert VSIBench().score(task, Final(None, "4 frames show it"), OURS).score == 0.0
    assert VSIBench().score(task, Final("4 or 5", "4 or 5"), OURS).score == 0.0
    assert VSIBench().score(task, Final("32 frames, 4 chairs", ""), OURS).score == 0.0


def test_junk_is_not_mapped_to_the_nearest_letter(tasks):
    """Officially TIR-Bench takes anything for a letter, and nothing for A."""
    item = next(t for t in tasks["tirbench"] if t.input.category == "visual_search")
    assert item.gold.answer == "A"
    for junk in ("", "xyz", "?"):
        assert score("tirbench", item, junk, "official").score == 1.0
        assert score("tirbench", item, junk).score == 0.0


def test_a_picture_is_not_taken_for_another_by_the_end_of_its_name(tasks):
    """Officially the reference of 60.jpg holds for 160.jpg too."""
    item = next(t for t in tasks["tirbench"] if t.gold.answer == "harbour")
    assert score("tirbench", item, "harbour").score == 1.0
    assert score("tirbench", item, "mobi").score == 0.0


def test_no_item_leaves_the_denominator(tasks):
    """Answers that say nothing are wrong, and are counted, in our protocol of every suite."""
    for name, suite in SUITES.items():
        items = []
        for task in tasks[name]:
            grade = suite.score(task, Final("no idea", "no idea"), OURS)
            items.append(Scored(task, (grade.score,), (False,)))
        report = suite.aggregate(items, OURS)
        assert report.counts["items"] == len(tasks[name])
        assert report.counts["ungraded"] == 0
        assert report.numbers[report.headline] == 0.0


def test_a_number_stands_alone_or_with_its_unit(tasks):
    items = {t.gold.answer: t for t in tasks["tirbench"]}
    assert score("tirbench", items["37.5"], "37.50 bar").score == 1.0
    assert score("tirbench", items["12"], "24/2").score == 1.0
    assert score("tirbench", items["12"], "1 2").score == 0.0
    # Officially the space is taken out.
    assert score("tirbench", items["12"], "1 2", "official").score == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "ours"),
    [
        # Of [2, 5, 9]: two of three; one of four; three of four; repeats count once.
        ("[2, 5, 9]", "2, 9", 2 / 3),
        ("[2, 5, 9]", "5 1", 1 / 4),
        ("[2, 5, 9]", "{9, 5, 2, 1}", 3 / 4),
        ("[2, 5, 9]", "2, 2, 2", 1 / 3),
        ("[2, 5, 9]", "cells 2, 5 and 9", 0.0),
        ("[2, 5, 9]", "", 0.0),
        # Of 3, 1, 4, 2: pieces in place.
        ("3, 1, 4, 2", "3, 1, 2, 4", 1 / 2),
        ("3, 1, 4, 2", "[1, 1, 1, 1]", 1 / 4),
        ("3, 1, 4, 2", "3 1 4", 0.0),
        ("3, 1, 4, 2", "first 3, 1, 4, 2", 0.0),
        ("4, 7", "(4, 7)", 1.0),
        ("4, 7", "7, 4", 0.0),
        ("ACD", "D, A and C", 1.0),
        ("ACD", "AC", 0.0),
        ("ACD", "AACD", 0.0),
        ("3:4", "3:4", 1.0),
        ("mobi", "Mobi.", 1.0),
        ("mobi", "the word is mobi", 0.0),
        ("C", "third box", 1.0),
        ("C", "box", 0.0),
    ],
)
def test_shares_and_lists_of_tirbench(tasks, gold, answer, ours):
    item = next(t for t in tasks["tirbench"] if t.gold.answer == gold)
    assert score("tirbench", item, answer).score == pytest.approx(ours)


@pytest.mark.parametrize(
    ("answer", "gold", "share"),
    [
        # |p - g| / g: 0, then .1, .15, .2 and so on; met where it is less than .05, .10, ..., .50.
        ("10", "10", 1.0),
        ("9", "10", 0.8),
        ("8.5", "10", 0.7),
        ("8", "10", 0.6),
        ("7.5", "10", 0.5),
        ("6", "10", 0.2),
        ("5", "10", 0.0),
        ("15", "10", 0.0),
        ("3", "4", 0.5),
        ("2", "3", 0.4),
        ("1.9", "2", 0.9),
        ("0", "0", 1.0),
        ("0.1", "0", 0.0),
    ],
)
def test_relative_accuracy_is_the_papers_formula_without_rounding(answer, gold, share):
    facts = {"question_type": "object_counting"}
    task = Task(TaskInput("1", "?", data_source="vsibench"), Gold(gold, "float", facts))
    grade = VSIBench().score(task, Final(answer, ""), OURS)
    assert grade.score == pytest.approx(share)
    assert grade.correct is (share >= 0.5)


def test_an_option_is_named_by_letter_or_text():
    options = ("red", "a white cup", "10", "10.0 m")
    assert chosen("(b)", options) == "B"
    assert chosen("$A$", options) == "A"
    assert chosen("'B'", options) == "B"
    assert chosen("A white cup.", options) == "B"
    assert chosen("B. a white cup", options) == "B"
    assert chosen("B. red", options) is None
    assert chosen("10", options) == "C"
    assert chosen("E", options) is None
    assert chosen("white", options) is None


@pytest.mark.parametrize(
    ("answer", "letter"), [("3.142", "B"), ("3.1420", "B"), ("3.143", "C"), ("3.1425", None)]
)
def test_an_option_is_its_own_text_however_near_its_neighbours_lie(answer, letter):
    assert chosen(answer, ("3.141", "3.142", "3.143")) == letter


# Reports.


def scored(tasks, *rows):
    """Return one item per row of scores, over the tasks in turn."""
    return [Scored(t, row, (False,) * len(row)) for t, row in zip(tasks, rows, strict=False)]


def test_vstar_reports_both_categories_and_all_items(tasks):
    # Samples first: means 1, 0.5, 0 of the direct, 1 and 0 of the relative ones.
    items = scored(tasks["vstar"], (1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    report = VStar().aggregate(items, OURS)
    assert report.headline == "overall"
    assert report.numbers == {
        "overall": 2.5 / 5,
        "direct_attributes": 1.5 / 3,
        "relative_position": 1 / 2,
    }
    assert report.counts == {"items": 5, "ungraded": 0, "samples": 10, "failed": 0}
    assert report.notes == ("5 of 191 items: not comparable with published numbers",)


def test_a_report_notes_what_a_reader_must_know(tasks):
    items = scored(tasks["vstar"], (1.0,), (), (0.0, 1.0))
    items[0] = Scored(items[0].task, (0.0,), (True,))
    report = VStar().aggregate(items, "paper")
    assert report.numbers["overall"] == 0.25
    assert report.counts == {"items": 2, "ungraded": 1, "samples": 3, "failed": 1}
    notes = "\n".join(report.notes)
    for said in (
        "second-hand protocol: PyVision-RL",
        "1 items could not be graded and are in no number",
        "1 to 2 graded samples",
        "asks for 32 samples",
    ):
        assert said in notes


@pytest.mark.parametrize("name", MINIS)
def test_a_run_that_could_not_be_graded_has_no_numbers(tasks, name):
    report = SUITES[name].aggregate([Scored(t, ()) for t in tasks[name]], OURS)
    assert report.numbers == {}
    assert report.counts["ungraded"] == len(tasks[name])


def test_hrbench_weighs_cycles_and_not_items(tasks):
    # Cycle 0: 1 and 0; cycle 1: 1 alone; so (0.5 + 1) / 2, where items would give 2 / 3.
    picked = [tasks["hrbench"][i] for i in (0, 4, 1)]
    report = HRBench().aggregate(scored(picked, (1.0,), (0.0,), (1.0,)), OURS)
    assert report.headline == "all"
    assert report.numbers["all"] == 0.75
    assert report.numbers["single"] == 1.0
    assert report.numbers["cross"] == 0.0
    assert report.numbers["all_cycle_0"] == 0.5
    assert "cycles have 1 to 2 items; each counts the same" in report.notes


def test_vsibench_is_the_mean_of_eight_tasks_whatever_their_sizes(tasks):
    items = [Scored(t, (float(i in (0, 4)),)) for i, t in enumerate(tasks["vsibench"])]
    report = VSIBench().aggregate(items, OURS)
    # Counting has 2 items, of which one is right; direction one of three levels; 6 tasks are 0.
    assert report.numbers["object_counting"] == 0.5
    assert report.numbers["object_rel_direction"] == pytest.approx(1 / 3)
    assert report.numbers["object_rel_direction_easy"] == 1.0
    assert report.numbers["overall"] == pytest.approx((0.5 + 1 / 3) / 8)
    part = VSIBench().aggregate(items[:5], OURS)
    assert part.numbers["overall"] == pytest.approx((1.0 + 0 + 0 + 0 + 1.0) / 5)
    notes = "\n".join(part.notes)
    assert "the mean of 5 of 8 tasks" in notes
    assert "object_rel_direction has 1 of 3 levels" in notes


def test_tirbench_means_items_with_their_shares(tasks):
    items = scored(tasks["tirbench"], *([(1.0,)] * 14), (0.5,), (0.0,), (0.0,))
    report = TIRBench().aggregate(items, OURS)
    assert report.numbers["overall"] == pytest.approx(14.5 / 17)
    assert report.numbers["jigsaw"] == 0.5
    assert report.numbers["math"] == 0.5


# As a task set and as a grader.


def options(name, paths, **more):
    return {"suite": name, "path": str(paths[name]), **more}


def answered(task, answer):
    """Return an episode that ended with an answer."""
    text = f"<answer>\\boxed{{{answer}}}</answer>"
    turn = TurnOf(text, StopReason.END, GiveAnswer(answer), 3)
    return Trajectory(task.id, 0, (), (), (turn,), EndReason.ANSWERED, answer)


def test_a_config_names_suite_and_protocol(paths):
    assert TASK_SETS["suite"].endswith(":SuiteTasks")
    assert GRADERS["suite"].endswith(":SuiteGrader")
    made = SuiteTasks(TasksConfig(name="suite", options=options("vstar", paths)))
    assert (len(made), made.protocol, made.data_sources()) == (5, "pyvision", {"vstar"})
    given_path = TasksConfig(name="suite", path=str(paths["vstar"]), options={"suite": "vstar"})
    assert SuiteTasks(given_path)[0] == made[0]
    shuffled = options("vstar", paths, shuffle_options=True, seed=5)
    drawn = SuiteTasks(TasksConfig(options=shuffled))
    assert [drawn[i].gold for i in range(5)] != [made[i].gold for i in range(5)]
    with pytest.raises(ConfigError, match=r"tasks\.options\.path is empty"):
        SuiteTasks(TasksConfig(options={"suite": "vstar"}))
    with pytest.raises(ConfigError, match=r"tasks\.options\.suite = 'vstat' is not known"):
        SuiteTasks(TasksConfig(options={"suite": "vstat", "path": "x"}))
    with pytest.raises(ConfigError, match="protocol = 'none' is none of suite 'vstar'"):
        SuiteGrader(RewardsConfig(options={"suite": "vstar", "protocol": "none"}))


def test_a_grade_says_which_protocol_gave_it(paths, tasks):
    config = RewardsConfig(name="suite", options=options("vstar", paths, protocol="official"))
    rewarder = build_rewarder(config)
    task = tasks["vstar"][0]
    right = asyncio.run(rewarder.grade(task, answered(task, "B"))).reward
    wrong = asyncio.run(rewarder.grade(task, answered(task, "C"))).reward
    assert (right.correct, right.parts["accuracy"], right.rung) == (True, 1.0, "suite:official")
    assert (wrong.correct, wrong.parts["accuracy"], wrong.rung) == (False, 0.0, "suite:official")
    asyncio.run(rewarder.close())


def test_what_rules_leave_undecided_stays_ungraded_without_a_judge(paths, tasks):
    grader = SuiteGrader(RewardsConfig(options=options("hrbench", paths, protocol="lmms-eval")))
    task = tasks["hrbench"][0]
    with pytest.raises(RewardError, match=r"asks a model.*no rewards\.judge"):
        asyncio.run(grader(task, answered(task, "the colour of snow")))
    assert grader.stats() == {"suite_undecided": 1.0}


def test_what_rules_leave_undecided_goes_to_the_judge(paths, tasks):
    judge = JudgeConfig(url="http://127.0.0.1:9/v1", model="m", max_calls=0, cache="")
    config = RewardsConfig(options=options("hrbench", paths, protocol="lmms-eval"), judge=judge)
    grader = SuiteGrader(config)
    task = tasks["hrbench"][0]
    # A budget of none: the judge was asked, and says so itself.
    with pytest.raises(RewardError, match="the judge's budget is used up"):
        asyncio.run(grader(task, answered(task, "the colour of snow")))
    assert grader.stats()["judge_over_budget"] == 1.0
    assert asyncio.run(grader(task, answered(task, "A"))).rung == "suite:lmms-eval"
    asyncio.run(grader.close())


def test_a_suite_scores_its_own_tasks_only(paths, tasks):
    grader = SuiteGrader(RewardsConfig(options=options("vstar", paths)))
    grader.check(lambda: frozenset({"vstar"}))
    with pytest.raises(ConfigError, match="'vstar' cannot score tasks of 'hrbench'"):
        grader.check(lambda: frozenset({"vstar", "hrbench"}))
    task = tasks["hrbench"][0]
    with pytest.raises(RewardError, match="cannot score a task of 'hrbench'"):
        asyncio.run(grader(task, answered(task, "A")))


@pytest.mark.parametrize("name", MINIS)
def test_stored_episodes_are_scored_again_without_the_data(tasks, name):
    for task in tasks[name]:
        saved = SavedRollout(task, answered(task, task.gold.answer))
        line = json.loads(json.dumps(encode(saved)))
        read = decode(line)
        assert read.task.gold == task.gold
        suite = SUITES[name]
        assert suite.score(read.task, final_of(read.trajectory), OURS).score == 1.0


def test_tasks_without_facts_are_stored_as_before():
    task = Task(TaskInput("1", "?"), Gold("A"))
    line = encode(SavedRollout(task, answered(task, "A")))
    assert "facts" not in line["task"]
    assert decode(line).task == task

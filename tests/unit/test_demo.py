"""The demo says what its numbers say, and its page cannot be attacked by what a model wrote."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from benchmarks.demo import draw, parse_seeds, run_seeds, summarize, take_over, to_markdown
from benchmarks.learn import run_seed
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.demo import figure, film, page, report
from pyvision_rl.demo.__main__ import _show as show_result
from pyvision_rl.demo.kinds import KINDS, held_out
from pyvision_rl.demo.processes import Command, Runner, descendants_mb
from pyvision_rl.demo.report import Measured, Outcome, fate, outcome, sentence, split_rise
from pyvision_rl.demo.stages import (
    Plan,
    _notes,
    _probe_of_start,
    config_sha256,
    run_demo,
    stages,
)
from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.evaluate import result_of
from pyvision_rl.media import image_media
from pyvision_rl.runs import RunWriter
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Message,
    Reward,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Text,
    Trajectory,
    Turn,
    VideoFrames,
)
from pyvision_rl.video import file_video
from tests.clips import counting, write_clip


def made(
    calls: float, hard: float, share: float, tool: float, *, direct: float = 0.1, easy: float = 0.8
) -> Outcome:
    """An outcome with a standard error of 0.03 everywhere."""
    value = {"easy": easy, "hard": hard, "tool_easy": 0.8, "tool_hard": tool}
    value |= {"direct_easy": 0.8, "direct_hard": direct}
    measured = {name: Measured(v, 0.03) for name, v in value.items()}
    return Outcome(calls=calls, share_hard=share, **measured)


START = made(0.55, 0.16, 0.25, 0.35)
DROPPED = made(0.03, 0.11, 0.01, 0.33)
KEPT = made(1.80, 0.36, 0.90, 0.38)
TAUGHT = made(0.60, 0.40, 0.30, 0.90)


FALLEN = made(0.60, 0.02, 0.30, 0.05)


def said(plain: Outcome, paid: Outcome) -> str:
    return sentence({"start": START, "plain": plain, "tool_reward": paid})


def test_the_sentence_tells_keeping_from_losing() -> None:
    text = said(DROPPED, KEPT)
    assert "Plain RL dropped the tool (0.55 -> 0.03 calls per episode)" in text
    assert "RL with the tool reward kept the tool and used it more (0.55 -> 1.80)" in text
    assert "from 0.16 to 0.36 (+0.20 ± 0.04)" in text
    assert "forced-tool accuracy 0.35 -> 0.38" in text
    assert "mostly kept a skill" in text


def test_the_sentence_follows_the_numbers() -> None:
    assert "Both arms kept the tool and used it more" in said(KEPT, KEPT)
    assert "Both arms dropped the tool" in said(DROPPED, DROPPED)
    assert "did not save the skill" in said(DROPPED, DROPPED)
    assert "mostly taught" in said(DROPPED, TAUGHT)
    assert "no clear change" in said(DROPPED, replace(KEPT, hard=Measured(0.18, 0.03)))
    assert "used the tool less" in said(replace(DROPPED, calls=0.3), KEPT)
    fallen = said(DROPPED, FALLEN)
    assert "a clear fall" in fallen
    assert "no clear change" not in fallen
    assert "no clear change" in said(DROPPED, replace(FALLEN, hard=Measured(0.14, 0.03)))
    never = replace(START, calls=0.0)
    text = sentence({"start": never, "plain": never, "tool_reward": never})
    assert "Both arms never used the tool" in text
    assert "no skill to keep" in text
    both = made(1.0, 0.5, 0.6, 0.7)
    assert "did both" in said(DROPPED, both)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.5, 0.1, "dropped"),
        (0.5, 0.2, "used less"),
        (0.5, 0.5, "kept"),
        (0.5, 0.7, "used more"),
        (0.0, 0.0, "not used"),
        (0.0, 0.5, "used more"),
    ],
)
def test_fate_of_the_tool(start: float, end: float, expected: str) -> None:
    assert fate(start, end) == expected


def test_the_split_worked_by_hand() -> None:
    start = made(0, hard=0.20, share=0.5, tool=0.3, direct=0.1)
    end = made(0, hard=0.45, share=0.9, tool=0.5, direct=0.1)
    split = split_rise(start, end)
    # Looking is worth 0.2 before and 0.4 after, 0.3 in the mean; 0.4 more episodes look.
    assert split.used_more == pytest.approx(0.4 * 0.3)
    # Looking became better by 0.2, in 0.7 of the episodes in the mean.
    assert split.used_better == pytest.approx(0.7 * 0.2)
    assert split.rest == pytest.approx(0.25 - 0.12 - 0.14)
    assert split.se == pytest.approx(0.03 * 2**0.5)


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_the_split_adds_up(v: list[float]) -> None:
    start = made(1, v[0], v[1], v[2], direct=v[3])
    end = made(1, v[4], v[5], v[6], direct=v[7])
    split = split_rise(start, end)
    assert split.used_more + split.used_better + split.rest == pytest.approx(split.total)


def test_the_split_leaves_no_rest_when_free_episodes_are_the_mixture() -> None:
    start = made(1, 0.25 * 0.4 + 0.75 * 0.1, 0.25, 0.4)
    end = made(1, 0.90 * 0.5 + 0.10 * 0.1, 0.90, 0.5)
    assert split_rise(start, end).rest == pytest.approx(0)


def episode(
    task_id: str = "t1",
    category: str = "hard",
    *,
    looks: Sequence[str] = (),
    correct: bool = True,
    text: str = "",
    output: str = "",
    size: int = 448,
) -> SavedRollout:
    """An episode that runs each piece of code in ``looks``, sees a picture, and answers."""
    media = image_media(Image.new("RGB", (size, size), (10, 120, 90)))
    crop = image_media(Image.new("RGB", (56, 56), (200, 20, 20)))
    task = Task(TaskInput(task_id, "digit in red box?", (media,), category), Gold("7"))
    turns = [
        Turn(
            text=f"{text}<code>\n```python\n{code}\n```\n</code>",
            stop=StopReason.STOP_STRING,
            action=RunCode(code),
            num_tokens=20,
            execution=Execution(ExecStatus.OK, output, images=(crop,), duration_s=0.01),
        )
        for code in looks
    ]
    answer = "7" if correct else "1"
    turns.append(Turn(f"{text}<answer>{answer}", StopReason.END, GiveAnswer(answer), 6))
    reward = Reward({"accuracy": float(correct), "tool_use": 0.1 * len(looks)}, correct)
    prompt = (Message("user", (media, Text("digit in red box?"))),)
    trajectory = Trajectory(
        task_id, 0, (), prompt, tuple(turns), EndReason.ANSWERED, answer, reward=reward
    )
    return SavedRollout(task, trajectory)


LOOK = "plt.imshow(image_clue_0.crop((112,224,224,336)))\nplt.show()"


def test_outcomes_are_read_from_what_evaluation_writes() -> None:
    """The contract with ``evaluate``: names and meaning of its JSON."""
    right = episode("a", "hard", looks=[LOOK, LOOK])
    wrong = episode("b", "hard", correct=False)
    easy = episode("c", "easy")
    items = [(s.task.input, s.trajectory) for s in (right, wrong, easy)]
    result = json.loads(json.dumps(result_of(items).to_json()))
    found = outcome(dict.fromkeys(report.MODES, result))
    assert found.hard == Measured(0.5, pytest.approx(0.5))
    # One task: nothing is known of the error.
    assert found.easy == found.direct_easy == Measured(1.0, None)
    assert found.share_hard == 0.5
    assert found.calls == pytest.approx(2 / 3)


def test_a_kind_of_several_categories_averages_them() -> None:
    kind = KINDS["video"]
    scores = {
        name: {"accuracy": 0.1 * k, "accuracy_se": 0.03, "tool_share": 0.5}
        for k, name in enumerate((*kind.easy, *kind.hard))
    }
    overall = {"tool_calls": 1.5, "frames_fetched": 80.0, "visual_tokens": 24.5}
    result = {"overall": overall, "categories": scores}
    found = outcome(dict.fromkeys(report.MODES, result), kind)
    # Categories 0 to 3 are easy, 4 to 6 hard; errors of independent means add in squares.
    assert found.easy == Measured(pytest.approx(0.15), pytest.approx(0.03 / 2))
    assert found.hard == Measured(pytest.approx(0.5), pytest.approx(0.03 / 3**0.5))
    assert found.share_hard == 0.5
    head, rows = report.table_rows(dict.fromkeys(report.MODELS, found))
    assert head[2:4] == ("frames fetched", "visual tokens")
    assert rows[0][2:4] == ("80.0", "24.5")


def test_held_out_accuracy_wants_all_categories() -> None:
    line = {"eval_accuracy_which": 0.2, "eval_accuracy_flash": 0.4, "eval_accuracy_move": 0.6}
    assert held_out(line, KINDS["video"].hard) == pytest.approx(0.4)
    assert held_out(line, KINDS["video"].easy) is None


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], []),
        ([0], [(0, 10)]),
        ([2, 3, 4, 9], [(20, 30), (90, 10)]),
        ([0, 2, 4], [(0, 10), (20, 10), (40, 10)]),
    ],
)
def test_runs_of_frames_are_spans_of_the_video(
    numbers: list[int], expected: list[tuple[float, float]]
) -> None:
    assert list(film.spans(numbers, 10)) == expected


def test_the_page_shows_when_in_a_video_the_model_looked(tmp_path: Path) -> None:
    video = file_video(write_clip(tmp_path / "film.mp4", counting(50)))
    saved = episode("v", "which", looks=["f=video_clue_0[12:22]"])
    public = replace(saved.task.input, media=(video,))
    turn = saved.trajectory.turns[0]
    assert turn.execution is not None
    # Frame 99 is the session's word only: the video has none.
    told = VideoFrames("video_clue_0", (*range(12, 22), 99)), VideoFrames("video_clue_0", (15,))
    execution = replace(turn.execution, fetched=told[:1], sources=told[1:])
    turns = (replace(turn, execution=execution), *saved.trajectory.turns[1:])
    trajectory = replace(saved.trajectory, turns=turns)
    saved = replace(saved, task=replace(saved.task, input=public), trajectory=trajectory)
    html = write_page(tmp_path, page.Sample(saved, saved))
    assert "64×48 px, 50 frames, 6 s" in html
    assert '<i style="left:24.0%;width:20.0%"></i>' in html
    assert '<i class="shown" style="left:30.0%;width:2.0%"></i>' in html
    assert html.count("frame at ") == film.NUM_FRAMES
    (tmp_path / "film.mp4").unlink()
    assert "frame at " not in write_page(tmp_path, page.Sample(saved, saved))


def write_eval(path: Path, episodes: Sequence[SavedRollout]) -> Path:
    with RunWriter(path, Config(), "eval") as run:
        run.rollouts(1, episodes)
    return path


def test_the_most_telling_task_is_chosen(tmp_path: Path) -> None:
    looked = [
        episode("easy", "easy", looks=[LOOK, LOOK]),
        episode("one-look", looks=[LOOK]),
        episode("failed", looks=[LOOK, LOOK], correct=False),
        episode("both-right", looks=[LOOK, LOOK]),
        episode("chain", looks=[LOOK, LOOK]),
        episode("alone", looks=[LOOK, LOOK, LOOK]),
    ]
    plain = [
        *(episode(n, correct=False) for n in ("easy", "one-look", "failed", "chain")),
        episode("both-right"),
    ]
    sample = page.choose(write_eval(tmp_path / "a", looked), write_eval(tmp_path / "b", plain))
    assert sample is not None
    assert sample.looked.task.id == sample.plain.task.id == "chain"


def test_no_common_task_is_no_sample(tmp_path: Path) -> None:
    a = write_eval(tmp_path / "a", [episode("x")])
    b = write_eval(tmp_path / "b", [episode("y")])
    assert page.choose(a, b) is None


def write_page(path: Path, sample: page.Sample | None, happened: str = "It worked.") -> str:
    picture = path / "figure.png"
    Image.new("RGB", (60, 20), "white").save(picture)
    file = path / "page.html"
    table = report.table_rows({"start": START, "plain": DROPPED, "tool_reward": KEPT})
    page.write_page(
        *(sample, file),
        happened=happened,
        figure=picture,
        table=table,
        notes={"Tasks.": "<chosen>"},
        max_pixels=12544,
    )
    return file.read_text()


def test_the_page_shows_code_pictures_windows_and_grades(tmp_path: Path) -> None:
    sample = page.Sample(episode(looks=[LOOK, LOOK]), episode(correct=False))
    html = write_page(tmp_path, sample)
    assert "It worked." in html
    # Highlighting puts tags between the names.
    assert "image_clue_0" in html
    assert html.count('class="box"') == 2
    assert "left:25.0%;top:50.0%;width:25.0%;height:25.0%" in html
    assert "112×112 px" in html
    assert "image_clue_1, 56×56 px" in html
    assert "image_clue_2, 56×56 px" in html
    assert "1.2 = accuracy 1 + tool_use 0.2" in html
    assert "answer 1: wrong" in html
    assert "RL with tool reward" in html


def test_the_page_shows_indented_code_once(tmp_path: Path) -> None:
    saved = episode(looks=["x = 1\ny = 2"])
    # Indented in the turn, flush left in the action.
    text = "See: <code>\n  ```python\n  x = 1\n  y = 2\n  ```\n</code>"
    turns = (replace(saved.trajectory.turns[0], text=text), *saved.trajectory.turns[1:])
    saved = replace(saved, trajectory=replace(saved.trajectory, turns=turns))
    shown = re.sub(r"<[^>]*>", "", write_page(tmp_path, page.Sample(saved, episode())))
    assert "See:" in shown
    assert shown.count("y = 2") == 1


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = write_page(tmp_path, page.Sample(episode(looks=[LOOK]), episode()))
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202e{{7*7}}"


@pytest.mark.parametrize("place", ["text", "code", "output", "question", "answer", "id"])
def test_what_a_model_wrote_stays_text(tmp_path: Path, place: str) -> None:
    saved = episode(
        looks=[f'x = "{HOSTILE}"' if place == "code" else LOOK],
        text=HOSTILE if place == "text" else "",
        output=HOSTILE if place == "output" else "",
    )
    public, trajectory = saved.task.input, saved.trajectory
    if place in ("question", "id"):
        public = replace(public, **{place: HOSTILE})
    if place == "answer":
        trajectory = replace(trajectory, answer=HOSTILE)
    saved = replace(saved, task=replace(saved.task, input=public), trajectory=trajectory)
    html = write_page(tmp_path, page.Sample(saved, episode()))
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "alert(1)" in re.sub(r"<[^>]*>", "", html)
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_without_a_sample_the_page_still_tells_the_numbers(tmp_path: Path) -> None:
    html = write_page(tmp_path, None, "Nothing <b>happened</b>.")
    assert "Nothing &lt;b&gt;happened&lt;/b&gt;." in html
    assert "1.80" in html


@pytest.mark.parametrize(
    ("code", "windows"),
    [
        (LOOK, [(112, 224, 224, 336)]),
        ("image_clue_0.crop((0, 0, 5.5, 5))", [(0, 0, 5.5, 5)]),
        ("image_clue_1.crop((0, 0, 5, 5))", []),
        ("a = 5\nimage_clue_0.crop((0, 0, a, 5))", [(0, 0, 5, 5)]),
        ("x,y,s=56,112,224\nimage_clue_0.crop((x,y,x+s,y+s))", [(56, 112, 280, 336)]),
        ("image_clue_0.crop((0, 0, a, 5))\na = 5", []),
        ("a = len('x')\nimage_clue_0.crop((0, 0, a, 5))", []),
        ("a, b = 1, 2, 3\nimage_clue_0.crop((0, 0, a, b))", [(0, 0, 1, 2)]),
        ("image_clue_0.crop((0, 0, 1e999, 5))", []),
        ("image_clue_0.crop((0, 0, True + True, 5))", [(0, 0, 2, 5)]),
        ("image_clue_0.crop((5, 5, 0, 0))", []),
        ("image_clue_0.crop((0, 0, 5))", []),
        ("image_clue_0.crop(", []),
        ("image_clue_0.crop(('a', 0, 5, 5))", []),
    ],
)
def test_windows_are_read_from_code(code: str, windows: list[tuple[float, ...]]) -> None:
    assert list(page.crops(code, "image_clue_0")) == windows


@given(st.text(max_size=40))
def test_reading_windows_never_fails(code: str) -> None:
    list(page.crops(code, "image_clue_0"))


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_figure_is_drawn_from_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    lines = [{"step": s, "tool_calls": 0.5} for s in range(1, steps + 1)]
    for line in lines[4::5]:
        line |= {"eval_accuracy_easy": 0.8, "eval_accuracy_hard": 0.2}
    outcomes = {"start": START, "plain": DROPPED, "tool_reward": KEPT}
    file = tmp_path / "f.png"
    figure.draw({"plain": lines, "tool_reward": lines}, outcomes, file, title="t")
    with Image.open(file) as picture:
        assert picture.size == (1800, 585)


@dataclass(frozen=True, slots=True)
class Script(Command):
    """A command that runs a piece of Python instead of a verb."""

    code: str = ""

    def argv(self) -> list[str]:
        return [sys.executable, "-c", self.code]


def script(folder: Path, name: str, code: str) -> Script:
    return Script(name, (), "tiny", folder / name, code=code)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, jobs=2, console=quiet())


def test_a_command_waits_for_the_one_it_follows(tmp_path: Path, runner: Runner) -> None:
    made = tmp_path / "made.txt"
    first = script(tmp_path, "first", f"import time; time.sleep(.3); open({str(made)!r}, 'w')")
    second = script(tmp_path, "second", f"open({str(made)!r}).close()")
    runner.run("chain", [replace(first, then=(second,))])
    assert [stage.name for stage in runner.stages] == ["chain"]


def test_what_follows_a_failure_is_not_run(tmp_path: Path, runner: Runner) -> None:
    made = tmp_path / "made.txt"
    second = script(tmp_path, "second", f"open({str(made)!r}, 'w')")
    with pytest.raises(RunError, match="first failed"):
        runner.run("chain", [replace(script(tmp_path, "first", "exit(3)"), then=(second,))])
    assert not made.exists()


def test_a_stage_runs_its_commands_together_and_is_timed(tmp_path: Path, runner: Runner) -> None:
    # Each waits for the other: one after the other they would never end.
    code = (
        "import pathlib, time\n"
        "pathlib.Path({0!r}).touch()\n"
        "while not pathlib.Path({1!r}).exists(): time.sleep(.01)"
    )
    a, b = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    pair = [script(tmp_path, "one", code.format(a, b)), script(tmp_path, "two", code.format(b, a))]
    runner.run("both", pair)
    (stage,) = runner.stages
    assert stage.name == "both"
    assert 0 < stage.seconds < 30


def test_a_finished_stage_is_not_run_again(tmp_path: Path, runner: Runner) -> None:
    command = script(tmp_path, "count", f"open({str(tmp_path / 'n')!r}, 'a').write('x')")
    runner.run("counting", [command])
    runner.run("counting", [command])
    assert (tmp_path / "n").read_text() == "x"
    assert runner.stages[0] == runner.stages[1]


def test_an_unfinished_stage_starts_afresh(tmp_path: Path, runner: Runner) -> None:
    command = script(
        tmp_path, "half", f"assert not __import__('os').path.exists({str(tmp_path / 'half')!r})"
    )
    (tmp_path / "half").mkdir()
    (tmp_path / "half/run.json").write_text("{")
    runner.run("halves", [command])


def test_a_failing_command_ends_the_stage_with_its_log(tmp_path: Path, runner: Runner) -> None:
    bad = script(tmp_path, "bad", "import sys; sys.exit('no such file: x.toml')")
    slow = script(tmp_path, "slow", "import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(RunError, match=r"bad failed \(exit code 1\)[\s\S]*no such file: x.toml"):
        runner.run("breaking", [bad, slow])
    assert time.monotonic() - began < 30
    assert not (tmp_path / "logs/breaking.done.json").exists()


def test_commands_compute_on_one_thread_each(tmp_path: Path, runner: Runner) -> None:
    out = tmp_path / "threads"
    code = f"import os; open({str(out)!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"
    runner.run("threads", [script(tmp_path, "threads-cmd", code)])
    assert out.read_text() == "1"


def test_memory_of_children_is_counted() -> None:
    code = "x = bytearray(80_000_000); print(1, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = descendants_mb(os.getpid())
        child.kill()
    assert 70 < found < 4000


@pytest.mark.parametrize("quick", [False, True])
def test_every_command_of_the_plan_is_a_valid_config(tmp_path: Path, quick: bool) -> None:
    config = load_config(find_config("tiny_image_rl"))
    plan = stages(Plan(7, quick=quick), tmp_path, config)
    commands = {c.name: c for _, group in plan for first in group for c in (first, *first.then)}
    loaded = {n: load_config(find_config(c.config), c.overrides) for n, c in commands.items()}
    assert {c.seed for c in loaded.values()} == {7}
    plain, paid = loaded["rl-plain"], loaded["rl-tool_reward"]
    assert plain.rewards.tool_use_per_call == 0.0
    assert paid.rewards.tool_use_per_call == config.rewards.tool_use_per_call > 0
    # Nothing else differs between the arms.
    assert plain.model_copy(update={"rewards": paid.rewards}) == paid
    assert loaded["eval-plain"].policy.model == str(tmp_path / "rl-plain/final")
    assert loaded["eval-plain"].eval == loaded["eval-start"].eval
    starts = ("--start", "free=", "--start", "tool=<code>", "--start", "direct=<answer>")
    assert commands["eval-plain"].more == starts
    for mode, begin in (("free", ""), ("tool", "<code>"), ("direct", "<answer>")):
        last = loaded[f"eval-tool_reward-{mode}"]
        assert last.eval.forced_start == begin
        assert last.policy.model == str(tmp_path / "rl-tool_reward/final")
        assert last.eval.model_copy(update={"forced_start": ""}) == loaded["eval-start"].eval
    assert plan[0][0] == "new model"
    assert len({c.out for c in commands.values()}) == len(commands)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        run_demo(Plan(0), tmp_path, jobs=1, console=quiet())
    assert (tmp_path / "notes.txt").exists()


def test_a_demo_of_another_seed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(Plan(3).record()))
    with pytest.raises(RunError, match="another demo"):
        run_demo(Plan(4), tmp_path, jobs=1, console=quiet())


def edited_config(tmp_path: Path) -> Path:
    """A copy of the RL config, to be edited."""
    file = tmp_path / "mine.toml"
    file.write_text(find_config("tiny_image_rl").read_text())
    return file


def edit(config: Path) -> None:
    """Change what the config says, and nothing of its name."""
    text, count = re.subn(r"(?m)^group_size = \d+", "group_size = 3", config.read_text())
    assert count == 1
    config.write_text(text)


def test_a_config_edited_between_two_runs_of_a_demo_is_refused(tmp_path: Path) -> None:
    config, out = edited_config(tmp_path), tmp_path / "demo"
    plan = Plan(3, str(config))
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(plan.record()))
    (out / "demo.json").write_text("{}")
    config.write_text(f"# a remark changes nothing\n{config.read_text()}")
    assert run_demo(plan, out, jobs=1, console=quiet()) == {}
    edit(config)
    with pytest.raises(RunError, match="another demo"):
        run_demo(plan, out, jobs=1, console=quiet())


def finished_cold_start(work: Path, plan: Plan) -> Path:
    """A seed's folder as far as ``take_over`` reads it."""
    folder = work / f"seed-{plan.seed}"
    for name in ("model", "sft", "logs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "here.txt").touch()
    for stage in ("new-model", "cold-start"):
        (folder / "logs" / f"{stage}.done.json").write_text("{}")
    (folder / "plan.json").write_text(json.dumps(plan.record()))
    return folder


def test_a_cold_start_is_taken_over_by_another_benchmark(tmp_path: Path) -> None:
    finished_cold_start(tmp_path / "old", Plan(3))
    plan = Plan(3, "tiny_image_learn")
    take_over(tmp_path / "old", tmp_path / "new", plan)
    folder = tmp_path / "new/seed-3"
    assert (folder / "sft/here.txt").exists()
    assert sorted(p.name for p in (folder / "logs").iterdir()) == [
        "cold-start.done.json",
        "new-model.done.json",
    ]
    # The demo that goes on from it accepts the folder.
    (folder / "demo.json").write_text("{}")
    assert run_demo(plan, folder, jobs=1, console=quiet()) == {}


@pytest.mark.parametrize(
    "other", [{"sft_sha256": "0"}, {"sft_sha256": None}, {"threads": 2}, {"version": "0"}]
)
def test_a_cold_start_of_another_config_is_not_taken_over(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    folder = finished_cold_start(tmp_path / "old", Plan(3))
    (folder / "plan.json").write_text(json.dumps({**Plan(3).record(), **other}))
    with pytest.raises(RunError, match="another cold start"):
        take_over(tmp_path / "old", tmp_path / "new", Plan(3, "tiny_image_learn"))
    assert not (tmp_path / "new").exists()


def test_a_seed_learnt_under_another_config_is_not_mixed_in(tmp_path: Path) -> None:
    for name in ("rl", "start", "end"):
        (tmp_path / f"{name}.done").write_text(config_sha256("tiny_image_learn"))
    assert run_seed(1, tmp_path / "none", tmp_path) == ""
    (tmp_path / "start.done").write_text("0")
    with pytest.raises(RunError, match="another tiny_image_learn"):
        run_seed(1, tmp_path / "none", tmp_path)


@pytest.mark.parametrize(("peak_mb", "said_so"), [(1200.0, False), (3200.0, True)])
def test_the_closing_words_say_when_memory_was_above_the_goal(
    peak_mb: float, said_so: bool
) -> None:
    console = quiet()
    table = {"head": ["model"], "rows": [["start"]]}
    result = demo() | {"peak_mb": peak_mb, "table": table, "paths": {"page": "p"}}
    show_result(console, result)
    assert isinstance(console.file, io.StringIO)
    assert ("above the demo's goal" in console.file.getvalue()) is said_so


def test_a_finished_demo_is_only_shown_again(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(Plan(3).record()))
    (tmp_path / "demo.json").write_text('{"happened": "x"}')
    assert run_demo(Plan(3), tmp_path, jobs=1, console=quiet()) == {"happened": "x"}


@pytest.mark.parametrize(
    ("text", "seeds"), [("10-14", (10, 11, 12, 13, 14)), ("3", (3,)), ("1,2,7-8", (1, 2, 7, 8))]
)
def test_seeds_are_read(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-", "5-4", "1,1", "-3"])
def test_wrong_seeds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_seeds(text)


def test_finished_seeds_are_not_run_again_and_failed_ones_not_retried(tmp_path: Path) -> None:
    done = tmp_path / "seed-1"
    done.mkdir()
    (done / "plan.json").write_text(json.dumps(Plan(1, "tiny_image_rl").record()))
    (done / "demo.json").write_text("{}")
    (tmp_path / "seed-2.failed.txt").write_text("out of memory")
    assert run_seeds((1, 2), tmp_path, "tiny_image_rl", jobs=1) == {2: "out of memory"}
    with pytest.raises(RunError, match="another demo"):
        run_seeds((1,), tmp_path, "tiny_image_learn", jobs=1)


def demo(paid: Outcome = KEPT, plain: Outcome = DROPPED) -> dict[str, Any]:
    """What a seed's demo.json holds, as far as the benchmark reads it."""
    outcomes = {"start": START, "plain": plain, "tool_reward": paid}
    return {
        "outcomes": {name: asdict(o) for name, o in outcomes.items()},
        "split": asdict(split_rise(START, paid)),
        "probe": {"gain": -0.08, "gain_with_bonus": 0.09, "tool_share": 0.25, "expectation": "e"},
        "happened": sentence(outcomes),
        "sizes": {"rl_steps": 30},
        "seconds": 400.0,
        "peak_mb": 1200.0,
    }


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    return {c["claim"].split(":")[-1].strip()[:30]: c["passed"] for c in result["criteria"]}


def test_criteria_hold_when_the_numbers_do() -> None:
    seeds = (10, 11, 12, 13, 14)
    result = summarize(seeds, {s: demo() for s in seeds}, {}, config="tiny_image_rl")
    assert all(verdicts(result).values())
    assert result["spread"]["hard_rise"]["mean"] == pytest.approx(0.20)
    assert result["spread"]["hard_rise"]["se"] == pytest.approx(0)


def test_one_bad_seed_shows() -> None:
    seeds = (10, 11, 12, 13, 14)
    demos = {s: demo() for s in seeds}
    demos[12] = demo(made(0.2, 0.10, 0.1, 0.30), made(0.9, 0.2, 0.4, 0.3))
    result = summarize(seeds, demos, {}, config="tiny_image_rl")
    failed = [c["claim"] for c in result["criteria"] if not c["passed"]]
    assert len(failed) == 2
    assert "rises by at least 0.20" in failed[0]
    assert "ends below its start" in failed[1]
    # One plain run that keeps the tool is allowed.
    assert "**fail**" in to_markdown(result)


def test_a_failed_seed_is_reported_and_counts() -> None:
    seeds = (10, 11)
    result = summarize(seeds, {10: demo()}, {11: "out of memory"}, config="tiny_image_rl")
    assert result["criteria"][0]["passed"] is False
    assert "seed 11 failed: out of memory" in to_markdown(result)
    claims = {c["claim"]: c["passed"] for c in result["criteria"]}
    assert claims["tool reward: no seed's hard accuracy ends below its start"] is False


def test_a_cold_start_that_was_not_probed_has_no_probe_to_tell_of(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "sft", Config(), "sft") as writer:
        writer.metrics(1, {"loss": 2.0})
    assert _probe_of_start(tmp_path / "sft") is None
    assert [*_notes(None)] == ["Table.", "Tasks."]
    bare = demo() | {"probe": None}
    result = summarize((10, 11), {10: bare, 11: bare}, {}, config="tiny_image_rl")
    assert result["expected"] == {}
    assert "probe_gain" not in result["rows"]["11"]
    to_markdown(result)


def test_no_finished_seed_fails_everything() -> None:
    result = summarize((1,), {}, {1: "x"}, config="tiny_image_rl")
    assert not any(c["passed"] for c in result["criteria"])
    to_markdown(result)


def test_the_learning_config_is_judged_by_forced_accuracy() -> None:
    seeds = (0, 1)
    kept = summarize(seeds, {s: demo() for s in seeds}, {}, config="tiny_image_learn")
    taught = summarize(seeds, {s: demo(TAUGHT) for s in seeds}, {}, config="tiny_image_learn")
    assert [c["passed"] for c in kept["criteria"]] == [True, False]
    assert [c["passed"] for c in taught["criteria"]] == [True, True]


def test_spreads_are_sample_statistics_over_seeds() -> None:
    paid = [replace(KEPT, calls=c) for c in (1.0, 2.0, 3.0)]
    result = summarize(range(3), dict(enumerate(map(demo, paid))), {}, config="tiny_image_rl")
    calls = result["spread"]["calls_tool_reward"]
    assert calls["mean"] == pytest.approx(2)
    assert calls["sd"] == pytest.approx(1)
    assert calls["se"] == pytest.approx(1 / 3**0.5)
    assert (calls["low"], calls["high"], calls["num_seeds"]) == (1, 3, 3)


def test_the_benchmark_figure_is_drawn_from_the_run_folders(tmp_path: Path) -> None:
    for seed in (0, 1):
        for arm in ("plain", "tool_reward"):
            with RunWriter(tmp_path / f"seed-{seed}/rl-{arm}", Config(), "rl") as run:
                run.metrics(1, {"tool_calls": 0.5 + seed, "eval_accuracy_hard": 0.2})
    models = ("start", "plain", "tool_reward")
    row = {f"{category}_{model}": 0.5 for category in ("easy", "hard") for model in models}
    draw(tmp_path, {0: row, 1: row}, tmp_path / "f.png", title="t")
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.size == (1800, 585)


@pytest.mark.slow
def test_the_quick_demo_runs_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyvision_rl.demo", "--quick", "--out", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "d/demo.json").read_text())
    for path in result["paths"].values():
        assert Path(path).exists(), path
    assert result["plan"]["quick"] is True
    assert "the numbers mean nothing" in done.stdout
    assert [s["name"] for s in result["stages"]][-1] == "figure and page"


def test_a_start_is_forced_to_the_letter(tmp_path: Path) -> None:
    config = load_config(find_config("tiny_image_rl"))
    text = 'it\'s 👀 "code":\n```python\n'
    odd = config.model_copy(update={"probe": config.probe.model_copy(update={"tool_start": text})})
    commands = [c for _, group in stages(Plan(7), tmp_path, odd) for c in group]
    (last,) = [c for c in commands if c.name == "eval-tool_reward-tool"]
    assert load_config(find_config(last.config), last.overrides).eval.forced_start == text

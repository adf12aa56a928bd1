"""The command line as a person meets it: words, exit codes, folders, JSON."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pyvision_rl import __version__
from pyvision_rl.cli.execute import InterruptedRun, Job, Options, run_verb
from pyvision_rl.cli.main import app
from pyvision_rl.cli.report import Reporter
from pyvision_rl.cli.verbs import after_sft
from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.config_file import dump_config
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.media import image_media, write_png
from pyvision_rl.runs import RunWriter

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
RUN_VERBS = ("new-model", "probe", "rollout", "synthesize", "sft", "rl", "eval")
VERBS = (*RUN_VERBS, "show", "audit", "export", "export-sft", "check")

# A whole run without torch: scripted turns in the real sandbox.
SCRIPTED = """
seed = 1
[tasks]
name = "needle"
limit = 3
options = { mix = { easy = 1, hard = 1 }, direct = 0.0 }
[policy]
name = "scripted"
max_new_tokens = 400
[rollout]
group_size = 2
"""
NOTHING = """
[tasks]
name = "tests.eval_fakes:Many"
options = { count = 0 }
[policy]
name = "scripted"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The command adds the working directory; the next test must not see it.
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "run.toml").write_text(SCRIPTED)
    return tmp_path


def pvrl(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_version_and_help():
    assert pvrl("--version").stdout == f"pvrl {__version__}\n"
    text = pvrl("--help").stdout
    for verb in VERBS:
        assert f"\n  {verb} " in text


@pytest.mark.parametrize("verb", RUN_VERBS)
def test_every_run_verb_has_the_same_options(verb):
    text = pvrl(verb, "--help").stdout
    for option in ("CONFIG", "--set", "--out", "--dry-run", "--json", "--debug"):
        assert option in text
    assert ("--resume" in text) == (verb in ("synthesize", "sft", "rl", "eval"))


@pytest.mark.parametrize("verb", RUN_VERBS)
def test_dry_run_shows_the_plan_and_writes_nothing(here, verb):
    result = pvrl(verb, "run.toml", "--dry-run", "--json", "--set", "train.steps=3")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["verb"] == verb
    assert plan["config"]["train"]["steps"] == 3
    assert plan["out"] == f"runs/{verb}-run-<n>"
    text = pvrl(verb, "run.toml", "--dry-run").stdout
    assert f"would run: pvrl {verb}" in text
    assert text.splitlines()[-1].startswith("next: pvrl ")
    assert sorted(p.name for p in here.iterdir()) == ["run.toml"]


def test_rollout_runs_end_to_end_and_can_be_run_again(here):
    result = pvrl("rollout", "run.toml")
    assert result.exit_code == 0, result.output
    out = here / "runs" / "rollout-run-1"
    lines = result.stdout.splitlines()
    assert f"wrote {Path('runs') / 'rollout-run-1'}" in lines
    assert lines[-1] == "next: pvrl show runs/rollout-run-1"
    assert "3 of 3 tasks" in result.stderr
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["accuracy"] == 1.0
    assert metrics[-1]["tool_calls"] >= 1.0

    # The resolved config in the folder is a config: running it again gives the same episodes.
    again = pvrl("rollout", "runs/rollout-run-1", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["out"] == "runs/rollout-run-2"
    first, second = (
        json.loads((here / "runs" / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("rollout-run-1", "rollout-run-2")
    )
    same = ("reward", "accuracy", "tool_calls", "sampled_tokens", "images")
    assert [first[k] for k in same] == [second[k] for k in same]


def test_a_synthesis_shows_what_it_kept_and_why_not_the_rest(here):
    result = pvrl("synthesize", "run.toml", "--out", "made", "--set", "synthesize.samples=2")
    assert result.exit_code == 0, result.output
    counts = dict(line.split() for line in result.stdout.splitlines() if len(line.split()) == 2)
    assert {k: counts[k] for k in ("episodes", "kept", "rejected.duplicate")} == {
        "episodes": "6",
        "kept": "3",
        "rejected.duplicate": "3",
    }
    assert result.stdout.splitlines()[-1] == "next: pvrl show made"
    shown = pvrl("show", "made")
    assert shown.exit_code == 0, shown.output
    assert ["rejected.duplicate", "3"] in [line.split() for line in shown.stdout.splitlines()]
    again = pvrl("synthesize", "--resume", "made", "--json")
    assert json.loads(again.stdout)["result"]["rejected"] == {"duplicate": 3}


def test_show_reads_a_run_back(here):
    assert pvrl("rollout", "run.toml", "--out", "made").exit_code == 0
    summary = pvrl("show", "made")
    assert summary.exit_code == 0
    assert "accuracy" in summary.stdout
    assert summary.stdout.splitlines()[-1].startswith("next: pvrl show made --step")
    values = json.loads(pvrl("show", "made", "--json").stdout)
    assert values["verb"] == "rollout"
    assert values["steps"] == [1]
    assert pvrl("show", "made", "--step", "1").exit_code == 0
    wrong = pvrl("show", "made", "--step", "9")
    assert wrong.exit_code == 1
    assert "Traceback" not in wrong.output


def test_numbers_that_json_does_not_know_are_words_as_in_run_files(here):
    with RunWriter(here / "made", Config(), "rl") as writer:
        writer.metrics(1, {"a": float("nan"), "b": float("-inf"), "c": 0.5})

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    told = json.loads(pvrl("show", "made", "--json").stdout, parse_constant=refuse)
    (line,) = told["metrics"]
    assert (line["a"], line["b"], line["c"]) == ("nan", "-inf", 0.5)


def test_out_folder_that_is_used_is_refused_and_left_alone(here):
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("mine")
    result = pvrl("rollout", "run.toml", "--out", "full")
    assert result.exit_code == 2
    assert "not an empty folder" in result.stderr
    assert [p.name for p in (here / "full").iterdir()] == ["notes.txt"]
    (here / "empty").mkdir()
    assert pvrl("rollout", "run.toml", "--out", "empty").exit_code == 0


def test_failed_start_leaves_no_empty_folder(here):
    result = pvrl("rollout", "run.toml", "--set", "policy.name=nobody")
    assert result.exit_code == 2
    assert "policy.name = 'nobody'" in result.stderr
    assert not list((here / "runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rl", "no.toml"], ("no config file 'no.toml'",)),
        (["rl", "run.toml", "--set", "train.stepz=1"], ("train.stepz", "did you mean 'steps'")),
        (["rl", "run.toml", "--set", "train"], ("section.key=value",)),
        (["rl"], ("CONFIG", "--resume RUN")),
        (["rl", "run.toml", "--resume", "x"], ("leave out CONFIG",)),
        (["rl", "--resume", "x"], ("no run.json there",)),
        (["new-model", "run.toml", "a", "--out", "b"], ("twice",)),
        (["check", "config", "no.toml"], ("no config file",)),
        (["check", "tasks", "no.jsonl"], ("no.jsonl",)),
        (["check", "tasks", "a.jsonl", "--set", "seed=1"], ("--set",)),
        (["rl", "--nothing"], ("--nothing",)),
        (["rollout", "run.toml", "--device-memory-gb", "80"], ("belongs to --dry-run",)),
        (["show", "x", "--json", "--step", "1"], ("whole run", "--step", "export-log x")),
        (["show", "x", "--json", "--task", "a"], ("whole run", "--task")),
        (["show", "x", "--json", "--rollout", "0"], ("whole run", "--rollout")),
        (["nothing"], ("nothing",)),
        (["rollout", "run.toml", "--out", "run.toml/x/y"], ("--out run.toml/x/y", "Not a dir")),
        (["check", "tasks", "run.toml", "--report", "."], ("--report . is a folder",)),
        (["check", "tasks", "run.toml", "--report", "run.toml/x"], ("--report run.toml/x",)),
    ],
)
def test_bad_usage_exits_2_with_one_message(here, arguments, words):
    result = pvrl(*arguments)
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_a_file_in_place_of_the_folder_of_runs_is_bad_usage(here):
    (here / "runs").write_text("mine")
    result = pvrl("rollout", "run.toml")
    assert result.exit_code == 2
    assert "without --out: cannot make runs: File exists" in result.stderr


@pytest.mark.parametrize("verb", [("check", "tasks"), ("check", "policy"), ("eval",), ("rollout",)])
def test_a_task_set_without_tasks_is_an_error(here, verb):
    (here / "none.toml").write_text(NOTHING)
    result = pvrl(*verb, "none.toml")
    assert result.exit_code == 1, result.output
    assert "tasks] tests.eval_fakes:Many: holds no tasks" in result.stderr
    assert "Error" not in result.stderr


def test_debug_shows_the_traceback(here):
    result = pvrl("rl", "no.toml", "--debug")
    assert isinstance(result.exception, ConfigError)


def test_broken_tasks_are_listed_with_their_lines(here):
    write_png(image_media(_image()), here)
    (here / "fake.png").write_text("not an image")
    good = {"id": "a", "question": "q?", "answer": "1", "image": next(here.glob("*.png")).name}
    rows = [
        {**good, "image": next(p.name for p in here.glob("*.png") if p.name != "fake.png")},
        {**good, "id": "b", "image": "missing.png"},
        {**good, "id": "c", "image": None, "images": [], "answer": ""},
        {"id": "a", "question": "again?", "answer": "1"},
        {"id": "d", "question": "q?", "answer": "1", "image": "fake.png"},
    ]
    (here / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "{broken\n")
    result = pvrl("check", "tasks", "t.jsonl")
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    for number in (2, 3, 4, 5, 6):
        assert any(f"t.jsonl:{number}" in line for line in failed), result.stdout
    assert not any("t.jsonl:1 " in line for line in failed)
    values = json.loads(pvrl("check", "tasks", "t.jsonl", "--json").stdout)
    assert values["failed"] == len(failed)


def test_sound_tasks_pass(here):
    name = write_png(image_media(_image()), here).name
    rows = [{"id": f"t{i}", "question": "q?", "answer": str(i), "image": name} for i in range(3)]
    (here / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = pvrl("check", "tasks", "t.jsonl", "--report", "not/there/report.json")
    assert result.exit_code == 0, result.output
    assert "checks, 0 failed" in result.stdout
    assert json.loads((here / "not/there/report.json").read_text())["failed"] == 0


def _image():
    from PIL import Image

    return Image.new("RGB", (30, 20), (200, 100, 0))


# run_verb itself, with work that ends in every way it can.


def _run(here: Path, work, **options):
    (here / "c.json").write_text(dump_config(Config()))
    run_verb("rl", Options("c.json", **options), work, then="pvrl show {out}")


def test_interrupted_run_says_how_to_go_on(here):
    def leaving(name: str, file: str) -> str:
        def work(job: Job) -> None:
            (job.out / "run.json").write_text("{}")
            (job.out / file).parent.mkdir(parents=True, exist_ok=True)
            (job.out / file).touch()
            raise KeyboardInterrupt

        (here / "c.json").write_text(dump_config(Config()))
        with pytest.raises(InterruptedRun) as error:
            run_verb(name, Options("c.json"), work, then="")
        return str(error.value)

    whole = "checkpoints/step_000010/MANIFEST.json"
    assert leaving("rl", whole) == "interrupted; go on with: pvrl rl --resume runs/rl-c-1"
    assert leaving("sft", whole) == "interrupted; go on with: pvrl sft --resume runs/sft-c-1"
    episodes = "rollouts/step_000001.jsonl"
    assert leaving("eval", episodes) == "interrupted; go on with: pvrl eval --resume runs/eval-c-1"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("rl", "metrics.jsonl"),
        ("rl", "checkpoints/step_000010/config.json"),
        ("sft", "checkpoints/.saving_step_000010/MANIFEST.json"),
        ("eval", "metrics.jsonl"),
        ("rollout", "rollouts/step_000001.jsonl"),
    ],
)
def test_interrupted_run_that_saved_nothing_promises_nothing(here, name, file):
    def work(job: Job) -> None:
        (job.out / "run.json").write_text("{}")
        (job.out / file).parent.mkdir(parents=True, exist_ok=True)
        (job.out / file).touch()
        raise KeyboardInterrupt

    (here / "c.json").write_text(dump_config(Config()))
    with pytest.raises(InterruptedRun) as error:
        run_verb(name, Options("c.json"), work, then="")
    assert str(error.value) == "interrupted"


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("pvrl probe {config} --set policy.model={out}/final", "c.json --set policy.model=o/final"),
        ("pvrl rl {config} --set policy.model={model}", "pvrl rl c.json --set policy.model=mine"),
    ],
)
def test_the_next_step_goes_on_with_the_model_at_hand(here, capsys, then, said):
    (here / "c.json").write_text(dump_config(Config()))
    options = Options("c.json", ("policy.model=mine",), Path("o"))
    run_verb("sft", options, lambda job: None, then=then)
    assert capsys.readouterr().out.splitlines()[-1].endswith(said)


def test_the_next_step_may_depend_on_the_config(here, capsys):
    (here / "c.json").write_text(dump_config(Config()))
    options = Options("c.json", (), Path("o"))
    run_verb("sft", options, lambda job: None, then=lambda config: f"seed {config.seed} {{out}}")
    assert capsys.readouterr().out.splitlines()[-1] == "next: seed 0 o"


def test_training_without_tasks_does_not_end_in_a_command_that_needs_them():
    tasks = TasksConfig(name="needle")
    assert after_sft(Config()) == "pvrl show {out}"
    assert after_sft(Config(tasks=tasks)).startswith("pvrl probe")


def test_a_run_without_episodes_names_no_step_to_look_at(here):
    with RunWriter(here / "run", Config(), verb="sft"):
        pass
    result = CliRunner().invoke(app, ["show", "run"])
    assert result.stdout.splitlines()[-1] == "next: pvrl view run"


@pytest.mark.parametrize("verb", ["rollout", "synthesize", "eval"])
def test_scripts_that_are_not_there_are_missed_before_anything_is_written(here, verb):
    row = {"id": "a", "question": "?", "answer": "1"}
    (here / "t.jsonl").write_text(json.dumps(row) + "\n")
    (here / "c.toml").write_text(
        '[tasks]\nname = "jsonl"\npath = "t.jsonl"\n[policy]\nname = "scripted"\n'
    )
    result = CliRunner().invoke(app, [verb, "c.toml"])
    assert result.exit_code == 2
    assert "no scripts" in result.stderr
    assert list((here / "runs").iterdir()) == []
    checked = CliRunner().invoke(app, ["check", "config", "c.toml"])
    assert checked.exit_code == 1
    assert "no scripts to play back" in checked.stdout


def test_many_faults_name_the_command_that_lists_all(here):
    (here / "t.jsonl").write_text("{}\n" * 40)
    arguments = ["rollout", "run.toml", "--set", "tasks.name=jsonl", "--set", "tasks.path=t.jsonl"]
    result = CliRunner().invoke(app, [*arguments, "--set", "tasks.options={}"])
    assert "pvrl check tasks t.jsonl --show 0 lists all" in result.stderr


def test_names_of_a_result_are_whole_off_a_terminal(here, capsys):
    name = "overall." + "a_long_name_of_a_category" * 8
    (here / "c.json").write_text(dump_config(Config()))
    run_verb("probe", Options("c.json", (), Path("o")), lambda job: {name: 0.5}, then="")
    assert name in capsys.readouterr().out


def test_a_reader_that_leaves_ends_the_command_quietly(here):
    assert pvrl("rollout", "run.toml", "--out", "made").exit_code == 0
    for more in ((), ("--json",)):
        command = [sys.executable, "-m", "pyvision_rl.cli.main", "show", "made", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, text=True, env=ENV) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 1


def test_a_checkpoint_to_resume_names_the_run_it_is_of(here):
    checkpoint = here / "old" / "checkpoints" / "step_000002"
    checkpoint.mkdir(parents=True)
    (here / "old" / "run.json").write_text("{}")
    result = pvrl("rl", "--resume", "old/checkpoints/step_000002")
    assert result.exit_code == 2
    assert (
        "no run.json there; a run goes on from its newest checkpoint: --resume old" in result.stderr
    )


def test_resume_uses_the_runs_own_config_and_folder(here):
    run = here / "old"
    run.mkdir()
    record = json.loads(dump_config(Config(seed=9)))
    (run / "run.json").write_text(json.dumps(record))
    seen: list[Job] = []
    options = Options("", ("train.steps=4",), None, Path("old"))
    run_verb("rl", options, seen.append, then="")
    assert (seen[0].config.seed, seen[0].config.train.steps) == (9, 4)
    assert seen[0].out == seen[0].resume == Path("old")


def test_failing_work_keeps_what_it_wrote(here):
    def work(job: Job) -> None:
        (job.out / "metrics.jsonl").write_text("{}\n")
        raise TrainError("the loss is NaN")

    with pytest.raises(TrainError):
        _run(here, work)
    assert (here / "runs" / "rl-c-1" / "metrics.jsonl").exists()


def test_default_folders_never_meet(here):
    seen: list[Job] = []

    def work(job: Job) -> None:
        (job.out / "x").touch()
        seen.append(job)

    for _ in range(3):
        _run(here, work)
    assert [j.out.name for j in seen] == ["rl-c-1", "rl-c-2", "rl-c-3"]


def test_own_modules_in_the_working_directory_are_found(here):
    (here / "mine_for_this_test.py").write_text(
        "from pyvision_rl.types import Gold, Task, TaskInput\n"
        "class Two:\n"
        "    def __init__(self, config): pass\n"
        "    def __len__(self): return 2\n"
        "    def __getitem__(self, i): return Task(TaskInput(f't{i}', 'q?'), Gold('4'))\n"
    )
    (here / "own.toml").write_text('[tasks]\nname = "mine_for_this_test:Two"\n')
    # The installed script starts without the working directory in sys.path; -P does the same.
    command = [sys.executable, "-P", "-m", "pyvision_rl.cli.main", "check", "tasks", "own.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENV)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 tasks" in done.stdout


def test_ctrl_c_ends_with_130_and_no_traceback(here):
    # A task set that never ends to build stands for any long work.
    (here / "slow_for_this_test.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    def __init__(self, config):\n"
        "        print('started', flush=True)\n"
        "        time.sleep(60)\n"
    )
    (here / "slow.toml").write_text('[tasks]\nname = "slow_for_this_test:Slow"\n')
    command = [sys.executable, "-m", "pyvision_rl.cli.main", "rollout", "slow.toml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=ENV) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors


def test_plain_progress_is_lines_with_an_eta():
    stream = io.StringIO()
    with Reporter(Console(file=stream, width=40), "rl") as report:
        report("loading [model] from a long path that is not wrapped into pieces")
        report("step 1/3  reward 0.1  kept 5/16")
        time.sleep(0.01)
        report("step 2/3  reward 0.2  kept 6/16")
        report("step 3/3  reward 0.3  kept 7/16")
        report("1 of 9 tasks")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "loading [model] from a long path that is not wrapped into pieces"
    assert lines[1] == "step 1/3  reward 0.1  kept 5/16"
    assert lines[2].startswith("step 2/3  reward 0.2  kept 6/16 (eta 0:0")
    assert lines[3] == "step 3/3  reward 0.3  kept 7/16"
    assert lines[4] == "1 of 9 tasks"


def test_terminal_progress_keeps_lines_and_draws_a_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with Reporter(console, "rl") as report:
        for step in range(1, 4):
            report(f"step {step}/3")
        report("evaluated 2 of 5 tasks")
    text = stream.getvalue()
    assert "step 2/3" in text
    assert "eta" in text

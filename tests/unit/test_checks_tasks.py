"""What ``pvrl check tasks`` says of a data file: every fault, every count, and the right exit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pyvision_rl.checks.survey import by_rules
from pyvision_rl.checks.tasks import check_tasks, survey_tasks
from pyvision_rl.cli.main import app
from pyvision_rl.config import Config, RewardsConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.rewards.base import Grade
from pyvision_rl.types import Task, Trajectory
from tests.clips import counting, write_clip

HERE = __name__
JUDGED = {
    "name": "judge",
    # Nobody listens there: a call would fail, and be retried for long.
    "judge": {"url": "http://127.0.0.1:9/v1", "model": "m", "rules_first": False, "cache": ""},
}


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": f"Question {number}?",
        "answer": "A",
        "ability": "visual_search",
        "data_source": "deepeyes",
        "image_path": "red.png",
        **fields,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "same.png")
    Image.new("RGB", (200, 100), "blue").save(tmp_path / "blue.png")
    return tmp_path


def write(*items: Any, name: str = "data.json") -> str:
    Path(name).write_text(json.dumps(list(items)))
    return name


def config(path: str, name: str = "published", **sections: Any) -> Config:
    return Config.model_validate({"tasks": {"name": name, "path": path}, **sections})


def pvrl(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_sound_file_is_counted(folder: Path) -> None:
    path = write(
        record(0),
        record(1, image_path="blue.png", answer="12", data_source="minio3"),
        record(2, answer="2.5", ability="maths"),
        record(3, answer="a red glove", image_path=None),
    )
    findings, survey = survey_tasks(config(path))
    assert not [f for f in findings if not f.ok]
    assert survey is not None
    found = survey.to_json()
    sizes = sum((folder / name).stat().st_size for name in ("red.png", "blue.png"))
    # Records 0 and 2 show the same picture.
    assert found["images"] == {
        "used": 3,
        "distinct": 2,
        "bytes": sizes,
        "smallest": [40, 30],
        "largest": [200, 100],
    }
    assert (found["records"], found["faulty"], found["without_media"]) == (4, 0, 1)
    assert found["answer_types"] == {"float": 1, "integer": 1, "letter": 1, "text": 1}
    assert found["data_sources"] == {"deepeyes": 3, "minio3": 1}
    assert found["categories"] == {"visual_search": 3, "maths": 1}
    assert found["graded_right"] == 4
    by_name = {f.name: f for f in findings}
    assert by_name["records"].detail == "4 in data.json"
    assert by_name["data sources"].detail == "deepeyes 3, minio3 1"
    assert "40 x 30 to 200 x 100 pixels" in by_name["images"].detail
    assert by_name["without image or video"].status == "note"
    assert by_name["the reference answer is graded right"].detail == "all 4"


@pytest.mark.parametrize("decode", [True, False])
def test_videos_are_measured(folder: Path, decode: bool) -> None:
    write_clip(folder / "a.mp4", counting(16), 8)
    write_clip(folder / "b.mp4", counting(50, 32, 32), 25)
    films = [record(n, image_path=None, video_path=f"{c}.mp4") for n, c in enumerate("ab")]
    _, survey = survey_tasks(config(write(*films)), decode=decode)
    assert survey is not None
    found = survey.to_json()["videos"]
    assert (found["smallest"], found["largest"]) == ([32, 32], [64, 48])
    # 16 frames at 8 a second, 50 at 25: two seconds each.
    assert (found["num_frames"], found["fps"]) == ([16, 50], [8.0, 25.0])
    assert found["duration_s"] == pytest.approx([2.0, 2.0])


def test_every_fault_is_found_in_one_pass(folder: Path) -> None:
    (folder / "fake.png").write_text("no image")
    path = write(
        record(0),
        record(1, image_path="none.png"),
        record(2, image_path="fake.png"),
        record(3, answer=None),
        record(0),
        7,
    )
    findings, survey = survey_tasks(config(path))
    assert survey is not None
    found = survey.to_json()
    assert (found["records"], found["faulty"], found["missing_files"]) == (6, 5, 1)
    faults = {fault["record"]: (fault["key"], fault["message"]) for fault in found["faults"]}
    assert set(faults) == {2, 3, 4, 5, 6}
    assert faults[2] == ("image_path", "none.png: no such file")
    assert "not a readable image" in faults[3][1]
    assert faults[4] == ("answer", "is missing")
    assert faults[5][0] == "id"
    assert faults[6][1] == "a int, wants an object"
    failed = [f for f in findings if not f.ok]
    assert [f.name for f in failed[:-1]] == [f"data.json:{n}" for n in (2, 3, 4, 5, 6)]
    assert failed[-1].detail == "5 in 5 records; files that are not there: 1"


def test_a_broken_picture_is_seen_only_by_who_decodes(folder: Path) -> None:
    whole = (folder / "blue.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    path = write(record(0, image_path="cut.png"))
    assert survey_tasks(config(path))[1].faults  # type: ignore[union-attr]
    file = Config.model_validate({"tasks": {"name": "published", "path": path}})
    from pyvision_rl.checks.survey import take
    from pyvision_rl.tasks.survey import surveyed

    assert file.tasks is not None
    assert not take(file, surveyed(file.tasks), decode=False).faults


def test_the_same_question_about_the_same_pixels_is_found(folder: Path) -> None:
    path = write(
        record(0),
        record(1, question="Question  0?\n", image_path="same.png"),
        record(2, question="Question 0?", answer="B"),
        record(3, question="Question 0?", image_path="blue.png", answer="B"),
    )
    findings, survey = survey_tasks(config(path))
    assert survey is not None
    assert survey.repeated == ["data.json:1 and data.json:2"]
    assert survey.contradicting == ["data.json:1 and data.json:3"]
    notes = {f.name: f.detail for f in findings if f.status == "note"}
    assert notes["the same question and media, another answer"].startswith("1: data.json:1 and")


class OnlyA:
    """A grader that can read letters alone."""

    def __init__(self, config: RewardsConfig) -> None:
        pass

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        right = trajectory.answer == "A"
        return Grade(float(right), right, "no A")


def test_each_reference_answer_is_graded_and_not_a_sample(folder: Path) -> None:
    rows = [record(n) for n in range(300)]
    rows[7]["answer"], rows[299]["answer"] = "B", "C"
    rewards = {"name": f"{HERE}:OnlyA"}
    _, survey = survey_tasks(config(write(*rows), rewards=rewards))
    assert survey is not None
    wrong = [(fault.line, fault.key, fault.message) for _, fault in survey.faults]
    assert wrong == [
        (8, "answer", "'B' is graded wrong (no A)"),
        (300, "answer", "'C' is graded wrong (no A)"),
    ]
    assert survey.graded == 298


def test_a_reference_that_is_no_number_fails_for_relative_accuracy(folder: Path) -> None:
    rows = [record(0, answer="2.5"), record(1, answer="A")]
    _, survey = survey_tasks(config(write(*rows), rewards={"name": "relative_accuracy"}))
    assert survey is not None
    ((_, fault),) = survey.faults
    assert (fault.line, fault.key) == (2, "answer")
    assert "cannot be graded by rules" in fault.message


def test_a_judge_is_never_asked(folder: Path) -> None:
    findings = check_tasks(config(write(record(0, answer="a glove")), rewards=JUDGED))
    assert not [f for f in findings if not f.ok]
    ruled = by_rules(RewardsConfig.model_validate(JUDGED))
    assert (ruled.judge.rules_first, ruled.judge.max_calls) == (True, 0)


@pytest.mark.parametrize(
    ("env", "context", "noted"),
    [
        ("pyvision_gym_w_image_hint", "on_demand", False),
        ("pyvision_gym_w_image_hint", "runtime", True),
        ("pyvision_gym_wo_image_hint", "on_demand", True),
        ("pyvision_gym_wo_image_hint", "runtime", False),
    ],
)
def test_records_made_for_another_mode_are_noted(
    folder: Path, env: str, context: str, noted: bool
) -> None:
    path = write(record(0, env_name=env))
    findings = check_tasks(config(path, prompts={"context": context}))
    assert ("prompts.context" in {f.name for f in findings}) is noted


def test_rows_of_our_own_are_surveyed_too(folder: Path) -> None:
    rows = [{"id": str(n), "question": "q?", "answer": "yes", "image": "red.png"} for n in (1, 2)]
    Path("t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _, survey = survey_tasks(config("t.jsonl", "jsonl"))
    assert survey is not None
    assert survey.answer_types == {"yes_no": 2}
    assert survey.repeated == ["t.jsonl:1 and t.jsonl:2"]


def test_every_file_of_a_mixture_is_surveyed(folder: Path) -> None:
    sets = {
        "a": {"name": "published", "path": write(record(0), name="a.json")},
        "b": {"name": "published", "path": write(record(0), record(1, answer=""), name="b.json")},
    }
    mixture = {"name": "mixture", "options": {"sets": sets}}
    findings, survey = survey_tasks(Config.model_validate({"tasks": mixture}))
    assert survey is not None
    assert survey.files == {"a.json": 1, "b.json": 2}
    assert [f.name for f in findings if not f.ok] == ["b.json:2", "faults"]


def test_the_first_faults_are_shown_and_all_are_counted(folder: Path) -> None:
    path = write(*[record(n, image_path="none.png") for n in range(30)])
    result = pvrl("check", "tasks", path, "--show", "3", "--report", "report.json")
    assert result.exit_code == 1
    shown = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in shown] == [*(f"{path}:{n}" for n in (1, 2, 3)), "faults"]
    assert "27 more" in result.stdout
    assert "30 in 30 records; files that are not there: 30" in shown[-1]
    report = json.loads(Path("report.json").read_text())
    assert len(report["survey"]["faults"]) == 30
    assert report["failed"] == 31  # each fault, and their sum
    everything = pvrl("check", "tasks", path, "--show", "0").stdout
    assert everything.count("FAIL") >= 31
    assert json.loads(pvrl("check", "tasks", path, "--json").stdout) == report


def test_a_file_alone_passes_and_names_the_next_command(folder: Path) -> None:
    images = folder / "elsewhere"
    images.mkdir()
    (folder / "red.png").rename(images / "red.png")
    path = write(record(0))
    assert pvrl("check", "tasks", path).exit_code == 1
    result = pvrl("check", "tasks", path, "--media-root", "elsewhere", "--quick")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == (
        f"next: pvrl rollout CONFIG --set tasks.name=published --set tasks.path={path}"
        " --set tasks.options.media_root=elsewhere"
    )


def test_what_utf8_does_not_have_is_spelt_out(folder: Path) -> None:
    path = write(record(0, env_name="x\ud800"), record(1, image_path="a\ud800.png"))
    for options in ([], ["--json"], ["--report", "r.json"]):
        result = pvrl("check", "tasks", path, *options)
        assert result.exit_code == 1
        assert "a\\ud800.png: no such file" in result.output.replace("\\\\", "\\")
    assert json.loads(Path("r.json").read_text())["survey"]
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A"}]
    spoken = write({"conversations": turns, "images": ["b\ud800.png"]}, name="spoken.json")
    result = pvrl("check", "conversations", spoken)
    assert "b\\ud800.png: not a readable image" in result.output, result.output


def test_the_next_command_is_read_as_it_was_meant(folder: Path) -> None:
    images = folder / "2024"
    images.mkdir()
    (folder / "red.png").rename(images / "red.png")
    result = pvrl("check", "tasks", write(record(0)), "--media-root", "2024", "--quick")
    assert result.stdout.splitlines()[-1].endswith("--set 'tasks.options.media_root=\"2024\"'")


def test_a_media_root_is_for_a_file_alone(folder: Path) -> None:
    Path("c.toml").write_text('[tasks]\nname = "published"\npath = "data.json"\n')
    result = pvrl("check", "tasks", "c.toml", "--media-root", "x")
    assert result.exit_code == 2
    assert "tasks.options" in result.output


def test_a_file_that_is_not_there_is_bad_usage(folder: Path) -> None:
    where = re.escape(f"none.json: no such file in {folder}, where relative paths start")
    with pytest.raises(ConfigError, match=where):
        survey_tasks(config("none.json"))

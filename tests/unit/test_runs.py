"""The run folder keeps what it was given, and stays readable whatever kills its writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvision_rl.config import Config, RunConfig
from pyvision_rl.errors import RunError
from pyvision_rl.runs import SCHEMA, RunReader, RunWriter, read_rollouts
from pyvision_rl.runs_codec import SavedRollout, encode
from pyvision_rl.runs_decode import decode
from pyvision_rl.types import (
    Action,
    Batch,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Group,
    ImageSource,
    Malformed,
    Media,
    Message,
    Observation,
    Rejected,
    Reward,
    RunCode,
    Scored,
    Segment,
    StopReason,
    Task,
    TaskInput,
    Text,
    Trajectory,
    Turn,
    VideoFacts,
    VideoFrames,
)
from tests.fakes import a_video

TEXTS = st.text(max_size=12)
FLOATS = st.floats(allow_nan=False)
COUNTS = st.integers(0, 1 << 40)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
FACTS = st.builds(VideoFacts, st.integers(1, 1 << 40), POSITIVE, POSITIVE)
MEDIA = st.one_of(
    st.builds(Media, st.just("image"), DIGESTS, COUNTS, COUNTS),
    st.builds(Media, st.just("video"), DIGESTS, COUNTS, COUNTS, video=FACTS),
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant"]),
    parts=st.lists(st.one_of(st.builds(Text, TEXTS), MEDIA), max_size=3).map(tuple),
)
FRAMES = st.builds(VideoFrames, TEXTS, st.lists(COUNTS, max_size=3).map(tuple), COUNTS)
SOURCES = st.one_of(
    st.builds(ImageSource, TEXTS, st.tuples(COUNTS, COUNTS, COUNTS, COUNTS), st.booleans()), FRAMES
)


@st.composite
def executions(draw: st.DrawFn) -> Execution:
    images = tuple(draw(st.lists(MEDIA, max_size=2)))
    pieces: list[str | int] = []
    for index in range(len(images) + 1):
        pieces += draw(st.lists(TEXTS, max_size=2))
        pieces += [index] if index < len(images) else []
    sources = [draw(st.none() | SOURCES) for _ in images]
    return Execution(
        status=draw(st.sampled_from(ExecStatus)),
        output="".join(piece for piece in pieces if isinstance(piece, str)),
        error=draw(TEXTS),
        images=images,
        duration_s=draw(FLOATS),
        state_lost=draw(st.booleans()),
        parts=draw(st.sampled_from([(), tuple(pieces)])),
        sources=draw(st.sampled_from([(), tuple(sources)])),
        fetched=tuple(draw(st.lists(FRAMES, max_size=2))),
    )


EXECUTIONS = executions()
ACTIONS = st.one_of(*(st.builds(kind, TEXTS) for kind in get_args(Action)))


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    ids = tuple(draw(st.lists(COUNTS, max_size=4)))
    if draw(st.booleans()):
        values = st.lists(FLOATS, min_size=len(ids), max_size=len(ids))
        told = draw(st.none() | values)
        return Segment(ids, True, None if told is None else tuple(told))
    return Segment(ids, False, media=tuple(draw(st.lists(MEDIA, max_size=2))))


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    execution = draw(st.none() | EXECUTIONS)
    seen = draw(st.sampled_from(["same", "none", "other"]))
    inner = {"same": execution, "none": None, "other": draw(EXECUTIONS)}[seen]
    return Turn(
        text=draw(TEXTS),
        stop=draw(st.sampled_from(StopReason)),
        action=draw(ACTIONS),
        num_tokens=draw(COUNTS),
        policy_version=draw(COUNTS),
        observation=draw(st.none() | st.builds(Observation, MESSAGES, st.just(inner))),
        execution=execution,
        sample_s=draw(FLOATS),
    )


@st.composite
def saved_rollouts(draw: st.DrawFn) -> SavedRollout:
    media = tuple(draw(st.lists(MEDIA, max_size=2)))
    public = TaskInput(draw(TEXTS), draw(TEXTS), media, draw(TEXTS), draw(TEXTS))
    end = draw(st.sampled_from(EndReason))
    rewards = st.builds(Reward, st.dictionaries(TEXTS, FLOATS), st.booleans(), TEXTS, TEXTS)
    trajectory = Trajectory(
        task_id=public.id,
        rollout=draw(COUNTS),
        segments=tuple(draw(st.lists(segments(), max_size=3))),
        prompt=tuple(draw(st.lists(MESSAGES, max_size=2))),
        turns=tuple(draw(st.lists(turns(), max_size=3))),
        end=end,
        answer=draw(st.none() | TEXTS),
        reward=None if end is EndReason.FAILED else draw(st.none() | rewards),
        error=draw(TEXTS),
    )
    fact = st.none() | st.booleans() | TEXTS | st.lists(TEXTS, max_size=3).map(tuple)
    facts = draw(st.dictionaries(TEXTS, fact | st.integers(-9, 9), max_size=3))
    task = Task(public, Gold(draw(TEXTS), draw(TEXTS), facts))
    advantage, reason = draw(st.none() | FLOATS), draw(st.none() | TEXTS)
    return SavedRollout(task, trajectory, advantage, reason, draw(COUNTS))


def image(value: int, size: int = 4) -> Media:
    """A grey picture, hashed the way the package does."""
    from PIL import Image

    from pyvision_rl.media import image_media

    return image_media(Image.new("RGB", (size, size), (value, value, value)))


def episode(rollout: int = 0, shade: int = 10, task_id: str = "t0") -> tuple[Task, Trajectory]:
    """A two-turn episode: code that shows a picture, then an answer."""
    whole, crop = image(200), image(shade)
    task = Task(TaskInput(task_id, "Which digit?", (whole,), "hard", "made"), Gold("7", "integer"))
    ran = Execution(ExecStatus.OK, "done", images=(crop,), duration_s=0.01)
    observation = Observation(Message("user", (Text("Result:"), crop)), ran)
    trajectory = Trajectory(
        task_id=task_id,
        rollout=rollout,
        segments=(
            Segment((1, 2, 9), False, media=(whole,)),
            Segment((3, 4), True, (-0.1, -2.5)),
            Segment((5, 9), False, media=(crop,)),
            Segment((6,), True, (-0.7,)),
        ),
        prompt=(Message("user", (Text("Which digit?"), whole)),),
        turns=(
            Turn("<code>…</code>", StopReason.STOP_STRING, RunCode("x"), 2, 3, observation, ran),
            Turn("<answer>7", StopReason.END, GiveAnswer("7"), 1, 3),
        ),
        end=EndReason.ANSWERED,
        answer="7",
        reward=Reward({"accuracy": 1.0, "tool_use": 0.1}, True, "equal"),
    )
    return task, trajectory


def write_run(path: Path, steps: int = 3, config: Config | None = None) -> None:
    """A run of a few steps with two trajectories each, one of them left out."""
    with RunWriter(path, config or Config(), "rl", command="pvrl rl x.toml") as run:
        for step in range(1, steps + 1):
            kept, dropped = episode(0, step), episode(1, step)
            run.rollouts(step, [(*kept, 0.5, None), (*dropped, -0.5, "zero_std")])
            run.metrics(step, {"loss": 1 / step, "kept": 1, "note": "é"})


@given(saved_rollouts())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_trajectory_comes_back_equal_from_json(saved: SavedRollout) -> None:
    line = json.dumps(encode(saved), allow_nan=False)
    assert "\n" not in line
    assert decode(json.loads(line)) == saved


def test_a_reward_of_a_run_that_kept_no_rung_is_read_as_before() -> None:
    task, trajectory = episode()
    line = encode(SavedRollout(task, trajectory))
    assert "rung" not in line["reward"]
    assert decode(line).trajectory == trajectory


def test_an_execution_of_a_run_that_kept_no_order_is_read_as_before() -> None:
    task, trajectory = episode()
    line = encode(SavedRollout(task, trajectory))
    ran = line["turns"][0]["execution"]
    assert "parts" not in ran
    assert "sources" not in ran
    assert decode(line).trajectory == trajectory


def test_a_trajectory_comes_back_equal_from_the_folder(tmp_path: Path) -> None:
    task, trajectory = episode()
    with RunWriter(tmp_path / "r", Config(), "rollout") as run:
        run.rollouts(4, [(task, trajectory, 0.25, None)])
    (back,) = RunReader(tmp_path / "r").trajectories()
    assert back == SavedRollout(task, trajectory, 0.25, None, 4)
    assert back.trajectory.token_ids == (1, 2, 9, 3, 4, 5, 9, 6)
    assert back.trajectory.num_tool_calls == 1


def test_images_come_back_pixel_for_pixel(tmp_path: Path) -> None:
    from pyvision_rl.media import open_image

    write_run(tmp_path / "r", 1)
    saved = next(RunReader(tmp_path / "r").trajectories(1))
    whole, crop = saved.trajectory.media
    assert open_image(whole).getpixel((0, 0)) == (200, 200, 200)
    assert open_image(crop).getpixel((3, 3)) == (1, 1, 1)


def test_unfinite_numbers_are_plain_json_and_come_back(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", Config(), "rl") as run:
        run.metrics(1, {"a": float("inf"), "b": float("-inf"), "c": float("nan")})
    json.loads((tmp_path / "r/metrics.jsonl").read_text(), parse_constant=pytest.fail)
    (line,) = RunReader(tmp_path / "r").metrics()
    assert (line["a"], line["b"]) == (float("inf"), float("-inf"))
    assert line["c"] != line["c"]


def test_equal_images_are_stored_once(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 3)
    # One whole image for all, one crop per step.
    assert len(list((tmp_path / "r/media").iterdir())) == 1 + 3


def with_video(path: Path, shade: int = 1) -> tuple[Task, Trajectory]:
    """The episode, of a task that has a video too."""
    task, trajectory = episode(0, shade)
    film = a_video(path.name, source=path)
    public = replace(task.input, media=(*task.input.media, film))
    return replace(task, input=public), trajectory


def test_a_video_is_not_copied_and_found_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"12345")
    task, trajectory = with_video(path)
    with RunWriter(tmp_path / "r", Config(), "rl") as run:
        run.rollouts(1, [(task, trajectory, 0.5, None)])
    film = task.input.media[1]
    assert json.loads((tmp_path / "r/media/videos.json").read_text()) == {
        film.sha256: {
            "file": str(path),
            "bytes": 5,
            "width": 56,
            "height": 56,
            "num_frames": 64,
            "fps": 8.0,
            "duration_s": 8.0,
        }
    }
    path.unlink()  # nobody has asked for its pixels
    (back,) = RunReader(tmp_path / "r").trajectories()
    assert back == SavedRollout(task, trajectory, 0.5, None, 1)
    assert back.task.input.media[1].source == path


def test_videos_are_noted_whatever_is_kept_of_the_images(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    config = Config(run=RunConfig(media_every=0))
    with RunWriter(tmp_path / "r", config, "rl") as run:
        run.rollouts(1, [(*with_video(first), 0.5, None)])
    with RunWriter(tmp_path / "r", config, "rl", resume_step=1) as run:
        run.rollouts(2, [(*with_video(second), 0.5, None)])
        run.rollouts(3, [(*episode(), 0.5, None)])
    assert [f.name for f in (tmp_path / "r/media").iterdir()] == ["videos.json"]
    found = [s.task.input.media[-1].source for s in RunReader(tmp_path / "r").trajectories()]
    assert found == [first, second, None]


def test_a_relative_video_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RunWriter(tmp_path / "r", Config(), "rl") as run:
        run.rollouts(1, [(*with_video(Path("clips/a.mp4")), 0.5, None)])
    monkeypatch.chdir("/")
    (back,) = RunReader(tmp_path / "r").trajectories()
    assert back.task.input.media[1].source == tmp_path / "clips" / "a.mp4"


def test_a_list_of_videos_that_is_not_ours_is_named(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", Config(), "rl") as run:
        run.rollouts(1, [(*with_video(tmp_path / "a.mp4"), 0.5, None)])
    for text in ("no", "[1]", '{"a": 1}', '{"a": {"file": 3}}'):
        (tmp_path / "r/media/videos.json").write_text(text)
        with pytest.raises(RunError, match=r"videos\.json cannot be read"):
            list(RunReader(tmp_path / "r").trajectories())


def test_run_json_names_schema_verb_config_and_versions(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    values = json.loads((tmp_path / "r/run.json").read_text())
    assert values["schema"] == SCHEMA
    assert values["verb"] == "rl"
    assert values["command"] == "pvrl rl x.toml"
    assert values["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert Config.model_validate(values["config"]) == Config()
    assert RunReader(tmp_path / "r").info.config == values["config"]


def test_run_json_holds_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cr3t-value")
    write_run(tmp_path / "r")
    everything = b"".join(f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file())
    assert b"s3cr3t-value" not in everything


@pytest.mark.parametrize(("keep", "count"), [("all", 2), ("kept", 1), ("none", 0)])
def test_retention_of_trajectories(tmp_path: Path, keep: Any, count: int) -> None:
    write_run(tmp_path / "r", 2, Config(run=RunConfig(rollouts=keep)))
    assert len(list(RunReader(tmp_path / "r").trajectories())) == 2 * count


@pytest.mark.parametrize(("every", "images"), [(0, 0), (1, 6), (2, 4), (9, 2)])
def test_retention_of_images(tmp_path: Path, every: int, images: int) -> None:
    """Steps 1 to 5 show one new crop each; the whole image is common to all."""
    write_run(tmp_path / "r", 5, Config(run=RunConfig(media_every=every)))
    assert len(list((tmp_path / "r/media").iterdir())) == images
    last = next(RunReader(tmp_path / "r").trajectories(5)).trajectory.media[1]
    assert (last.source is None) == (every != 1)


def test_a_batch_says_what_was_kept_and_why_not(tmp_path: Path) -> None:
    groups, parts = [], {}
    for name in ("b", "a"):
        pairs = [episode(i, 1, name) for i in range(2)]
        groups.append(Group(pairs[0][0], tuple(t for _, t in pairs), (0.5, -0.5)))
        parts[name] = [t for _, t in pairs]
    batch = Batch(
        samples=(Scored(parts["b"][1], -0.5),),
        rejected=(
            Rejected(parts["a"][1], "rank", -0.5),
            Rejected(parts["a"][0], "rank", 0.5),
            Rejected(parts["b"][0], "over_length"),
        ),
    )
    with RunWriter(tmp_path / "r", Config(), "rl") as run:
        run.rollouts(1, groups, batch)
        run.rollouts(2, groups)
    reader = RunReader(tmp_path / "r")
    first = reader.trajectories(1)
    rows = [(s.task.id, s.trajectory.rollout, s.reason, s.advantage) for s in first]
    assert rows == [
        ("b", 0, "over_length", None),
        ("b", 1, None, -0.5),
        ("a", 0, "rank", 0.5),
        ("a", 1, "rank", -0.5),
    ]
    second = [(s.advantage, s.kept) for s in reader.trajectories(2)]
    assert second == [(0.5, True), (-0.5, True)] * 2


def test_without_tokens_the_trajectory_is_still_readable(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 1, Config(run=RunConfig(logprobs=False)))
    saved = next(RunReader(tmp_path / "r").trajectories())
    assert saved.trajectory.segments == ()
    assert saved.trajectory.turns == episode(0, 1)[1].turns


def test_a_foreign_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(RunError, match=r"not empty.*thesis\.tex"):
        RunWriter(tmp_path, Config(), "rl")
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_old_run_is_not_overwritten(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    with pytest.raises(RunError, match="already holds a run"):
        RunWriter(tmp_path / "r", Config(), "rl")


def test_a_newer_schema_is_refused_naming_both(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    file = tmp_path / "r/run.json"
    file.write_text(file.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    with pytest.raises(RunError, match=rf"schema 99.*up to {SCHEMA}"):
        RunReader(tmp_path / "r")
    with pytest.raises(RunError, match="schema 99"):
        RunWriter(tmp_path / "r", Config(), "rl", resume_step=1)


def test_a_folder_without_run_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        RunReader(tmp_path)


def test_resume_removes_later_steps_and_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 4)
    with (tmp_path / "r/metrics.jsonl").open("a") as out:
        out.write('{"step": 5, "lo')
    with RunWriter(tmp_path / "r", Config(seed=1), "rl", resume_step=2, command="again") as run:
        run.metrics(3, {"loss": 9.0})
    reader = RunReader(tmp_path / "r")
    assert [m["step"] for m in reader.metrics()] == [1, 2, 3]
    assert reader.metrics()[-1]["loss"] == 9.0
    assert reader.steps() == (1, 2)
    assert reader.problems == []
    assert [(r["step"], r["command"]) for r in reader.info.resumed] == [(2, "again")]
    assert reader.info.command == "pvrl rl x.toml"
    assert reader.info.config["seed"] == 1


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 2)
    before = (tmp_path / "r/metrics.jsonl").read_bytes()
    with RunWriter(tmp_path / "r", Config(), "rl", resume_step=2):
        with pytest.raises(RunError, match="r: another process is writing there"):
            RunWriter(tmp_path / "r", Config(), "rl", resume_step=1)
        assert (tmp_path / "r/metrics.jsonl").read_bytes() == before
    RunWriter(tmp_path / "r", Config(), "rl", resume_step=1).close()


def test_events_are_kept_with_their_names(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", Config(), "rl") as run:
        run.event("short_batch", "3 of 16 groups")
    (event,) = RunReader(tmp_path / "r").events()
    assert (event["name"], event["text"]) == ("short_batch", "3 of 16 groups")


def test_size_adds_up(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    (tmp_path / "r/checkpoints/model.safetensors").write_bytes(b"0" * 1234)
    size = RunReader(tmp_path / "r").size()
    assert size["checkpoints"] == 1234
    assert size["total"] == sum(n for part, n in size.items() if part != "total")
    assert {"run.json", "metrics.jsonl", "rollouts", "media"} <= set(size)


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts/step_000003.jsonl"])
def test_a_file_cut_at_any_byte_of_its_last_line_is_readable(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "r")
    file = tmp_path / "r" / name
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1])
    for cut in range(start, len(whole) + 1):
        file.write_bytes(whole[:cut])
        reader = RunReader(tmp_path / "r")
        read = reader.metrics() if name == "metrics.jsonl" else list(reader.trajectories(3))
        # The last byte is the line's end: without it the line is still whole.
        assert len(read) == len(lines) - (cut < len(whole) - 1), cut
        assert len(reader.problems) == (start < cut < len(whole) - 1), cut


def test_metrics_cut_at_any_byte_can_be_resumed(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    file = tmp_path / "r/metrics.jsonl"
    whole = file.read_bytes()
    start = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for cut in range(start, len(whole) + 1, 7):
        file.write_bytes(whole[:cut])
        with RunWriter(tmp_path / "r", Config(), "rl", resume_step=3) as run:
            run.metrics(4, {"loss": 0.0})
        reader = RunReader(tmp_path / "r")
        assert [m["step"] for m in reader.metrics()][-1] == 4
        assert reader.problems == []


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    file = tmp_path / "r/metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:9], lines[2], ""]))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2"):
        RunReader(tmp_path / "r").metrics()


def test_a_line_that_is_no_trajectory_is_an_error_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"question": "?"}\n')
    with pytest.raises(RunError, match=r"x\.jsonl, line 1: not a trajectory"):
        list(read_rollouts(file))


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 1)
    with (tmp_path / "run/metrics.jsonl").open("a") as lines:
        lines.write("5\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: not JSON \(no object, but int\)"):
        RunReader(tmp_path / "run").metrics()


def test_a_rollouts_file_named_from_its_own_folder_finds_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", 1)
    folder = tmp_path / "run" / "rollouts"
    monkeypatch.chdir(folder)
    near, far = (list(read_rollouts(where / "step_000001.jsonl")) for where in (Path(), folder))
    assert near == far
    assert all(media.source for saved in near for media in saved.task.input.media)


def test_a_malformed_action_kind_is_named() -> None:
    task, trajectory = episode()
    line = encode(SavedRollout(task, trajectory))
    line["turns"][0]["action"]["kind"] = "dance"
    with pytest.raises(ValueError, match="dance"):
        decode(line)
    assert Malformed in get_args(Action)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_runs import episode
from pyvision_rl.config import Config
from pyvision_rl.runs import RunWriter
with RunWriter(Path(sys.argv[1]), Config(), "rl") as run:
    sys.stdout.write("go\\n"); sys.stdout.flush()
    for step in range(1, 100000):
        run.rollouts(step, [(*episode(i, step % 250), 0.0, None) for i in range(6)])
        run.metrics(step, {"loss": 1.0, "padding": "x" * 20000})
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.05, 0.11])
def test_a_killed_writer_leaves_a_readable_folder(tmp_path: Path, delay_s: float) -> None:
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "r"), str(here)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    reader = RunReader(tmp_path / "r")
    done = [m["step"] for m in reader.metrics()]
    assert done == list(range(1, len(done) + 1))
    for step in reader.steps():
        saved = list(reader.trajectories(step))
        assert len(saved) == 6
        assert all(m.source is not None for s in saved for m in s.trajectory.media)
    # Trajectories are written before the metrics that speak of them.
    assert len(reader.steps()) - len(done) in (0, 1)
    with RunWriter(tmp_path / "r", Config(), "rl", resume_step=len(done)) as run:
        run.metrics(len(done) + 1, {"loss": 0.0})
    assert len(RunReader(tmp_path / "r").metrics()) == len(done) + 1
    assert not list((tmp_path / "r").rglob("*.part"))

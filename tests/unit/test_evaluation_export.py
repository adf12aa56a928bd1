"""An exported log holds every episode, message and picture, and says how many."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_evaluation_runs import config

from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.evaluation.export import export_log
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.runs import RunReader
from pyvision_rl.types import Text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    run_eval(config(tasks={"options": {"count": 3, "picture": True}}), out)
    return out


def exported(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "messages.jsonl").read_text().splitlines()]


def test_openai_messages_with_pictures_beside_them(run: Path, tmp_path: Path) -> None:
    counts = export_log(run, tmp_path / "out", "openai")
    # Two samples of three tasks; a question with its picture and an answer each.
    assert counts.to_json() == {
        "episodes": 6,
        "messages": 12,
        "images": 6,
        "files": 3,
        "missing": 0,
        "skipped": 0,
        "superseded": 0,
    }
    lines = exported(tmp_path / "out")
    saved = list(RunReader(run).trajectories())
    assert [(x["metadata"]["task_id"], x["metadata"]["rollout"]) for x in lines] == [
        (s.task.id, s.trajectory.rollout) for s in saved
    ]
    for line, record in zip(lines, saved, strict=True):
        user, assistant = line["messages"]
        assert assistant == {"role": "assistant", "content": record.trajectory.turns[0].text}
        texts = [p["text"] for p in user["content"] if p["type"] == "text"]
        parts = record.trajectory.prompt[0].parts
        assert texts == [p.text for p in parts if isinstance(p, Text)]
        (url,) = [p["image_url"]["url"] for p in user["content"] if p["type"] == "image_url"]
        with Image.open(tmp_path / "out" / url) as image:
            assert image.size == (56, 56)
        reward = record.trajectory.reward
        assert reward is not None
        assert line["metadata"]["correct"] == reward.correct
        assert line["metadata"]["reward_parts"] == dict(reward.parts)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_pictures_inside_the_lines(run: Path, tmp_path: Path) -> None:
    counts = export_log(run, tmp_path / "out", "openai", data_urls=True)
    assert counts.missing == 0
    url = exported(tmp_path / "out")[0]["messages"][0]["content"][1]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (56, 56)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["messages.jsonl"]


def test_a_picture_that_was_not_kept_is_named_and_counted(tmp_path: Path) -> None:
    wanted = config(
        tasks={"options": {"count": 3, "picture": True}}, run={"media_every": 0, "logprobs": False}
    )
    run_eval(wanted, tmp_path / "run")
    counts = export_log(tmp_path / "run", tmp_path / "out", "openai")
    assert (counts.images, counts.files, counts.missing) == (6, 0, 6)
    part = exported(tmp_path / "out")[0]["messages"][0]["content"][1]
    assert part["image_url"]["url"].startswith("missing:")


def test_parquet_holds_the_same_with_the_pictures_in_a_column(run: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    counts = export_log(run, tmp_path / "out", "parquet")
    assert (counts.episodes, counts.messages, counts.images, counts.files) == (6, 12, 6, 3)
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    rows = table.to_pylist()
    saved = list(RunReader(run).trajectories())
    for row, record in zip(rows, saved, strict=True):
        assert (row["task_id"], row["rollout"]) == (record.task.id, record.trajectory.rollout)
        assert row["messages"][1]["content"][0]["text"] == record.trajectory.turns[0].text
        shown = [p for p in row["messages"][0]["content"] if p["type"] == "image"]
        assert [p["image"] for p in shown] == [0]
        assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (56, 56)
        assert json.loads(row["reward_parts"])["tool_use"] == 0.0
    told = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(told) == set(table.column_names)
    assert told["images"] == [{"_type": "Image"}]


@pytest.mark.parametrize("form", ["openai", "parquet"])
def test_half_a_surrogate_pair_that_a_model_wrote_is_spelt_out(form: str, tmp_path: Path) -> None:
    said = {"name": "tests.eval_fakes:Says", "options": {"item-0": "half \ud800"}}
    rewards = {"name": "match"}
    wanted = config(tasks={"options": {"count": 1}}, policy=said, rewards=rewards)
    run_eval(wanted, tmp_path / "run")
    export_log(tmp_path / "run", tmp_path / "out", form)
    if form == "openai":
        assert "half \ud800" in exported(tmp_path / "out")[0]["messages"][1]["content"]
        return
    pq = pytest.importorskip("pyarrow.parquet")
    row = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
    assert "\\ud800" in row["messages"][1]["content"][0]["text"]
    assert row["answer"] == "half \\ud800"


def test_a_line_that_a_kill_cut_is_counted(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (file,) = (tmp_path / "run" / "rollouts").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    counts = export_log(tmp_path / "run", tmp_path / "out", "openai")
    assert (counts.episodes, counts.skipped) == (5, 1)


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wants one of openai, parquet"):
        export_log(run, tmp_path / "out", "csv")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_log(run, run, "openai")
    with pytest.raises(ConfigError, match="--data-urls is for"):
        export_log(run, tmp_path / "out", "parquet", data_urls=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="no run folder"):
        export_log(tmp_path / "folder", tmp_path / "out", "openai")

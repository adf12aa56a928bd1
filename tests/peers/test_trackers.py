"""Each tracker's own library, offline: what was logged is there, once, also after a resume.

Needs the extra: ``pip install "pyvision-rl[track]"``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvision_rl.tracking.base import Tracked, Trackers

pytestmark = [
    pytest.mark.peer,
    # Their libraries' own warnings are theirs to mend.
    pytest.mark.filterwarnings("default"),
]

LINES = [
    {"step": s, "time": 1000.0 + s, "reward": s / 8, "stage": "text", "best": True}
    for s in (1, 2, 3, 4)
]


@pytest.fixture(autouse=True, scope="module")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The libraries read their environment when they are first imported."""
    home = str(tmp_path_factory.mktemp("home"))
    wanted = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": home}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def run_twice(name: str, folder: Path) -> Trackers:
    """Log steps 1 to 3; then go on from a checkpoint of step 2, with the steps 3 and 4."""
    first = Trackers([name], Tracked(folder, "project", "run", {"seed": 1}))
    first.replay(LINES[:3])
    first.close()
    assert first.failures == {}
    second = Trackers([name], Tracked(folder, "project", "run", {"seed": 1}), first.ids)
    second.replay(LINES[:2])
    for line in LINES[2:]:
        second.log(line)
    second.close()
    assert second.failures == {}
    return second


def test_tensorboard_holds_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="install the extra: track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_twice("tensorboard", tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"reward", "best"}
    found = [(e.step, e.wall_time, e.value) for e in read.Scalars("reward")]
    assert found == [(s, 1000.0 + s, s / 8) for s in (1, 2, 3, 4)]


def test_trackio_holds_every_step_once(tmp_path: Path) -> None:
    trackio = pytest.importorskip("trackio", reason="install the extra: track")
    from trackio.sqlite_storage import SQLiteStorage

    run_twice("trackio", tmp_path)
    (run,) = trackio.Api().runs("project")
    logs = SQLiteStorage.get_logs("project", run.name, run_id=run.id)
    assert [(line["step"], line["reward"]) for line in logs] == [(s, s / 8) for s in (1, 2, 3, 4)]


def test_wandb_keeps_its_id_and_a_whole_history_in_the_run_folder(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="install the extra: track")
    trackers = run_twice("wandb", tmp_path)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert {f.name.rpartition("-")[2] for f in folders} == {trackers.ids["wandb"]}
    deadline = time.monotonic() + 30
    # Its own process may still be writing.
    while len(history(folders[-1])) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert history(folders[-1]) == [(s, s / 8) for s in (1, 2, 3, 4)]


def history(folder: Path) -> list[tuple[int, float]]:
    """Return the rows of an offline run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    rows = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
            rows.append((row["_step"], row["reward"]))
    return rows


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, after wandb's own header of 7 bytes.

    Blocks of 32 KiB; a piece has 4 bytes of checksum, 2 of length and 1 of kind: whole, first,
    middle or last.
    """
    size, at, whole = 32768, 7, b""
    while at + 7 <= len(content):
        if size - at % size < 7:
            at += size - at % size
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

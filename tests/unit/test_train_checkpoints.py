"""A checkpoint is whole or refused, loads by itself, and restores everything."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_tiny

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import CheckpointError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.load import load_model
from pyvision_rl.train.batching import Example
from pyvision_rl.train.checkpoints import (
    MANIFEST,
    drop_after,
    find_problem,
    has_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    point_to,
    prune,
    restore_rng,
    resume_from,
    save_checkpoint,
    step_path,
)
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.sft import restore_weights
from pyvision_rl.types import Segment

EXAMPLE = Example((Segment((50, 51), False), Segment((60, 61), True, (0.0, 0.0))))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


@pytest.fixture
def model(source: Path) -> VisionLanguageModel:
    return load_model(str(source), device="cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """One checkpoint, to be copied before it is harmed."""
    model = load_model(str(source), device="cpu")
    folder = tmp_path_factory.mktemp("saved")
    return save(folder, 10, model, source, learner=Learner(model, TrainConfig()))


def save(folder: Path, step: int, model: VisionLanguageModel, source: Path, **more: Any) -> Path:
    return save_checkpoint(folder, step, model=model, source=str(source), **more)


def test_a_checkpoint_is_an_ordinary_model_folder(
    model: VisionLanguageModel, source: Path, tmp_path: Path
) -> None:
    learner = Learner(model, TrainConfig(learning_rate=0.1))
    learner.sft_step([EXAMPLE])
    path = save(tmp_path, 10, model, source, learner=learner)
    assert path == tmp_path / "step_000010"
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    loaded = AutoModelForImageTextToText.from_pretrained(path)
    for (name, ours), theirs in zip(
        model.module.named_parameters(), loaded.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    text = "<code>\nprint(1)\n</code>"
    tokenizers = [AutoTokenizer.from_pretrained(p) for p in (source, path)]
    assert tokenizers[0].encode(text) == tokenizers[1].encode(text)
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert load_model(str(path), device="cpu").vision == model.vision


def test_pictures_are_flushed_before_the_checkpoint_that_vouches_for_them(
    model: VisionLanguageModel, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    media, folder = tmp_path / "media", tmp_path / "checkpoints"
    media.mkdir()
    (media / "old.png").write_bytes(b"")
    save(folder, 1, model, source)
    assert flushed.index("old.png") < flushed.index(MANIFEST)
    for file in media.iterdir():
        os.utime(file, (1, 1))
    (media / "new.png").write_bytes(b"")
    del flushed[:]
    save(folder, 2, model, source)
    assert flushed.index("new.png") < flushed.index(MANIFEST)
    assert "old.png" not in flushed, "it was flushed with the checkpoint before"


def test_a_checkpoint_gives_back_what_was_saved(
    model: VisionLanguageModel, source: Path, tmp_path: Path
) -> None:
    learner = Learner(model, TrainConfig(optimizer="muon"))
    learner.sft_step([EXAMPLE])
    extra = {"position": 7, "taken": (1, 2), "best": None, "nested": {"x": [1.5, "y"]}}
    loaded = load_checkpoint(save(tmp_path, 3, model, source, learner=learner, extra=extra))
    assert loaded.step == 3
    assert loaded.extra == extra
    assert loaded.learner is not None
    other = Learner(load_model(str(loaded.path), device="cpu"), TrainConfig(optimizer="muon"))
    other.load_state_dict(loaded.learner)
    assert other.step == 1
    first, second = (w.optimizers.optimizers[0].state_dict()["state"] for w in (learner, other))
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key]["momentum_buffer"], second[key]["momentum_buffer"])


def test_random_generators_go_on_where_they_were(
    model: VisionLanguageModel, source: Path, tmp_path: Path
) -> None:
    def draw() -> list[float]:
        return [
            random.random(),
            random.gauss(0, 1),
            float(np.random.random()),
            float(np.random.standard_normal()),
            float(torch.rand(())),
        ]

    random.gauss(0, 1)
    np.random.standard_normal()
    path = save(tmp_path, 1, model, source)
    want = draw()
    draw()
    restore_rng(load_checkpoint(path).rng)
    assert draw() == want


def names(saved: Path) -> list[str]:
    return sorted(json.loads((saved / MANIFEST).read_text())["files"])


def test_the_manifest_names_every_file(saved: Path) -> None:
    assert [*names(saved), MANIFEST] == sorted(
        (str(f.relative_to(saved)) for f in saved.rglob("*")), key=lambda n: (n == MANIFEST, n)
    )
    assert {"model.safetensors", "config.json", "tokenizer.json", "trainer.pt"} <= set(names(saved))


@pytest.mark.parametrize("harm", ["cut", "gone", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt", "tokenizer.json"])
def test_a_harmed_checkpoint_is_refused(saved: Path, tmp_path: Path, name: str, harm: str) -> None:
    path = Path(shutil.copytree(saved, tmp_path / "step_000010"))
    assert not find_problem(path, content=True)
    file = path / name
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("manifest", [None, "", "{", "{}", '{"step": 1, "files": {}}'])
def test_a_checkpoint_without_its_whole_manifest_is_refused(
    saved: Path, tmp_path: Path, manifest: str | None
) -> None:
    path = Path(shutil.copytree(saved, tmp_path / "step_000010"))
    (path / MANIFEST).unlink()
    if manifest is not None:
        (path / MANIFEST).write_text(manifest)
    with pytest.raises(CheckpointError, match=MANIFEST):
        load_checkpoint(path)
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_checkpoint_is_not_saved_before_the_lines_of_its_run_are_on_the_disk(
    model: VisionLanguageModel, source: Path, tmp_path: Path, name: str
) -> None:
    # A device that cannot be flushed stands for a disk that refuses to.
    (tmp_path / name).symlink_to("/dev/null")
    with pytest.raises(CheckpointError, match="cannot save"):
        save(tmp_path / "checkpoints", 1, model, source)
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_the_latest_whole_checkpoint_is_found(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert latest_checkpoint(folder) is None
    for step in (2, 9, 1_000_000, 30):
        shutil.copytree(saved, step_path(folder, step))
    (step_path(folder, 1_000_000) / "trainer.pt").write_bytes(b"cut")
    (folder / "notes").mkdir()
    assert latest_checkpoint(folder) == step_path(folder, 30)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_both(
    saved: Path, tmp_path: Path
) -> None:
    folder, warnings = tmp_path / "checkpoints", []
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        resume_from(tmp_path)
    assert not has_checkpoints(tmp_path)
    for step in (2, 9, 30):
        shutil.copytree(saved, step_path(folder, step))
    assert has_checkpoints(tmp_path)
    assert resume_from(tmp_path, warnings.append).path == step_path(folder, 30)
    assert warnings == []
    weights = step_path(folder, 30) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    tokenizer = step_path(folder, 9) / "tokenizer.json"
    # As long as before: only the sum tells.
    tokenizer.write_bytes(b"x" + tokenizer.read_bytes()[1:])
    assert resume_from(tmp_path, warnings.append).path == step_path(folder, 2)
    assert len(warnings) == 2
    for warning, step, file in zip(warnings, (30, 9), ("model", "tokenizer"), strict=True):
        assert f"{step_path(folder, step)} is not a whole checkpoint: {file}" in warning
        assert f"going on from {step_path(folder, 2)} instead" in warning
    with pytest.raises(CheckpointError, match=r"step_000009 is not a whole"):
        resume_from(step_path(folder, 9))
    (step_path(folder, 2) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"no whole checkpoint .*step_000030.*step_000009"):
        resume_from(tmp_path)


def test_a_save_that_was_killed_leaves_nothing_that_is_read_or_stays(
    model: VisionLanguageModel, source: Path, saved: Path, tmp_path: Path
) -> None:
    half = Path(shutil.copytree(saved, tmp_path / ".saving_step_000011"))
    assert latest_checkpoint(tmp_path) is None
    path = save(tmp_path, 12, model, source)
    assert not half.exists()
    assert sorted(tmp_path.iterdir()) == [path]


def test_saving_a_step_again_replaces_it(
    model: VisionLanguageModel, source: Path, tmp_path: Path
) -> None:
    save(tmp_path, 5, model, source, extra={"n": 1})
    (step_path(tmp_path, 5) / "stray").write_text("x")
    path = save(tmp_path, 5, model, source, extra={"n": 2})
    assert load_checkpoint(path).extra == {"n": 2}
    assert not (path / "stray").exists()


class Kill(BaseException):
    pass


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the process die at the n-th call of a method of ``Path`` from now on."""
    real, calls = getattr(Path, name), []

    def method(self: Path, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) == number:
            raise Kill
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, name, method)


@pytest.mark.parametrize(
    ("name", "number", "left"), [("rename", 1, 1), ("rename", 2, 1), ("unlink", 1, 2)]
)
@pytest.mark.parametrize("by_step", [False, True])
def test_a_kill_while_a_step_is_replaced_leaves_the_old_one_or_the_new_one(
    model: VisionLanguageModel,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    left: int,
    by_step: bool,
) -> None:
    folder = tmp_path / "checkpoints"
    path = save(folder, 5, model, source, extra={"n": 1})
    with monkeypatch.context() as patched:
        kill_at(number, patched, name)
        with pytest.raises(Kill):
            save(folder, 5, model, source, extra={"n": 2})
    assert has_checkpoints(tmp_path)
    latest = latest_checkpoint(folder)
    assert latest is not None
    assert load_checkpoint(latest).extra == {"n": left}
    found = resume_from(path if by_step else tmp_path)
    assert (found.path, found.extra) == (path, {"n": left})
    assert latest_checkpoint(folder) == path
    save(folder, 5, model, source, extra={"n": 3})
    assert sorted(folder.iterdir()) == [path]


def test_tokenizer_files_outlive_the_folder_they_came_from(
    model: VisionLanguageModel, source: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(source, tmp_path / "model"))
    first = save(tmp_path / "run", 1, model, moved)
    shutil.rmtree(moved)
    second = save(tmp_path / "run", 2, model, moved)
    for name in ("tokenizer.json", "preprocessor_config.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes()


def test_only_plain_values_are_saved(
    model: VisionLanguageModel, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="plain values"):
        save(tmp_path, 1, model, source, extra={"path": Path("x")})
    assert latest_checkpoint(tmp_path) is None


def test_pruning_keeps_the_latest_and_the_protected(saved: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        shutil.copytree(saved, step_path(tmp_path, step))
    (step_path(tmp_path, 4) / "trainer.pt").write_bytes(b"cut")
    prune(tmp_path, 2, protect=[1])
    # A cut checkpoint does not count as one of the two kept.
    assert [p.name[-1] for p in sorted(tmp_path.iterdir())] == ["1", "3", "4", "5"]
    # What a removal that was killed leaves is no checkpoint to be looked at.
    shutil.copytree(saved, step_path(tmp_path, 2))
    (step_path(tmp_path, 2) / MANIFEST).unlink()
    prune(tmp_path, 2, protect=[1])
    assert [p.name[-1] for p in sorted(tmp_path.iterdir())] == ["1", "3", "4", "5"]
    drop_after(tmp_path, 3)
    assert [p.name[-1] for p in sorted(tmp_path.iterdir())] == ["1", "3"]


def test_a_pointer_moves_and_survives_moving_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("a", "b"):
        (run / "checkpoints" / name).mkdir(parents=True)
        (run / "checkpoints" / name / "which").write_text(name)
        point_to(run / "final", run / "checkpoints" / name)
    moved = run.rename(tmp_path / "elsewhere")
    assert (moved / "final" / "which").read_text() == "b"
    assert sorted(p.name for p in moved.iterdir()) == ["checkpoints", "final"]


def test_weights_are_restored_in_place(
    model: VisionLanguageModel, source: Path, saved: Path
) -> None:
    before = [p.detach().clone() for p in model.module.parameters()]
    learner = Learner(model, TrainConfig(learning_rate=0.1))
    learner.sft_step([EXAMPLE])
    same = list(model.module.parameters())
    assert not all(torch.equal(p, b) for p, b in zip(same, before, strict=True))
    restore_weights(model, saved)
    for now, old, start in zip(model.module.parameters(), same, before, strict=True):
        assert now is old
        assert torch.equal(now, start)


def test_weights_of_another_model_are_refused(model: VisionLanguageModel, tmp_path: Path) -> None:
    other, _ = make_tiny(tmp_path, hidden_size=32)
    with pytest.raises(CheckpointError, match="another model"):
        restore_weights(other, save(tmp_path / "run", 1, model, tmp_path))

"""RL with a vLLM server trains as RL does, and stops when the server holds other weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.runs import RunReader
from pyvision_rl.testing.fake_vllm import FakeVLLM, Started
from pyvision_rl.train.canary import Canary
from pyvision_rl.train.rl import run_rl
from tests.tiny_models import make_tiny
from tests.vllm_engines import TinyEngine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("model")
    return folder, make_tiny(folder)[1]


def config(model: Path, server: FakeVLLM, **sections: dict[str, Any]) -> Config:
    sync = sections.pop("sync", {})
    options = {"url": server.url, "max_retries": 0, "sync": {"canary_tasks": 1, **sync}}
    base: dict[str, dict[str, Any]] = {
        "tasks": {"name": "tests.fakes:Colours"},
        "prompts": {"template": "minimal"},
        "policy": {
            "name": "vllm",
            "model": str(model),
            "device": "cpu",
            "max_new_tokens": 6,
            "threads": 1,
            "options": options,
        },
        "sandbox": {"name": "scripted"},
        "rollout": {"group_size": 4, "max_tool_calls": 1, "max_context_tokens": 1500},
        "rewards": {"name": "tests.fakes:ParityGrader"},
        "selection": {"groups_per_step": 2, "oversample": 1.0, "max_rounds": 1},
        "train": {"learning_rate": 2e-3, "steps": 2, "save_every": 2},
    }
    return Config.model_validate(
        {"seed": 3} | {k: base.get(k, {}) | sections.get(k, {}) for k in {*base, *sections}}
    )


def served(made: tuple[Path, Any], **started: Any) -> FakeVLLM:
    return FakeVLLM(TinyEngine(*made), Started(**started))


def test_a_run_publishes_every_update_and_both_engines_agree(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    with served(made) as server:
        run_rl(config(made[0], server), tmp_path / "run")
        paths = [p.partition("?")[0] for p in server.paths()]
    reader = RunReader(tmp_path / "run")
    first, second = reader.metrics()
    for line in (first, second):
        assert line["sync_gap_max"] < 1e-4
        assert line["end_failed"] == 0
        assert abs(line["train_mismatch"]) < 1e-4
    assert first["sync_moved"] == 0
    # The update was seen by the server: it moved as far as the learner did.
    assert second["sync_moved"] > 1e-3
    assert second["sync_follow"] == pytest.approx(1, abs=0.01)
    versions = {t.policy_version for s in reader.trajectories(2) for t in s.trajectory.turns}
    assert versions == {1}
    reload = paths.index("/collective_rpc")
    assert paths[reload - 4 : reload] == [
        "/pause",
        "/reset_mm_cache",
        "/reset_encoder_cache",
        "/reset_prefix_cache",
    ]
    assert paths[reload + 1] == "/resume"
    # What was published last stays.
    assert [p.name for p in (tmp_path / "run" / "vllm").iterdir()] == ["pvrl-weights-000001"]


def test_sampling_ahead_is_one_update_behind_and_never_meets_a_reload(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    train = {"learning_rate": 2e-3, "steps": 3, "save_every": 3, "overlap": True}
    with served(made) as server:
        run_rl(config(made[0], server, train=train), tmp_path / "run")
        paths = [p.partition("?")[0] for p in server.paths()]
    reader = RunReader(tmp_path / "run")
    # Update 1 ran beside the sampling of step 2, update 2 beside that of step 3.
    versions = [
        {turn.policy_version for s in reader.trajectories(step) for turn in s.trajectory.turns}
        for step in (1, 2, 3)
    ]
    assert versions == [{0}, {0}, {1}]
    assert [line["train_mismatch"] > 1e-4 for line in reader.metrics()] == [False, True, True]
    assert all(line["sync_gap_max"] < 1e-4 for line in reader.metrics())
    spans = " ".join(paths).split("/pause")[1:]
    assert len(spans) == 3
    assert not any("/generate" in span.partition("/resume")[0] for span in spans)
    plain = config(made[0], server, train=train | {"overlap": False})
    with served(made) as server:
        options = plain.policy.options | {"url": server.url}
        policy = plain.policy.model_copy(update={"options": options})
        run_rl(plain.model_copy(update={"policy": policy}), tmp_path / "plain")
    other = RunReader(tmp_path / "plain")
    for step in (1, 2, 3):
        ids = [[s.trajectory.task_id for s in r.trajectories(step)] for r in (reader, other)]
        assert ids[0] == ids[1], "the tasks of a step do not depend on when it is sampled"


@pytest.mark.parametrize("reload", ["keeps_old", "mixed"])
def test_a_wrong_reload_stops_the_run(made: tuple[Path, Any], tmp_path: Path, reload: str) -> None:
    with (
        served(made, reload=reload) as server,
        pytest.raises(TrainError, match=r"version 1: .*does not hold the learner's weights"),
    ):
        run_rl(config(made[0], server), tmp_path / "run")
    assert len(RunReader(tmp_path / "run").metrics()) == 1
    assert not list((tmp_path / "run" / "checkpoints").glob("step_000002"))


def test_old_weights_are_noticed_below_the_tolerance_too(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    with (
        served(made, reload="keeps_old") as server,
        pytest.raises(TrainError, match=r"followed 0% of it .*keeps old weights"),
    ):
        run_rl(config(made[0], server, sync={"max_gap": 50.0}), tmp_path / "run")


def test_a_server_with_other_weights_stops_the_run_before_its_first_step(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    make_tiny(other, seed=1)
    with (
        FakeVLLM(TinyEngine(other, made[1])) as server,
        pytest.raises(TrainError, match="version 0"),
    ):
        run_rl(config(made[0], server, sync={"how": "off"}), tmp_path / "run")
    assert RunReader(tmp_path / "run").metrics() == []


def test_adapters_are_published_alone(made: tuple[Path, Any], tmp_path: Path) -> None:
    with served(made, dev_mode=False) as server:
        lora = config(
            made[0],
            server,
            sync={"how": "lora"},
            train={"learning_rate": 3e-2, "steps": 2, "lora_rank": 2, "lora_alpha": 8},
        )
        run_rl(lora, tmp_path / "run")
        asked = [s.body for s in server.requests if s.path == "/inference/v1/generate"]
    second = RunReader(tmp_path / "run").metrics()[1]
    assert second["sync_gap_max"] < 1e-4
    assert second["sync_follow"] == pytest.approx(1, abs=0.01)
    names = list(dict.fromkeys(body["model"] for body in asked))
    assert [name[:11] for name in names] == ["tiny", "pvrl-000000", "pvrl-000001"]
    (folder,) = (tmp_path / "run" / "vllm").iterdir()
    assert not (folder / "model.safetensors").exists()


def test_adapters_that_the_server_forgot_are_published_again(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    # As after a restart: the old name is not there to be unloaded.
    with served(made, dev_mode=False, forgets_adapters=True) as server:
        train = {"learning_rate": 3e-2, "steps": 3, "lora_rank": 2, "lora_alpha": 8}
        run_rl(config(made[0], server, sync={"how": "lora"}, train=train), tmp_path / "run")
    assert len(RunReader(tmp_path / "run").metrics()) == 3


def test_a_pause_whose_answer_was_lost_is_ended(made: tuple[Path, Any], tmp_path: Path) -> None:
    with served(made, late_pause=True) as server:
        with pytest.raises(TrainError, match="version 0 were not published"):
            run_rl(config(made[0], server), tmp_path / "run")
        assert server.paths()[-1] == "/resume"


def test_a_resumed_run_publishes_what_it_goes_on_with(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    with served(made) as server:
        run_rl(config(made[0], server, train={"steps": 1}), tmp_path / "run")
    # A server that was started anew holds the first weights.
    with served(made) as server:
        again = config(made[0], server)
        run_rl(again, tmp_path / "run", resume=tmp_path / "run")
    assert RunReader(tmp_path / "run").metrics()[1]["sync_gap_max"] < 1e-4


def test_what_cannot_be_published_stops_the_run(made: tuple[Path, Any], tmp_path: Path) -> None:
    with (
        served(made, dev_mode=False) as server,
        pytest.raises(TrainError, match=r"version 0 were not published: .*status 404"),
    ):
        run_rl(config(made[0], server), tmp_path / "run")


@pytest.mark.parametrize(
    ("sections", "started", "message"),
    [
        ({"policy": {"top_p": 0.9}}, {}, "policy.top_p = 0.9"),
        ({"sync": {"how": "lora"}}, {}, "set train.lora_rank"),
        ({}, {"max_model_len": 1000}, "served with --max-model-len 1000"),
        ({}, {"scale_out": False}, "--enable-scale-out"),
    ],
)
def test_what_could_not_train_is_refused_before_the_network_is_loaded(
    made: tuple[Path, Any],
    tmp_path: Path,
    sections: dict[str, Any],
    started: dict[str, Any],
    message: str,
) -> None:
    with served(made, **started) as server:
        options = config(made[0], server, sync=sections.pop("sync", {})).policy.options
        policy = {"name": "vllm", "model": str(made[0]), "options": options}
        asked = config(made[0], server, policy=policy | sections.get("policy", {}))
        with pytest.raises(ConfigError, match=message):
            run_rl(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The canary's numbers.


def scores(*values: float) -> np.ndarray:
    return np.array(values)


def agreements(*pairs: tuple[Sequence[float], Sequence[float]]) -> Any:
    canary = Canary([])
    return [canary.compare(scores(*ours), scores(*theirs)) for ours, theirs in pairs][-1]


def test_numbers_of_a_comparison_are_those_of_the_definition() -> None:
    start = ([-1.0, -2.0], [-1.0, -2.0])
    found = agreements(start, ([-1.3, -2.4], [-1.3, -2.0]))
    assert found.gap == pytest.approx(0.2)  # (0 + 0.4) / 2
    assert found.gap_max == pytest.approx(0.4)
    assert found.moved == pytest.approx(0.25**0.5 / 2**0.5)  # sqrt((0.09 + 0.16) / 2)
    assert found.follow == pytest.approx(0.36)  # (0.3 * 0.3 + 0.4 * 0) / (0.09 + 0.16)


def test_a_movement_below_the_noise_says_nothing() -> None:
    noisy = ([-1.0, -2.0], [-1.1, -1.9])
    found = agreements(noisy, ([-1.2, -2.2], [-1.1, -1.9]))
    assert found.follow is None
    assert found.problem(0.4, 0.5) == ""


def test_scores_that_are_no_numbers_are_a_problem() -> None:
    found = agreements(([-1.0], [float("nan")]))
    assert "differ by nan" in found.problem(0.1, 0.5)

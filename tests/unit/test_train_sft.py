"""SFT draws its data fairly, stops where it should, and resumes with the same bits."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measured import Copying
from PIL import Image
from sft_wiring import Wiring, assert_same_weights, config_of, weights, write_pairs
from tiny_models import make_tiny

from pyvision_rl.checks.sft import check_stages
from pyvision_rl.config import Config
from pyvision_rl.errors import CheckpointError, ConfigError, RunError
from pyvision_rl.media import image_media
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.train.checkpoints import Checkpoint, latest_checkpoint, resume_from, step_path
from pyvision_rl.train.interrupts import Interrupted, StopSignal
from pyvision_rl.train.sft import _refuse_other_config, run_sft
from pyvision_rl.train.sft_data import Mixture, TokenWeights, load_source
from pyvision_rl.train.sft_parts import SftParts, Wire
from pyvision_rl.types import (
    EndReason,
    GiveAnswer,
    Gold,
    Media,
    Reward,
    Segment,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


class Mortal(VisionLanguageModel):
    """A model whose process is killed while it is saved for the second time."""

    saved = 0

    def save(self, path: Path) -> None:
        self.saved += 1
        if self.saved == 2:
            raise KeyboardInterrupt
        super().save(path)


@dataclass
class Killed(Wiring):
    """Parts around a mortal model."""

    @contextmanager
    def __call__(self, config: Config, out: Path, start: Checkpoint | None) -> Iterator[SftParts]:
        with Wiring.__call__(self, config, out, start) as parts:
            model = Mortal(parts.model.module, parts.model.vision)
            model.banned_ids = parts.model.banned_ids
            yield replace(parts, model=model)


def test_stages_run_in_order_each_with_its_own_rate_and_curve(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    wiring = Wiring()
    config = config_of(
        source,
        pairs,
        {"name": "first", "steps": 3},
        {"name": "second", "steps": 2, "learning_rate": 0.001},
        warmup_steps=2,
    )
    result = run_sft(config, tmp_path / "run", wire=wiring)
    assert result.steps == 5
    assert [wiring.lines[s]["stage"] for s in range(1, 6)] == ["first"] * 3 + ["second"] * 2
    assert [wiring.lines[s]["stage_step"] for s in range(1, 6)] == [1, 2, 3, 1, 2]
    rates = [wiring.lines[s]["learning_rate"] for s in range(1, 6)]
    assert rates == pytest.approx([0.0015, 0.003, 0.003, 0.0005, 0.001])
    assert result.model == tmp_path / "run" / "final"
    assert result.model.resolve() == latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert result.loss == wiring.lines[5]["loss"]
    assert weights(result.model)


def test_sft_learns_the_pairs(source: Path, pairs: Path, tmp_path: Path) -> None:
    wiring = Wiring()
    config = config_of(source, pairs, {"steps": 40, "batch_size": 6}, save_every=100)
    run_sft(config, tmp_path / "run", wire=wiring)
    assert wiring.lines[40]["loss"] < 0.3 * wiring.lines[1]["loss"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_stopped_run_goes_on_with_the_same_bits(
    source: Path, pairs: Path, tmp_path: Path, number: signal.Signals, code: int, at: int
) -> None:
    stages = ({"name": "first"}, {"name": "second", "steps": 3})
    config = config_of(source, pairs, *stages, optimizer="muon", schedule="cosine", warmup_steps=2)
    whole = Wiring()
    run_sft(config, tmp_path / "whole", wire=whole)

    def stop(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    lines: list[str] = []
    halves = Wiring(after_step=stop)
    with pytest.raises(Interrupted) as caught:
        run_sft(config, tmp_path / "run", wire=halves, report=lines.append)
    assert caught.value.code == code
    assert caught.value.resume == f"pvrl sft --resume {tmp_path / 'run'}"
    assert caught.value.resume in lines[-1]
    assert max(halves.lines) == at
    halves.after_step = lambda _: None
    result = run_sft(config, tmp_path / "run", resume=tmp_path / "run", wire=halves)
    assert halves.lines == whole.lines
    assert result.steps == 7
    assert_same_weights(tmp_path / "run" / "final", tmp_path / "whole" / "final")


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, {"steps": 7})
    whole = Wiring()
    run_sft(config, tmp_path / "whole", wire=whole)

    class Killed(BaseException):
        pass

    def kill(step: int) -> None:
        if step == 5:
            raise Killed

    killed = Wiring(after_step=kill)
    with pytest.raises(Killed):
        run_sft(config, tmp_path / "run", wire=killed)
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest == step_path(tmp_path / "run" / "checkpoints", 4)
    resumed = Wiring()
    run_sft(config, tmp_path / "run", resume=tmp_path / "run", wire=resumed)
    assert resumed.lines == {step: whole.lines[step] for step in (5, 6, 7)}
    assert_same_weights(tmp_path / "run" / "final", tmp_path / "whole" / "final")


def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, {"steps": 6}, keep_checkpoints=9)
    out = tmp_path / "run"
    first = Wiring()
    run_sft(config, out, wire=first)
    before = weights(out / "final")
    again = Wiring()
    run_sft(config, out, resume=step_path(out / "checkpoints", 2), wire=again)
    assert again.lines == {step: first.lines[step] for step in (3, 4, 5, 6)}
    for name, value in weights(out / "final").items():
        assert torch.equal(value, before[name]), name


def test_a_resumed_run_does_not_hold_the_state_it_went_on_from(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    held: list[bool] = []
    config = config_of(source, pairs)
    run_sft(config, tmp_path / "run", wire=Wiring())
    half = step_path(tmp_path / "run" / "checkpoints", 2)
    run_sft(
        config,
        tmp_path / "again",
        wire=Wiring(),
        resume=half,
        learner=partial(Copying, held=held),
    )
    assert held == [False, False]


@pytest.mark.parametrize("had", [0, 2])
def test_a_run_killed_between_its_last_checkpoint_and_the_link_gets_the_link(
    source: Path, pairs: Path, tmp_path: Path, had: int
) -> None:
    config, out = config_of(source, pairs), tmp_path / "run"
    run_sft(config, out, wire=Wiring())
    # What the kill leaves: no link, or one to the checkpoint before.
    (out / "final").unlink()
    if had:
        (out / "final").symlink_to(f"checkpoints/step_{had:06d}")
    result = run_sft(config, out, resume=out, wire=Wiring())
    assert result.model.resolve() == step_path(out / "checkpoints", 4)


def test_a_finished_run_is_not_run_again(source: Path, pairs: Path, tmp_path: Path) -> None:
    config = config_of(source, pairs)
    run_sft(config, tmp_path / "run", wire=Wiring())
    idle = Wiring()
    result = run_sft(config, tmp_path / "run", resume=tmp_path / "run", wire=idle)
    assert idle.lines == {}
    assert (result.steps, result.loss) == (4, None)
    assert result.model.exists()


def test_resuming_with_another_data_mix_is_refused(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    run_sft(config_of(source, pairs), tmp_path / "run", wire=Wiring())
    other = config_of(source, pairs, {"steps": 9})
    with pytest.raises(CheckpointError, match="other values of sft;"):
        run_sft(other, tmp_path / "run", resume=tmp_path / "run", wire=Wiring())


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("seed", 4),
        ("tasks", {"name": "needle", "limit": 9}),
        ("prompts", {"template": "minimal"}),
        ("policy", {"temperature": 0.5}),
        ("sandbox", {"figure": {"figure.dpi": 50}}),
        ("rollout", {"max_tool_calls": 1}),
        ("rewards", {"tool_use_per_call": 0.3}),
        ("train", {"learning_rate": 0.1}),
        ("probe", {"num_tasks": 3}),
    ],
)
def test_resuming_with_what_changes_the_result_is_refused_by_name(
    source: Path, pairs: Path, tmp_path: Path, section: str, values: Any
) -> None:
    config = config_of(source, pairs, {"steps": 1})
    run_sft(config, tmp_path / "run", wire=Wiring())
    raw = config.model_dump(mode="json")
    raw[section] = {**raw[section], **values} if isinstance(values, dict) else values
    other = Config.model_validate(raw)
    with pytest.raises(CheckpointError, match=f"other values of {section};"):
        run_sft(other, tmp_path / "run", resume=tmp_path / "run", wire=Wiring())


def test_resuming_may_save_elsewhere_and_more_often_and_in_less_memory(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    run_sft(config_of(source, pairs, {"steps": 1}), tmp_path / "run", wire=Wiring())
    other = config_of(
        source,
        pairs,
        {"steps": 1},
        save_every=1,
        keep_checkpoints=9,
        micro_batch_rows=2,
        micro_batch_tokens=999,
        gradient_checkpointing=True,
    )
    other = other.model_copy(update={"policy": other.policy.model_copy(update={"model": "moved"})})
    run_sft(other, tmp_path / "run", resume=tmp_path / "run", wire=Wiring())


def test_resuming_may_change_what_only_rl_reads_and_know_more_keys(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, {"steps": 1})
    run_sft(config, tmp_path / "run", wire=Wiring())
    start = resume_from(tmp_path / "run")
    del start.extra["config"]["rewards"]["max_paid_calls"]
    raw = config.model_dump(mode="json")
    raw["train"] |= {"epochs": 3, "clip_high": 0.3, "kl_coefficient": 0.1, "loss_norm": "constant"}
    _refuse_other_config(Config.model_validate(raw), start)
    raw["rewards"]["max_paid_calls"] = 2
    with pytest.raises(CheckpointError, match="other values of rewards;"):
        _refuse_other_config(Config.model_validate(raw), start)


PROBED = {"steps": 8, "stop_when": "probe", "probe_every": 2}


def test_a_stage_stops_at_the_first_step_inside_the_window(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    wiring = Wiring(distances={4: 0.3, 6: 0.0})
    config = config_of(source, pairs, {**PROBED, "min_steps": 3})
    result = run_sft(config, tmp_path / "run", wire=wiring)
    assert wiring.probed == [4, 6]
    assert (result.steps, result.window_distance) == (6, 0.0)
    assert wiring.lines[6]["probe_distance"] == 0.0
    assert "probe_distance" not in wiring.lines[5]


def test_otherwise_it_keeps_the_weights_that_came_nearest(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    # Steps 4 and 6 tie; the earlier one is kept. Pruning to one checkpoint must spare it.
    wiring = Wiring(distances={2: 0.3, 4: 0.1, 6: 0.1, 8: 0.2})
    config = config_of(source, pairs, PROBED, keep_checkpoints=1, save_every=1)
    kept: dict[str, torch.Tensor] = {}

    def remember(step: int) -> None:
        if step == 6:
            kept.update(weights(step_path(tmp_path / "run" / "checkpoints", 4)))

    wiring.after_step = remember
    lines: list[str] = []
    result = run_sft(config, tmp_path / "run", wire=wiring, report=lines.append)
    assert wiring.probed == [2, 4, 6, 8]
    assert result.window_distance == 0.1
    assert "kept the weights of step 4" in lines[-1]
    assert "did not reach" in lines[-1]
    for name, value in weights(result.model).items():
        assert torch.equal(value, kept[name]), name


def test_the_nearest_weights_are_remembered_across_a_stop(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    distances = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.2}
    config = config_of(source, pairs, PROBED, keep_checkpoints=1)
    run_sft(config, tmp_path / "whole", wire=Wiring(distances=distances))

    def stop(step: int) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        run_sft(config, tmp_path / "run", wire=Wiring(distances=distances, after_step=stop))
    wire: Wire = Wiring(distances=distances)
    result = run_sft(config, tmp_path / "run", resume=tmp_path / "run", wire=wire)
    assert result.window_distance == 0.1
    assert_same_weights(tmp_path / "run" / "final", tmp_path / "whole" / "final")


def test_a_run_killed_inside_the_window_does_not_train_on(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    # The step inside the window is saved; then comes the kill, before the stage's border is saved.
    stages = ({**PROBED, "min_steps": 3}, {"name": "next", "steps": 1})
    config = config_of(source, pairs, *stages, save_every=9)
    distances = {4: 0.0}
    whole = Wiring(distances=distances)
    run_sft(config, tmp_path / "whole", wire=whole)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_sft(config, out, wire=Killed(distances=distances))
    assert latest_checkpoint(out / "checkpoints") == step_path(out / "checkpoints", 4)
    rest = Wiring(distances=distances)
    result = run_sft(config, out, resume=out, wire=rest)
    assert rest.lines == {5: whole.lines[5]}
    assert result.steps == 5
    assert_same_weights(out / "final", tmp_path / "whole" / "final")


def test_a_run_killed_while_its_best_step_becomes_the_border_goes_on_from_it(
    source: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The best step is the last: its checkpoint, the only one kept, is replaced by the border's.
    stages = ({**PROBED, "steps": 2}, {"name": "next", "steps": 1})
    config = config_of(source, pairs, *stages, keep_checkpoints=1)
    run_sft(config, tmp_path / "whole", wire=Wiring(distances={2: 0.1}))
    out, rename, seen = tmp_path / "run", Path.rename, list[str]()

    def killed(self: Path, target: Path) -> Path:
        if self.name in seen:
            raise KeyboardInterrupt
        seen.append(self.name)
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sft(config, out, wire=Wiring(distances={2: 0.1}))
    assert not step_path(out / "checkpoints", 2).exists(), "or the kill came elsewhere"
    rest = Wiring()
    run_sft(config, out, resume=out, wire=rest)
    assert list(rest.lines) == [3]
    assert_same_weights(out / "final", tmp_path / "whole" / "final")


def test_a_last_step_outside_the_window_is_told(source: Path, pairs: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = config_of(source, pairs, {**PROBED, "steps": 2})
    run_sft(config, tmp_path / "run", wire=Wiring(distances={2: 0.1}), report=lines.append)
    assert "did not reach the probe's window: kept the weights of step 2" in lines[-1]


def test_report_lines_count_the_steps_of_all_stages(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    stages = ({**PROBED, "steps": 6}, {"name": "next", "steps": 3})
    wiring = Wiring(distances={2: 0.0})
    config = config_of(source, pairs, *stages)
    run_sft(config, tmp_path / "run", wire=wiring, report=lines.append)
    # The first stage stops early: what it left out is no longer to come.
    counts = [line.split(":")[0] for line in lines if line.startswith("step ")]
    assert counts == ["step 1/9", "step 2/9", "step 3/5", "step 5/5"]


def test_a_second_signal_is_not_held_back() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.received, stop.exit_code) == (signal.SIGINT, 130)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config, out = config_of(source, pairs, {"steps": 2}), tmp_path / "run"
    with RunWriter(out, config, verb="sft") as writer:
        writer.metrics(1, {"loss": 9.0})
        writer.event("remark", "of the life before", 1)
    with pytest.raises(RunError, match="run"):
        run_sft(config, out)
    result = run_sft(config, out, resume=out)
    run_sft(config, tmp_path / "whole")
    assert [line["step"] for line in RunReader(out).metrics()] == [1, 2]
    assert RunReader(out).events() == []
    assert_same_weights(result.model, tmp_path / "whole" / "final")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        run_sft(config, tmp_path / "new", resume=tmp_path)


def test_the_packages_own_parts_make_a_run_folder(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, {"steps": 2})
    result = run_sft(config, tmp_path / "run")
    reader = RunReader(tmp_path / "run")
    assert reader.info.verb == "sft"
    assert [line["step"] for line in reader.metrics()] == [1, 2]
    assert weights(result.model)


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    shares=st.lists(st.floats(0.1, 5), min_size=4, max_size=4),
    batch=st.integers(1, 9),
    rounds=st.integers(1, 9),
)
def test_a_mixture_keeps_its_shares_and_repeats_nothing_within_an_epoch(
    sizes: list[int], shares: list[float], batch: int, rounds: int
) -> None:
    shares = shares[: len(sizes)]
    mixture = Mixture(sizes, shares, (1, 2))
    drawn = [pair for _ in range(rounds) for pair in mixture.draw(batch)]
    for source, size in enumerate(sizes):
        own = [index for s, index in drawn if s == source]
        for begin in range(0, len(own), size):
            epoch = own[begin : begin + size]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(size))
        fair = shares[source] / sum(shares) * len(drawn)
        assert abs(len(own) - fair) <= len(sizes)
    assert mixture.taken == tuple(Counter(s for s, _ in drawn)[s] for s in range(len(sizes)))


@given(cut=st.integers(0, 30), seed=st.integers(0, 5))
def test_a_mixture_goes_on_from_what_was_taken(cut: int, seed: int) -> None:
    whole = Mixture((5, 3), (2.0, 1.0), (seed,)).draw(30)
    first = Mixture((5, 3), (2.0, 1.0), (seed,))
    begun = first.draw(cut)
    second = Mixture((5, 3), (2.0, 1.0), (seed,))
    second.taken = first.taken
    assert begun + second.draw(30 - cut) == whole


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    mixture = Mixture((50,), (1.0,), (0,))
    orders = [mixture.draw(50), mixture.draw(50), Mixture((50,), (1.0,), (1,)).draw(50)]
    assert len({tuple(order) for order in orders}) == 3
    assert [(0, i) for i in range(50)] not in orders


def rules(*pairs: tuple[str, float]) -> Any:
    stage = {
        "name": "s",
        "steps": 1,
        "data": [],
        "token_weights": [{"pattern": p, "weight": w} for p, w in pairs],
    }
    return Config.model_validate({"sft": {"stages": [stage]}}).sft.stages[0].token_weights


def test_the_first_pattern_that_matches_a_whole_token_gives_its_weight() -> None:
    text = {1: "7", 2: "x7", 3: "\n", 4: "word"}
    table = TokenWeights(
        rules((r"\d+", 4.0), (r".*\d", 2.0), (r"\s", 3.0)), lambda ids: text[ids[0]], "stage"
    )
    segments = (
        Segment((1, 1), False),
        Segment((1, 2), True, (0.0, 0.0)),
        Segment((3, 4), True, (0.0, 0.0)),
    )
    assert table.of(segments) == (4.0, 2.0, 3.0, 1.0)


def test_a_broken_pattern_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"sft\.stages\[0\]\.token_weights\[1\]\.pattern = '\('"):
        TokenWeights(rules(("a", 1.0), ("(", 1.0)), str, "sft.stages[0]")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"data": []}, "data is empty"),
        ({"data": [{"kind": "pairs"}]}, r"data\[0\] needs either tasks"),
        ({"data": [{"kind": "scripts"}]}, r"data\[0\]\.tasks is missing"),
        ({"data": [{"kind": "trajectories"}]}, r"data\[0\]\.path is missing"),
        ({"token_weights": [{"pattern": "(", "weight": 1}]}, "pattern"),
        ({"stop_when": "probe", "min_steps": 5}, r"\[1\]\.min_steps = 5 is above its steps = 4"),
    ],
)
def test_a_stage_that_cannot_run_is_refused_before_work_starts(
    source: Path, pairs: Path, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages(config_of(source, pairs, {}, stage))


def test_stopping_by_probe_needs_tasks_to_probe_on(source: Path, pairs: Path) -> None:
    config = config_of(source, pairs, PROBED).model_copy(update={"tasks": None})
    with pytest.raises(ConfigError, match="stop_when"):
        check_stages(config)
    with pytest.raises(ConfigError, match=re.escape("sft.stages is empty")):
        check_stages(Config())


def recorded(path: Path, *correct: bool, logprobs: bool = True) -> Path:
    """A run folder with one trajectory per grade."""
    config = Config.model_validate({"run": {"logprobs": logprobs}})
    with RunWriter(path, config, verb="rl") as writer:
        graded: list[Any] = []
        for i, right in enumerate(correct):
            segments = (Segment((50, 51), False), Segment((60 + i,), True, (-0.5,)))
            reward = Reward({"accuracy": float(right)}, right)
            trajectory = Trajectory(f"t{i}", 0, segments, (), (), EndReason.ANSWERED, "x", reward)
            graded.append((Task(TaskInput(f"t{i}", "?"), Gold("x")), trajectory, None, None))
        ungraded = replace(graded[0][1], task_id="u", reward=None)
        graded.append((Task(TaskInput("u", "?"), Gold("x")), ungraded, None, None))
        writer.rollouts(1, graded)
    return path


class Words:
    """Reads ids as words; 9 ends a turn."""

    end_of_turn = 9

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"w{token}" for token in token_ids)


def written(path: Path, text: str, media: tuple[Media, ...] = (), *, every: int = 1) -> Path:
    """A run folder with one correct trajectory of one turn that sampled the ids 60, 61, 9."""
    config = Config.model_validate({"run": {"media_every": every}})
    segments = (Segment((50,), False, media=media), Segment((60, 61, 9), True, (-0.5,) * 3))
    turn = Turn(text, StopReason.END, GiveAnswer("x"), 3)
    reward = Reward({"accuracy": 1.0}, True)
    end = EndReason.ANSWERED
    trajectory = Trajectory("t0", 0, segments, (), (turn,), end, "x", reward)
    with RunWriter(path, config, verb="rl") as writer:
        writer.rollouts(2, [(Task(TaskInput("t0", "?"), Gold("x")), trajectory, None, None)])
    return path


def read(run: Path) -> list[tuple[Segment, ...]]:
    renderer: Any = Words()
    return load_source(source_of(run), "sft.stages[0].data[0]", renderer, no_scripts)


def test_trajectories_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    assert len(read(written(tmp_path / "same", "w60 w61"))) == 1
    with pytest.raises(ConfigError, match=r"/other': task 't0' was written with another tokeniz"):
        read(written(tmp_path / "other", "x60 x61"))


def test_trajectories_without_their_images_are_refused_at_once(tmp_path: Path) -> None:
    image = image_media(Image.new("RGB", (28, 28)))
    assert len(read(written(tmp_path / "all", "w60 w61", (image,)))) == 1
    with pytest.raises(ConfigError, match=r"media_every") as caught:
        read(written(tmp_path / "some", "w60 w61", (image,), every=9))
    assert f"some/media/{image.sha256}.png" in str(caught.value)


def source_of(path: Path, **more: Any) -> Any:
    data = {"kind": "trajectories", "path": str(path), **more}
    stage = {"name": "s", "steps": 1, "data": [data]}
    return Config.model_validate({"sft": {"stages": [stage]}}).sft.stages[0].data[0]


def no_scripts(data: Any) -> list[Trajectory]:
    return []


def load(data: Any) -> list[tuple[Segment, ...]]:
    renderer: Any = None
    return load_source(data, "sft.stages[0].data[0]", renderer, no_scripts)


def test_only_correct_trajectories_of_a_run_are_learnt_from(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", True, False, True)
    assert [s[1].token_ids for s in load(source_of(run))] == [(60,), (62,)]
    assert len(load(source_of(run, count=1))) == 1
    file = run / "rollouts" / "step_000001.jsonl"
    assert load(source_of(file)) == load(source_of(run))


def test_a_run_without_anything_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 3 trajectories is correct"):
        load(source_of(recorded(tmp_path / "wrong", False, False)))
    with pytest.raises(ConfigError, match=r"run\.logprobs"):
        load(source_of(recorded(tmp_path / "bare", True, logprobs=False)))


def test_a_source_without_examples_is_refused() -> None:
    stage = {"name": "s", "steps": 1, "data": [{"kind": "scripts", "tasks": {"name": "needle"}}]}
    data = Config.model_validate({"sft": {"stages": [stage]}}).sft.stages[0].data[0]
    with pytest.raises(
        ConfigError, match=r"sft\.stages\[0\]\.data\[0\]: the source has no examples"
    ):
        load(data)

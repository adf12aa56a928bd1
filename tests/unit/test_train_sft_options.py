"""What a stage of SFT may ask for: epochs, averaged weights, held-out examples, conversations."""

from __future__ import annotations

import json
import math
import re
import signal
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sft_wiring import Wiring, assert_same_weights, config_of, weights, write_pairs
from tiny_models import make_tiny

from pyvision_rl.checks.sft import check_stages
from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config, TrainConfig
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.models.load import load_model
from pyvision_rl.rendering import load_renderer
from pyvision_rl.sft_format import write_conversations
from pyvision_rl.synthesize import REASONS, check_synthesize
from pyvision_rl.train.batching import Example
from pyvision_rl.train.checkpoints import load_checkpoint, step_path
from pyvision_rl.train.ema import AveragingLearner
from pyvision_rl.train.interrupts import Interrupted
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.sft import mean_nll, run_sft
from pyvision_rl.train.sft_data import Epochs, Segments, StageData, hold_out, load_source
from pyvision_rl.train.sft_parts import _compared
from pyvision_rl.types import Segment

SCRIPTS = {"kind": "scripts", "tasks": {"name": "needle"}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    batch=st.integers(1, 9),
    epochs=st.integers(1, 3),
)
def test_an_epoch_sees_every_example_of_every_source_once(
    sizes: list[int], batch: int, epochs: int
) -> None:
    order, total = Epochs(sizes, (1, 2)), sum(sizes)
    everything = Counter((s, i) for s, size in enumerate(sizes) for i in range(size))
    for _ in range(epochs):
        batches = [order.draw(batch) for _ in range(-(-total // batch))]
        assert all(len(b) == batch for b in batches[:-1])
        assert Counter(pair for b in batches for pair in b) == everything


@given(cut=st.integers(0, 20), seed=st.integers(0, 5))
def test_epochs_go_on_from_what_was_taken(cut: int, seed: int) -> None:
    whole = Epochs((5, 3), (seed,))
    drawn = [whole.draw(3) for _ in range(20)]
    first, second = Epochs((5, 3), (seed,)), Epochs((5, 3), (seed,))
    begun = [first.draw(3) for _ in range(cut)]
    second.taken = first.taken
    assert begun + [second.draw(3) for _ in range(20 - cut)] == drawn


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = Epochs((50,), (0,))
    orders = [order.draw(50), order.draw(50), Epochs((50,), (1,)).draw(50)]
    assert len({tuple(each) for each in orders}) == 3


def test_a_stage_in_epochs_makes_as_many_steps_as_its_examples_fill(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    # 6 examples in batches of 4: steps of 4 and 2, twice.
    stages = (
        {"name": "all", "steps": None, "epochs": 2},
        {"name": "more", "steps": 1, "batch_size": 1},
    )
    config = config_of(source, pairs, *stages, save_every=100)
    wiring, lines = Wiring(), list[str]()
    assert run_sft(config, tmp_path / "run", wire=wiring, report=lines.append).steps == 5
    # A raw target is a digit and the end of the turn.
    assert [wiring.lines[s]["num_tokens"] for s in range(1, 6)] == [8, 4, 8, 4, 2]
    assert lines[0] == "stage 'all': 6 examples, steps 1 to 4"
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == [
        "step 1/5",
        "step 4/5",
        "step 5/5",
    ]


SMALL = TrainConfig(learning_rate=0.01, weight_decay=0.0)


def batch_of(source: Path, pairs: Path) -> list[Example]:
    config = config_of(source, pairs)
    return StageData(config, 0, load_renderer(str(source)), lambda data: []).batch()


def test_the_averaged_weights_are_the_closed_form(source: Path, pairs: Path) -> None:
    decay, batch = 0.6, batch_of(source, pairs)
    model = load_model(str(source), device="cpu")
    learner = AveragingLearner(model, SMALL, decay=decay)
    plain = Learner(load_model(str(source), device="cpu"), SMALL)
    seen: list[list[torch.Tensor]] = []
    for _ in range(4):
        learner.sft_step(batch)
        plain.sft_step(batch)
        seen.append([p.detach().clone() for p in plain.model.module.parameters()])
        live = list(learner.model.module.parameters())
        assert all(map(torch.equal, live, seen[-1])), "averaging changes no step"
    # mean_n = sum_i decay^(n-i) w_i / sum_i decay^(n-i), in float64.
    share = [decay ** (3 - i) for i in range(4)]
    with learner.averaged():
        for number, mean in enumerate(model.module.parameters()):
            want = sum(s * w[number].double() for s, w in zip(share, seen, strict=True))
            torch.testing.assert_close(mean.double(), want / sum(share), rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, model.module.parameters(), seen[-1]))


def test_frozen_weights_are_not_averaged(source: Path, pairs: Path) -> None:
    model = load_model(str(source), device="cpu")
    config = SMALL.model_copy(update={"freeze_vision": True})
    learner = AveragingLearner(model, config, decay=0.5)
    learner.sft_step(batch_of(source, pairs))
    with learner.averaged():
        names = learner.state_dict()["live"]
    trained = {n for n, p in model.module.named_parameters() if p.requires_grad}
    assert set(names) == trained
    assert not any("visual" in name for name in names)


EMA = {"steps": 6, "ema_decay": 0.7}


def test_the_result_and_every_checkpoint_are_the_average(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, EMA, keep_checkpoints=9)
    run_sft(config, tmp_path / "run", wire=Wiring())
    folder = tmp_path / "run" / "checkpoints"
    plain = config_of(source, pairs, {"steps": 6}, keep_checkpoints=9, save_every=1)
    run_sft(plain, tmp_path / "plain", wire=Wiring())
    steps = [weights(step_path(tmp_path / "plain" / "checkpoints", s)) for s in range(1, 7)]
    for at in (2, 4, 6):
        share = [0.7 ** (at - i) for i in range(1, at + 1)]
        for name, mean in weights(step_path(folder, at)).items():
            terms = (s * w[name].double() for s, w in zip(share, steps, strict=False))
            want = (sum(terms) / sum(share)).float()  # type: ignore[union-attr]
            torch.testing.assert_close(mean, want, rtol=1e-5, atol=1e-6)
    live = load_checkpoint(step_path(folder, 4)).learner
    assert live is not None
    for name, value in live["live"].items():
        assert torch.equal(value, steps[3][name]), "what training goes on from is there too"


@pytest.mark.parametrize("at", [3, 4])
def test_a_stopped_average_goes_on_with_the_same_bits(
    source: Path, pairs: Path, tmp_path: Path, at: int
) -> None:
    stages = ({**EMA, "steps": 5}, {"name": "in epochs", "steps": None, "epochs": 1})
    config = config_of(source, pairs, *stages)
    whole = Wiring()
    run_sft(config, tmp_path / "whole", wire=whole)

    def stop(step: int) -> None:
        if step == at:
            signal.raise_signal(signal.SIGTERM)

    halves = Wiring(after_step=stop)
    with pytest.raises(Interrupted):
        run_sft(config, tmp_path / "run", wire=halves)
    halves.after_step = lambda _: None
    run_sft(config, tmp_path / "run", resume=tmp_path / "run", wire=halves)
    assert halves.lines == whole.lines
    assert_same_weights(tmp_path / "run" / "final", tmp_path / "whole" / "final")


def test_an_average_needs_exact_weights_and_its_own_checkpoint(source: Path, pairs: Path) -> None:
    half = load_model(str(source), device="cpu", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r'ema_decay needs float32 weights .* "float32"'):
        AveragingLearner(half, SMALL, decay=0.5)
    model = load_model(str(source), device="cpu")
    state = Learner(model, SMALL).state_dict()
    with pytest.raises(CheckpointError, match="no weights to go on averaging from"):
        AveragingLearner(model, SMALL, decay=0.5).load_state_dict(state)


def split(
    examples: list[Segments], share: float, seed: tuple[int, ...]
) -> tuple[list[Segments], list[Segments]]:
    """Those to train on and those held out, in their order."""
    unseen = hold_out(examples, share, seed)
    return [e for e in examples if e[0] not in unseen], [e for e in examples if e[0] in unseen]


def example(prompt: int, number: int) -> tuple[Segment, ...]:
    return Segment((prompt,), False), Segment((number,), True, (0.0,))


@given(
    prompts=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 3),
)
def test_what_is_held_out_shares_no_prompt_with_what_is_learnt(
    prompts: list[int], share: float, seed: int
) -> None:
    examples = [example(prompt, number) for number, prompt in enumerate(prompts)]
    kept, held = split(examples, share, (seed,))
    assert Counter(kept + held) == Counter(examples)
    assert not {e[0] for e in kept} & {e[0] for e in held}
    wanted, sizes = math.ceil(share * len(examples)), Counter(prompts).values()
    assert 1 <= len(held) <= max(wanted, min(sizes))
    # What was left does not fit.
    left = Counter(e[0] for e in kept).values()
    assert all(len(held) + size > wanted for size in left)
    assert (kept, held) == split(examples, share, (seed,))


@pytest.mark.parametrize("seed", range(20))
def test_a_prompt_of_many_examples_is_held_out_only_where_nothing_smaller_is(seed: int) -> None:
    many = [example(0, number) for number in range(100)]
    singles = [example(prompt, 0) for prompt in range(1, 101)]
    assert len(split([*many, *singles], 0.02, (seed,))[1]) == 4
    # The three singles are less than the half; the hundred would leave next to nothing.
    assert len(split([*many, *singles[:3]], 0.5, (seed,))[1]) == 3
    assert len(split([*many, *many[:0]], 0.5, (seed,))[0]) == 0


HELD = {"eval_share": 0.4, "eval_every": 2, "steps": 5}


def test_a_prompt_that_two_sources_share_is_held_out_of_both(source: Path, tmp_path: Path) -> None:
    words = [[{"prompt": f"say {n}", "target": f"{teacher} {n}"} for n in range(20)]
             for teacher in ("one", "two")]  # fmt: skip
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for file, rows in zip(files, words, strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {**HELD, "data": [{"kind": "pairs", "path": str(file)} for file in files]}
    config = config_of(source, files[0], stage)
    data = StageData(config, 0, load_renderer(str(source)), lambda data: [])
    trained = {e.segments[0] for _ in range(99) for e in data.batch()}
    held = Counter(segments[0] for segments in data.held_out)
    assert not trained & set(held)
    assert set(held.values()) == {2}
    assert (len(data.held_out), data.num_examples) == (16, 24), "0.4 of each source"


def test_held_out_examples_are_measured_and_never_trained_on(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, HELD)
    data = StageData(config, 0, load_renderer(str(source)), lambda data: [])
    # 0.4 of 6, from above.
    assert (len(data.held_out), data.num_examples) == (3, 3)
    trained = {segments for _ in range(9) for segments in (e.segments for e in data.batch())}
    assert not trained & set(data.held_out)
    wiring = Wiring()
    result = run_sft(config, tmp_path / "run", wire=wiring)
    assert [s for s, line in wiring.lines.items() if "held_out_nll" in line] == [2, 4, 5]
    learner = Learner(load_model(str(result.model), device="cpu"), SMALL)
    assert result.held_out_nll == wiring.lines[5]["held_out_nll"]
    assert mean_nll(learner, data.held_out) == pytest.approx(result.held_out_nll, abs=1e-5)


def test_held_out_examples_whose_prompt_is_trained_on_are_counted(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    whole = {"kind": "pairs", "path": str(pairs)}
    config = config_of(source, pairs, {"data": [{**whole, "count": 2}], "eval_data": [whole]})
    data = StageData(config, 0, load_renderer(str(source)), lambda data: [])
    assert (data.num_examples, len(data.held_out), data.num_seen) == (2, 6, 2)
    wiring = Wiring()
    run_sft(config, tmp_path / "run", wire=wiring)
    assert [line.get("held_out_seen") for line in wiring.lines.values()] == [2, None, None, None]


def test_measuring_changes_no_step(source: Path, pairs: Path, tmp_path: Path) -> None:
    stage = {"steps": 4, "eval_data": [{"kind": "pairs", "path": str(pairs)}]}
    often = config_of(source, pairs, {**stage, "eval_every": 1})
    run_sft(often, tmp_path / "often", wire=Wiring())
    run_sft(config_of(source, pairs, {"steps": 4}), tmp_path / "never", wire=Wiring())
    assert_same_weights(tmp_path / "often" / "final", tmp_path / "never" / "final")


def test_the_held_out_nll_is_the_mean_over_tokens(source: Path, pairs: Path) -> None:
    learner = Learner(load_model(str(source), device="cpu"), SMALL)
    batch = batch_of(source, pairs)
    # The step reports the plain mean over its targets, before it moves the weights.
    measured = mean_nll(learner, [e.segments for e in batch])
    assert learner.sft_step(batch).nll == pytest.approx(measured, abs=1e-5)


def test_the_weights_with_the_lowest_held_out_nll_are_kept(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    # A rate far too high: what is held out is soon worse than it was after a step or two.
    stage = {**HELD, "steps": 8, "eval_every": 1, "keep_best": True, "learning_rate": 0.05}
    config = config_of(source, pairs, stage, keep_checkpoints=1, save_every=1)
    best: dict[str, torch.Tensor] = {}
    wiring, lines = Wiring(), list[str]()

    def remember(step: int) -> None:
        values = [wiring.lines[s]["held_out_nll"] for s in range(1, step)]
        if values and min(values) == values[-1]:
            best.update(weights(step_path(tmp_path / "run" / "checkpoints", step - 1)))

    wiring.after_step = remember
    result = run_sft(config, tmp_path / "run", wire=wiring, report=lines.append)
    measured = [wiring.lines[s]["held_out_nll"] for s in range(1, 9)]
    assert min(measured) < measured[-1], "or the last weights would be the best ones"
    assert result.held_out_nll == min(measured)
    assert f"kept the weights of step {measured.index(min(measured)) + 1} " in lines[-1]
    for name, value in weights(result.model).items():
        assert torch.equal(value, best[name]), name


@pytest.mark.parametrize("more", [{}, {"eval_every": 2}, {"ema_decay": 0.7}])
@pytest.mark.parametrize(
    ("distances", "kept"), [({2: 0.5, 4: 0.0}, 4), ({2: 0.1, 4: 0.5, 6: 0.5}, 2)]
)
def test_the_held_out_nll_of_a_probed_stage_is_that_of_the_weights_it_keeps(
    source: Path,
    pairs: Path,
    tmp_path: Path,
    distances: dict[int, float],
    kept: int,
    more: dict[str, Any],
) -> None:
    stage = {"steps": 6, "stop_when": "probe", "probe_every": 2, "eval_share": 0.4, **more}
    config = config_of(source, pairs, stage)
    whole = Wiring(distances=distances)
    result = run_sft(config, tmp_path / "whole", wire=whole)
    data = StageData(config, 0, load_renderer(str(source)), lambda data: [])
    learner = Learner(load_model(str(result.model), device="cpu"), SMALL)
    assert result.held_out_nll == whole.lines[kept]["held_out_nll"]
    assert mean_nll(learner, data.held_out) == pytest.approx(result.held_out_nll, abs=1e-5)

    def stop(step: int) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    out, parts = tmp_path / "parts", Wiring(distances=distances, after_step=stop)
    with pytest.raises(Interrupted):
        run_sft(config, out, wire=parts)
    parts.after_step = lambda _: None
    again = run_sft(config, out, resume=out, wire=parts)
    assert parts.lines == whole.lines
    assert again.held_out_nll == result.held_out_nll


def test_a_run_killed_behind_its_last_step_still_says_its_held_out_nll(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    config = config_of(source, pairs, HELD, save_every=99)
    whole = run_sft(config, tmp_path / "whole", wire=Wiring())

    class Dies(Wiring):
        """Stopped at the last step, whose checkpoint is saved, and killed at the next save."""

        @contextmanager
        def __call__(self, *arguments: Any) -> Iterator[Any]:
            with Wiring.__call__(self, *arguments) as parts:
                model, save, saved = parts.model, parts.model.save, list[Path]()

                def once(path: Path) -> None:
                    if saved:
                        raise KeyboardInterrupt
                    saved.append(path)
                    save(path)

                model.save = once  # type: ignore[method-assign]
                yield parts

    def stop(step: int) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_sft(config, out, wire=Dies(after_step=stop))
    idle = Wiring()
    assert run_sft(config, out, resume=out, wire=idle).held_out_nll == whole.held_out_nll
    assert idle.lines == {}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"epochs": 1}, "needs either steps or epochs"),
        ({"steps": None}, "needs either steps or epochs"),
        ({"eval_every": 5}, "eval_every needs eval_share or eval_data"),
        ({"keep_best": True}, "keep_best needs eval_share or eval_data"),
        ({"keep_best": True, "eval_share": 0.5}, "keep_best needs eval_every"),
        ({**HELD, "keep_best": True, "stop_when": "probe"}, "both choose the weights"),
        ({"eval_data": [{"kind": "pairs"}]}, r"eval_data\[0\] needs either tasks"),
        ({"data": [{"kind": "conversations"}]}, r"data\[0\]\.path is missing: name a JSON"),
        ({"data": [{"kind": "pairs", "path": "x", "image_root": "y"}]}, r"image_root is for conv"),
        ({"data": [{"kind": "pairs", "path": "x", "tokens": "rendered"}]}, r"tokens is for traj"),
        ({"data": [{"kind": "pairs", "path": "x", "max_wrong": 0.1}]}, r"max_wrong is for scripts"),
        (
            {"data": [{"kind": "trajectories", "path": "x", "tasks": {"name": "needle"}}]},
            r"data\[0\]\.tasks is for pairs and scripts only, not for trajectories",
        ),
        (
            {"data": [{"kind": "scripts", "path": "x", "tasks": {"name": "needle"}}]},
            r"data\[0\]\.path is not for scripts",
        ),
        (
            {"steps": None, "epochs": 1, "data": [{"kind": "pairs", "path": "x", "weight": 2}]},
            r"data\[0\]\.weight = 2\.0: only a stage of steps",
        ),
    ],
)
def test_a_stage_that_asks_for_what_cannot_be_is_refused_before_work_starts(
    source: Path, pairs: Path, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages(config_of(source, pairs, stage))


def test_averaging_rounded_weights_is_refused_before_work_starts(source: Path, pairs: Path) -> None:
    config = config_of(source, pairs, EMA)
    half = config.policy.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"ema_decay needs policy\.dtype"):
        check_stages(config.model_copy(update={"policy": half}))


def test_scaling_the_gradients_of_rounded_weights_is_refused_before_work_starts(
    source: Path, pairs: Path
) -> None:
    config = config_of(source, pairs, mixed_precision="fp16", master_weights=True)
    check_stages(config)
    half = config.policy.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r'"fp16" .* policy\.dtype = "bfloat16"'):
        check_stages(config.model_copy(update={"policy": half}))


def test_half_precision_without_a_scaled_loss_is_refused_before_work_starts(
    source: Path, pairs: Path
) -> None:
    config = config_of(source, pairs, master_weights=True)
    half = config.policy.model_copy(update={"dtype": "float16"})
    with pytest.raises(ConfigError, match='"float16" rounds gradients to nothing'):
        check_stages(config.model_copy(update={"policy": half}))


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ({"eval_share": 0.5}, True),
        ({"eval_share": 0.5, "data": [SCRIPTS]}, False),
        ({"eval_data": [SCRIPTS]}, True),
        ({}, False),
    ],
)
def test_pictures_of_scripts_are_kept_as_they_are_where_prompts_are_compared(
    source: Path, pairs: Path, stage: dict[str, Any], kept: bool
) -> None:
    both = [SCRIPTS, {"kind": "pairs", "path": str(pairs)}]
    config = config_of(source, pairs, {"data": both} | stage)
    assert _compared(config, config.sft.stages[0].data[0]) == kept


def test_a_source_of_one_prompt_cannot_be_split(source: Path, tmp_path: Path) -> None:
    config = config_of(source, write_pairs(tmp_path, 1), HELD)
    with pytest.raises(ConfigError, match=r"eval_share = 0\.4 leaves nothing of data\[0\]"):
        StageData(config, 0, load_renderer(str(source)), lambda data: [])


def test_examples_that_are_too_long_are_left_out_and_counted(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    # Of the pairs, one has a longer target than the rest.
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[2]["target"] = "2" * 40
    longer = pairs.with_name("longer.jsonl")
    longer.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"kind": "pairs", "path": str(longer), "max_tokens": 40}
    config = config_of(source, pairs, {"steps": None, "epochs": 1, "data": [data]})
    wiring, lines = Wiring(), list[str]()
    run_sft(config, tmp_path / "run", wire=wiring, report=lines.append)
    assert lines[0].startswith("stage 's': 5 examples (1 too long)")
    assert [line.get("too_long") for line in wiring.lines.values()] == [1, None]
    none = config_of(source, pairs, {"data": [{**data, "max_tokens": 2}]})
    with pytest.raises(ConfigError, match=r"data\[0\]\.max_tokens = 2: all 6 examples are longer"):
        run_sft(none, tmp_path / "none", wire=Wiring())


@pytest.fixture(scope="module")
def chars_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight episodes whose ledger is made of characters, as of a teacher without our tokenizer."""
    config = Config.model_validate(
        {
            "tasks": {"name": "tests.fakes:Colours"},
            "prompts": {"template": "minimal"},
            "policy": {"name": "scripted"},
            "sandbox": {"name": "scripted", "options": {"outputs": ["done"]}},
            "rollout": {"group_size": 1},
        }
    )
    return run_rollout(config, tmp_path_factory.mktemp("teacher") / "run")


def source_config(**values: Any) -> Any:
    stage = {"name": "s", "steps": 1, "data": [values]}
    return Config.model_validate({"sft": {"stages": [stage]}}).sft.stages[0].data[0]


def test_episodes_of_another_tokenizer_are_rendered_for_ours_when_asked(
    source: Path, chars_run: Path, tmp_path: Path
) -> None:
    renderer = load_renderer(str(source))
    path = str(chars_run)

    def load(**values: Any) -> list[tuple[Segment, ...]]:
        return load_source(source_config(**values), "data[0]", renderer, lambda data: [])

    with pytest.raises(ConfigError, match=r'another tokenizer .* tokens = "rendered"'):
        load(kind="trajectories", path=path)
    rendered = load(kind="trajectories", path=path, tokens="rendered")
    assert len(rendered) == 8
    written = [[renderer.decode(s.token_ids) for s in e if s.sampled] for e in rendered]
    assert written[0] == [
        "<code>\n```python\nplt.imshow(image_clue_0)\nplt.show()\n```\n</code>",
        "<answer>\n\\boxed{red}\n</answer><|im_end|>",
    ]
    # The same words by way of a file: the same tokens.
    file = write_conversations(chars_run, tmp_path / "out").path
    assert load(kind="conversations", path=str(file)) == rendered
    assert load(kind="conversations", path=str(file), count=3) == rendered[:3]


def test_sft_learns_conversations(source: Path, chars_run: Path, tmp_path: Path) -> None:
    file = write_conversations(chars_run, tmp_path / "out").path
    data = [{"kind": "conversations", "path": str(file)}]
    stage = {"steps": None, "epochs": 8, "data": data, "eval_data": data}
    config = config_of(source, Path("unused"), stage, learning_rate=0.01, save_every=100)
    wiring = Wiring()
    result = run_sft(config, tmp_path / "run", wire=wiring)
    assert result.steps == 16
    assert result.held_out_nll is not None
    assert result.held_out_nll < 0.3 * wiring.lines[1]["nll"]


def test_the_page_about_the_cold_start_shows_configs_that_are_accepted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cold-start.md").read_text()
    teacher, student = (
        Config.model_validate(tomllib.loads(block))
        for block in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    )
    check_synthesize(teacher)
    check_stages(student)
    reasons = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`[^|]*) \|", page, flags=re.M)))
    assert set(REASONS) <= set(reasons)

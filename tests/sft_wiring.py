"""Small parts around a real model for tests of SFT, and configs and weights to compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.models.load import load_model
from pyvision_rl.rendering import load_renderer
from pyvision_rl.train.checkpoints import Checkpoint
from pyvision_rl.train.sft_parts import SftParts


@dataclass(frozen=True)
class Reading:
    """A probe that says what it was told to say."""

    window_distance: float
    tool_share: float = 0.5
    gain: float = -0.1
    gain_se: float = 0.02
    gain_with_bonus: float = 0.1
    expectation: str = "noise decides"


@dataclass
class Wiring:
    """Small parts around a real model: no sandbox, no sampling, no run folder."""

    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    distances: Mapping[int, float] = field(default_factory=dict)
    """Step -> distance of the probe made there."""
    after_step: Callable[[int], None] = lambda _: None
    probed: list[int] = field(default_factory=list)

    @contextmanager
    def __call__(self, config: Config, out: Path, start: Checkpoint | None) -> Iterator[SftParts]:
        path = config.policy.model if start is None else str(start.path)
        model = load_model(path, device="cpu")
        steps = {"now": 0 if start is None else start.step}

        def probe() -> Reading:
            # The probe runs before the step's metrics are written.
            self.probed.append(steps["now"] + 1)
            return Reading(self.distances[steps["now"] + 1])

        def metrics(step: int, values: Mapping[str, Any]) -> None:
            steps["now"] = step
            self.lines[step] = {k: v for k, v in values.items() if k != "step_s"}
            self.after_step(step)

        yield SftParts(
            model=model,
            renderer=load_renderer(path, model.vision),
            run_scripts=lambda data: [],
            probe=probe,
            metrics=metrics,
        )


def write_pairs(folder: Path, count: int = 6) -> Path:
    """Write pairs that name the colour of a plain picture by a number; return their file."""
    rows = []
    for digit in range(count):
        colour = (40 * digit, 0, 255 - 40 * digit)
        Image.new("RGB", (56, 56), colour).save(folder / f"{digit}.png")
        row = {"prompt": "<image> digit:", "images": [f"{digit}.png"], "target": f"{digit}"}
        rows.append({**row, "raw": True})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(source: Path, pairs: Path, *stages: dict[str, Any], **train: Any) -> Config:
    base = {
        "name": "s",
        "steps": 4,
        "batch_size": 4,
        "data": [{"kind": "pairs", "path": str(pairs)}],
    }
    return Config.model_validate(
        {
            "seed": 3,
            "tasks": {"name": "needle"},
            "policy": {"model": str(source), "device": "cpu"},
            "train": {"learning_rate": 0.003, "save_every": 2, **train},
            "sft": {"stages": [{**base, **stage} for stage in stages or ({},)]},
        }
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    module = load_model(str(path), device="cpu").module
    return {name: p.detach() for name, p in module.named_parameters()}


def assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name

"""Gradients of our learner beside those of TRL's GRPOTrainer, on the same weights and episodes.

In: an environment with TRL in it. Out: for every case the largest relative difference over the
parameters, and with ``--out NAME`` the files NAME.json and NAME.md. Each side makes its own batch:
ours from segments, with explicit positions, TRL's from padded ids, pixels and masks, with the
positions that transformers finds. TRL generates nothing here; its loss is called as it calls it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyvision_rl.config import TrainConfig
from pyvision_rl.images import grid, patches
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import Batch, EndReason, Scored, Segment, Trajectory
from tests.tiny_models import FAMILIES, make_tiny, noise

MOST = 1e-5
"""Largest relative difference of a parameter's gradient, by its norm."""
TEMPERATURE = 0.8
BUDGET = 40
"""Tokens per completion: what TRL's dr_grpo divides by."""


@dataclass(frozen=True)
class Case:
    """One objective, in the words of both sides."""

    name: str
    ours: dict[str, Any]
    theirs: dict[str, Any]
    reference: bool = False
    cap: float = 0.0
    micro_rows: int = 4

    def config(self) -> TrainConfig:
        """Ours; the gradient is left as it is."""
        base = {"clip_low": 0.2, "clip_high": 0.28, "grad_clip": 1e9, "micro_batch_tokens": 10_000}
        return TrainConfig.model_validate(
            base | self.ours | {"micro_batch_rows": self.micro_rows, "constant_tokens": BUDGET}
        )


CASES = (
    Case("token mean", {"loss_norm": "token_mean"}, {"loss_type": "dapo"}),
    Case("sequence mean", {"loss_norm": "sequence_mean"}, {"loss_type": "grpo"}),
    Case("constant", {"loss_norm": "constant"}, {"loss_type": "dr_grpo"}),
    Case(
        "token mean, two micro-batches",
        {"loss_norm": "token_mean"},
        {"loss_type": "dapo"},
        micro_rows=2,
    ),
    Case(
        "micro-batch mean, two micro-batches",
        {"loss_norm": "micro_batch_mean"},
        {"loss_type": "bnpo"},
        micro_rows=2,
    ),
    Case("dual clip", {"dual_clip": 1.5}, {"loss_type": "dapo", "delta": 1.5}),
    Case("KL", {"kl_coefficient": 0.3}, {"loss_type": "dapo", "beta": 0.3}, reference=True),
    Case(
        "truncated importance sampling",
        {"old_logprobs": "learner", "tis_cap": 1.2},
        {"loss_type": "dapo"},
        cap=1.2,
    ),
    Case(
        "all together",
        {
            "loss_norm": "sequence_mean",
            "dual_clip": 1.5,
            "kl_coefficient": 0.3,
            "old_logprobs": "learner",
            "tis_cap": 1.2,
        },
        {"loss_type": "grpo", "delta": 1.5, "beta": 0.3},
        reference=True,
        cap=1.2,
    ),
)


class EveryIdAllowed(VisionLanguageModel):
    """Without our ban of media placeholders, which TRL does not know."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of all ids."""
        scores: torch.Tensor = self._head(hidden).float()
        return scores


@dataclass(frozen=True)
class Bench:
    """A family's weights on disk, and batches sampled from weights nearby."""

    family: str
    folder: Path
    reference: Path
    tokenizer: Any
    batches: dict[str, Batch] = field(default_factory=dict)

    def model(self) -> VisionLanguageModel:
        """Return the policy, loaded anew."""
        return _load(self.folder)


def _load(folder: Path) -> VisionLanguageModel:
    from pyvision_rl.models.load import load_model

    loaded = load_model(str(folder), device="cpu")
    return EveryIdAllowed(loaded.module, loaded.vision, loaded.vocab_size)


def make_bench(family: str, folder: Path) -> Bench:
    """Return the policy, a reference policy, a batch of texts and one with pictures."""
    _, tokenizer = make_tiny(folder / "policy", family)
    reference = _load(folder / "policy")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.module.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    shutil.copytree(folder / "policy", folder / "reference")
    reference.save(folder / "reference")
    bench = Bench(family, folder / "policy", folder / "reference", tokenizer)
    for name, images in (("text", False), ("images", True)):
        bench.batches[name] = _sampled(bench.model(), images)
    return bench


def _episode(model: VisionLanguageModel, seed: int, turns: int, images: bool) -> Trajectory:
    rng = np.random.default_rng(seed)
    segments = []
    for turn in range(turns):
        before = tuple(rng.integers(50, 300, int(rng.integers(2, 6))).tolist())
        after = (51,)
        if images:
            # Pictures of different shapes: positions differ in rows and columns.
            picture = noise(seed * 10 + turn, 56 + 28 * (turn % 2), 56)
            given = Segment((*before, model.image_token_id, *after), False, media=(picture,))
        else:
            given = Segment((*before, *after), False)
        written = tuple(rng.integers(50, 300, int(rng.integers(2, 6))).tolist())
        segments += [given, Segment(written, True, (0.0,) * len(written))]
    return Trajectory(f"t{seed}", 0, tuple(segments), (), (), EndReason.ANSWERED)


def _sampled(model: VisionLanguageModel, images: bool) -> Batch:
    """Four episodes of one to three turns, by a sampler some 0.4 nats away from the learner."""
    shapes = ((1, 1), (2, 3), (3, 2), (4, 1))
    bare = [_episode(model, seed, turns, images) for seed, turns in shapes]
    found = Learner(model, TrainConfig()).logprobs(bare, TEMPERATURE)
    rng = np.random.default_rng(0)
    samples = []
    for trajectory, logprobs, advantage in zip(bare, found, (0.75, -0.25, 1.5, -0.5), strict=True):
        drifted = [p - float(rng.normal(0, 0.4)) for p in logprobs]
        segments = tuple(
            replace(s, logprobs=tuple(drifted.pop(0) for _ in s.token_ids)) if s.sampled else s
            for s in trajectory.segments
        )
        samples.append(Scored(replace(trajectory, segments=segments), advantage))
    return Batch(tuple(samples))


def our_gradients(bench: Bench, case: Case, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the gradients that one update of our learner would step along."""
    model = bench.model()
    reference = _load(bench.reference) if case.reference else None
    learner = Learner(model, case.config(), reference=reference)
    caught: dict[str, torch.Tensor] = {}

    def catch(*_: Any) -> None:
        caught.update(_gradients(model.module))

    learner.optimizers.optimizers[-1].register_step_pre_hook(catch)
    learner.update(batch, TEMPERATURE)
    return caught


def _gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.detach().clone() for n, p in module.named_parameters() if p.grad is not None}
    assert found
    return found


def their_gradients(bench: Bench, case: Case, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the gradients of TRL's loss, summed over micro-batches of the same rows."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model = bench.model()
    order = _order(model, batch)
    parts = [order[i : i + case.micro_rows] for i in range(0, len(order), case.micro_rows)]
    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=model.module,
            reward_funcs=lambda completions, **_: [0.0 for _ in completions],
            args=GRPOConfig(
                output_dir=out,
                use_cpu=True,
                bf16=False,
                report_to=[],
                per_device_train_batch_size=case.micro_rows,
                gradient_accumulation_steps=len(parts),
                num_generations=2,
                max_completion_length=BUDGET,
                temperature=TEMPERATURE,
                epsilon=0.2,
                epsilon_high=0.28,
                # GRPO's estimator as it is, without the later correction by the ratio.
                use_bias_correction_kl=False,
                **case.theirs,
            ),
            train_dataset=Dataset.from_list([{"prompt": "q"}]),
            processing_class=bench.tokenizer,
        )
    trainer.current_gradient_accumulation_steps = len(parts)
    # The weights of sampler corrections come with vLLM only; nothing is generated here.
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = bool(case.cap)
    module = trainer.model.train()
    module.zero_grad()
    total = sum(s.trajectory.num_sampled_tokens for s in batch.samples)
    for rows in parts:
        inputs = _inputs(bench, model, [batch.samples[i] for i in rows], case)
        inputs["num_items_in_batch"] = torch.tensor(float(total))
        trainer._compute_loss(module, inputs).backward()
    return _gradients(module)


def _order(model: VisionLanguageModel, batch: Batch) -> list[int]:
    """Rows as our micro-batches hold them: longest first."""
    lengths = [len(model.expand(s.trajectory.segments).token_ids) for s in batch.samples]
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def _inputs(
    bench: Bench, model: VisionLanguageModel, rows: Sequence[Scored], case: Case
) -> dict[str, Any]:
    """Return what TRL's generation would have handed to its loss."""
    expanded = [model.expand(s.trajectory.segments) for s in rows]
    heads = [len(model.expand(s.trajectory.segments[:1]).token_ids) for s in rows]
    width = max(heads)
    tail = max(len(e.token_ids) - h for e, h in zip(expanded, heads, strict=True))

    def table(columns: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.zeros(len(rows), columns, dtype=dtype)

    inputs: dict[str, Any] = {
        "prompt_ids": table(width),
        "prompt_mask": table(width),
        "completion_ids": table(tail),
        "completion_mask": table(tail),
        "tool_mask": table(tail),
        "advantages": torch.tensor([s.advantage for s in rows]),
    }
    old, kinds = table(tail, torch.float32), table(width + tail)
    for row, (full, head) in enumerate(zip(expanded, heads, strict=True)):
        ids, length = torch.tensor(full.token_ids), len(full.token_ids) - head
        inputs["prompt_ids"][row, width - head :] = ids[:head]
        inputs["prompt_mask"][row, width - head :] = 1
        inputs["completion_ids"][row, :length] = ids[head:]
        inputs["completion_mask"][row, :length] = 1
        inputs["tool_mask"][row, :length] = torch.tensor(full.sampled[head:]).long()
        old[row, :length] = torch.from_numpy(full.logprobs[head:])
        kinds[row, width - head : width + length] = (ids == model.image_token_id).long()
    inputs |= {"old_per_token_logps": old}
    media = [m for full in expanded for _, m in full.images]
    if media:
        pixels = np.concatenate([patches(m, model.vision) for m in media])
        inputs |= {
            "pixel_values": torch.from_numpy(pixels),
            "image_grid_thw": torch.tensor([grid(m, model.vision) for m in media]),
            "num_images": [len(full.images) for full in expanded],
            "mm_token_type_ids": kinds,
        }
    if case.reference:
        scored = _logprobs(_load(bench.reference), rows)
        inputs["ref_per_token_logps"] = _place(scored, inputs["tool_mask"])
    if case.cap:
        own = _place(_logprobs(bench.model(), rows), inputs["tool_mask"])
        ratio = torch.exp(own - old).clamp(max=case.cap)
        inputs |= {"old_per_token_logps": own, "importance_sampling_ratio": ratio}
    return inputs


def _logprobs(model: VisionLanguageModel, rows: Sequence[Scored]) -> list[tuple[float, ...]]:
    return Learner(model, TrainConfig()).logprobs([s.trajectory for s in rows], TEMPERATURE)


def _place(values: Sequence[Sequence[float]], mask: torch.Tensor) -> torch.Tensor:
    """Return [B, T] values where the mask is 1, zeros elsewhere."""
    placed = torch.zeros(mask.shape)
    for row, found in enumerate(values):
        placed[row, mask[row] == 1] = torch.tensor(found)
    return placed


def largest_difference(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> tuple[float, str]:
    """Return the largest |ours - theirs| / |theirs| over the parameters, and whose it is.

    A parameter whose gradient vanishes but for rounding is measured against the largest gradient.
    """
    assert ours.keys() == theirs.keys()
    floor = 1e-6 * max(float(g.norm()) for g in theirs.values())
    return max(
        (float((ours[n] - g).norm()) / max(float(g.norm()), floor), n) for n, g in theirs.items()
    )


def compare(bench: Bench, case: Case, batch: str) -> tuple[float, str]:
    """Return the largest relative difference of a case, and the parameter it is in."""
    chosen = bench.batches[batch]
    return largest_difference(
        our_gradients(bench, case, chosen), their_gradients(bench, case, chosen)
    )


def measure() -> dict[str, Any]:
    """Return every case of both families and batches, with the versions they ran on."""
    packages = ("torch", "transformers", "trl", "accelerate")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            bench = make_bench(family, Path(folder) / family)
            for case in CASES:
                for batch in bench.batches:
                    most, parameter = compare(bench, case, batch)
                    rows.append(
                        {
                            "family": family,
                            "case": case.name,
                            "trl": case.theirs,
                            "batch": batch,
                            "largest_relative_difference": most,
                            "parameter": parameter,
                        }
                    )
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "dtype": "float32",
        "bound": MOST,
        "rows": rows,
    }


def page(result: dict[str, Any]) -> str:
    """Return the result as a page: the worst of the families for each case and batch."""
    worst: dict[tuple[str, str], float] = {}
    for row in result["rows"]:
        key = row["case"], row["batch"]
        worst[key] = max(worst.get(key, 0.0), row["largest_relative_difference"])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        "# Gradients beside TRL's",
        "",
        f"`python -m tests.peers.trl_gradients`, {result['measured']}, Python {result['python']}, "
        f"{versions}, float32 on a CPU.",
        "",
        "Tiny random Qwen2.5-VL and Qwen3-VL models; four episodes of one to three turns, by a "
        "sampler about 0.4 nats away from the learner; a batch of text, and one with a picture in "
        "every turn. TRL's `GRPOTrainer._compute_loss` gets the same episodes as padded ids, masks "
        "and pixels. The figure is the largest relative difference (norm of the difference over "
        f"norm of TRL's) of any parameter's gradient, over both families; at most {MOST:g} passes.",
        "",
        "| objective | TRL's arguments | text | images |",
        "| --- | --- | ---: | ---: |",
    ]
    for case in CASES:
        told = ", ".join(f"{k}={v}" for k, v in case.theirs.items())
        figures = " | ".join(f"{worst[case.name, batch]:.1e}" for batch in ("text", "images"))
        lines.append(f"| {case.name} | `{told}` | {figures} |")
    lines += [
        "",
        "What was made equal first: TRL knows no banned ids, so ours are allowed here; its KL term "
        "is taken without `use_bias_correction_kl`; its weights of truncated importance sampling "
        "belong to vLLM and are handed in, and its `dapo` divides by the tokens of the batch.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write the two files, and fail if a difference is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="the files' name without .json and .md")
    out = Path(parser.parse_args().out)
    result = measure()
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(result), encoding="utf-8")
    most = max(row["largest_relative_difference"] for row in result["rows"])
    if not most <= MOST:
        raise SystemExit(f"largest relative difference {most:.2e}, wants at most {MOST:g}")


if __name__ == "__main__":
    main()

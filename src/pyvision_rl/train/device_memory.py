"""What a GPU's memory was for: the peak of each part of a step, and one clear error without enough.

In: nothing but torch's own count. Out: numbers for ``metrics.jsonl``, or a ``DeviceFullError`` that
names the keys which take less. A CPU has no such count: there are no numbers then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import DeviceFullError


def forget_peak(device: torch.device) -> None:
    """Let the next peak be that of what comes now; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(name: str, device: torch.device) -> dict[str, float]:
    """Return under ``name`` the most GiB of tensors on a GPU, and forget it; {} for a CPU."""
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device)
    forget_peak(device)
    return {name: peak / 2**30}


@contextmanager
def enough_memory(config: TrainConfig, step: int) -> Iterator[None]:
    """Turn a lack of memory on a GPU into an error that says what to change.

    Raises:
        DeviceFullError: The GPU was full during step ``step``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        ways = [f"train.micro_batch_tokens below {config.micro_batch_tokens}"]
        if not config.gradient_checkpointing:
            ways.append("train.gradient_checkpointing = true")
        if not config.lora_rank:
            ways.append("train.lora_rank = 64 in a new run")
        raise DeviceFullError(
            f"step {step}: the GPU's memory is full ({str(error).splitlines()[0]}). What takes "
            f"less: {', '.join(ways)}; --dry-run tells what each part takes"
        ) from error

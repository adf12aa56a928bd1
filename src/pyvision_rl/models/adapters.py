"""LoRA adapters inside a network: put in, saved beside it, read back, merged for others (peft).

In: a transformers network. Out: the same network with small matrices beside the linear maps of its
language model (arXiv 2106.09685), which alone require gradients. Adapters are float32 whatever the
network is. A saved directory is an ordinary one with merged weights; the folder ``adapter`` in it
holds what training goes on from, in peft's own format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.registry import missing

ADAPTER = "adapter"
"""Folder of a saved model that holds its adapters."""
_NAME = "default"
_FILE = "adapter_model.safetensors"
_BASE, _SOME = "base_weights.txt", 64
"""The file that says which network adapters are of, and how many numbers of each matrix tell."""
_PREFIX = "base_model.model."
"""What peft puts before every name."""


def has_adapters(module: nn.Module) -> bool:
    """Return whether ``add_adapters`` was called on a network."""
    return hasattr(module, "peft_config")


def add_adapters(module: Any, *, rank: int, alpha: int, targets: Sequence[str], seed: int) -> None:
    """Put adapters that change nothing yet into a network; only they require gradients then.

    Args:
        module: Changed in place; its linear maps become peft's, with the old ones inside.
        rank: Of every adapter.
        alpha: What they add is scaled by alpha / rank.
        targets: Names of linear maps of the language model.
        seed: Of the first matrix of each; the second begins at zero.

    Raises:
        ConfigError: peft is not installed, or the network has adapters already.
    """
    if has_adapters(module):
        raise ConfigError("train.lora_rank: the network has adapters already")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing(error, f"train.lora_rank = {rank}") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # The tower of Qwen2.5-VL has maps of the same names.
        target_modules=rf".*language_model\..*\.({'|'.join(targets)})",
        base_model_name_or_path=module.config.name_or_path,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module)
    for parameter in _matrices(module).values():
        parameter.data = parameter.data.float()


def save_merged(module: Any, path: Path) -> None:
    """Write the network with its adapters merged in, and the adapters in a folder of it."""
    module.save_pretrained(path, state_dict=_merged(module), safe_serialization=True)
    save_adapters(module, path / ADAPTER)


def save_adapters(module: Any, folder: Path) -> None:
    """Write the adapters of a network, and nothing else, in peft's own format."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        _PREFIX + name.replace(f".{_NAME}", ""): p.detach().cpu().contiguous()
        for name, p in _matrices(module).items()
    }
    save_file(state, folder / _FILE, metadata={"format": "pt"})
    # Not in the metadata: the order of several entries there changes from time to time.
    (folder / _BASE).write_text(_fingerprint(module))
    module.peft_config[_NAME].save_pretrained(str(folder))


def load_adapters(module: nn.Module, folder: Path) -> None:
    """Set the adapters of a network to those saved in ``folder``.

    Raises:
        CheckpointError: They cannot be read, or are of another rank, other maps or another model.
    """
    try:
        saved = load_file(folder / _FILE)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / _FILE} cannot be read: {error}") from error
    own = {_PREFIX + n.replace(f".{_NAME}", ""): p for n, p in _matrices(module).items()}
    if {k: p.shape for k, p in own.items()} != {k: p.shape for k, p in saved.items()}:
        raise CheckpointError(
            f"{folder} holds adapters of another shape: were train.lora_rank or train.lora_targets "
            "changed?"
        )
    base = folder / _BASE  # adapters of others have none
    if base.exists() and base.read_text() != _fingerprint(module):
        raise CheckpointError(
            f"{folder} holds adapters of another model: policy.model must be the one that they "
            "were trained beside, with the same weights"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def _matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in module.named_parameters() if ".lora_" in n}


def _fingerprint(module: nn.Module) -> str:
    """Return 16 digits that change with the weights of the network below the adapters.

    A few numbers of each matrix are enough to tell trained networks apart, and 16 bits of each: in
    which precision it was loaded does not count.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(module.named_parameters()):
        if ".lora_" not in name:
            some = parameter.detach().flatten()[:_SOME].bfloat16().cpu()
            digest.update(name.encode() + some.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _merged(module: nn.Module) -> dict[str, Tensor]:
    """Return the network's state as if it never had adapters, with what they add added."""
    state: dict[str, Tensor] = {
        name.replace(".base_layer", ""): value
        for name, value in module.state_dict().items()
        if ".lora_" not in name
    }
    for name, part in module.named_modules():
        if hasattr(part, "lora_A"):
            layer: Any = part
            key = f"{name}.weight"
            with torch.no_grad():
                added = layer.get_delta_weight(_NAME)
                # Not a second copy of all adapted maps beside the first on a GPU.
                state[key] = (state[key].float() + added).to(state[key].dtype).cpu()
    return state

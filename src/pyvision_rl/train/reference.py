"""The frozen policy that the KL term holds a training policy to.

In: a Hugging Face directory or name, and the model that is trained. Out: a model of the same family
and vocabulary, without gradients, that sees pictures as the trained one does.
"""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError

from pyvision_rl.absent import no_model
from pyvision_rl.errors import ConfigError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.load import load_network


def load_reference(path: str, like: VisionLanguageModel) -> VisionLanguageModel:
    """Return the frozen policy at ``path``, on the device and in the precision of ``like``.

    Raises:
        ConfigError: Nothing is there, it cannot be read, or its tokens are not those of ``like``.
    """
    key = f"train.kl_reference = {path!r}"
    try:
        module: Any = load_network(path, like.dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{key} {no_model(path, error)}") from error
    trained: Any = like.module
    both = trained.config, module.config
    ours, theirs = ((c.model_type, c.get_text_config().vocab_size) for c in both)
    if ours != theirs:
        raise ConfigError(
            f"{key} is a {theirs[0]!r} model of {theirs[1]} tokens; the policy is a {ours[0]!r} "
            f"model of {ours[1]}"
        )
    module.to(like.device).eval().requires_grad_(False)
    return VisionLanguageModel(module, like.vision, like.vocab_size)

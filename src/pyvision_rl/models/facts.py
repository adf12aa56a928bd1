"""What a client of a served model must know of it, without its weights.

In: a Hugging Face directory or name. Out: ``ModelFacts``, equal to those of the loaded network.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvision_rl.errors import ConfigError
from pyvision_rl.models.load import FAMILIES


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes and ids of a vision-language model."""

    width: int
    """Entries of the network's vocabulary, padding included."""
    image_token_id: int
    banned_ids: tuple[int, ...]
    """Media placeholders and padding, as ``VisionLanguageModel.banned_ids``."""


def model_facts(path: str) -> ModelFacts:
    """Return the facts of the model at ``path``.

    Raises:
        ConfigError: Nothing is there, or it is not of a supported vision-language family.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path)
        num_tokens = len(AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.model = {path!r} cannot be read: {error}") from error
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"policy.model = {path!r} is a {config.model_type!r} model; "
            f"supported families: {', '.join(FAMILIES)}"
        )
    width = config.get_text_config().vocab_size
    media = {config.image_token_id, config.video_token_id}
    banned = tuple(sorted(media.union(range(num_tokens, width))))
    return ModelFacts(width, config.image_token_id, banned)

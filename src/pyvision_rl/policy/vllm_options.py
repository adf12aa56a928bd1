"""The options of ``policy.name = "vllm"``, and what RL with them asks of the rest of a config.

In: a config. Out: checked options, or an error that names the key. Connects to nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pyvision_rl.config import Config, EndpointConfig, PolicyConfig, Section
from pyvision_rl.errors import ConfigError
from pyvision_rl.registry import parse_options


class SyncOptions(Section):
    """How RL gives the server its new weights, and how it makes sure of them."""

    how: Literal["full", "lora", "off"] = "full"
    """full: all weights, through a folder, and the server's reload. lora: the adapters of
    ``train.lora_rank`` only. off: something else updates the server; it is only checked."""
    folder: str = ""
    """Where weights are put, by a path that the server knows too; empty is ``vllm`` in the run
    folder. One run's own: the last weights stay, earlier ones are removed."""
    timeout_s: float = Field(600.0, gt=0, le=86_400)
    """For one request that publishes."""
    canary_tasks: int = Field(4, gt=0)
    """Prompts of the task set that both engines score after every update."""
    max_gap: float = Field(0.1, gt=0)
    """Mean difference of the log-probabilities of one token in the two engines (nats); above it RL
    stops. Single precision stays below 1e-4; half precision may reach some 0.05."""
    min_follow: float = Field(0.5, ge=0, le=1)
    """The share of the learner's movement that the server must have followed, once it is larger
    than the difference there was at the start; below it RL stops."""


class Options(EndpointConfig):
    """The options of ``policy.name = "vllm"``."""

    url: str = ""
    """Address of the server, e.g. ``http://localhost:8000``, without ``/v1``."""
    model: str = ""
    """The name under which the server serves it; empty takes the only one there is."""
    timeout_s: float = Field(600.0, gt=0, le=86_400)
    """For one turn, waiting in the server's queue included."""
    max_concurrent: int = Field(128, gt=0)
    """Turns asked for at the same time."""
    sync: SyncOptions = SyncOptions()
    """For RL only."""

    @field_validator("url")
    @classmethod
    def _whole_server(cls, url: str) -> str:
        if "?" in url or url.rstrip("/").endswith("/v1"):
            raise ValueError("wants the server's own address, without /v1 and without a query")
        return url


def read_options(config: PolicyConfig) -> Options:
    """Return the checked options.

    Raises:
        ConfigError: One is unknown or out of range, or no server or model is named.
    """
    options = parse_options(Options, config.options, "policy.options")
    if not options.url:
        raise ConfigError("policy.options.url is empty; name the server's, without /v1")
    if not config.model:
        raise ConfigError(
            'policy.name = "vllm" wants policy.model, the Hugging Face directory or name that the '
            "server serves: its tokenizer and sizes are needed here too"
        )
    return options


def check_rl_options(config: Config) -> None:
    """Raise ConfigError for what RL cannot learn from, or could not publish."""
    policy, sync = config.policy, read_options(config.policy).sync
    if policy.top_p < 1 or policy.top_k:
        raise ConfigError(
            f"policy.top_p = {policy.top_p:g}, policy.top_k = {policy.top_k}: vLLM tells the "
            "log-probabilities after these filters, which the learner cannot compute again; RL "
            "with a vLLM server wants 1 and 0"
        )
    if sync.how == "lora" and not config.train.lora_rank:
        raise ConfigError(
            'policy.options.sync.how = "lora": there are no adapters; set train.lora_rank, or take '
            '"full"'
        )

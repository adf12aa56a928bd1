"""What the stages of ``[sft]`` must hold, seen without loading anything.

In: a config. Out: a ``ConfigError`` that names the key, or the compiled token weights. Used by the
training loop before it starts and by ``checks``; needs no torch and opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyvision_rl.config import Config, SftDataConfig, SftStageConfig, TokenWeight
from pyvision_rl.errors import ConfigError


def check_stages(config: Config) -> None:
    """Raise ConfigError if the stages cannot be run, before anything is loaded."""
    if not config.sft.stages:
        raise ConfigError("sft.stages is empty: nothing to do")
    for index, stage in enumerate(config.sft.stages):
        check_stage(config, index)
        compile_rules(stage.token_weights, f"sft.stages[{index}]")


def check_stage(config: Config, index: int) -> None:
    """Raise ConfigError if the data or the end of one stage cannot be."""
    stage, where = config.sft.stages[index], f"sft.stages[{index}]"
    if not stage.data:
        raise ConfigError(f"{where}.data is empty: name at least one source")
    for place, data in enumerate(stage.data):
        _check_source(data, f"{where}.data[{place}]")
    if stage.stop_when == "probe":
        _check_probe(config, stage, where)


def compile_rules(rules: Sequence[TokenWeight], where: str) -> list[tuple[re.Pattern[str], float]]:
    """Return (pattern, weight) of each rule.

    Raises:
        ConfigError: A pattern is no regular expression.
    """
    compiled = []
    for index, rule in enumerate(rules):
        try:
            compiled.append((re.compile(rule.pattern, re.DOTALL), rule.weight))
        except re.error as error:
            raise ConfigError(
                f"{where}.token_weights[{index}].pattern = {rule.pattern!r}: {error}"
            ) from error
    return compiled


def _check_source(data: SftDataConfig, where: str) -> None:
    if data.kind == "trajectories" and not data.path:
        raise ConfigError(f"{where}.path is missing: name a run folder or a rollouts JSONL")
    if data.kind == "scripts" and data.tasks is None:
        raise ConfigError(f"{where}.tasks is missing: name a task set with scripts")
    if data.kind == "pairs" and (data.tasks is None) == (not data.path):
        raise ConfigError(f"{where} needs either tasks (a task set) or path (a JSONL file)")


def _check_probe(config: Config, stage: SftStageConfig, where: str) -> None:
    if config.probe.tasks is None and config.tasks is None:
        raise ConfigError(f'{where}.stop_when = "probe" needs [probe.tasks] or [tasks]')
    if stage.min_steps > stage.steps:
        raise ConfigError(
            f"{where}.min_steps = {stage.min_steps} is above its steps = {stage.steps}: "
            'stop_when = "probe" would never measure'
        )

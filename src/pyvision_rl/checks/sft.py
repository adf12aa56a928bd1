"""What the stages of ``[sft]`` must hold, and what a file of conversations holds.

In: a config. Out: a ``ConfigError`` that names the key, or the compiled token weights. Used by the
training loop before it starts and by ``sections``; needs no torch, and opens no file but the one
whose conversations are to be checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pyvision_rl.checks.parallel import check_fp16, check_parallel
from pyvision_rl.checks.sandbox import Finding
from pyvision_rl.config import Config, SftDataConfig, SftStageConfig, TokenWeight
from pyvision_rl.errors import ConfigError
from pyvision_rl.parsing import parse
from pyvision_rl.sft_format import scan_conversations
from pyvision_rl.types import GiveAnswer


def check_stages(config: Config) -> None:
    """Raise ConfigError if the stages cannot be run, before anything is loaded."""
    if not config.sft.stages:
        raise ConfigError("sft.stages is empty: nothing to do")
    if config.train.parallel != "none":
        check_parallel(config)
    check_fp16(config)
    for index, stage in enumerate(config.sft.stages):
        check_stage(config, index)
        compile_rules(stage.token_weights, f"sft.stages[{index}]")


def check_stage(config: Config, index: int) -> None:
    """Raise ConfigError if the data or the end of one stage cannot be."""
    stage, where = config.sft.stages[index], f"sft.stages[{index}]"
    if not stage.data:
        raise ConfigError(f"{where}.data is empty: name at least one source")
    if (stage.steps is None) == (stage.epochs is None):
        raise ConfigError(f"{where} needs either steps or epochs")
    for key, sources in (("data", stage.data), ("eval_data", stage.eval_data)):
        for place, data in enumerate(sources):
            _check_source(data, f"{where}.{key}[{place}]")
            if data.weight != 1 and (stage.epochs or key == "eval_data"):
                raise ConfigError(
                    f"{where}.{key}[{place}].weight = {data.weight}: only a stage of steps draws "
                    "its sources by weight"
                )
    _check_measures(config, stage, where)
    if stage.ema_decay and config.train.parallel != "none":
        raise ConfigError(
            f"{where}.ema_decay = {stage.ema_decay} is for one process: no process of "
            f'train.parallel = "{config.train.parallel}" keeps a mean of the weights'
        )
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


def check_conversations(file: Path, image_root: Path | None) -> list[Finding]:
    """Return every fault of a file with its record, or what holds for a sound one.

    Raises:
        ConfigError: No such file.
        TaskError: The file as a whole is neither a JSON array nor JSONL.
    """
    said, faults = scan_conversations(file, image_root)
    if faults:
        return [Finding(f"{file}:{fault.record}", "failed", str(fault)) for fault in faults]
    if not said:
        return [Finding(str(file), "failed", "holds no conversations")]
    last = [each.turns[-1] for each in said]
    odd = sum(not isinstance(parse(turn.text, turn.stop), GiveAnswer) for turn in last)
    return [
        Finding("records", "ok", f"{len(said)}, with {sum(len(s.turns) for s in said)} turns"),
        Finding("ending without an answer block", "note" if odd else "ok", str(odd)),
    ]


def _check_source(data: SftDataConfig, where: str) -> None:
    if data.kind == "trajectories" and not data.path:
        raise ConfigError(f"{where}.path is missing: name a run folder or a rollouts JSONL")
    if data.kind == "conversations" and not data.path:
        raise ConfigError(f"{where}.path is missing: name a JSON or JSONL file of conversations")
    if data.image_root and data.kind != "conversations":
        raise ConfigError(f"{where}.image_root is for conversations only, not for {data.kind}")
    if data.tokens != "recorded" and data.kind != "trajectories":
        raise ConfigError(f"{where}.tokens is for trajectories only, not for {data.kind}")
    if data.max_wrong and data.kind != "scripts":
        raise ConfigError(f"{where}.max_wrong is for scripts only, not for {data.kind}")
    if data.tasks is not None and data.kind not in ("pairs", "scripts"):
        raise ConfigError(f"{where}.tasks is for pairs and scripts only, not for {data.kind}")
    if data.path and data.kind == "scripts":
        raise ConfigError(f"{where}.path is not for scripts, whose tasks have them")
    if data.kind == "scripts" and data.tasks is None:
        raise ConfigError(f"{where}.tasks is missing: name a task set with scripts")
    if data.kind == "pairs" and (data.tasks is None) == (not data.path):
        raise ConfigError(f"{where} needs either tasks (a task set) or path (a JSONL file)")


def _check_measures(config: Config, stage: SftStageConfig, where: str) -> None:
    """Refuse to measure, or to keep by measures, what is not there."""
    if not stage.eval_share and not stage.eval_data:
        for key in ("eval_every", "keep_best"):
            if getattr(stage, key):
                raise ConfigError(f"{where}.{key} needs eval_share or eval_data to measure on")
    if stage.keep_best and stage.stop_when:
        raise ConfigError(
            f"{where}: keep_best and stop_when = {stage.stop_when!r} both choose the weights to "
            "keep; set one of them"
        )
    if stage.keep_best and not stage.eval_every:
        raise ConfigError(f"{where}.keep_best needs eval_every: there is nothing to choose from")
    if stage.ema_decay and config.policy.dtype != "float32":
        raise ConfigError(
            f'{where}.ema_decay needs policy.dtype = "float32": a mean of {config.policy.dtype} '
            "weights would be rounded; train.mixed_precision makes the passes cheap"
        )


def _check_probe(config: Config, stage: SftStageConfig, where: str) -> None:
    if config.probe.tasks is None and config.tasks is None:
        raise ConfigError(f'{where}.stop_when = "probe" needs [probe.tasks] or [tasks]')
    if stage.steps is not None and stage.min_steps > stage.steps:
        raise ConfigError(
            f"{where}.min_steps = {stage.min_steps} is above its steps = {stage.steps}: "
            'stop_when = "probe" would never measure'
        )

"""A benchmark suite in an evaluation: the keys it fills in, what it asks for, and its report.

In: the name of a suite, its data and a protocol; later the items of a run. Out: overrides for a
config, the facts and data files of the suite that a config names, and the benchmark's own numbers.
Knows no benchmark: ``suites`` does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pyvision_rl.config import Config, RewardsConfig, TasksConfig
from pyvision_rl.config_file import toml_value
from pyvision_rl.errors import ConfigError
from pyvision_rl.evaluation.evaluate import evaluated
from pyvision_rl.evaluation.items import Item
from pyvision_rl.suites.base import Scored, Settings, Suite, protocol_name, settings_of
from pyvision_rl.suites.task_set import find_suite

Json: TypeAlias = dict[str, Any]

SUITE = "suite"
"""The name of the task set and of the grader that lead to a suite."""


def suite_overrides(name: str, data: str, protocol: str, *, shuffle: bool) -> tuple[str, ...]:
    """Return the overrides that put a suite into ``[eval.tasks]`` and ``[rewards]``.

    Raises:
        ConfigError: No such suite or protocol, or no data.
    """
    suite = find_suite(name, "--suite")
    if not data:
        raise ConfigError(f"--suite {name} needs --data: the suite's file, or hf:owner/name")
    options = {
        "suite": name,
        "path": data,
        "protocol": protocol_name(suite, protocol),
        "shuffle_options": shuffle,
    }
    table = toml_value(options)
    return (
        f"eval.tasks={{name = {json.dumps(SUITE)}, options = {table}}}",
        f"rewards.name={json.dumps(SUITE)}",
        f"rewards.options={table}",
    )


def settings_overrides(
    config: Config, *, typed: Collection[str] = (), from_run: bool = False
) -> tuple[str, ...]:
    """Return the overrides by which a config follows its protocol where it says nothing itself.

    Args:
        config: Names a suite in ``[eval.tasks]``, or in ``[tasks]``; without one there are none.
        typed: Keys that a person set by hand.
        from_run: The config is a run's own, in which every key is written: there a key counts as
            set if it has not its default.
    """
    found = _suite_of(evaluated(config))
    if found is None:
        return ()
    suite, protocol = found
    wanted = asked_keys(settings_of(suite, protocol))
    if not config.eval.tools:
        wanted.pop("rollout.max_tool_calls", None)
    return tuple(
        f"{key}={json.dumps(value)}"
        for key, value in wanted.items()
        if key not in typed and not _is_set(config, key, from_run=from_run)
    )


def asked_keys(settings: Settings) -> dict[str, float | int]:
    """Return the keys of a config that a protocol has a value for."""
    calls = None if settings.max_turns is None else settings.max_turns - 1
    keys = {
        "eval.temperature": settings.temperature,
        "eval.samples": settings.samples,
        "policy.top_k": settings.top_k,
        "rollout.max_tool_calls": calls,
        "rollout.max_context_tokens": settings.max_context_tokens,
        "policy.min_pixels": settings.min_pixels,
        "policy.max_pixels": settings.max_pixels,
    }
    return {key: value for key, value in keys.items() if value is not None}


def with_protocol(config: Config, protocol: str) -> Config:
    """Return the config with another protocol for its suite's scorer; the tasks stay as asked.

    Raises:
        ConfigError: The config names no suite, the suite has no such protocol, or another grader
            than the suite's scorer grades.
    """
    found, rewards = _suite_of(evaluated(config)), config.rewards
    if found is None:
        raise ConfigError(f"--protocol {protocol}: the run is not of a suite; use --set rewards.…")
    if rewards.name != SUITE:
        raise ConfigError(
            f"--protocol {protocol}: rewards.name is {rewards.name!r}, which grades by no protocol "
            f'of a suite; set rewards.name = "{SUITE}", and rewards.options as those of the tasks'
        )
    options = {**rewards.options, "protocol": protocol_name(found[0], protocol)}
    return config.model_copy(update={"rewards": rewards.model_copy(update={"options": options})})


def suite_files(section: TasksConfig) -> tuple[Path, ...]:
    """Return the data files of a suite; none for other task sets.

    Raises:
        TaskError: One is missing.
    """
    found = _suite_of(section)
    if found is None:
        return ()
    path = str(section.options.get("path") or section.path)
    return () if path.startswith("hf:") else found[0].files(Path(path))


def suite_facts(config: Config) -> Json | None:
    """Return the suite of a config, by which protocol it scores, and where the run differs from it.

    ``protocol`` is that of the scorer, None where something else grades; ``asked_by`` that of the
    tasks.
    """
    section = evaluated(config)
    found = _suite_of(section)
    if found is None or section is None:
        return None
    suite, asked_by = found
    protocol = _scorer(config, suite)
    settings = settings_of(suite, protocol or asked_by)
    options = section.options
    differs = {
        key: {"protocol": value, "run": _value(config, key)}
        for key, value in asked_keys(settings).items()
        if _value(config, key) != value
    }
    return {
        "name": suite.name,
        "protocol": protocol,
        "asked_by": asked_by,
        "source": settings.source if protocol else "",
        "second_hand": settings.second_hand,
        "shuffle_options": bool(options.get("shuffle_options", False)),
        "seed": options.get("seed", 0),
        "differs_from_protocol": differs,
    }


def suite_report(config: Config, items: Sequence[Item]) -> Json | None:
    """Return the benchmark's own numbers over the items of a run; None if they are of no suite.

    A note says where they are not the numbers of one protocol. (The episodes of RL, graded again,
    are of other tasks than its evaluation.)
    """
    found = _suite_of(evaluated(config))
    if found is None or any(item.task.input.data_source != found[0].name for item in items):
        return None
    suite, asked_by = found
    protocol = _scorer(config, suite)
    report = suite.aggregate(scored(items), protocol or asked_by)
    return {
        "headline": report.headline,
        "numbers": dict(report.numbers),
        "counts": dict(report.counts),
        "notes": [*_mixed(config, asked_by, protocol), *report.notes],
    }


def _mixed(config: Config, asked_by: str, protocol: str | None) -> list[str]:
    """What a reader must know where questions and scores are not of one protocol."""
    if protocol is None:
        return [
            f"graded by {config.rewards.name!r}, which is no protocol of the suite: the numbers "
            "are its grades in the suite's formula, not comparable with published ones"
        ]
    if protocol != asked_by:
        return [
            f"asked by protocol {asked_by!r} and scored by {protocol!r}: this compares scorers, "
            "not models"
        ]
    return []


def scored(items: Sequence[Item]) -> list[Scored]:
    """Return the samples of each item as suites read them, in the order of the items."""
    by_task: dict[int, list[Item]] = {}
    for item in items:
        by_task.setdefault(item.index, []).append(item)
    found = []
    for members in by_task.values():
        counted = [m.sample for m in members if m.sample.counts]
        # A failed episode has no score, and counts as wrong.
        scores = tuple(s.score or 0.0 for s in counted)
        found.append(Scored(members[0].task, scores, tuple(s.score is None for s in counted)))
    return found


def _suite_of(
    section: TasksConfig | RewardsConfig | None, where: str = "eval.tasks"
) -> tuple[Suite, str] | None:
    """The suite of a section, and the name of its protocol."""
    if section is None or section.name != SUITE:
        return None
    suite = find_suite(str(section.options.get("suite", "")), f"{where}.options.suite")
    return suite, protocol_name(suite, str(section.options.get("protocol", "")))


def _scorer(config: Config, suite: Suite) -> str | None:
    """The protocol by which ``[rewards]`` scores the suite; None where something else grades."""
    found = _suite_of(config.rewards, "rewards")
    return found[1] if found is not None and found[0].name == suite.name else None


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    if name in config.policy.options.get("omit", ()):
        return None  # the server's own
    value = getattr(getattr(config, section), name)
    # An evaluation without a temperature of its own takes the policy's.
    return getattr(config.policy, name, None) if value is None else value


def _is_set(config: Config, key: str, *, from_run: bool) -> bool:
    section, _, name = key.partition(".")
    values = getattr(config, section)
    if section not in config.model_fields_set or name not in values.model_fields_set:
        return False
    default = type(values).model_fields[name].default
    return not from_run or getattr(values, name) != default

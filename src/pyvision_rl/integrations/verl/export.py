"""What ``pvrl export-verl`` writes: everything that verl needs to train as a config says.

    run.json            the config; agent loop and sampler read it
    train.parquet       one row a task
    val.parquet         the tasks of [eval]
    media/              their images; videos stay where they are
    agent_loop.yaml     names our agent loop
    pyvision.yaml       verl's config, over its own defaults
    launch.sh           starts verl
    notes.txt           keys that do nothing there, and tasks that were left out

In: a config. Out: the folder, or an error before anything is written. Imports nothing of verl.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyvision_rl.assemble import build_tasks, num_tasks
from pyvision_rl.checks.rl import check_rl
from pyvision_rl.config import SCHEMA, Config
from pyvision_rl.config_file import resolved
from pyvision_rl.errors import ConfigError
from pyvision_rl.evaluation.choice import Choice, choose
from pyvision_rl.integrations.verl.keys import idle_keys, refusals
from pyvision_rl.integrations.verl.mapping import AGENT, VERSION, Machines, verl_config
from pyvision_rl.integrations.verl.rows import RowWriter
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.runs_codec import RunInfo, encode_info
from pyvision_rl.selection import check_filters
from pyvision_rl.sources import data_sources
from pyvision_rl.template import BUILT_IN
from pyvision_rl.video_prompt import check_room

NAME = "pyvision"
"""Of the config file, as hydra wants it."""
_TARGET = "pyvision_rl.integrations.verl.agent_loop.PyVisionAgentLoop"


@dataclass(frozen=True, slots=True)
class ExportedVerl:
    """What was written."""

    out: Path
    tasks: int
    validation: int
    unread: int
    """Tasks that could not be read; ``notes.txt`` names them."""
    notes: tuple[str, ...]
    command: str


def export_verl(config: Config, out: Path, machines: Machines) -> ExportedVerl:
    """Write ``out`` for verl and return what was written.

    Args:
        config: Of a run of RL.
        out: New or empty.
        machines: What verl will run on.

    Raises:
        ConfigError: RL could not be run, a key is refused, the machines cannot share a batch, the
            grader cannot be made or is not ready for these tasks, there are fewer of them than one
            batch, or none of an id in ``eval.ids``.
        TaskError: The task set's file is broken, or so much of it that an id is not found.
    """
    check_rl(config)
    check_filters(config.selection)
    _check_keys(config)
    _check_machines(config, machines)
    config = _anchored(config)
    folder = out.resolve()
    tasks = build_tasks(config.tasks)
    count = num_tasks(tasks, config.tasks)
    least = config.selection.groups_per_step
    if count < least:
        raise ConfigError(f"{count} tasks are fewer than selection.groups_per_step = {least}")
    # Inside verl it would be found out by the first episode.
    check_room(config.prompts, config.rollout)
    build_rewarder(config.rewards).check(lambda: data_sources(config, build_tasks))
    choice = choose(config)
    rows = RowWriter(folder, PromptBuilder(config.prompts))
    folder.mkdir(parents=True, exist_ok=True)
    trained = rows.write(tasks, range(count), "train")
    if trained < least:
        raise ConfigError(f"{trained} readable tasks are fewer than one batch: {rows.unread[0]}")
    validation = _write_validation(config, choice, rows)
    values = verl_config(config, folder, machines, trained)
    command = shlex.join(
        [
            "python",
            "-m",
            "verl.trainer.main_ppo",
            "--config-dir",
            str(folder),
            "--config-name",
            NAME,
        ]
    )
    _write_files(config, folder, values, command)
    notes = [f"does nothing: {key}: {why}" for key, why in idle_keys(config).items()]
    notes += [f"left out, cannot be read: {line}" for line in rows.unread]
    (folder / "notes.txt").write_text("".join(f"{line}\n" for line in notes), encoding="utf-8")
    return ExportedVerl(folder, trained, validation, len(rows.unread), tuple(notes), command)


def _check_keys(config: Config) -> None:
    """Raise ConfigError for every value that verl cannot give."""
    if refused := [f"{key}: {why}" for key, why in refusals(config).items()]:
        lines = "\n".join(refused)
        raise ConfigError(f"verl {VERSION} cannot train as the config says (see --set):\n{lines}")


def _check_machines(config: Config, machines: Machines) -> None:
    """Raise ConfigError for batches that verl's GPUs cannot share; it would find out in a step."""
    train, gpus = config.train, machines.gpus * machines.nodes
    groups = config.selection.groups_per_step // train.minibatches
    episodes = groups * config.rollout.group_size
    what = f"a minibatch of {groups} groups of {config.rollout.group_size} is {episodes} episodes"
    if episodes % gpus:
        raise ConfigError(
            f"{what}, which {gpus} GPUs cannot share evenly: change selection.groups_per_step, "
            "rollout.group_size, train.minibatches, or --gpus and --nodes"
        )
    if train.micro_batch_rows and episodes // gpus % train.micro_batch_rows:
        raise ConfigError(
            f"{what}, {episodes // gpus} on each of {gpus} GPUs: train.micro_batch_rows = "
            f"{train.micro_batch_rows} must divide that"
        )


def _anchored(config: Config) -> Config:
    """Return the config with its files at absolute places: Ray's workers have their own folder."""

    def placed(value: str) -> str:
        return str(Path(value).absolute()) if value and Path(value).exists() else value

    prompts, policy, rewards = config.prompts, config.policy, config.rewards
    files = {"template": prompts.template, "observation": prompts.observation}
    files = {k: v if v in BUILT_IN else placed(v) for k, v in files.items()}
    cache = rewards.judge.cache and str(Path(rewards.judge.cache).absolute())
    judge = rewards.judge.model_copy(update={"cache": cache})
    return config.model_copy(
        update={
            "prompts": prompts.model_copy(update=files),
            "policy": policy.model_copy(update={"model": placed(policy.model)}),
            "rewards": rewards.model_copy(update={"judge": judge}),
        }
    )


def _write_validation(config: Config, choice: Choice, rows: RowWriter) -> int:
    indices = choice.indices
    if not (config.eval.tasks or config.train.eval_every or config.train.eval_at_start):
        # verl wants a file; nothing will be validated.
        indices = indices[:1]
    return rows.write(choice.tasks, indices, "val")


def _write_files(config: Config, folder: Path, values: dict[str, Any], command: str) -> None:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    info = RunInfo("rl", resolved(config), created=created, command=command)
    (folder / "run.json").write_text(json.dumps(encode_info(info, SCHEMA), indent=1) + "\n")
    agent = {"name": AGENT, "_target_": _TARGET, "folder": str(folder)}
    lines = [
        f"{'- ' if i == 0 else '  '}{k}: {json.dumps(v)}" for i, (k, v) in enumerate(agent.items())
    ]
    (folder / "agent_loop.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    head = [
        f"# Written by pvrl export-verl for verl {VERSION}; docs/verl.md has the table of keys.",
        "defaults:",
        "  - ppo_trainer",
        "  - _self_",
    ]
    (folder / f"{NAME}.yaml").write_text(
        "\n".join([*head, *yaml_lines(values), ""]), encoding="utf-8"
    )
    script = f'#!/bin/sh\n# Extra arguments are overrides of verl\'s keys.\nexec {command} "$@"\n'
    (folder / "launch.sh").write_text(script, encoding="utf-8")
    (folder / "launch.sh").chmod(0o755)


def yaml_lines(tree: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Return nested values as lines of YAML: mappings as blocks, everything else as JSON."""
    lines = []
    for key, value in tree.items():
        lead = " " * indent + f"{key}:"
        if isinstance(value, Mapping):
            lines += [lead, *yaml_lines(value, indent + 2)]
        else:
            lines.append(f"{lead} {json.dumps(value)}")
    return lines

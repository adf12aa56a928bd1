"""The model card: what was trained, on what, how it was graded, how it was measured.

In: a run folder, a checkpoint of it, and run folders of evaluations. Out: Markdown with the
metadata that model hubs read. Everything in it is read from the runs; what they do not tell is not
claimed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.rewards.route import may_ask_judge
from pyvision_rl.runs import RunReader, read_info

_SAFETY = """\
This model answers by writing Python and reading what it shows. Whoever runs it runs code that a
model wrote, and that an image or a question may have asked for. Run that code only where it can
reach nothing you care about: no network, no files of yours, no keys, limits on time and memory.
`pvrl` does so in its sandbox; `pvrl check sandbox` attacks it and says which level of isolation
works on a machine. An answer may be wrong even where the code ran."""
_TOLD = {
    "rl": (
        "rollout.group_size",
        "rollout.max_tool_calls",
        "rollout.max_context_tokens",
        "rollout.max_images",
        "policy.temperature",
        "policy.max_new_tokens",
        "policy.min_pixels",
        "policy.max_pixels",
        "selection.groups_per_step",
        "selection.oversample",
        "selection.filters",
        "selection.rank_by",
        "selection.advantage",
        "train.clip_low",
        "train.clip_high",
        "train.dual_clip",
        "train.loss_norm",
        "train.kl_coefficient",
    ),
    "sft": ("policy.min_pixels", "policy.max_pixels"),
}
_TRAIN = (
    "optimizer",
    "learning_rate",
    "betas",
    "weight_decay",
    "warmup_steps",
    "schedule",
    "grad_clip",
    "freeze_vision",
    "lora_rank",
    "lora_alpha",
    "lora_targets",
    "mixed_precision",
    "master_weights",
)
_PROTOCOL = (
    "eval.samples",
    "eval.num_tasks",
    "eval.temperature",
    "policy.temperature",
    "policy.max_new_tokens",
    "rollout.max_tool_calls",
    "rollout.max_context_tokens",
    "rollout.max_images",
    "prompts.context",
    "rewards.name",
)


def card_of(run: Path, checkpoint: Path, evaluations: Sequence[Path] = ()) -> str:
    """Return the card of a checkpoint.

    Args:
        run: A run folder of rl or sft.
        checkpoint: ``.../step_<n>``.
        evaluations: Run folders of ``pvrl eval``.

    Raises:
        RunError: A ``run.json`` or ``result.json`` cannot be read.
    """
    info = read_info(run)
    config = info.config
    step = int(checkpoint.name.removeprefix("step_"))
    base = str(_get(config, "policy.model") or "")
    about = "reinforcement learning" if info.verb == "rl" else "supervised fine-tuning"
    lines = [
        *_metadata(base),
        f"# {Path(base).name or 'Model'}, after {about} with pvrl",
        "",
        f"Step {step} of `{info.command or 'pvrl ' + info.verb}`, begun {info.created}, from "
        f"`{base}`. It looks at pictures and videos by writing Python, for several turns, before "
        "it answers.",
        "",
        "## Data",
        "",
        *_data(info.verb, config),
        "",
        "## Reward",
        "",
        *(_reward(config) if info.verb == "rl" else ["None: it imitates what it was shown."]),
        "",
        "## Evaluation",
        "",
        *_evaluation(run, step, config, evaluations),
        "",
        "## Settings",
        "",
        *_table(_settings(info.verb, config)),
        "",
        "## Versions",
        "",
        *_table(sorted(info.versions.items())),
        "",
        "## Safety",
        "",
        _SAFETY,
        "",
    ]
    return "\n".join(lines)


def _metadata(base: str) -> list[str]:
    tags = ["pyvision-rl", "tool-use", "vision-language"]
    lines = ["---", "library_name: transformers", "pipeline_tag: image-text-to-text"]
    if base.count("/") == 1 and not Path(base).exists():
        lines.append(f"base_model: {json.dumps(base)}")
    return [*lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _data(verb: str, config: Mapping[str, Any]) -> list[str]:
    if verb == "rl":
        return [f"- {_task_set(_get(config, 'tasks'))}"]
    lines = []
    for stage in _get(config, "sft.stages") or ():
        span = f"{stage['epochs']} epochs" if stage.get("epochs") else f"{stage['steps']} steps"
        lines.append(f"- stage `{stage['name']}`, {span} of {stage['batch_size']} examples:")
        for source in stage["data"]:
            named = f" from `{source['path']}`" if source.get("path") else ""
            tasks = f" of {_task_set(source['tasks'])}" if source.get("tasks") else ""
            lines.append(f"  - {source['kind']}{named}{tasks}")
    return lines


def _task_set(section: Mapping[str, Any] | None) -> str:
    if not section:
        return "not told"
    path = f" from `{section['path']}`" if section.get("path") else ""
    limit = f", the first {section['limit']} tasks" if section.get("limit") else ""
    options = f", options `{json.dumps(section['options'])}`" if section.get("options") else ""
    return f"task set `{section.get('name')}`{path}{limit}{options}"


def _reward(config: Mapping[str, Any]) -> list[str]:
    rewards = _get(config, "rewards") or {}
    lines = [
        f"- accuracy by the grader `{rewards.get('name')}`"
        + (f", options `{json.dumps(rewards['options'])}`" if rewards.get("options") else ""),
        f"- {rewards.get('tool_use_per_call')} for each call that is paid "
        f"(`{rewards.get('paid_calls')}`), when `{rewards.get('paid_when')}`",
    ]
    lines += [f"- `{name}`: `{json.dumps(o)}`" for name, o in (rewards.get("terms") or {}).items()]
    judge = rewards.get("judge") or {}
    if judge.get("model") and _may_ask(rewards):
        own = "temperature" in judge.get("omit", ())
        heat = "a temperature of the server's own" if own else "temperature 0"
        lines.append(f"- the judge is `{judge['model']}`, at {heat}")
    return lines


def _may_ask(rewards: Mapping[str, Any]) -> bool:
    """Whether a judge may have had a say; True too where the config cannot be read any more."""
    try:
        return may_ask_judge(RewardsConfig.model_validate(rewards))
    except (ValueError, ConfigError):
        return True


def _evaluation(
    run: Path, step: int, config: Mapping[str, Any], evaluations: Sequence[Path]
) -> list[str]:
    lines: list[str] = []
    measured = _measured(run, step)
    if measured:
        which, numbers = measured
        tasks = _get(config, "eval.tasks") or _get(config, "tasks")
        lines += [f"During training, after step {which}, on {_task_set(tasks)}:", ""]
        lines += [*_table(numbers), "", "Protocol:", "", *_table(_read(config, _PROTOCOL)), ""]
    for folder in evaluations:
        theirs = read_info(folder).config
        tasks = _get(theirs, "eval.tasks") or _get(theirs, "tasks")
        model = _get(theirs, "policy.model")
        lines += [f"`pvrl eval` of `{model}` on {_task_set(tasks)}:", ""]
        lines += [*_table(_result(folder)), "", "Protocol:", ""]
        lines += [*_table(_read(theirs, _PROTOCOL)), ""]
    return lines or ["None was made."]


def _measured(run: Path, step: int) -> tuple[int, list[tuple[str, Any]]] | None:
    """Return the last evaluation up to a step, with its step."""
    for line in reversed(RunReader(run).metrics()):
        numbers = [(k, v) for k, v in line.items() if k.startswith(("eval_", "held_out_"))]
        if numbers and line["step"] <= step:
            return line["step"], numbers
    return None


def _result(folder: Path) -> list[tuple[str, Any]]:
    file = folder / "result.json"
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        told = [*result.get("headline", {}).items(), *result["overall"].items()]
        if suite := result.get("suite"):
            told.insert(0, ("suite", f"{suite['name']}, protocol {suite['protocol'] or 'none'}"))
        return [(name, value) for name, value in told if value is not None]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def _settings(verb: str, config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    keys = ["seed", *_TOLD.get(verb, ()), *(f"train.{name}" for name in _TRAIN)]
    return _read(config, keys)


def _read(config: Mapping[str, Any], keys: Iterable[str]) -> list[tuple[str, Any]]:
    """Return those keys that a run of this version has, with their values."""
    found = [(key, _get(config, key)) for key in keys]
    return [(key, value) for key, value in found if value is not None]


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _table(rows: Iterable[tuple[str, Any]]) -> list[str]:
    body = [f"| `{name}` | {_cell(value)} |" for name, value in rows]
    return ["| | |", "|---|---|", *body] if body else ["Nothing is known."]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")

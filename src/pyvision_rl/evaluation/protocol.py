"""How an evaluation asked and graded: ``protocol.json``, written before its first episode.

In: a config, the chosen tasks and the harness. Out: the very text of the first prompt, templates,
sampling, pixel limits, limits of an episode, grader and judge, seeds, versions, the hash of the
config and of the data. Two results with different protocols are not the same measurement. Holds no
key and no path but those of the config.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.choice import DIRECT, Choice
from pyvision_rl.evaluation.evaluate import evaluated
from pyvision_rl.evaluation.suite import suite_facts, suite_files
from pyvision_rl.images import VisionSpec
from pyvision_rl.prompts import template_names
from pyvision_rl.rollout import Harness
from pyvision_rl.runs import read_info
from pyvision_rl.runs_files import replace_file
from pyvision_rl.suites.files import digests
from pyvision_rl.template import BUILT_IN
from pyvision_rl.types import Message, Text

Json: TypeAlias = dict[str, Any]

NAME = "protocol.json"


def note_protocol(
    folder: Path,
    config: Config,
    choice: Choice,
    harness: Harness,
    vision: VisionSpec | None = None,
) -> None:
    """Write ``protocol.json``, unless it is there: a resumed run keeps the first one.

    Args:
        folder: The run folder.
        config: The whole config.
        choice: The tasks.
        harness: What the episodes meet.
        vision: The pixel rule of a network in this process.

    Raises:
        RunError: The disk refuses.
        TaskError, ConfigError: The first task makes no prompt.
    """
    if (folder / NAME).exists():
        return
    facts = {
        "tasks": _tasks(config, choice),
        "data": data_hashes(config),
        "suite": suite_facts(config),
        "tools": config.eval.tools,
        "prompt": _prompt(config, choice, harness),
        "sampling": _sampling(config, harness),
        "limits": harness.config.model_dump(mode="json", exclude={"group_size"}),
        "pixels": _pixels(config, vision),
        "grading": grading_facts(config),
        "seed": config.seed,
        "config_sha256": config_hash(config),
        "versions": dict(read_info(folder).versions),
    }
    replace_file(folder / NAME, [json.dumps(facts, indent=1, ensure_ascii=False)])


def read_protocol(folder: Path) -> Json:
    """Return what the folder's evaluation noted; empty for one of an earlier release.

    Raises:
        RunError: The file is broken.
    """
    try:
        found: Json = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / NAME} cannot be read: {error}") from error
    return found


def check_same_data(folder: Path, config: Config) -> None:
    """Refuse to go on with other data.

    Raises:
        RunError: A data file is not what it was.
    """
    before = read_protocol(folder).get("data")
    if before is None:
        return
    now = data_hashes(config)
    if other := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        raise RunError(
            f"{folder} was evaluated with another {other[0]} (its sha256 differs); a result of two "
            "data sets means nothing: start a new one"
        )


def grading_facts(config: Config) -> Json:
    """Return who grades, and by which options."""
    rewards = config.rewards
    judge = rewards.judge
    asked = {"model": judge.model, "url": judge.url, "rules_first": judge.rules_first}
    asked |= {"omit": list(judge.omit)} if judge.omit else {}
    return {
        "grader": rewards.name,
        "options": rewards.model_dump(mode="json")["options"],
        "judge": asked if judge.model else None,
    }


def config_hash(config: Config) -> str:
    """Return a hash of everything that decides the episodes: the config without ``[run]``."""
    values = config.model_dump(mode="json", exclude={"run"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def data_hashes(config: Config) -> dict[str, str]:
    """Return the sha256 of each data file, by its name; empty for tasks that are made.

    Media are not among them: they are too many, and each has a hash in the run folder.

    Raises:
        TaskError: A file cannot be read.
    """
    section = _section(config)
    files = suite_files(section)
    if not files and section.path and Path(section.path).is_file():
        files = (Path(section.path),)
    return digests(files)


def text_of(messages: tuple[Message, ...]) -> list[Json]:
    """Return chat messages as text; an image as its size in brackets."""
    told = []
    for message in messages:
        parts = [
            part.text if isinstance(part, Text) else f"[{part.kind} {part.width} x {part.height}]"
            for part in message.parts
        ]
        told.append({"role": message.role, "text": "".join(parts)})
    return told


def _section(config: Config) -> TasksConfig:
    section = evaluated(config)
    assert section is not None
    return section


def _tasks(config: Config, choice: Choice) -> Json:
    section = _section(config).model_dump(mode="json")
    return section | {"of_the_set": choice.of_the_set, "chosen": len(choice.indices)}


def _prompt(config: Config, choice: Choice, harness: Harness) -> Json:
    prompts = config.prompts
    question, observation = template_names(prompts)
    if not config.eval.tools:
        question = config.eval.direct_template or DIRECT
    facts: Json = {
        "style": prompts.style,
        "context": prompts.context,
        "system": prompts.system,
        "template": question,
        "template_text": _template(question),
        "observation": observation,
        "observation_text": _template(observation),
    }
    if not choice.indices:
        return facts
    task = choice.tasks[choice.indices[0]].input
    messages = harness.prompts.prompt(task).messages
    ids = harness.renderer.open(messages).token_ids
    first = {
        "task": task.id,
        "messages": text_of(messages),
        # With what the chat template adds by itself, and one placeholder per image.
        "as_tokens": harness.renderer.decode(ids),
    }
    return facts | {"first": first}


def _template(name: str) -> str:
    if name in BUILT_IN:
        file = resources.files("pyvision_rl") / "templates" / f"{name}.txt"
        return file.read_text(encoding="utf-8")
    return Path(name).read_text(encoding="utf-8")


def _sampling(config: Config, harness: Harness) -> Json:
    limits = harness.sampling
    # What a server was not told, it chose itself.
    omitted = config.policy.options.get("omit", ())
    return {
        "policy": config.policy.name,
        "model": config.policy.model or str(config.policy.options.get("model", "")),
        "dtype": config.policy.dtype,
        "temperature": None if "temperature" in omitted else limits.temperature,
        "top_p": None if "top_p" in omitted else limits.top_p,
        "top_k": limits.top_k,
        "max_new_tokens": limits.max_new_tokens,
        "samples": config.eval.samples,
        "forced_start": config.eval.forced_start,
    }


def _pixels(config: Config, vision: VisionSpec | None) -> Json:
    """The limits of an image in the context; null where only the server knows them."""
    return {
        "min_pixels": config.policy.min_pixels or getattr(vision, "min_pixels", None),
        "max_pixels": config.policy.max_pixels or getattr(vision, "max_pixels", None),
        "shown_max_pixels": config.sandbox.max_pixels,
    }

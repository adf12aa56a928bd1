"""What a run needs that is not on this machine yet: weights, data, packages, servers.

In: a config. Out: one line each. Looks at files and installed packages only; asks no network, so a
server that is named is always listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyvision_rl.config import Config, SftDataConfig, TasksConfig
from pyvision_rl.registry import EXTRAS
from pyvision_rl.sizes.architecture import Architecture, read_folder
from pyvision_rl.sizes.named import named

_WEIGHTS = ("*.safetensors", "*.bin")
_SUBSET = re.compile(r"@\w+$")
"""Names a part of the file before it (docs/suites.md)."""


def find_model(name: str) -> tuple[Architecture | None, str]:
    """Return the sizes of a model and where they are from; (None, why) if they are not known.

    Args:
        name: A directory, or a name; a name is looked up in the local cache of Hugging Face and
            then in the table of known models.

    Raises:
        ConfigError: Its ``config.json`` is of another family, or broken.
    """
    folder = _folder(name)
    if folder is not None:
        return read_folder(folder), str(folder / "config.json")
    known = named(name)
    if known is not None:
        return known, "the table of known models"
    return None, f"there is no {name}/config.json here, and the name is not in the table"


def needed(config: Config, verb: str) -> tuple[str, ...]:
    """Return what must be there before ``pvrl <verb>`` can run, each with its key."""
    lines = [*_models(config, verb), *_packages(config, verb)]
    for key, path in dict(_files(config, verb)).items():
        if path and not path.startswith("hf:") and not Path(_SUBSET.sub("", path)).exists():
            lines.append(f"data: {key} = {path!r}")
    judge = config.rewards.judge
    if judge.url:
        lines.append(f"server: {judge.model or 'a judge'} at rewards.judge.url = {judge.url!r}")
    if url := config.policy.options.get("url"):
        lines.append(f"server: policy.options.url = {url!r}")
    return tuple(lines)


def has_network(verb: str, config: Config) -> bool:
    """Return whether a run has the network of ``policy.model`` in this process."""
    return config.policy.name == "local" or (verb == "rl" and config.policy.name == "vllm")


def _models(config: Config, verb: str) -> Iterator[str]:
    named_by_key = {"policy.model": config.policy.model}
    reference = config.train.kl_reference
    if config.train.kl_coefficient and reference != "start":
        named_by_key["train.kl_reference"] = reference
    for key, name in named_by_key.items():
        if not name and has_network(verb, config):
            yield f"weights: {key} is empty"
        elif name and not _has_weights(_folder(name)):
            yield f"weights: {key} = {name!r}"


def _packages(config: Config, verb: str) -> Iterator[str]:
    if not has_network(verb, config):
        return
    wanted = ["torch", "transformers", "accelerate"] + (["peft"] if config.train.lora_rank else [])
    for package in wanted:
        if find_spec(package) is None:
            yield f'package: {package} (pip install "pyvision-rl[{EXTRAS[package]}]")'


def _files(config: Config, verb: str) -> Iterator[tuple[str, str]]:
    """Yield every file that the run reads, with its key."""
    if verb == "eval":  # it asks these only
        key = "tasks" if config.eval.tasks is None else "eval.tasks"
        asked = config.eval.tasks or config.tasks
        yield from _of_tasks(key, asked) if asked is not None else ()
        return
    for key, section in (
        ("tasks", config.tasks),
        ("eval.tasks", config.eval.tasks),
        ("probe.tasks", config.probe.tasks),
    ):
        if section is not None and not (verb == "sft" and key == "tasks"):
            yield from _of_tasks(key, section)
    if verb != "sft":
        return
    for index, stage in enumerate(config.sft.stages):
        for kind, sources in (("data", stage.data), ("eval_data", stage.eval_data)):
            for place, source in enumerate(sources):
                yield from _of_source(f"sft.stages.{index}.{kind}.{place}", source)


def _of_source(key: str, source: SftDataConfig) -> Iterator[tuple[str, str]]:
    yield f"{key}.path", source.path
    yield f"{key}.image_root", source.image_root
    if source.tasks is not None:
        yield from _of_tasks(f"{key}.tasks", source.tasks)


def _of_tasks(key: str, section: TasksConfig) -> Iterator[tuple[str, str]]:
    yield f"{key}.path", section.path
    if isinstance(path := section.options.get("path"), str):  # of a benchmark
        yield f"{key}.options.path", path
    sets = section.options.get("sets")
    for name, member in (sets if isinstance(sets, Mapping) else {}).items():
        path = member.get("path") if isinstance(member, Mapping) else None
        yield f"{key}.options.sets.{name}.path", str(path or "")


def _folder(name: str) -> Path | None:
    """Return the folder that holds a model's ``config.json`` on this machine."""
    if name and (Path(name) / "config.json").is_file():
        return Path(name)
    if name.count("/") != 1 or Path(name).exists() or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found: Any = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _has_weights(folder: Path | None) -> bool:
    return folder is not None and any(any(folder.glob(pattern)) for pattern in _WEIGHTS)

"""``pvrl new-model``: a small model whose tokenizer knows the words of given tasks.

In: ``[new_model]`` with task sets and text files. Out: an ordinary Hugging Face directory. Trains
the tokenizer only; the weights are random.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyvision_rl.assemble import build_tasks, num_tasks
from pyvision_rl.config import Config, NewModelConfig, TasksConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.tasks.base import Paired, Scripted
from pyvision_rl.types import ExecStatus, Execution, Media, Part, Text


def new_model(config: Config, out: Path) -> int:
    """Write a new model to ``out``; return its number of parameters.

    Raises:
        ConfigError: ``out`` is not empty, sizes do not fit, or there is no text to train the
            tokenizer on.
    """
    from pyvision_rl.models.create import create_model

    check_sizes(config.new_model)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: a new model needs a folder of its own")
    texts = list(corpus(config))
    if not texts:
        raise ConfigError("[new_model] names neither corpus_tasks nor corpus_files: no text")
    return create_model(config.new_model, texts, out, config.seed)


def check_sizes(config: NewModelConfig) -> None:
    """Raise ConfigError if the sizes of ``[new_model]`` do not make a network."""
    _check_heads(config.hidden_size, config.num_heads, "new_model", multiple=2)
    if config.hidden_size < 8 * config.num_heads:
        # Time, height and width each need a section of half a head.
        raise ConfigError(
            f"new_model.hidden_size = {config.hidden_size} gives each of the "
            f"new_model.num_heads = {config.num_heads} heads less than 8"
        )
    if config.num_heads % config.num_kv_heads:
        raise ConfigError(
            f"new_model.num_heads = {config.num_heads} is no multiple of "
            f"new_model.num_kv_heads = {config.num_kv_heads}"
        )
    vision = config.vision
    # Rows and columns each turn pairs of numbers by an angle: four numbers a step.
    _check_heads(vision.hidden_size, vision.num_heads, "new_model.vision", multiple=4)
    if vision.min_pixels > vision.max_pixels:
        raise ConfigError(
            f"new_model.vision.min_pixels = {vision.min_pixels} is above "
            f"new_model.vision.max_pixels = {vision.max_pixels}"
        )


def _check_heads(hidden_size: int, num_heads: int, where: str, *, multiple: int) -> None:
    if hidden_size % (multiple * num_heads):
        raise ConfigError(
            f"{where}.hidden_size = {hidden_size} is no multiple of {multiple} times "
            f"{where}.num_heads = {num_heads}"
        )


def corpus(config: Config) -> Iterator[str]:
    """Yield the texts the tokenizer is trained on: prompts, scripts, pairs, observations, files."""
    prompts = PromptBuilder(config.prompts)
    for file in config.new_model.corpus_files:
        try:
            yield Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"new_model.corpus_files: {file}: {error}") from error
    for section in config.new_model.corpus_tasks:
        yield from _of_tasks(prompts, section, config.new_model.corpus_count)


def _of_tasks(prompts: PromptBuilder, section: TasksConfig, count: int) -> Iterator[str]:
    tasks = build_tasks(section, "new_model.corpus_tasks")
    picture = Media("image", "0" * 64, 28, 28)
    for index in range(min(count, num_tasks(tasks, section))):
        prompt = prompts.prompt(tasks[index].input)
        for message in prompt.messages:
            yield from _texts(message.parts)
        if isinstance(tasks, Scripted):
            script = tasks.script(index)
            yield from script
            first = sum(m.kind == "image" for m in prompt.bindings.values())
            for k in range(first, first + len(script) - 1):
                shown = Execution(ExecStatus.OK, "", images=(picture,))
                yield from _texts(prompts.observation(shown, k).message.parts)
    if isinstance(tasks, Paired):
        for pair in tasks.pairs(count):
            yield from _texts(pair.parts)
            yield pair.target
    for error in ("NameError", "SyntaxError", "TypeError", "ValueError"):
        raised = Execution(ExecStatus.RAISED, "", error=error)
        yield from _texts(prompts.observation(raised, 1).message.parts)


def _texts(parts: tuple[Part, ...]) -> Iterator[str]:
    return (part.text for part in parts if isinstance(part, Text))

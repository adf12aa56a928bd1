"""Wiring: from a config to the parts of a run.

In: a checked ``Config``. Out: an ``Assembly`` whose ``rollout`` gives graded groups. The one place
that knows which class stands behind which name; the parts know only each other's contracts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pyvision_rl import policy as policies
from pyvision_rl import sandbox as sandboxes
from pyvision_rl import tasks as task_sets
from pyvision_rl.config import Config, SandboxConfig, TasksConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.parsing import CODE_CLOSE
from pyvision_rl.policy.base import Counted
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.registry import resolve
from pyvision_rl.rendering import load_renderer
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.rewards import build_rewarder, build_terms
from pyvision_rl.rollout import Harness, run_groups
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.selection import check_filters
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Group, SampleLimits, Task

if TYPE_CHECKING:
    from pyvision_rl.models.base import VisionLanguageModel


CHUNK = 256


@dataclass(slots=True)
class Assembly:
    """The wired parts of a run; a context manager that closes them."""

    config: Config
    harness: Harness
    model: VisionLanguageModel | None = None
    """Set when the policy is in-process."""
    add_terms: Callable[[Group], Group] | None = None
    """The terms of the reward that want the whole group."""
    _runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    _counted: dict[str, float] = field(default_factory=dict)
    _closed: bool = False

    def rollout(self, tasks: Sequence[Task], *, seed: int, **options: Any) -> list[Group]:
        """Return one graded group per task (see ``rollout.run_groups``)."""
        # One event loop for the whole run: sandbox connections belong to it.
        harness = options.pop("harness", self.harness)
        groups = self._runner.run(run_groups(harness, tasks, seed=seed, **options))
        return [self.add_terms(g) for g in groups] if self.add_terms else groups

    def stats(self) -> dict[str, float]:
        """Return what servers were asked since the last call, by metric name; empty without any."""
        now = self.harness.rewarder.stats()
        if isinstance(self.harness.policy, Counted):
            now |= self.harness.policy.stats()
        before, self._counted = self._counted, now
        return {name: value - before.get(name, 0.0) for name, value in now.items()}

    def close(self) -> None:
        """End policy, sandbox and grader. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._runner.run(self.harness.policy.close())
            self._runner.run(self.harness.rewarder.close())
        finally:
            self._runner.run(self.harness.sandbox.close())
            self._runner.close()

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build_tasks(config: TasksConfig | None, key: str = "tasks") -> TaskSet:
    """Return the task set of a config section.

    Raises:
        ConfigError: The section is missing or names no known task set.
        TaskError: The task set's file is broken, or it holds no tasks.
    """
    if config is None:
        raise ConfigError(f"[{key}] is missing: name a task set")
    made: TaskSet = resolve(config.name, task_sets.TABLE, f"{key}.name")(config)
    if len(made) == 0:
        raise TaskError(f"[{key}] {config.name}: holds no tasks")
    return made


def num_tasks(tasks: TaskSet, config: TasksConfig | None) -> int:
    """Return how many tasks of a set a section lets us use."""
    limit = None if config is None else config.limit
    return len(tasks) if limit is None else min(limit, len(tasks))


def chunks(total: int) -> list[range]:
    """Return ``range(total)`` in pieces: tasks whose images are in memory at the same time."""
    return [range(s, min(s + CHUNK, total)) for s in range(0, total, CHUNK)]


def assemble(
    config: Config,
    *,
    model: VisionLanguageModel | None = None,
    scripts: Mapping[str, Sequence[str]] | None = None,
) -> Assembly:
    """Return the wired run of ``config``.

    Args:
        config: The whole config.
        model: A network already in memory (RL shares it with the learner); None loads it.
        scripts: Task id -> assistant turns; given, a scripted policy plays them back whatever
            ``policy.name`` says.
    """
    check_filters(config.selection)
    if config.prompts.context != "on_demand":
        from pyvision_rl.video_prompt import check_room

        check_room(config.prompts, config.rollout)
    rewarder, terms = build_rewarder(config.rewards), build_terms(config.rewards)
    # Before a model is loaded: what cannot be graded is found out now.
    rewarder.check(lambda: _data_sources(config))
    if config.policy.name == "local" and model is None and scripts is None:
        from pyvision_rl.models.load import load_model, set_threads

        set_threads(config.policy.threads)
        model = load_model(
            config.policy.model,
            dtype=config.policy.dtype,
            device=config.policy.device,
            min_pixels=config.policy.min_pixels,
            max_pixels=config.policy.max_pixels,
        )
    renderer = _renderer(config, model)
    harness = Harness(
        prompts=PromptBuilder(config.prompts),
        renderer=renderer,
        policy=_policy(config, model, renderer, scripts),
        sandbox=resolve(config.sandbox.name, sandboxes.TABLE, "sandbox.name")(config.sandbox),
        rewarder=rewarder,
        config=config.rollout,
        sampling=SampleLimits(
            max_new_tokens=config.policy.max_new_tokens,
            temperature=config.policy.temperature,
            top_p=config.policy.top_p,
            top_k=config.policy.top_k,
            stop=(CODE_CLOSE,),
        ),
        sandbox_limits=sandbox_limits(config.sandbox),
    )
    return Assembly(config, harness, model, terms)


def sandbox_limits(config: SandboxConfig) -> SandboxLimits:
    """Return the per-block limits of a sandbox section."""
    return SandboxLimits(**{f.name: getattr(config, f.name) for f in fields(SandboxLimits)})


def _data_sources(config: Config) -> frozenset[str]:
    from pyvision_rl.sources import data_sources

    return data_sources(config, build_tasks)


def _renderer(config: Config, model: VisionLanguageModel | None) -> Renderer:
    policy = config.policy
    if not policy.model:
        from pyvision_rl.rendering.chars import CharsRenderer

        return CharsRenderer()
    if model is not None:
        return load_renderer(policy.model, model.vision)
    from pyvision_rl.models.load import vision_spec

    limits = {"min_pixels": policy.min_pixels, "max_pixels": policy.max_pixels}
    return load_renderer(policy.model, vision_spec(policy.model, **limits))


def _policy(
    config: Config,
    model: VisionLanguageModel | None,
    renderer: Renderer,
    scripts: Mapping[str, Sequence[str]] | None,
) -> Any:
    if scripts is not None or config.policy.name == "scripted":
        from pyvision_rl.policy.scripted import ScriptedPolicy

        if scripts is None:
            raise ConfigError(
                'policy.name = "scripted" plays back a task set\'s own scripts: '
                "use it with `pvrl rollout`"
            )
        return ScriptedPolicy(scripts, lambda text: renderer.script(text, (CODE_CLOSE,)))
    if config.policy.name == "local":
        from pyvision_rl.policy.local import LocalPolicy

        assert model is not None
        return LocalPolicy(
            model,
            decode=renderer.decode,
            end_of_turn=renderer.end_of_turn,
            max_batch=config.policy.max_batch,
        )
    made: Any = resolve(config.policy.name, policies.TABLE, "policy.name")(config.policy, renderer)
    if hasattr(made, "room"):  # of a vLLM server
        made.room = config.rollout.max_context_tokens
    return made
